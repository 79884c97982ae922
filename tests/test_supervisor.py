"""The supervisor process of a pool: real workers, real signals, a pool of files (fakepool.py)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import fakepool
import processing
from fakepool import DONE, FakePool, is_alive
from helpers import LIMIT, output_of, until, until_asleep
from processing import supervisor as shell
from processing import workerprocesses
from processing.cgroups import OutOfMemory
from processing.supervisionmessages import BROKEN, CANCELLED, LOST, TIMEOUT, WORKER
from processing.supervisor import SupervisorOptions, start_supervisor

pytestmark = pytest.mark.ends


class Running:
    """A pool with its supervisor."""

    def __init__(self, method: str, folder: Path, processes: int, **options: Any) -> None:
        self.pool = FakePool(folder, max(processes, 4))
        self.method = method
        self.control: Any = None
        self.start(processes, **options)

    def start(
        self,
        processes: int,
        startup: Any = None,
        memory_limit: int = 0,
        takeover: bool = False,
        pool: Any = None,
    ) -> None:
        options = SupervisorOptions(memory_limit)
        self.process, self.control = start_supervisor(
            *(self.method, pool or self.pool, processes, startup, fakepool.work, options, takeover)
        )

    def workers(self) -> dict[int, int]:
        """rank -> pid of those who sit at their desks."""
        views = {rank: self.pool.desk(rank) for rank in range(self.pool.desks)}
        return {rank: view.owner_pid for rank, view in views.items() if view.owner_pid}

    def wait_for_workers(self, count: int) -> dict[int, int]:
        def ready() -> bool:
            views = [self.pool.desk(rank) for rank in self.workers()]
            return sum(view.state in ("idle", "taken") for view in views) == count == len(views)

        until(ready)
        return self.workers()

    def pid_in(self, path: Path) -> int:
        until(lambda: path.exists() and path.read_text())
        return int(path.read_text())

    def close(self, how: str = "close") -> None:
        self.control.say(how)
        self.join()

    def join(self) -> None:
        self.process.join(LIMIT)
        assert self.process.exitcode == 0
        assert not self.workers(), "desks are not cleared"
        self.control.close()

    def give_up(self) -> None:
        self.control.close()
        if self.process.is_alive():
            self.process.kill()
        self.process.join(LIMIT)
        self.process.close()
        until(lambda: not any(is_alive(pid) for pid in self.workers().values()))


Make = Callable[..., Running]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[Running] = []

    def make(method: str = "fork", processes: int = 2, **options: Any) -> Running:
        folder = tmp_path / f"pool{len(made)}"
        folder.mkdir()
        made.append(Running(method, folder, processes, **options))
        return made[-1]

    yield make
    for running in made:
        running.give_up()


@pytest.fixture
def method(start_method: Any) -> str:
    name: str = start_method.get_start_method()
    return name


# ---- What workers are -----------------------------------------------------------------------------------------------


def test_what_a_worker_is(make: Make, method: str) -> None:
    running = make(method, 1)
    running.pool.put(1, [("facts",)])
    [(_, _, _, facts, _)] = running.pool.wait_for(DONE)
    prefix = {"fork": "Fork", "forkserver": "ForkServer", "spawn": "Spawn"}[method]
    assert facts["name"] == f"{prefix}PoolWorker-1"
    assert facts["parent"].startswith("PoolSupervisor-") and facts["daemon"]
    assert facts["method"] == method
    assert facts["sigint"] and signal.SIGINT not in facts["blocked"] and not facts["exiting"]
    if method == "forkserver":
        assert not any(link.startswith("anon_inode:[pidfd]") for link in facts["fds"])
    running.close()
    assert not is_alive(facts["pid"])


def kinds_of_descriptors(pid: int) -> Iterator[str]:
    """Without files: a worker of the pool of files opens some now and then."""
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            kind = os.readlink(f"/proc/{pid}/fd/{fd}").split(":")[0]
        except FileNotFoundError:
            continue
        if not kind.startswith("/"):
            yield kind


def test_workers_hold_no_descriptors_of_their_siblings(make: Make) -> None:
    running = make("fork", 4)
    workers = running.wait_for_workers(4)
    kinds = [sorted(kinds_of_descriptors(pid)) for pid in workers.values()]
    assert kinds[1:] == kinds[:-1] and not any("pidfd" in kind for kind in kinds[3])
    running.close()


def test_startup_may_be_anything_under_fork(make: Make, tmp_path: Path) -> None:
    told = tmp_path / "told"
    running = make("fork", 1, startup=lambda: told.write_text("a closure"))
    running.close()
    assert told.read_text() == "a closure"


def test_handlers_of_the_caller(make: Make) -> None:
    """They run in the workers, which are forked from a process in which they do not."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD)}
    said: list[int] = []

    def handler(number: int, frame: Any) -> None:
        said.append(number)

    try:
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, handler)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        running = make("fork", 1)
    finally:
        for number, old in before.items():
            signal.signal(number, old)
    running.pool.put(1, [("facts",), ("leave", 3)])
    [(_, _, _, facts, _)] = running.pool.wait_for(DONE)
    assert "handler" in facts["sigterm"] and "handler" in facts["sigusr1"]
    [lost] = running.pool.wait_for(LOST)
    assert lost[3]["exitcode"] == 3, "the supervisor collects its children itself"
    pid = running.process.pid
    assert pid is not None
    os.kill(pid, signal.SIGUSR1)
    os.kill(pid, signal.SIGINT)
    running.pool.put(2, [("double", 4)])
    assert running.pool.wait_for(DONE, count=2)[1][3] == 8
    os.kill(pid, signal.SIGTERM)
    running.process.join(LIMIT)
    assert running.process.exitcode == -signal.SIGTERM


