"""SharedDict in one process: the methods of dict, what can be stored, what is refused. See also
test_shared_dict_processes.py, test_stateful_containers.py and test_linearizable_dict.py."""

from __future__ import annotations

import collections
import copy
import datetime
import decimal
import enum
import fractions
import gc
import pickle
import threading
import uuid
from collections.abc import ItemsView, KeysView, Mapping, MutableMapping, ValuesView
from dataclasses import dataclass
from typing import Any

import pytest

import processing
from helpers import output_of
from processing import containers
from processing.containers import SharedDeque, SharedDict, SharedList, SharedNamespace, SharedSet


class Colour(enum.Enum):
    RED = 1
    GREEN = 2


class Number(enum.IntEnum):
    ONE = 1


@dataclass(frozen=True)
class Point:
    x: int
    y: int


# ---- The methods of dict -------------------------------------------------------------------------------------------


def test_making_one() -> None:
    assert SharedDict() == {}
    assert SharedDict({"a": 1}, b=2) == {"a": 1, "b": 2}
    assert SharedDict([("a", 1), ["b", 2]]) == {"a": 1, "b": 2}
    assert SharedDict(SharedDict(a=1)) == {"a": 1}
    assert SharedDict(name=1, mapping=2, self=3) == {"name": 1, "mapping": 2, "self": 3}
    assert SharedDict.fromkeys("aba", 0) == {"a": 0, "b": 0}
    with pytest.raises(TypeError):
        SharedDict(5)
    with pytest.raises(ValueError, match="length"):
        SharedDict(["abc"])


def test_it_is_a_mutable_mapping() -> None:
    shared = SharedDict()
    assert isinstance(shared, MutableMapping)
    assert not isinstance(shared, dict)
    assert isinstance(shared.keys(), KeysView)
    assert isinstance(shared.values(), ValuesView)
    assert isinstance(shared.items(), ItemsView)
    assert isinstance(SharedDict[str, int]({"a": 1}), SharedDict)
    with pytest.raises(TypeError, match="unhashable"):
        hash(shared)


def test_single_keys() -> None:
    shared = SharedDict(a=1)
    shared["b"] = 2
    assert shared["b"] == 2 and "b" in shared and "c" not in shared and len(shared) == 2
    assert shared.get("c") is None and shared.get("c", 5) == 5 and shared.get("a", 5) == 1
    with pytest.raises(KeyError) as error:
        shared["c"]
    assert error.value.args == ("c",)
    del shared["b"]
    with pytest.raises(KeyError, match="b"):
        del shared["b"]
    assert shared.pop("a") == 1 and shared.pop("a", None) is None
    with pytest.raises(KeyError, match="a"):
        shared.pop("a")
    assert (
        shared.setdefault("n", 3) == 3 and shared.setdefault("n", 4) == 3 and shared.setdefault("m") is None
    )
    assert bool(shared)
    shared.clear()
    assert not shared


def test_a_none_is_a_value() -> None:
    shared = SharedDict(a=None)
    assert shared["a"] is None and "a" in shared and shared.get("a", 5) is None
    assert shared.setdefault("a", 5) is None and shared.pop("a", 5) is None and len(shared) == 0


def test_order() -> None:
    shared = SharedDict.fromkeys("bca")
    shared["c"] = 1
    del shared["b"]
    shared["b"] = 2
    assert list(shared) == ["c", "a", "b"] and list(reversed(shared)) == ["b", "a", "c"]
    assert [shared.popitem(), shared.popitem(), shared.popitem()] == [("b", 2), ("a", None), ("c", 1)]
    with pytest.raises(KeyError, match="empty"):
        shared.popitem()


def test_order_of_many() -> None:
    """Where it has more than one shard."""
    shared = SharedDict((number, -number) for number in range(5000))
    assert shared.statistics().shards > 1
    assert list(shared.items()) == [(number, -number) for number in range(5000)]
    assert shared.popitem() == (4999, -4999)
    for number in range(0, 4999, 2):
        del shared[number]
    shared[0] = 0
    assert list(shared) == [*range(1, 4999, 2), 0]


def test_update() -> None:
    shared = SharedDict(a=1)
    shared.update({"b": 2}, c=3)
    shared.update([("d", 4)])
    shared.update(e=5)
    shared.update()
    shared |= {"f": 6}
    shared |= [("g", 7)]
    shared.update(SharedDict(h=8))
    assert shared == dict(zip("abcdefgh", range(1, 9), strict=True))
    for wrong in (5, [5], ["abc"]):
        with pytest.raises((TypeError, ValueError)):
            shared.update(wrong)


