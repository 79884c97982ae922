"""What a Manager makes, in one program: every type and method, used by several processes."""

from __future__ import annotations

import array
import queue
from collections import deque
from threading import BrokenBarrierError
from typing import Any

import pytest

from helpers import LIMIT, SHORT, children, ended, until
from manager_helpers import Doing, in_child, run_in_child
from processing.managers import RemoteError

pytestmark = pytest.mark.ends


# ---- Containers -----------------------------------------------------------------------------------------------------


def methods_of_list(shared: Any) -> list[Any]:
    shared.append(5)
    shared.extend([1, 3])
    shared.insert(0, 9)
    shared.remove(1)
    shared.sort()
    shared.reverse()
    shared[0] = 10
    shared[1:2] = [7, 7]
    del shared[-1]
    shared += [4]
    seen = [
        shared[:],
        shared.index(7),
        shared.count(7),
        shared.pop(),
        len(shared),
        7 in shared,
        shared.copy(),
    ]
    shared *= 2
    return [*seen, shared + [0], shared * 2, 2 * shared, list(reversed(shared))]


def test_list(each: Any) -> None:
    shared, plain = each.list([2, 1]), [2, 1]
    assert run_in_child(each.ctx, methods_of_list, shared) == methods_of_list(plain)
    assert shared == plain
    shared.clear()
    assert len(shared) == 0 and not [*shared]


def methods_of_dict(shared: Any) -> list[Any]:
    shared["b"] = 2
    shared.update({"c": 3}, d=4)
    shared |= {"e": 5}
    del shared["a"]
    seen = [shared.get("x"), shared.get("x", 1), shared.setdefault("b", 7), shared.setdefault("n", 7)]
    seen += [
        shared.pop("c"),
        shared.pop("c", None),
        shared.popitem(),
        len(shared),
        "b" in shared,
        shared["b"],
    ]
    seen += [
        [*shared.keys()],
        [*shared.values()],
        [*shared.items()],
        shared.copy(),
        [*shared],
        [*reversed(shared)],
    ]
    return [*seen, shared | {"z": 0}, {"y": 0} | shared, {**shared}]


def test_dict(each: Any) -> None:
    shared, plain = each.dict({"a": 1}), {"a": 1}
    assert run_in_child(each.ctx, methods_of_dict, shared) == methods_of_dict(plain)
    assert shared == plain and dict(shared) == plain
    shared.clear()
    assert shared == {}


def methods_of_set(shared: Any) -> list[Any]:
    shared.add(5)
    shared.discard(77)
    shared.remove(1)
    shared.update([6, 7], [8])
    shared |= {20, 21}
    shared &= {2, 3, 5, 6, 7, 20, 21}
    shared -= {21}
    shared ^= {20, 30}
    shared.difference_update([3])
    shared.intersection_update({2, 5, 6, 7, 30})
    shared.symmetric_difference_update({30, 31})
    seen: list[Any] = [sorted(shared), 5 in shared, len(shared), shared.copy()]
    seen += [
        shared & {5},
        shared | {0},
        shared - {5},
        shared ^ {0},
        {5} & shared,
        {0} | shared,
        {0, 5} - shared,
    ]
    seen += [{0} ^ shared, shared <= {1}, shared < {*range(99)}, shared >= {5}, shared > {5}]
    seen += [
        shared.union([0]),
        shared.difference([5]),
        shared.intersection([5]),
        shared.symmetric_difference([0]),
    ]
    return [*seen, shared.isdisjoint([0]), shared.issubset(range(99)), shared.issuperset([5]), {*shared}]


def test_set(each: Any) -> None:
    shared, plain = each.set([1, 2, 3]), {1, 2, 3}
    assert run_in_child(each.ctx, methods_of_set, shared) == methods_of_set(plain)
    assert shared == plain
    assert {shared.pop() for _ in range(len(plain))} == plain
    with pytest.raises(KeyError):
        shared.pop()