def test_the_main_module_is_for_workers_only(tmp_path: Path) -> None:
    """Under spawn and forkserver; whatever the zygote has imported."""
    program = f"""
        import os, sys
        sys.path.insert(0, {os.path.dirname(__file__)!r})
        import processing
        from processing import process
        if __name__ != "__main__":
            open(sys.argv[1], "a").write(processing.current_process().name + "\\n")
        if __name__ == "__main__":
            import fakepool, pathlib
            from processing.supervisor import start_supervisor
            for method in ("spawn", "forkserver"):
                processing.set_forkserver_preload([])
                path = pathlib.Path({str(tmp_path)!r}, method)
                path.mkdir()
                sys.argv[1:] = [str(path / "imports")]
                pool = fakepool.FakePool(path, 2)
                supervisor, control = start_supervisor(method, pool, 2, None, fakepool.work)
                pool.put(1, [("facts",)])
                assert pool.wait_for(0)[0][3]["main"] == 17
                control.say("close")
                supervisor.join()
                control.close()
                print(sorted((path / "imports").read_text().split()))
        MARK = 17
    """
    spawn, forkserver = output_of(tmp_path, program)
    assert eval(spawn) == ["SpawnPoolWorker-1", "SpawnPoolWorker-2"]
    # In a forked worker the import comes after the fork, when it has its name.
    assert eval(forkserver) == ["ForkServerPoolWorker-1", "ForkServerPoolWorker-2"]


# ---- Death ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_only_the_running_call_is_lost(make: Make, method: str, number: int) -> None:
    running = make(method)
    running.pool.put(1, [("double", 1), ("die", int(number)), ("double", 3), ("double", 4)])
    [(_, job, index, facts, _)] = running.pool.wait_for(LOST)
    done = running.pool.wait_for(DONE, count=3)
    assert (job, index) == (1, 1)
    assert sorted(event[2:4] for event in done) == [(0, 2), (2, 6), (3, 8)]
    assert (facts["signal"], facts["exitcode"], facts["reason"]) == (number, -number, "died")
    assert facts["attempts"] == 1 and 0 <= facts["runtime"] < LIMIT and facts["oom"] is False
    assert 1 << 20 < facts["peak_memory"] < 1 << 33
    until(lambda: sum(e[3]["what"] == "started" for e in running.pool.wait_for(WORKER)) == 3)
    again = running.wait_for_workers(2)
    assert again.keys() == {0, 1} and facts["pid"] not in again.values(), "the rank is the same"
    running.close()


def test_an_exit_code(make: Make) -> None:
    running = make()
    running.pool.put(1, [("leave", 0), ("leave", 3)])
    lost = {event[2]: event[3] for event in running.pool.wait_for(LOST, count=2)}
    assert [(lost[i]["signal"], lost[i]["exitcode"]) for i in (0, 1)] == [(None, 0), (None, 3)]
    running.close()


def test_death_is_reported_within_50_ms(make: Make, tmp_path: Path) -> None:
    running = make("fork", 2)
    taken = []
    for job in range(1, 6):
        path = tmp_path / f"running{job}"
        running.pool.put(job, [("linger", str(path))])
        pid = running.pid_in(path)
        start = time.monotonic_ns()
        os.kill(pid, signal.SIGKILL)
        taken.append((running.pool.wait_for(LOST, count=job)[-1][4] - start) / 1e6)
    assert sorted(taken)[2] < 50, taken
    running.close()