def test_with_other_mappings() -> None:
    shared = SharedDict(a=1, b=2)
    for result in (shared | {"b": 3}, shared | SharedDict(b=3)):
        assert type(result) is dict and result == {"a": 1, "b": 3}
    result = {"b": 3} | shared
    assert type(result) is dict and list(result.items()) == [("b", 2), ("a", 1)]
    with pytest.raises(TypeError):
        shared | [("a", 1)]  # type: ignore[operator]
    plain = {"z": 0}
    plain.update(shared)
    plain |= shared
    assert plain == {"z": 0, "a": 1, "b": 2} == {"z": 0, **shared}


def test_comparison() -> None:
    shared = SharedDict(a=1, b=[1, {"c": ()}])
    same = {"b": [1, {"c": ()}], "a": 1}
    assert shared == same and same == shared and shared == SharedDict(same) and shared == shared
    assert shared != {"a": 1} and SharedDict(a=1) != SharedDict(a=2) and shared != 5 and shared != [("a", 1)]
    assert collections.OrderedDict(a=1) == SharedDict(a=1)
    with pytest.raises(TypeError):
        shared < same  # noqa: B015


def test_copies_are_plain() -> None:
    shared = SharedDict(a=[1])
    plain = shared.copy()
    assert type(plain) is dict and plain == {"a": [1]} and type(plain["a"]) is SharedList
    assert copy.copy(shared) is shared and copy.deepcopy(shared) is shared  # it is a handle
    assert dict(shared) == plain


def test_snapshot_is_deep() -> None:
    shared = SharedDict(a=[{"b": {1}}, collections.deque([1], 3)], n=5)
    shared["t"] = (shared["a"], SharedNamespace(x=1))
    snapshot = shared.snapshot()
    assert repr(snapshot) == (
        "{'a': [{'b': {1}}, deque([1], maxlen=3)], 'n': 5, "
        "'t': ([{'b': {1}}, deque([1], maxlen=3)], namespace(x=1))}"
    )
    assert snapshot["a"] is snapshot["t"][0]


def test_repr() -> None:
    assert repr(SharedDict()) == "SharedDict({})"
    shared = SharedDict(a=1, b={"c": []})
    assert repr(shared) == "SharedDict({'a': 1, 'b': SharedDict({'c': SharedList([])})})"
    shared["b"]["c"].append(shared)  # it contains itself
    assert repr(shared) == "SharedDict({'a': 1, 'b': SharedDict({'c': SharedList([...])})})"
    snapshot = shared.snapshot()
    assert snapshot["b"]["c"][0] is snapshot
    shared["b"].clear()
    shared._close()
    assert repr(shared) == "<SharedDict(closed)>"
    with pytest.raises(ValueError, match="closed"):
        shared["a"]


def test_views() -> None:
    plain = {"a": 1, "b": 2, "c": 2}
    shared = SharedDict(plain)
    keys, values, items = shared.keys(), shared.values(), shared.items()
    shared["d"] = plain["d"] = 4  # they are views
    assert list(keys) == list(plain) and list(values) == [1, 2, 2, 4] and list(items) == list(plain.items())
    assert len(keys) == len(values) == len(items) == 4
    assert [list(reversed(view)) for view in (keys, values, items)] == [
        ["d", "c", "b", "a"],
        [4, 2, 2, 1],
        list(reversed(plain.items())),
    ]
    assert "a" in keys and "z" not in keys and 2 in values and 9 not in values
    assert ("a", 1) in items and ("a", 2) not in items and ("z", 1) not in items and "a" not in items
    assert repr(SharedDict(a=1).keys()) == "SharedDictKeys(['a'])"
    assert repr(SharedDict(a=1).items()) == "SharedDictItems([('a', 1)])"
    assert repr(SharedDict(a=1).values()) == "SharedDictValues([1])"
    assert keys.mapping == shared
    with pytest.raises(TypeError):
        keys.mapping["a"] = 1