def methods_of_deque(shared: Any) -> list[Any]:
    shared.append(5)
    shared.appendleft(0)
    shared.extend([6, 7])
    shared.extendleft([-1, -2])
    shared.remove(5)
    shared.rotate(1)
    shared.insert(1, 9)
    shared[0] = 8
    del shared[1]
    shared += [1]
    seen = [
        [*shared],
        shared.pop(),
        shared.popleft(),
        len(shared),
        shared.count(0),
        shared.index(0),
        0 in shared,
    ]
    shared.reverse()
    return [*seen, shared[0], shared.copy()]


@pytest.mark.parametrize("most", [None, 9])
def test_deque(each: Any, most: int | None) -> None:
    shared, plain = each.deque([1, 2], most), deque([1, 2], most)
    assert run_in_child(each.ctx, methods_of_deque, shared) == methods_of_deque(plain)
    assert shared == plain
    shared.clear()
    assert len(shared) == 0


def test_deque_keeps_its_maxlen(manager: Any) -> None:
    shared = manager.deque(range(5), maxlen=3)
    shared.append(5)
    assert [*shared] == [3, 4, 5]


def use_namespace(space: Any) -> Any:
    space.y = space.x + 1
    del space.x
    return hasattr(space, "x"), hasattr(space, "y"), str(space)


def test_namespace(each: Any) -> None:
    space = each.Namespace(x=1)
    assert run_in_child(each.ctx, use_namespace, space) == (False, True, "Namespace(y=2)")
    assert space.y == 2
    with pytest.raises(AttributeError, match="x"):
        del space.x


# ---- Values ---------------------------------------------------------------------------------------------------------


def use_values(value: Any, number: Any, struct: Any, numbers: Any) -> Any:
    value.value = "anything"
    before = [number.get(), number.add(5), number.exchange(20), number.value]
    swaps = [number.compare_exchange(20, 21), number.compare_exchange(20, 22)]
    struct.set((7, 0.5))
    numbers[0] = 40
    numbers[1:] = array.array("i", [50, 60])
    return before, swaps, struct.value, len(numbers), [*numbers]


def test_values(each: Any) -> None:
    value, number = each.Value("i", 1), each.SharedValue("i", 10)
    struct, numbers = each.SharedStruct("id", (1, 2.0)), each.Array("i", [1, 2, 3])
    seen = run_in_child(each.ctx, use_values, value, number, struct, numbers)
    assert seen == ([10, 10, 15, 20], [True, False], (7, 0.5), 3, [40, 50, 60])
    assert (value.get(), number.get(), struct.get(), [*numbers]) == ("anything", 21, (7, 0.5), [40, 50, 60])
    assert [*each.SharedArray("d", 3)] == [0.0] * 3
    with pytest.raises(ValueError, match="fixed"):
        numbers[0:1] = [1, 2]
    with pytest.raises(Exception, match="i"):
        number.set(1 << 40)
    assert number.get() == 21


def add_many(number: int, value: Any, rounds: int) -> None:
    for _ in range(rounds):
        value.add(1)


def test_add_is_one_step(each: Any) -> None:
    value = each.SharedValue("q", 0)
    with children(each.ctx, 3, add_many, value, 300) as processes:
        ended(*processes)
    assert value.get() == 900


# ---- Locks and their kin --------------------------------------------------------------------------------------------


def add_under(number: int, lock: Any, value: Any, rounds: int) -> None:
    for _ in range(rounds):
        with lock:
            value.value += 1


@pytest.mark.parametrize("kind", ["Lock", "RLock", "Semaphore", "BoundedSemaphore", "Condition"])
def test_exclusion(each: Any, kind: str) -> None:
    lock, value = getattr(each, kind)(), each.Value("i", 0)
    with children(each.ctx, 3, add_under, lock, value, 100) as processes:
        ended(*processes)
    assert value.value == 300


def try_acquire(lock: Any) -> Any:
    return lock.acquire(False), lock.acquire(True, SHORT), lock.acquire(timeout=SHORT)