def test_retries(make: Make) -> None:
    running = make()
    running.pool.put(1, [("double", 1), ("die", 9), ("double", 3)], retries=2)
    [(_, _, index, facts, _)] = running.pool.wait_for(LOST)
    assert index == 1 and facts["attempts"] == 3
    running.pool.wait_for(DONE, count=2)
    running.close()
    deaths = [event for event in running.pool.events() if event[0] == WORKER and event[3].get("signal") == 9]
    assert len(deaths) == 3


def test_the_death_of_an_idle_worker(make: Make, method: str) -> None:
    running = make(method)
    before = running.wait_for_workers(2)
    os.kill(before[1], signal.SIGKILL)
    until(lambda: running.workers().get(1, before[1]) != before[1])
    after = running.wait_for_workers(2)
    assert after[0] == before[0]
    running.close()
    assert not [event for event in running.pool.events() if event[0] == LOST]


def test_a_worker_whose_descriptors_live_on_elsewhere(make: Make, tmp_path: Path) -> None:
    """A process that a library has forked keeps the sentinel open: the end is noticed all the same."""
    path = tmp_path / "orphan"

    def fork_beside() -> None:
        # Not os.fork, whose hooks close what is not the child's.
        import ctypes

        if ctypes.CDLL(None).fork() == 0:
            path.write_text(str(os.getpid()))
            time.sleep(LIMIT)
            os._exit(0)

    running = make("fork", 1, startup=fork_beside)
    orphan = running.pid_in(path)
    try:
        running.pool.put(1, [("die", 9)])
        running.pool.wait_for(LOST)
        assert is_alive(orphan)
    finally:
        os.kill(orphan, signal.SIGKILL)
    running.control.say("terminate")
    running.process.join(LIMIT)


@pytest.mark.once
@pytest.mark.parametrize(
    ("startup", "text", "tries"),
    [("fail", "no luck for 0", 3), ("fail_by_death", "SIGKILL before it was", 10)],
)
def test_initializers_that_fail(make: Make, method: str, startup: str, text: str, tries: int) -> None:
    running = make(method, 1, startup=startup)
    [(_, job, index, payload, _)] = running.pool.wait_for(BROKEN)
    assert (job, index) == (0, 0) and text in payload["traceback"]
    running.join()
    started = [
        event for event in running.pool.events() if event[0] == WORKER and event[3]["what"] == "started"
    ]
    assert len(started) == tries


# ---- Stopping calls -------------------------------------------------------------------------------------------------


def test_a_timeout(make: Make, method: str, tmp_path: Path) -> None:
    running = make(method)
    running.wait_for_workers(2)
    running.control.say("watch", 0.2)
    running.pool.put(
        1, [("double", 1), ("linger", str(tmp_path / "x")), ("double", 3)], timeout=0.2, retries=1
    )
    [(_, job, index, facts, _)] = running.pool.wait_for(TIMEOUT)
    assert (job, index, facts["timeout"]) == (1, 1, 0.2) and 0.2 <= facts["runtime"] < LIMIT
    running.pool.wait_for(DONE, count=2)
    until(lambda: not running.pool.watching)
    running.close()
    assert not [event for event in running.pool.events() if event[0] == LOST]


def test_cancelling(make: Make, method: str, tmp_path: Path) -> None:
    running = make(method, 1)
    path = tmp_path / "running"
    running.pool.put(1, [("linger", str(path)), ("double", 2), ("double", 3)])
    pid = running.pid_in(path)
    running.control.say("cancel", 1, 1)  # queued, behind the one that runs
    running.control.say("cancel", 1, 0)
    cancelled = running.pool.wait_for(CANCELLED, count=2)
    assert sorted(event[2] for event in cancelled) == [0, 1]
    assert [event[3]["pid"] for event in cancelled if event[2] == 0] == [pid]
    assert running.pool.wait_for(DONE)[0][2:4] == (2, 6)
    running.control.say("forget", 1, 1)
    running.close()
    assert running.pool._read("marks") == set()


def test_cancelling_a_whole_job(make: Make, tmp_path: Path) -> None:
    running = make()
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        running.pool.put(7, [("linger", str(path)), ("double", 2)])
    for path in paths:
        running.pid_in(path)
    running.control.say("cancel", 7, None)
    running.pool.wait_for(CANCELLED, count=4)
    running.close()
    assert not [event for event in running.pool.events() if event[0] in (DONE, LOST)]