@pytest.mark.parametrize("view", ["keys", "items"])
def test_set_operations_of_views(view: str) -> None:
    left, right = {"a": 1, "b": 2, "c": 3}, {"b": 2, "c": 0, "d": 4}
    mine, theirs = getattr(SharedDict(left), view)(), getattr(SharedDict(right), view)()
    plain, other = getattr(left, view)(), getattr(right, view)()
    for operator in ("__and__", "__or__", "__sub__", "__xor__"):
        expected = getattr(plain, operator)(other)
        for operand in (other, theirs, set(other), list(other)):
            result = getattr(mine, operator)(operand)
            assert type(result) is set and result == expected
    assert set(other) - mine == set(other) - plain and other & mine == other & plain
    assert set(other) | mine == set(other) | plain and set(other) ^ mine == set(other) ^ plain
    assert mine == plain and mine != theirs and mine == set(plain) and plain == mine
    assert mine <= set(plain) and not mine < set(plain) and mine >= set() and mine > set()
    assert mine < set(plain) | {"z"} and set(plain) | {"z"} > mine
    assert mine.isdisjoint([("z", 0), "z"]) and not mine.isdisjoint(theirs)


def test_update_with() -> None:
    shared = SharedDict(n=1)
    assert shared.update_with("n", lambda value: value + 1) == 2
    assert shared.update_with("m", lambda value: value + 1, 10) == 11
    assert shared.update_with("m", lambda value: value + 1, default=10) == 12
    with pytest.raises(KeyError, match="z"):
        shared.update_with("z", lambda value: value + 1)
    with pytest.raises(ZeroDivisionError):
        shared.update_with("n", lambda value: value // 0)
    assert shared == {"n": 2, "m": 12}
    made = shared.update_with("list", lambda value: [*value, 1], ())
    assert type(made) is SharedList
    made.append(2)
    assert shared["list"] == [1, 2]


def test_update_with_ends_beside_somebody_who_is_always_faster() -> None:
    shared = SharedDict(n=0)
    calls = 0

    def func(value: int) -> int:
        nonlocal calls
        calls += 1
        thread = threading.Thread(target=shared.__setitem__, args=("n", value + 100))
        thread.start()
        thread.join(0.5 if calls == 9 else None)  # the ninth call is in a group: the thread waits for its end
        threads.append(thread)
        return value + 1

    threads: list[threading.Thread] = []
    assert shared.update_with("n", func) == 801
    threads[-1].join()
    assert calls == 9
    assert shared["n"] == 900


def test_update_with_is_called_again_if_somebody_was_faster() -> None:
    shared = SharedDict(n=1)
    seen = []

    def func(value: int) -> int:
        seen.append(value)
        if len(seen) == 1:
            shared["n"] = 10
        elif len(seen) == 2:
            del shared["n"]
        return value + 1

    assert shared.update_with("n", func, 100) == 101
    assert seen == [1, 10, 100]


# ---- Keys ----------------------------------------------------------------------------------------------------------

KEYS: list[Any] = [
    *(None, True, 0, -1, 2**31, -(2**63), 2**63, 2**64, -(2**200), 1.5, -0.25, float("inf"), 1e300, 3 + 4j),
    *("", "a", "ä", "日本", "😀", "x" * 5000, "\ud800", b"", b"a", b"\0" * 3000),
    *((), (1,), (1, ("a", None, b"b")), frozenset(), frozenset({1, "a"}), range(3)),
    *(decimal.Decimal("1.10"), fractions.Fraction(1, 3), Colour.RED, Colour.GREEN, Point(1, 2), Point(1, 3)),
    *(datetime.date(2026, 1, 1), datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC), datetime.timedelta(1)),
    *(uuid.UUID(int=5), int, len, KeyError, Point),
]


def test_all_kinds_of_keys() -> None:
    shared = SharedDict()
    for number, key in enumerate(KEYS):
        shared[key] = number
    assert len(shared) == len(KEYS)
    for number, key in enumerate(KEYS):
        again = pickle.loads(pickle.dumps(key))  # equal, and another object
        assert shared[again] == number and again in shared
    assert list(shared) == KEYS and list(map(type, shared)) == list(map(type, KEYS))
    for key in KEYS:
        del shared[pickle.loads(pickle.dumps(key))]
    assert len(shared) == 0


EQUAL: list[list[Any]] = [
    [1, 1.0, True, decimal.Decimal(1), fractions.Fraction(1), 1 + 0j, Number.ONE, decimal.Decimal("1.0")],
    [0, 0.0, -0.0, False, 0j, decimal.Decimal("-0.00")],
    [0.5, decimal.Decimal("0.5"), fractions.Fraction(1, 2), 0.5 + 0j],
    [2**100, float(2**100), fractions.Fraction(2**100), decimal.Decimal(2**100)],
    [fractions.Fraction(1, 10), decimal.Decimal("0.1")],  # and not 0.1
    [(1, (2.0,)), (True, (2,)), (1.0, (fractions.Fraction(2),))],
    [frozenset({1, 2}), frozenset({2.0, True})],
    [float("inf"), decimal.Decimal("Infinity")],
    ["a", str.__new__(type("Text", (str,), {}), "a")],
]