@pytest.mark.once
@pytest.mark.parametrize("kind", ["Lock", "RLock", "Semaphore", "BoundedSemaphore", "Condition"])
def test_a_held_lock_is_refused(each: Any, kind: str) -> None:
    lock = getattr(each, kind)()
    assert lock.acquire() is True
    assert run_in_child(each.ctx, try_acquire, lock) == (False, False, False)
    lock.release()
    assert run_in_child(each.ctx, try_acquire, lock)[0] is True


def test_locked(manager: Any) -> None:
    for lock in (manager.Lock(), manager.RLock()):
        assert not lock.locked()
        with lock:
            assert lock.locked()
        with pytest.raises(RuntimeError):
            lock.release()


def test_semaphores_count(manager: Any) -> None:
    plain, bounded = manager.Semaphore(2), manager.BoundedSemaphore(2)
    for semaphore in (plain, bounded):
        assert [semaphore.acquire(False) for _ in range(3)] == [True, True, False]
        semaphore.release()
        semaphore.release()
    plain.release()
    with pytest.raises(ValueError, match="too many"):
        bounded.release()
    with pytest.raises((ValueError, RemoteError), match=">= 0"):
        manager.Semaphore(-1)


def wait_for_turn(number: int, condition: Any, turn: Any, order: Any) -> None:
    with condition:
        condition.wait_for(lambda: turn.value == number, LIMIT)
        order.append(number)
        turn.value += 1
        condition.notify_all()


def test_condition(each: Any) -> None:
    condition, turn, order = each.Condition(), each.Value("i", -1), each.list()
    with children(each.ctx, 4, wait_for_turn, condition, turn, order) as processes:
        with condition:
            turn.value = 0
            condition.notify_all()
        ended(*processes)
    assert order[:] == [0, 1, 2, 3]
    with condition:
        assert condition.wait(SHORT) is False
        assert not condition.wait_for(lambda: False, SHORT)
    for method in (condition.wait, condition.notify, condition.notify_all):
        with pytest.raises(RuntimeError, match="un-acquired"):
            method()


def test_condition_over_a_lock(manager: Any) -> None:
    lock = manager.Lock()
    first, second = manager.Condition(lock), manager.Condition(lock)
    with first:
        assert not lock.acquire(False) and not second.acquire(False)
    with lock:
        second.notify()
    del lock
    with first, pytest.raises(RemoteError, match="Lock"):
        manager.Condition(manager.list())


def notify_one(condition: Any) -> None:
    with condition:
        condition.notify(1)


def test_notify_wakes_as_many_as_asked(each: Any) -> None:
    condition, awake = each.Condition(), each.Value("i", 0)
    ready = each.Semaphore(0)

    def wait() -> None:
        with condition:
            ready.release()
            assert condition.wait(LIMIT)
            awake.value += 1

    waiting = [Doing(wait) for _ in range(3)]
    for _ in waiting:
        assert ready.acquire(True, LIMIT)
    run_in_child(each.ctx, notify_one, condition)
    until(lambda: awake.value == 1)
    with condition:
        assert awake.value == 1
        condition.notify(2)
    for doing in waiting:
        doing.result()


def wait_for_event(number: int, event: Any, ready: Any) -> None:
    ready.release()
    assert event.wait(LIMIT) is True


def test_event(each: Any) -> None:
    event, ready = each.Event(), each.Semaphore(0)
    assert not event.is_set() and event.wait(SHORT) is False
    with children(each.ctx, 3, wait_for_event, event, ready) as processes:
        for _ in processes:
            assert ready.acquire(True, LIMIT)
        event.set()
        ended(*processes)
    assert event.is_set() and event.wait() is True
    event.clear()
    assert not event.is_set()


def meet(barrier: Any) -> int:
    return int(barrier.wait(LIMIT))