def test_cancelling_what_does_not_run_stops_nobody(make: Make) -> None:
    running = make(processes=1)
    before = running.wait_for_workers(1)
    running.pool.put(1, [("double", 1)])
    running.pool.wait_for(DONE)
    running.control.say("cancel", 1, 0)
    running.pool.put(2, [("double", 2)])
    running.pool.wait_for(DONE, count=2)
    assert running.workers() == before
    running.close()


def test_the_memory_limit(make: Make, tmp_path: Path) -> None:
    running = make(processes=1, memory_limit=200 << 20)
    running.control.say("watch", 0.0)
    path = tmp_path / "fat"
    running.pool.put(1, [("double", 1), ("hog", str(path), 300 << 20), ("double", 3)])
    [(_, _, index, facts, _)] = running.pool.wait_for(LOST)
    assert index == 1 and facts["reason"] == "memory limit" and facts["signal"] == 9 and not facts["oom"]
    assert facts["peak_memory"] > 200 << 20
    running.pool.wait_for(DONE, count=2)
    running.close()


# ---- The size, the end ----------------------------------------------------------------------------------------------


def test_resize(make: Make, method: str) -> None:
    running = make(method, 1)
    first = running.wait_for_workers(1)
    running.control.say("resize", 3)
    assert running.wait_for_workers(3)[0] == first[0]
    running.control.say("resize", 1)
    assert running.wait_for_workers(1) == first
    running.close()


def test_a_worker_dies_while_the_pool_closes(make: Make, tmp_path: Path) -> None:
    running = make(processes=2)
    path = tmp_path / "running"
    running.wait_for_workers(2)
    running.pool.put(1, [("linger", str(path)), ("double", 2)])
    pid = running.pid_in(path)
    running.control.say("close")
    until(lambda: len(running.workers()) == 1)  # the other one has left
    os.kill(pid, signal.SIGKILL)
    assert running.pool.wait_for(DONE)[0][2:4] == (1, 4)
    running.join()


def test_closing_at_once(make: Make, method: str) -> None:
    running = make(method, 2)
    running.pool.put(1, [("double", 1)])
    running.close()
    assert running.pool.wait_for(DONE)[0][3] == 2


@pytest.mark.once
@pytest.mark.parametrize("how", ["terminate", "hang up"])
def test_terminate(make: Make, method: str, how: str, tmp_path: Path) -> None:
    """Also one that is stopped: SIGKILL follows SIGTERM."""
    running = make(method, 2)
    paths = [tmp_path / "a", tmp_path / "b"]
    for job, path in enumerate(paths, 1):
        running.pool.put(job, [("linger", str(path))])
    pids = [running.pid_in(path) for path in paths]
    os.kill(pids[0], signal.SIGSTOP)
    until(lambda: Path(f"/proc/{pids[0]}/stat").read_text().rpartition(")")[2].split()[0] == "T")
    if how == "terminate":
        running.control.say("terminate")
        running.control.say("terminate")
    else:
        running.control.close()
    start = time.monotonic()
    running.join()
    assert 0.4 < time.monotonic() - start < 5
    assert not any(map(is_alive, pids))


def test_workers_die_with_the_supervisor_and_another_takes_over(
    make: Make, method: str, tmp_path: Path
) -> None:
    running = make(method, 2)
    path = tmp_path / "running"
    running.pool.put(1, [("double", 1), ("linger", str(path)), ("double", 3)])
    pid = running.pid_in(path)
    # As if it was killed while it had stopped a worker.
    os.kill(pid, signal.SIGSTOP)
    running.process.kill()
    running.process.join(LIMIT)
    running.control.close()
    running.process.close()
    running.start(2, takeover=True)
    [(_, _, index, facts, _)] = running.pool.wait_for(LOST)
    assert index == 1 and (facts["pid"], facts["signal"], facts["exitcode"]) == (pid, None, None)
    assert {event[2] for event in running.pool.wait_for(DONE, count=2)} == {0, 2}
    assert not is_alive(pid)
    running.close()


def test_supervisors_of_other_pools_do_not_hold_the_socket(make: Make) -> None:
    first = make("fork", 1)
    second = make("fork", 1)
    first.control.close()
    first.join()
    second.close()


def test_an_idle_pool_sleeps(make: Make) -> None:
    running = make("fork", 3)
    running.wait_for_workers(3)
    pid = running.process.pid
    assert pid is not None
    time.sleep(0.1)  # it looks once at what the kernel counts, 30 ms after the last news
    until_asleep(pid)

    def switches() -> list[str]:
        return [
            line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "ctxt_switches" in line
        ]

    before = switches()
    time.sleep(0.5)
    assert switches() == before
    running.close()