@pytest.mark.parametrize("keys", EQUAL, ids=lambda keys: repr(keys[0]))
def test_equal_keys_are_one(keys: list[Any]) -> None:
    assert len(dict.fromkeys(keys)) == 1
    for first in keys:
        if type(first).__name__ == "Text":
            continue  # of a class that cannot be pickled
        shared = SharedDict({first: "first"})
        for number, key in enumerate(keys):
            assert key in shared
            shared[key] = number
            assert shared[first] == number
        assert len(shared) == 1
        [kept] = shared
        assert type(kept) is type(first)


def test_different_keys_are_several() -> None:
    keys = [
        "1",
        b"1",
        1,
        (1,),
        frozenset({1}),
        ((1,),),
        0.1,
        decimal.Decimal("0.1"),
        "",
        b"",
        (),
        None,
        2**53 + 1,
    ]
    keys += [float(2**53), Colour.RED, Point(1, 1), (1, 1), "None", 1j]
    assert len(SharedDict.fromkeys(keys)) == len(keys) == len(dict.fromkeys(keys))


def test_numbers_of_numpy_as_keys() -> None:
    numpy = pytest.importorskip("numpy")
    shared = SharedDict({1: "one", 0.5: "half"})
    assert shared[numpy.int64(1)] == shared[numpy.uint8(1)] == shared[numpy.float64(1)] == "one"
    assert shared[numpy.float32(0.5)] == "half"
    shared[numpy.int64(7)] = "seven"
    assert shared[7] == "seven"


@pytest.mark.parametrize("key", [[], {}, set(), ([],), SharedDict, SharedList], ids=repr)
def test_keys_without_hash(key: Any) -> None:
    if isinstance(key, type):
        key = key()  # not where tests are collected
    shared = SharedDict(a=1)
    for action in (
        lambda: shared.__setitem__(key, 1),
        lambda: shared[key],
        lambda: key in shared,
        lambda: shared.get(key),
        lambda: shared.pop(key, None),
        lambda: shared.setdefault(key, 1),
        lambda: shared._update([("b", 2), (key, 1)]),
    ):
        with pytest.raises(TypeError, match="unhashable"):
            action()
    assert shared == {"a": 1}


def test_keys_that_cannot_be_stored() -> None:
    shared = SharedDict(a=1)
    with pytest.raises(TypeError, match="handle"):
        shared[processing.Lock()] = 1
    for key in ("x" * 20_000, b"x" * 20_000, ("x" * 10_000, "y" * 10_000)):
        with pytest.raises(ValueError, match="16,384"):
            shared[key] = 1
        with pytest.raises(ValueError, match="16,384"):
            shared.update({"b": 2, key: 1})
    assert shared == {"a": 1}


# ---- Values --------------------------------------------------------------------------------------------------------

VALUES: list[Any] = [
    *KEYS,
    *(bytearray(b"ab"), collections.OrderedDict(a=1), collections.Counter("aab"), (1, [2, {3: 4}])),
    *("x" * 3_000_000, b"y" * 3_000_000, "ä" * 100_000, "😀" * 2000, 7**100_000, list(range(1000)).__class__),
]


def test_all_kinds_of_values() -> None:
    shared = SharedDict()
    for number, value in enumerate(VALUES):
        shared[number] = value
    for number, value in enumerate(VALUES):
        assert shared[number] == value and type(shared[number]) is type(value)
    assert list(shared.values()) == VALUES
    for number in reversed(range(len(VALUES))):
        assert shared.popitem() == (number, VALUES[number])


@pytest.mark.parametrize(
    "size", [0, 1, 40, 63, 64, 1000, 4095, 4096, 4097, 16_383, 16_384, 16_385, 70_000, 2**21]
)
def test_values_of_all_sizes_in_the_place_of_each_other(size: int) -> None:
    shared = SharedDict(k=0)
    for other in (b"", b"z" * 50, b"z" * 5000, b"z" * 100_000):
        shared["k"] = b"x" * size
        assert shared["k"] == b"x" * size
        shared["k"] = other
        assert shared["k"] == other


