"""Random operations on shared containers, compared with dict, list, set and deque after each.

The same machines run in one process, and with the operations made alternately by this process and two others that do
them when they are told over a socket: the order is fixed, so every result is too. What is inserted in which order,
which of two equal keys is kept, nested containers, groups of changes and their end by an exception are all compared.
"""

from __future__ import annotations

import collections
import copy
import pickle
import select
import socket
import struct
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

import processing
from helpers import LIMIT
from processing.containers import SharedDeque, SharedDict, SharedList, SharedSet

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import strategies as st  # noqa: E402
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule  # noqa: E402

pytestmark = [pytest.mark.once, pytest.mark.time_limit(300)]  # to make a case that fails a short one

# ---- What is stored ------------------------------------------------------------------------------------------------

# Many of them equal to each other, so that they meet.
KEYS = st.sampled_from(
    [
        0,
        1,
        2,
        True,
        False,
        1.0,
        0.5,
        2**70,
        float(2**70),
        -7,
        None,
        Decimal(1),
        Fraction(1, 2),
        Fraction(1, 3),
    ]
    + ["", "a", "b", "ä", "日本", "😀", "x" * 300, b"", b"a", ("a", 1), ("a", True), (("n", 1.0), None), ()]
    + [frozenset(), frozenset({1, "a"}), frozenset({True, "a"}), complex(1, 0), complex(0, 2)]
)
PLAIN_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.integers(-(2**80), 2**80),
    st.floats(allow_nan=False),
    st.text(max_size=5),
    st.binary(max_size=70),
    st.builds(
        lambda text, count: text * count, st.sampled_from(["x", "ü"]), st.sampled_from([500, 5000, 70_000])
    ),
    st.tuples(st.integers(0, 9), st.text(max_size=3)),
)
NESTED = st.one_of(
    st.just({}),
    st.just([]),
    st.dictionaries(st.sampled_from("ab"), st.integers(0, 3), max_size=2),
    st.lists(st.one_of(st.integers(0, 3), st.just([])), max_size=3),
    st.just({"deep": [{"er": collections.deque([1, {2}], 5)}]}),
    st.just({1, 2}),
)
VALUES = st.one_of(PLAIN_VALUES, PLAIN_VALUES, NESTED)
SMALL = st.sampled_from([0, 1, 2, 3, "a", "b", None, 1.0, True])  # equal ones meet in sequences
ITEMS = st.one_of(SMALL, SMALL, VALUES)
INDEXES = st.one_of(st.integers(-3, 3), st.integers(-15, 15))
BOUNDS = st.one_of(st.none(), st.integers(-12, 12))
SLICES = st.builds(slice, BOUNDS, BOUNDS, st.sampled_from([None, None, 1, 2, -1, -3]))

Operation = tuple[str, tuple[Any, ...]]


def operations(**arguments: Any) -> st.SearchStrategy[Operation]:
    """A method, and a strategy for each of its arguments."""
    return st.one_of(
        [st.tuples(st.just(name), st.tuples(*strategies)) for name, strategies in arguments.items()]
    )


# ---- What is done, to a shared container and to the builtin ---------------------------------------------------------


def nested(container: Any, place: Any) -> str:
    """Changes a container that is stored in this one."""
    inner = container[place]
    if isinstance(inner, (list, SharedList)):
        inner.append("more")
    elif isinstance(inner, (dict, SharedDict)):
        inner["more"] = {"and": []}
    elif isinstance(inner, (set, SharedSet)):
        inner.add("more")
    return type(inner).__name__.removeprefix("Shared").lower()


def keep(container: Any, place: Any, other: Any) -> None:
    """Stores what is stored in it once more: the same container, under two keys."""
    container[other] = container[place]


def update_with(mapping: Any, key: Any, default: Any) -> Any:
    def func(value: Any) -> Any:
        return [repr(type(value) in (int, float))]

    if isinstance(mapping, SharedDict):
        return mapping.update_with(key, func, *default)
    if key not in mapping and not default:
        raise KeyError(key)
    mapping[key] = func(mapping[key] if key in mapping else default[0])
    return mapping[key]


def replace(container: Any, where: slice, values: Any) -> None:
    container[where] = values


def sort(container: Any, reverse: bool) -> None:
    container.sort(key=repr_of, reverse=reverse)