class Forgetful(FakePool):
    """Has no memory for some time."""

    refusals = 3

    def report(self, kind: int, job: int, index: int, payload: Any) -> None:
        if kind == LOST and self.refusals:
            self.refusals -= 1
            raise MemoryError
        super().report(kind, job, index, payload)


def test_no_memory_for_a_report(make: Make, tmp_path: Path) -> None:
    """It comes later; nothing overtakes it, nothing hangs."""
    folder = tmp_path / "forgetful"
    folder.mkdir()
    pool = Forgetful(folder, 2)
    running = make("fork", 1)
    running.close()
    running.pool = pool
    running.start(1, pool=pool)
    pool.put(1, [("die", 9), ("double", 2)])
    assert pool.wait_for(LOST)[0][2] == 0
    assert pool.wait_for(DONE)[0][3] == 4
    running.close()


# ---- Facts about processes ------------------------------------------------------------------------------------------


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    program = "import sys; print('ready', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        yield process
        process.kill()


def test_stopping_a_process(sleeper: subprocess.Popen[bytes]) -> None:
    assert workerprocesses.stop_process(sleeper.pid) is True
    assert Path(f"/proc/{sleeper.pid}/stat").read_text().split()[2] == "T"
    os.kill(sleeper.pid, signal.SIGCONT)
    assert workerprocesses.stop_process(sleeper.pid) is True
    os.kill(sleeper.pid, signal.SIGKILL)
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert workerprocesses.stop_process(sleeper.pid) is False


def test_the_memory_of_a_process(sleeper: subprocess.Popen[bytes]) -> None:
    assert 1 << 20 < workerprocesses.private_memory(sleeper.pid) < 1 << 30
    assert workerprocesses.private_memory(0) == 0
    before = workerprocesses.private_memory(os.getpid())
    data = bytearray(b"x") * (50 << 20)
    assert workerprocesses.private_memory(os.getpid()) - before > 40 << 20
    del data


def test_a_number_that_belongs_to_somebody_else_by_now(sleeper: subprocess.Popen[bytes]) -> None:
    """Whoever takes over kills no process that is none of the program's."""
    processing.Lock()  # there is an arena
    workerprocesses.await_end(sleeper.pid)
    assert sleeper.poll() is None
    workerprocesses.await_end(0)
    workerprocesses.await_end(1 << 22)


def test_kills_for_want_of_memory(tmp_path: Path) -> None:
    def count(folder: str, name: str, text: str) -> None:
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / name).write_text(text)

    (tmp_path / "cgroup.controllers").write_text("memory")
    count("outer/inner", "memory.events", "low 0\noom 9\noom_kill 1\n")
    count("outer", "memory.events", "low 0\noom 9\noom_kill 4\n")
    count("memory/old", "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n")
    vmstat = tmp_path / "vmstat"
    vmstat.write_text("nr_free 5\noom_kill 7\n")
    oom = OutOfMemory("0::/outer/inner\n4:memory:/old\n", str(tmp_path), str(vmstat))
    assert not oom.took_one()
    count("outer", "memory.events", "low 0\noom 11\noom_kill 6\n")
    count("outer/inner", "memory.events", "low 0\noom 10\noom_kill 2\n")
    assert [oom.took_one() for _ in range(3)] == [True, True, False], "two were killed, at two levels"
    count("memory/old", "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n")
    assert [oom.took_one() for _ in range(2)] == [True, False]
    vmstat.unlink()
    assert not oom.took_one()


def test_usage_of_a_child(start_method: Any) -> None:
    process = start_method.Process(target=bytearray, args=(1,))
    process.start()
    process.join(LIMIT)
    usage = process._popen.usage
    if start_method.get_start_method() == "forkserver":
        assert usage is None  # it is the zygote's child
    else:
        assert usage.ru_maxrss > 1000
    process.close()


def test_a_supervisor_is_told_nonsense(make: Make, capfd: Any) -> None:
    running = make("fork", 1)
    running.wait_for_workers(1)
    running.control.say("dance")
    running.process.join(LIMIT)
    assert running.process.exitcode == 1
    assert "was told 'dance'" in capfd.readouterr().err
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        running.control.say("close")


def test_names_of_start_methods() -> None:
    assert set(shell.NAMES) == set(processing.get_all_start_methods())
