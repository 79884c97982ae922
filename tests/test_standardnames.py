"""What programs expect to find in multiprocessing's modules, beyond what is documented there."""

from __future__ import annotations

import os
import pickle
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

import processing
from helpers import LIMIT, ended, output_of
from manager_helpers import Doing, run_in_child
from processing import connection, heap, process, queues, reduction, resource_sharer, resource_tracker, util
from processing.shared_memory import SharedMemory

# ---- Queues that are subclassed -------------------------------------------------------------------------------------


class Counting(queues.Queue):
    """As programs do it that want a size where sem_getvalue is not there."""

    def __init__(self, *args: Any, **kwds: Any) -> None:
        super().__init__(*args, ctx=processing.get_context(), **kwds)
        self.count = processing.Value("i", 0)

    def __getstate__(self) -> Any:
        return {"parent_state": super().__getstate__(), "count": self.count}

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state["parent_state"])
        self.count = state["count"]

    def put(self, *args: Any, **kwds: Any) -> None:
        with self.count.get_lock():
            self.count.value += 1
        super().put(*args, **kwds)


class Telling(queues.Queue):
    def __init__(self, size: int, *, told: list[Any]) -> None:
        super().__init__(size, ctx=processing.get_context())
        self.told = told

    def _on_queue_feeder_error(self, e: BaseException, obj: object) -> None:  # type: ignore[override]
        self.told.append((type(e), obj))


def put_three(queue: Any) -> int:
    for number in range(3):
        queue.put(number)
    return int(queue.count.value)


def test_a_subclass_with_state(start_method: Any) -> None:
    queue = Counting(10)
    assert queue.maxsize == 10
    queue.put("first")
    assert run_in_child(start_method, put_three, queue) == 4
    assert queue.count.value == 4
    assert [queue.get() for _ in range(4)] == ["first", 0, 1, 2]


class NoPickle:
    def __reduce__(self) -> Any:
        raise TypeError("never")


def test_a_subclass_that_is_told_of_errors() -> None:
    told: list[Any] = []
    queue = Telling(1, told=told)
    bad = NoPickle()
    queue.put(bad)
    assert told == [(TypeError, bad)]
    queue.put("good")
    with pytest.raises(queues.Full):
        queue.put("more", block=False)
    assert queue.get() == "good"
    queue.close()
    with pytest.raises(ValueError, match="closed"):
        queue.put(1)
    assert len(told) == 1


@pytest.mark.parametrize("make", [processing.Queue, processing.SimpleQueue])
def test_the_ends_of_a_queue(make: Any) -> None:
    queue = make()
    assert not queue._reader.poll()
    assert connection.wait([queue._reader], 0) == []
    queue._writer.send("x")
    reader = queue._reader
    assert connection.wait([reader], LIMIT) == [reader]
    assert reader.poll() and reader.recv() == "x"
    assert not reader.closed
    queue.close()
    assert reader.closed and queue._writer.closed


def test_closed_queues() -> None:
    unused, used = processing.Queue(), processing.Queue()
    used.put(1)
    for queue in (unused, used):
        queue.close()
        for kind in (OSError, ValueError):
            with pytest.raises(kind, match="is closed"):
                queue.get()
    assert unused.empty()
    with pytest.raises(OSError, match="is closed"):
        used.empty()


# ---- util, process --------------------------------------------------------------------------------------------------


def test_a_local_that_forks_do_not_see() -> None:
    local = util.ForkAwareLocal()
    local.x = 1
    context = processing.get_context("fork")
    reader, writer = context.Pipe(duplex=False)
    child = context.Process(target=lambda: writer.send(hasattr(local, "x")))
    child.start()
    assert reader.recv() is False
    ended(child)
    assert local.x == 1
    assert not hasattr(pickle.loads(pickle.dumps(local)), "x")


def test_a_lock_that_is_free_in_forks() -> None:
    lock = util.ForkAwareThreadLock()
    context = processing.get_context("fork")
    reader, writer = context.Pipe(duplex=False)
    with lock:
        child = context.Process(target=lambda: writer.send(lock.acquire(False)))
        child.start()
        assert reader.recv() is True
        ended(child)
        assert lock.acquire(False) is False


def test_a_temporary_folder(tmp_path: Path) -> None:
    text = """
    import os
    import processing
    from processing import util

    def tell(queue):
        queue.put(util.get_temp_dir())

    if __name__ == "__main__":
        folder = util.get_temp_dir()
        queue = processing.SimpleQueue()
        for method in processing.get_all_start_methods():
            child = processing.get_context(method).Process(target=tell, args=(queue,))
            child.start()
            child.join()
            assert queue.get() == folder
        assert os.path.isdir(folder)
        print(folder)
    """
    (folder,) = output_of(tmp_path, text)
    assert not os.path.exists(folder)