def repr_of(value: Any) -> str:
    return repr(plain(value))


OWN: dict[str, Callable[..., Any]] = {
    "nested": nested,
    "keep": keep,
    "update_with": update_with,
    "replace": replace,
    "sort": sort,
    "list": list,
    "reversed": lambda container: list(reversed(container)),
    "keys": lambda mapping: list(mapping.keys()),
    "values": lambda mapping: list(mapping.values()),
    "common": lambda mapping, other: sorted(map(repr, mapping.keys() & other)),
    "or": lambda container, other: container | other,
    "elements": lambda container: set(iter(container)),
}


def plain(value: Any) -> Any:
    """Without shared containers."""
    if isinstance(value, (SharedDict, SharedList, SharedSet, SharedDeque)):
        return value.snapshot()
    if type(value) in (tuple, list):
        return type(value)(map(plain, value))
    if type(value) is collections.deque:
        return collections.deque(map(plain, value), value.maxlen)
    return value


class Abort(Exception):
    """Ends a group without its changes."""


def call(container: Any, name: str, arguments: Any) -> tuple[str, Any]:
    """("returned", value), or ("raised", name of the exception)."""
    try:
        method = OWN[name] if name in OWN else getattr(type(container), name)
        result = method(container, *arguments)
    except (KeyError, IndexError, ValueError, TypeError) as error:
        return "raised", type(error).__name__
    return "returned", "itself" if result is container else copy.deepcopy(plain(result))


def group(container: Any, steps: list[Operation], abort: bool) -> list[tuple[str, Any]]:
    """The operations in one group."""
    results = []
    try:
        with container:
            for name, arguments in steps:
                results.append(call(container, name, arguments))
            results.append(("at the end", shown(container)))
            if abort:
                raise Abort
    except Abort:
        pass
    return results


def shown(container: Any) -> Any:
    """All that can be seen of it. Of a dict also the order, and which of equal keys it is."""
    value = plain(container)
    return (
        value if isinstance(value, set) else repr(list(value.items()) if isinstance(value, dict) else value)
    )


def send(sock: socket.socket, obj: Any) -> None:
    data = pickle.dumps(obj)
    sock.sendall(struct.pack("q", len(data)) + data)


def receive(sock: socket.socket) -> Any:
    length = struct.unpack("q", sock.recv(8, socket.MSG_WAITALL))[0]
    return pickle.loads(sock.recv(length, socket.MSG_WAITALL))


FUNCTIONS = {"call": call, "group": group, "shown": shown}


def agent(sock: socket.socket, container: Any) -> None:
    """Does what it is told, in another process."""
    while (order := receive(sock)) is not None:
        name, arguments = order
        send(sock, FUNCTIONS[name](container, *arguments))


# ---- The machines --------------------------------------------------------------------------------------------------


class Machine(RuleBasedStateMachine):
    others = 0  # processes beside this one
    steps = 0
    form: Any
    builtin: Any

    def begin(self, *arguments: Any) -> None:
        self.container = self.form(*copy.deepcopy(arguments))
        self.oracle = self.builtin(*copy.deepcopy(arguments))
        self.agents = []
        for _ in range(self.others):
            mine, theirs = socket.socketpair()
            process = processing.Process(target=agent, args=(theirs, self.container))
            process.start()
            theirs.close()
            self.agents.append((mine, process))

    def tell(self, function: str, *arguments: Any) -> Any:
        """The next process does it."""
        self.steps += 1
        who = self.steps % (len(self.agents) + 1)
        if who == 0:
            return FUNCTIONS[function](self.container, *arguments)
        sock = self.agents[who - 1][0]
        send(sock, (function, arguments))
        assert select.select([sock], [], [], LIMIT)[0], "no answer"
        return receive(sock)

    def same(self, operation: Operation) -> None:
        name, arguments = copy.deepcopy(operation)
        expected = call(self.oracle, name, arguments)
        assert self.tell("call", *operation) == expected, operation

    def same_group(self, steps: list[Operation], abort: bool) -> None:
        before = copy.deepcopy(self.oracle)
        # Looked up one by one in a group, nested containers are changed at once: not part of it.
        steps = [step for step in steps if step[0] != "nested"]
        expected = [call(self.oracle, name, copy.deepcopy(arguments)) for name, arguments in steps]
        expected.append(("at the end", shown(self.oracle)))
        assert self.tell("group", steps, abort) == expected, (steps, abort)
        if abort:
            self.oracle = before

    @rule()
    def handle(self) -> None:
        """From now on through a handle that went through a pickle."""
        self.container = pickle.loads(pickle.dumps(self.container))

    @invariant()
    def same_content(self) -> None:
        if hasattr(self, "oracle"):
            assert self.tell("shown") == shown(self.oracle)
            assert len(self.container) == len(self.oracle)
            assert self.container.statistics().items == len(self.oracle)

    def teardown(self) -> None:
        for sock, process in getattr(self, "agents", ()):
            send(sock, None)
            sock.close()
            process.join(LIMIT)
            assert process.exitcode == 0
            process.close()