def test_barrier(each: Any) -> None:
    barrier = each.Barrier(3)
    assert (barrier.parties, barrier.n_waiting, barrier.broken) == (3, 0, False)
    with in_child(each.ctx, meet, barrier) as one, in_child(each.ctx, meet, barrier) as two:
        until(lambda: barrier.n_waiting == 2)
        assert sorted([barrier.wait(LIMIT), one(), two()]) == [0, 1, 2]
    waiting = Doing(barrier.wait)
    until(lambda: barrier.n_waiting == 1)
    barrier.abort()
    with pytest.raises(BrokenBarrierError):
        waiting.result()
    with pytest.raises(BrokenBarrierError):
        barrier.wait()
    assert barrier.broken
    barrier.reset()
    assert not barrier.broken
    with pytest.raises(BrokenBarrierError):
        barrier.wait(SHORT)


# ---- Queues ---------------------------------------------------------------------------------------------------------


def produce(number: int, items: Any, how_many: int) -> None:
    for n in range(how_many):
        items.put((number, n))


def test_queue(each: Any) -> None:
    items = each.Queue(5)
    with children(each.ctx, 3, produce, items, 40) as processes:
        got = [items.get(timeout=LIMIT) for _ in range(120)]
        ended(*processes)
    for number in range(3):
        assert [n for who, n in got if who == number] == [*range(40)]
    assert items.empty() and items.qsize() == 0 and not items.full()


def test_queue_methods(manager: Any) -> None:
    items = manager.Queue(maxsize=2)
    items.put(1)
    items.put_nowait(2)
    assert items.full() and items.qsize() == 2
    for refused in (
        lambda: items.put_nowait(3),
        lambda: items.put(3, False),
        lambda: items.put(3, True, SHORT),
    ):
        with pytest.raises(queue.Full):
            refused()
    assert (items.get(), items.get_nowait()) == (1, 2)
    for refused in (items.get_nowait, lambda: items.get(False), lambda: items.get(timeout=SHORT)):
        with pytest.raises(queue.Empty):
            refused()
    many = manager.Queue()
    many.put_many(range(5))
    assert many.get_many(3) == [0, 1, 2] and many.qsize() == 2
    many.shutdown()
    assert [many.get(), many.get()] == [3, 4]
    with pytest.raises(Exception) as caught:
        many.get()
    assert type(caught.value).__name__ == "ShutDown"


def consume(number: int, work: Any, results: Any) -> None:
    while (item := work.get()) is not None:
        results.put(item * item)
        work.task_done()
    work.task_done()


def test_joinable_queue(each: Any) -> None:
    work, results = each.JoinableQueue(), each.Queue()
    with children(each.ctx, 2, consume, work, results) as processes:
        for n in range(50):
            work.put(n)
        for _ in processes:
            work.put(None)
        work.join()
        ended(*processes)
    assert sorted(results.get_many(50)) == [n * n for n in range(50)]
    with pytest.raises(ValueError, match="too many"):
        work.task_done()


def square(n: int) -> int:
    return n * n


def fail(n: int) -> int:
    raise ZeroDivisionError(f"asked to: {n}")


def use_pool(pool: Any) -> Any:
    return pool.map(square, range(10)), pool.apply(square, (3,)), pool.starmap(pow, [(2, 3), (3, 2)])


@pytest.mark.time_limit(120)
def test_pool(each: Any) -> None:
    with each.Pool(2) as pool:
        assert run_in_child(each.ctx, use_pool, pool) == ([n * n for n in range(10)], 9, [8, 9])
        result = pool.apply_async(square, (4,))
        result.wait(LIMIT)
        assert result.ready() and result.successful() and result.get(LIMIT) == 16
        assert pool.map_async(square, [1, 2]).get(LIMIT) == [1, 4]
        assert pool.starmap_async(pow, [(2, 3)]).get(LIMIT) == [8]
        assert list(pool.imap(square, range(20))) == [n * n for n in range(20)]
        assert sorted(pool.imap_unordered(square, range(20))) == [n * n for n in range(20)]
        with pytest.raises(ZeroDivisionError, match="asked to: 1"):
            pool.apply(fail, (1,))
        pool.close()
        pool.join()