def test_arrays_are_read_only_views() -> None:
    numpy = pytest.importorskip("numpy")
    shared = SharedDict(small=numpy.arange(3), large=numpy.arange(100_000), number=numpy.float32(1.5))
    assert shared["small"].tolist() == [0, 1, 2] and shared["number"] == numpy.float32(1.5)
    view = shared["large"]
    assert view.sum() == sum(range(100_000)) and not view.flags.writeable
    del shared["large"]
    gc.collect()
    assert view.sum() == sum(range(100_000))  # it keeps its memory


def test_other_mutable_values_are_copies() -> None:
    shared = SharedDict(a=bytearray(b"a"), b=collections.OrderedDict(), c=([],))
    shared["a"].append(1)
    shared["b"]["x"] = 1
    shared["c"][0].append(1)
    assert shared == {"a": bytearray(b"a"), "b": {}, "c": ([],)}


def test_lambdas_and_shared_objects_as_values() -> None:
    shared = SharedDict(f=lambda x: x + 1, lock=processing.Lock(), queue=processing.Queue())
    gc.collect()
    assert shared["f"](1) == 2
    shared["queue"].put(5)
    assert shared["queue"].get() == 5
    with shared["lock"]:
        assert shared["lock"].locked()
    shared["both"] = (shared["lock"], shared["queue"])
    assert shared["both"][0] is shared["lock"]


@pytest.mark.parametrize(
    "value", [(lambda: (yield))(), open, {"a": (lambda: (yield))()}], ids=["a", "b", "c"]
)
def test_values_that_cannot_be_pickled(value: Any) -> None:
    if value is open:
        value = (n for n in ())
    shared = SharedDict(a=1)
    for action in (
        lambda: shared.__setitem__("a", value),
        lambda: shared.setdefault("b", value),
        lambda: shared.update({"a": 2, "b": value}),
        lambda: shared.update_with("a", lambda old: value),
        lambda: SharedDict(b=value),
    ):
        with pytest.raises((TypeError, pickle.PicklingError), match="generator"):
            action()
    assert shared == {"a": 1}


class Refuses:
    """Can be pickled, but not unpickled."""

    def __reduce__(self) -> Any:
        return _refuse, ()


def _refuse() -> None:
    raise RuntimeError("not today")


def test_values_that_cannot_be_unpickled() -> None:
    shared = SharedDict(bad=Refuses(), good=1)
    for action in (
        lambda: shared["bad"],
        lambda: shared.get("bad"),
        lambda: list(shared.values()),
        shared.copy,
    ):
        with pytest.raises(RuntimeError, match="not today"):
            action()
    assert "bad" in shared and len(shared) == 2 and list(shared) == ["bad", "good"]
    shared["bad"] = 2
    assert shared == {"bad": 2, "good": 1}


# ---- Nested containers ---------------------------------------------------------------------------------------------


def test_nested_containers_are_shared() -> None:
    plain: dict[str, Any] = {"a": {"b": []}}
    shared = SharedDict(plain)
    shared["a"]["b"].append(1)
    assert plain == {"a": {"b": []}}  # what was stored is not touched
    assert shared == {"a": {"b": [1]}}
    inner = shared["a"]
    assert shared["a"] is inner
    shared["c"] = inner
    inner["x"] = {1}
    shared["c"]["x"].add(2)
    assert shared["a"] == {"b": [1], "x": {1, 2}} == shared["c"]
    del shared["a"], shared["c"]
    assert inner["b"] == [1]
    kinds = SharedDict(a={}, b=[], c=set(), d=collections.deque(maxlen=2), e=SharedNamespace())
    assert [type(kind) for kind in kinds.values()] == [
        SharedDict,
        SharedList,
        SharedSet,
        SharedDeque,
        SharedNamespace,
    ]
    assert kinds["d"].maxlen == 2


def test_what_is_the_same_object_stays_one() -> None:
    part: list[Any] = [1]
    for shared in (SharedDict(a=part, b=[part]), SharedDict(whole={"a": part, "b": [part]})["whole"]):
        shared["a"].append(2)
        assert shared == {"a": [1, 2], "b": [[1, 2]]}


def test_what_contains_itself_is_refused() -> None:
    cycle: dict[str, Any] = {"list": [1, {}]}
    cycle["list"][1]["back"] = cycle["list"]
    shared = SharedDict()
    with pytest.raises(ValueError, match=r"a list that contains itself .* \[1\]\['back'\]\."):
        shared["x"] = cycle
    itself: list[Any] = []
    itself.append(itself)
    with pytest.raises(ValueError, match=r"its own \[0\]"):
        shared["x"] = itself
    assert shared == {}