MAPPINGS = st.dictionaries(KEYS, VALUES, max_size=4)
OF_DICT = operations(
    __setitem__=(KEYS, VALUES),
    __getitem__=(KEYS,),
    __delitem__=(KEYS,),
    __contains__=(KEYS,),
    get=(KEYS, SMALL),
    pop=(KEYS,),
    setdefault=(KEYS, VALUES),
    popitem=(),
    update=(st.one_of(MAPPINGS, st.lists(st.tuples(KEYS, VALUES), max_size=4)),),
    __ior__=(MAPPINGS,),
    clear=(),
    nested=(KEYS,),
    keep=(KEYS, KEYS),
    update_with=(KEYS, st.one_of(st.just(()), st.tuples(SMALL))),
    list=(),
    reversed=(),
    keys=(),
    values=(),
    common=(st.sets(KEYS, max_size=3),),
    **{"or": (MAPPINGS,)},
)


class Dicts(Machine):
    form, builtin = SharedDict, dict

    @initialize(mapping=MAPPINGS)
    def make(self, mapping: Any) -> None:
        self.begin(mapping)

    @rule(operation=OF_DICT)
    def operate(self, operation: Operation) -> None:
        self.same(operation)

    @rule(steps=st.lists(OF_DICT, max_size=5), abort=st.booleans())
    def grouped(self, steps: list[Operation], abort: bool) -> None:
        self.same_group(steps, abort)

    @rule(first=st.integers(0, 500), count=st.integers(0, 300), size=st.sampled_from([0, 40, 600]))
    def many(self, first: int, count: int, size: int) -> None:
        """So that tables and the number of shards grow."""
        self.same(
            (
                "update",
                (
                    {
                        f"key {n}": n if not size else "v" * (size + n % 50)
                        for n in range(first, first + count)
                    },
                ),
            )
        )

    @rule(which=st.integers(2, 5))
    def few(self, which: int) -> None:
        for key in list(self.oracle)[::which]:
            self.same(("pop", (key,)))


SETS = st.sets(KEYS, max_size=4)
OF_SET = operations(
    add=(KEYS,),
    discard=(KEYS,),
    remove=(KEYS,),
    __contains__=(KEYS,),
    update=(SETS, SETS),
    difference_update=(SETS,),
    intersection_update=(st.sets(KEYS),),
    symmetric_difference_update=(SETS,),
    __ior__=(SETS,),
    __iand__=(st.sets(KEYS),),
    __isub__=(SETS,),
    __ixor__=(SETS,),
    __or__=(SETS,),
    __and__=(SETS,),
    __xor__=(SETS,),
    __sub__=(SETS,),
    __le__=(SETS,),
    __gt__=(SETS,),
    issuperset=(SETS,),
    clear=(),
    elements=(),
)


class Sets(Machine):
    form, builtin = SharedSet, set

    @initialize(elements=SETS)
    def make(self, elements: Any) -> None:
        self.begin(elements)

    @rule(operation=OF_SET)
    def operate(self, operation: Operation) -> None:
        self.same(operation)

    @rule(steps=st.lists(OF_SET, max_size=5), abort=st.booleans())
    def grouped(self, steps: list[Operation], abort: bool) -> None:
        self.same_group(steps, abort)

    @rule()
    def pop(self) -> None:
        """Which one goes is not said."""
        status, element = self.tell("call", "pop", ())
        if status == "raised":
            assert (element, len(self.oracle)) == ("KeyError", 0)
        else:
            self.oracle.remove(element)