def test_views_on_state() -> None:
    assert process._current_process is processing.current_process()
    assert process._children == set(processing.active_children())
    assert util._finalizer_registry is util.finalizers.entries
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        process.nonsense  # noqa: B018


# ---- Descriptors ----------------------------------------------------------------------------------------------------


def read_from(conn: Any) -> bytes:
    fd = reduction.recv_handle(conn)
    with open(fd, "rb") as file:
        return file.read()


def test_a_descriptor_through_a_pipe(start_method: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    here, there = start_method.Pipe()
    with open(tmp_path / "file", "rb") as file:
        reduction.send_handle(here, file.fileno(), None)
        assert run_in_child(start_method, read_from, there) == b"content"
    here.close()
    there.close()


def test_a_descriptor_through_a_socket(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    with connection.Listener(family="AF_UNIX") as listener:
        accepting = Doing(listener.accept)
        with connection.Client(listener.address) as client, accepting.result() as server:
            reading = Doing(read_from, server)
            with open(tmp_path / "file", "rb") as file:
                reduction.send_handle(client, file.fileno(), os.getpid())
            assert reading.result() == b"content"


def test_several_descriptors() -> None:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with here, there:
        receiving = Doing(reduction.recvfds, there, 2)
        reduction.sendfds(here, [0, 1])
        found = receiving.result()
        assert [os.fstat(fd).st_ino for fd in found] == [os.fstat(fd).st_ino for fd in (0, 1)]
        for fd in found:
            os.close(fd)
        here.close()
        with pytest.raises(EOFError):
            reduction.recvfds(there, 1)


def test_the_sharer_of_descriptors(start_method: Any) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"hello")
    os.close(writer)
    assert run_in_child(start_method, read_all, resource_sharer.DupFd(reader)) == b"hello"
    os.close(reader)
    resource_sharer.stop()


def read_all(descriptor: Any) -> bytes:
    with open(descriptor.detach(), "rb") as file:
        return file.read()


# ---- Memory ---------------------------------------------------------------------------------------------------------


def fill(block: Any) -> None:
    block.create_memoryview()[:] = b"child"


def test_blocks(start_method: Any) -> None:
    block = heap.BufferWrapper(5)
    view = block.create_memoryview()
    assert bytes(view) == bytes(5)
    run_in_child(start_method, fill, block)
    assert bytes(view) == b"child"
    with pytest.raises(ValueError, match="out of range"):
        heap.BufferWrapper(-1)
    with pytest.raises(OverflowError):
        heap.BufferWrapper(sys.maxsize)


def test_names_that_somebody_else_removes(tmp_path: Path) -> None:
    """What programs do with the standard library, whose tracker would remove what others still use."""
    text = """
    from processing import resource_tracker
    from processing.shared_memory import SharedMemory
    kept, gone = SharedMemory(create=True, size=1), SharedMemory(create=True, size=1)
    resource_tracker.ensure_running()
    resource_tracker.unregister(kept._name, "shared_memory")
    resource_tracker.unregister("/psm_nobody", "shared_memory")
    print(kept.name, gone.name)
    """
    kept, gone = output_of(tmp_path, text)[0].split()
    try:
        assert os.path.exists(f"/dev/shm/{kept}")
        assert not os.path.exists(f"/dev/shm/{gone}")
    finally:
        os.unlink(f"/dev/shm/{kept}")


def test_names_of_others_that_the_program_removes(tmp_path: Path) -> None:
    made = SharedMemory(create=True, size=1, track=False)
    try:
        text = f"""
        from processing import resource_tracker
        resource_tracker.register({made.name!r}, "shared_memory")
        resource_tracker.register("psm_nobody", "shared_memory")
        """
        assert output_of(tmp_path, text) == []
        assert not os.path.exists(f"/dev/shm/{made.name}")
    finally:
        made.close()


def test_unknown_kinds_of_names() -> None:
    with pytest.raises(ValueError, match="'file'"):
        resource_tracker.register("x", "file")


def test_connections_that_speak_xml() -> None:
    with connection.XmlListener(family="AF_UNIX") as listener:
        accepting = Doing(listener.accept)
        client = connection.XmlClient(listener.address)
        server = accepting.result()
        client.send(["text", 1, {"k": 2.5}])
        assert server.recv() == ["text", 1, {"k": 2.5}]
        client.close()
        server.close()