def test_convert() -> None:
    for value in (5, "a", (1, [2]), frozenset(), collections.OrderedDict(a=1), None, SharedDict()):
        assert containers.convert(value) is value
    made = containers.convert([{"a": {1}}])
    assert type(made) is SharedList and type(made[0]) is SharedDict and type(made[0]["a"]) is SharedSet


# ---- The object ----------------------------------------------------------------------------------------------------


class Named(SharedDict):
    """Of somebody else."""

    def total(self) -> int:
        return sum(self.values())


def test_subclasses() -> None:
    mine = Named(a=1, b=2)
    assert mine.total() == 3 and pickle.loads(pickle.dumps(mine)) is mine
    assert repr(mine) == "Named({'a': 1, 'b': 2})"


def test_name_and_statistics() -> None:
    shared = SharedDict(a=1, name="value")
    assert shared.name is None
    shared.name = "results"
    assert shared.name == "results" and shared["name"] == "value"
    facts = shared.statistics()
    assert facts.items == 2 and facts.bytes > 0 and facts.repairs == 0
    before = facts.bytes
    shared["b"] = "x" * 3000
    assert shared.statistics().bytes > before + 2000


def make_and_drop() -> None:
    shared = SharedDict((number, {"text": "x" * 5000, "list": [number]}) for number in range(300))
    shared.update((str(number), "y" * 20_000) for number in range(100))
    assert processing.memory_usage().used > 3_000_000
    for number in range(150):
        del shared[number]
    shared.popitem()
    shared[200] = None
    inner = shared[299]
    del shared
    gc.collect()
    assert inner == {"text": "x" * 5000, "list": [299]}


def test_memory_is_freed() -> None:
    make_and_drop()  # the table of this process's handles grows
    gc.collect()
    before = processing.memory_usage()
    make_and_drop()
    gc.collect()
    after = processing.memory_usage()
    assert (after.used, after.objects) == (before.used, before.objects)


def test_what_is_replaced_is_freed() -> None:
    shared = SharedDict(k=b"x" * 50_000, c=[1])
    gc.collect()
    before = processing.memory_usage()
    for number in range(100):
        shared["k"] = bytes([number]) * 50_000
        shared["c"] = [number]
        shared.pop("k")
        shared.setdefault("k", b"z" * 50_000)
        shared.update_with("c", lambda value: [*value, 1])
    gc.collect()
    after = processing.memory_usage()
    assert after.objects == before.objects and after.used <= before.used + 4096
    shared.clear()
    assert processing.memory_usage().objects < before.objects


LIMITED = """
import processing
from processing.containers import SharedDict

def fill(shared, value):
    count = 0
    try:
        while True:
            shared[count] = value
            count += 1
    except MemoryError as error:
        return count, str(error)

if __name__ == "__main__":
    processing.set_memory_limit(24 << 20)
    shared = SharedDict(before=1)
    shared.name = "results"
    for size in (100, 3000, 50_000, 5_000_000):
        value = "x" * size
        count, text = fill(shared, value)
        assert "limit of 24.0 MiB" in text, text
        assert "SharedDict 'results'" in text and len(text) < 500, text[:500]
        assert 4_000_000 < count * (size + 100) < 40_000_000, (size, count)
        assert len(shared) == count + 1 == len(shared.items())
        assert shared["before"] == 1 and shared.get(count) is None
        for action in (
            lambda: shared.__setitem__("before", "y" * 30_000_000),
            lambda: shared.setdefault("more", "y" * 30_000_000),
            lambda: shared.update({"before": 2, "more": "y" * 30_000_000}),
            lambda: shared.update_with("before", lambda value: "y" * 30_000_000),
        ):
            try:
                action()
            except MemoryError as error:
                pass
            else:
                raise AssertionError("it was not refused")
        assert shared["before"] == 1 and "more" not in shared
        assert all(shared[number] == value for number in range(0, count, 50))
        for number in range(count):
            del shared[number]
        assert shared == {"before": 1}
        again, _ = fill(shared, value)  # all of it can be used again
        assert again >= count * 0.9, (again, count)
        shared.clear()
        shared["before"] = 1
    print("done")
"""


def test_the_memory_limit(tmp_path: Any) -> None:
    assert output_of(tmp_path, LIMITED, limit=40) == ["done"]


def test_mapping_patterns() -> None:
    match SharedDict(a=1, b=2):
        case {"a": 1, **rest}:
            assert rest == {"b": 2}
        case _:
            raise AssertionError
    assert isinstance(SharedDict(), Mapping)