OF_BOTH = {
    "__getitem__": (INDEXES,),
    "__setitem__": (INDEXES, ITEMS),
    "__delitem__": (INDEXES,),
    "__contains__": (SMALL,),
    "append": (ITEMS,),
    "extend": (st.lists(ITEMS, max_size=6),),
    "insert": (INDEXES, ITEMS),
    "remove": (SMALL,),
    "index": (SMALL,),
    "count": (SMALL,),
    "reverse": (),
    "clear": (),
    "nested": (INDEXES,),
    "keep": (INDEXES, INDEXES),
    "list": (),
    "reversed": (),
    "__imul__": (st.integers(-1, 2),),
    "__mul__": (st.integers(-1, 2),),
}
OF_LIST = operations(
    **OF_BOTH,
    pop=(INDEXES,),
    replace=(SLICES, st.lists(ITEMS, max_size=4)),
    sort=(st.booleans(),),
    __add__=(st.lists(ITEMS, max_size=3),),
    __iadd__=(st.lists(ITEMS, max_size=3),),
    __eq__=(st.lists(SMALL, max_size=3),),
)
OF_LIST_SLICES = operations(__getitem__=(SLICES,), __delitem__=(SLICES,))


class Lists(Machine):
    form, builtin = SharedList, list

    @initialize(items=st.lists(ITEMS, max_size=10))
    def make(self, items: Any) -> None:
        self.begin(items)

    @rule(operation=st.one_of(OF_LIST, OF_LIST_SLICES))
    def operate(self, operation: Operation) -> None:
        if operation[0] == "__imul__" and len(self.oracle) > 100:
            return
        self.same(operation)

    @rule(steps=st.lists(OF_LIST, max_size=5), abort=st.booleans())
    def grouped(self, steps: list[Operation], abort: bool) -> None:
        self.same_group([step for step in steps if step[0] != "__imul__"], abort)

    @rule(count=st.integers(0, 200), size=st.sampled_from([0, 40, 600]))
    def many(self, count: int, size: int) -> None:
        self.same(("extend", ([n if not size else "v" * (size + n % 50) for n in range(count)],)))

    @rule(place=st.integers(0, 300), count=st.integers(1, 40))
    def in_the_middle(self, place: int, count: int) -> None:
        for number in range(count):
            self.same(("insert", (place, number)))
        for _ in range(count // 2):
            self.same(("pop", (place,)))


OF_DEQUE = operations(
    **OF_BOTH,
    pop=(),
    popleft=(),
    appendleft=(ITEMS,),
    extendleft=(st.lists(ITEMS, max_size=6),),
    rotate=(st.integers(-30, 30),),
)


class Deques(Machine):
    form, builtin = SharedDeque, collections.deque

    @initialize(items=st.lists(ITEMS, max_size=10), most=st.sampled_from([None, None, 0, 1, 4, 50]))
    def make(self, items: Any, most: Any) -> None:
        self.begin(items, most)

    @rule(operation=OF_DEQUE)
    def operate(self, operation: Operation) -> None:
        if operation[0] == "__imul__" and len(self.oracle) > 100:
            return
        self.same(operation)

    @rule(steps=st.lists(OF_DEQUE, max_size=5), abort=st.booleans())
    def grouped(self, steps: list[Operation], abort: bool) -> None:
        self.same_group([step for step in steps if step[0] != "__imul__"], abort)

    @rule(count=st.integers(1, 100))
    def through(self, count: int) -> None:
        """Items that go in at one end and out at the other, so that the ring turns."""
        for number in range(count):
            self.same(("append", (number,)))
            self.same(("popleft", ()))


def case_of(machine: type[Machine], processes: int, examples: int) -> Any:
    kind = type(f"{machine.__name__}By{processes + 1}", (machine,), {"others": processes})
    case = kind.TestCase
    case.settings = hypothesis.settings(
        max_examples=examples,
        stateful_step_count=40,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    return case


TestDicts, TestSets, TestLists, TestDeques = (case_of(kind, 0, 25) for kind in (Dicts, Sets, Lists, Deques))
TestDictsOfSeveral, TestSetsOfSeveral, TestListsOfSeveral, TestDequesOfSeveral = (
    case_of(kind, 2, 8) for kind in (Dicts, Sets, Lists, Deques)
)
