"""The supervisor of a pool: the process that is the parent of its workers, and all that it does to them.

    start_supervisor()  in the caller: starts the supervisor, returns it and the socket that it listens to
    Control             the caller's end of that socket: `say('resize', 4)`
    Supervisor          in the supervisor: sleeps in poll() until a worker ends, the caller says something, or it is
                        time to look around; makes an event of it; carries out what the state machine (supervision.py)
                        answers

                 fork                 forkserver                        spawn
    supervisor   fork of the caller   fork of the zygote                a new interpreter
    workers      fork of it           fork of it, then import __main__  new interpreters

It has one thread and starts none, so workers are never forked beside threads. It runs no code of the user's and
unpickles none: `startup` goes to the workers as it is. Signals that the caller handles mean nothing here; workers get
the caller's handlers back. If it dies, so do its workers (they are daemonic); another one with `takeover=True` then
deals with what they had on their desks. Only if a supervisor is killed while it deals with a death may a call run
twice. What cannot be done for want of memory (a report, putting calls back) is tried until it can.
"""

from __future__ import annotations

import _pickle
import _socket
import gc
import os
import select
import time
from collections import deque

from . import spawn, util
from . import supervisionmessages as msg
from ._this import this
from .cgroups import OutOfMemory
from .process import BaseProcess
from .reduction import PROTOCOL, DupFd
from .supervision import Supervision
from .workerprocesses import await_end, private_memory, signals, stop_process

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["Control", "SupervisorOptions", "start_supervisor"]

MESSAGE_MAX = 1 << 16
# Milliseconds: until what failed for want of memory is tried again; until it is looked again whether a process that has
# closed its sentinel has ended; without news after the start.
AGAIN = 50
ENDING = 5
QUIET = 30

NAMES = {"fork": "ForkPoolWorker", "forkserver": "ForkServerPoolWorker", "spawn": "SpawnPoolWorker"}


# ---- In the caller --------------------------------------------------------------------------------------------------


class Control(_socket.socket):
    """The caller's end. Forked children of the caller give it up, so that the supervisor notices when it is closed."""

    def say(self, *message: object) -> None:
        """`resize` n, `cancel` job index, `forget` job index, `watch` seconds, `close`, `terminate`. BrokenPipeError or
        ConnectionResetError if the supervisor has ended."""
        self.send(_pickle.dumps(message, PROTOCOL), _socket.MSG_NOSIGNAL)


class SupervisorOptions:
    """memory_limit: bytes that a worker may get for itself once it is ready, 0: any number. Whoever submits calls to
    such a pool says ('watch', 0.0) unless `pool.watching`, as for calls with a timeout. environment: variables for
    workers. prepare: called in a forked supervisor before its first worker, which inherits what it does."""

    def __init__(self, memory_limit: int = 0, environment: dict[str, str] | None = None) -> None:
        self.memory_limit = memory_limit
        self.environment = environment or {}
        self.prepare: Callable[[], object] | None = None


class PoolSupervisor(BaseProcess):
    """The supervisor's process."""


class PoolWorker(BaseProcess):
    """A worker's process."""


def start_supervisor(
    method: str,
    pool: Any,
    processes: int,
    startup: Any,
    work: Callable[[Any, int, Any], object],
    options: SupervisorOptions | None = None,
    takeover: bool = False,
) -> tuple[BaseProcess, Control]:
    """Starts the supervisor of `pool`, which starts workers 0 to processes - 1; each calls `work(pool, rank, startup)`.

    Returns at once, with the supervisor (daemonic; its exit code is 0 after an orderly end) and the socket. Under fork
    all is inherited; otherwise `pool`, `startup` and `work` are pickled into the supervisor, which does not have the
    user's modules: `startup` is bytes or a handle, `work` a function of this package. Under fork, RuntimeWarning if
    threads run.
    `takeover`: the supervisor before this one was killed.
    """
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    control = Control(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, ours.detach())
    try:
        util.register_after_fork(control, Control.close)
        process = PoolSupervisor(daemon=True)
        process._start_method = method
        main: dict[str, Any] = {}
        preparation = None
        end: Any = theirs
        if method != "fork":
            data = spawn.get_preparation_data(process.name)
            main = {key: value for key, value in data.items() if key.startswith("init_main")}
            process._preparation = {key: value for key, value in data.items() if key not in main}
            preparation = data if method == "spawn" else None
            end = _Passed(theirs.fileno())
        # Ctrl-C is not for the supervisor, from its first moment on.
        before = signals.pthread_sigmask(signals.SIG_BLOCK, {signals.SIGINT})
        try:
            masked = signals.SIGINT in before
            ignored = signals.getsignal(signals.SIGINT) == signals.SIG_IGN
            process._target = _supervise
            process._args = (
                *(pool, end, processes, startup, work, options or SupervisorOptions(), takeover),
                *(method, main, preparation, masked, ignored),
            )
            process.start()
        finally:
            signals.pthread_sigmask(signals.SIG_SETMASK, before)
    except BaseException:
        control.close()
        raise
    finally:
        theirs.close()
    return process, control


class _Passed:
    """The supervisor's end of the socket, on its way there."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __reduce__(self) -> Any:
        return _received, (DupFd(self.fd),)


def _received(descriptor: Any) -> _socket.socket:
    return _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, descriptor.detach())


# ---- In the supervisor ----------------------------------------------------------------------------------------------


def _supervise(*args: Any) -> None:
    Supervisor(*args).serve()


class _Sitter:
    """A worker that has not been buried yet."""

    __slots__ = ("rank", "process", "popen", "fd", "killed")

    def __init__(self, rank: int, process: BaseProcess) -> None:
        self.rank = rank
        self.process = process
        self.popen = process._popen
        self.killed = False  # by us
        try:
            # Becomes readable with the end of the process, whoever else has the write end of its sentinel by then.
            self.fd = os.pidfd_open(self.popen.pid)
        except OSError:
            self.fd = os.dup(self.popen.sentinel)

    def close(self) -> None:
        os.close(self.fd)
        self.popen.close()


class Supervisor:
    """The shell around the state machine."""

    def __init__(
        self,
        pool: Any,
        control: _socket.socket,
        processes: int,
        startup: Any,
        work: Callable[[Any, int, Any], object],
        options: SupervisorOptions,
        takeover: bool,
        method: str,
        main: dict[str, Any],
        preparation: dict[str, Any] | None,
        masked: bool,
        ignored: bool,
    ) -> None:
        self.pool = pool
        self.control = control
        self.startup = startup
        self.work = work
        self.options = options
        self.takeover = takeover
        self.method = method
        self.main = main  # what a forked worker imports first
        self.preparation = preparation  # what a spawned worker is told first
        self.masked = masked
        self.ignored = ignored
        self.machine = Supervision(processes, options.memory_limit)
        self.sitters: dict[int, _Sitter] = {}  # by rank
        self.by_fd: dict[int, _Sitter] = {}
        self.ending: set[_Sitter] = set()  # have closed their sentinel, and are not gone yet
        self.handlers: dict[int, Any] = {}  # of signals, in the caller
        # What is to be done, in this order: functions and their arguments.
        self.todo: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self.poll: select.poll
        self.oom: OutOfMemory | None = None
        self.over = False

    def serve(self) -> None:
        """The life of the supervisor."""
        self._take_signals()
        os.environ.update(self.options.environment)
        if self.options.prepare is not None:
            self.options.prepare()
        # What the caller left is not to be copied by a collection, neither here nor in the workers.
        gc.freeze()
        self.poll = select.poll()
        self.poll.register(self.control, select.POLLIN)
        self.todo.append((self._begin, ()))
        self._work_off()
        while not self.over:
            self._wait()
            self._work_off()
        self.control.close()

    def _take_signals(self) -> None:
        """Handlers of the caller do not run here."""
        signals.set_wakeup_fd(-1)
        kept = signals.SIG_DFL, signals.SIG_IGN, None
        # What the supervisor lives by is as it should be, Ctrl-C is not for it.
        needed = signals.SIGTERM, signals.SIGCHLD
        for number in signals.valid_signals():
            handler = signals.getsignal(number)
            if handler not in kept or number == signals.SIGINT or (number in needed and handler):
                self.handlers[number] = handler
                signals.signal(number, signals.SIG_DFL if number in needed else signals.SIG_IGN)
        if not self.masked:
            signals.pthread_sigmask(signals.SIG_UNBLOCK, {signals.SIGINT})

    # -- Events

    def _tell(self, event: msg.Message) -> None:
        for action in self.machine.handle(event):
            self.todo.append((_CARRY_OUT[type(action)], (self, action)))

    def _wait(self) -> None:
        """Sleeps until something happens; tells the machine of it."""
        timeout = None
        if (wake_at := self.machine.wake_at) is not None:
            # Rounded up: poll() counts milliseconds and must not return early.
            timeout = max(0, -((time.monotonic_ns() - wake_at) // 1_000_000))
        if self.todo or self.ending:
            soon = ENDING if self.ending else AGAIN
            timeout = soon if timeout is None else min(timeout, soon)
        if self.oom is None:
            # Once the workers are there: reading what the kernel counts takes a millisecond, which they would wait for.
            timeout = QUIET if timeout is None else min(timeout, QUIET)
        said = False
        ready = self.poll.poll(timeout)
        if self.oom is None and not ready:
            self.oom = OutOfMemory()
        for fd, _ in ready:
            if fd in self.by_fd:
                self.poll.unregister(fd)
                self.ending.add(self.by_fd.pop(fd))
            else:
                said = True
        # Deaths first: what the caller wants is to meet the pool as it is.
        for sitter in list(self.ending):
            if sitter.popen.has_ended():
                self.ending.discard(sitter)
                self.todo.append((self._bury, (sitter,)))
        self._work_off()
        if said:
            self._listen()
        if (wake_at := self.machine.wake_at) is not None and wake_at <= time.monotonic_ns():
            self._look(False)

    def _listen(self) -> None:
        while True:
            try:
                data = self.control.recv(MESSAGE_MAX, _socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except ConnectionResetError:
                data = b""
            if not data:
                self.poll.unregister(self.control)
                self._tell(msg.Terminate(time.monotonic_ns()))
                return
            self._obey(*_pickle.loads(data))
            self._work_off()

    def _obey(self, what: str, *args: Any) -> None:
        now = time.monotonic_ns()
        if what == "watch":
            self._tell(msg.Watch(now, *args))
        elif what == "cancel":
            waiting = self.pool.tasks_waiting()
            self._tell(msg.Cancel(now, *args, waiting, self._desks()))
        elif what == "forget":
            self._tell(msg.Forgotten(now, *args))
        elif what == "resize":
            self._tell(msg.Resize(now, *args))
        elif what == "close":
            self._tell(msg.Close(now, self.pool.tasks_waiting()))
        elif what == "terminate":
            self._tell(msg.Terminate(now))
        else:
            raise ValueError(f"the supervisor of a pool was told {what!r}")

    def _desks(self) -> dict[int, Any]:
        """The desks of those who are there."""
        return {rank: self.pool.desk(rank) for rank in self.sitters}

    def _look(self, again: bool) -> None:
        waiting = self.pool.tasks_waiting()
        desks = self._desks()
        memory = {}
        if self.options.memory_limit:
            memory = {
                rank: private_memory(desk.owner_pid) - desk.memory
                for rank, desk in desks.items()
                if desk.running
            }
        self._tell(msg.Look(time.monotonic_ns(), desks, memory, waiting, again))

    def _begin(self) -> None:
        found = {}
        if self.takeover:
            # In two rounds: the desk of one may change as long as another lives.
            ranks = [rank for rank in range(self.pool.desks) if self.pool.desk(rank).state != "empty"]
            for rank in ranks:
                await_end(self.pool.desk(rank).owner_pid)
            for rank in ranks:
                self.pool.settle(rank)
                self.pool.flush(rank)
                found[rank] = self.pool.desk(rank)
        self._tell(msg.Begin(time.monotonic_ns(), found, bool(self.takeover and self.pool.watching)))

    def _bury(self, sitter: _Sitter) -> None:
        rank, popen = sitter.rank, sitter.popen
        self.pool.settle(rank)
        try:
            self.pool.flush(rank)
        except MemoryError:
            if not self.machine.terminating:
                raise
        desk = self.pool.desk(rank)
        waiting = self.pool.tasks_waiting()
        code = popen.returncode
        peak = popen.usage.ru_maxrss * 1024 if popen.usage is not None else None
        oom = code == -9 and not sitter.killed and self.oom is not None and self.oom.took_one()
        del self.sitters[rank]
        sitter.close()
        self._tell(msg.Ended(time.monotonic_ns(), rank, code, peak, oom, desk, self._desks(), waiting))

    # -- Actions

    def _work_off(self) -> None:
        """Carries out what is to be done, as far as there is memory for it."""
        todo = self.todo
        while todo:
            function, args = todo[0]
            try:
                function(*args)
            except MemoryError:
                if not self.machine.terminating:
                    return
            todo.popleft()

    def _start(self, action: msg.Start) -> None:
        rank = action.rank
        process = PoolWorker(name=f"{NAMES[self.method]}-{action.number}", daemon=True)
        process._start_method = self.method
        if self.method == "spawn":
            process._preparation = {**self.preparation, "name": process.name} if self.preparation else None
            process._target = _work_spawned
            process._args = (self.work, self.pool, rank, self.startup, self.ignored)
        else:
            process._launched_by = "fork"
            process._target = self._work_forked
            process._args = (rank,)
        try:
            process.start()
        except Exception as error:
            self._tell(msg.NotStarted(time.monotonic_ns(), rank, _text_of(error)))
            return
        this.children.discard(process)  # it is looked after here
        try:
            sitter = _Sitter(rank, process)
        except OSError as error:
            process.kill()
            process.join()
            self._tell(msg.NotStarted(time.monotonic_ns(), rank, _text_of(error)))
            return
        self.sitters[rank] = sitter
        self.by_fd[sitter.fd] = sitter
        self.poll.register(sitter.fd, 1)  # POLLIN
        self._tell(msg.Started(time.monotonic_ns(), rank, sitter.popen.pid))

    def _strike(self, action: msg.Strike) -> None:
        hit: bool | None = False
        sitter = self.sitters.get(action.rank)
        if sitter is not None and sitter.popen.returncode is None:
            pid = sitter.popen.pid
            hit = stop_process(pid)
            if hit:
                desk = self.pool.desk(action.rank)
                running = (desk.owner_pid, desk.running, desk.job, desk.first + desk.done)
                hit = running == (pid, True, action.job, action.index)
                sitter.killed = sitter.killed or hit
            os.kill(pid, signals.SIGKILL if hit else signals.SIGCONT)
        self._tell(msg.Struck(time.monotonic_ns(), action.rank, hit))

    def _kill(self, action: msg.Kill) -> None:
        sitter = self.sitters.get(action.rank)
        if sitter is not None:
            sitter.killed = True
            sitter.popen.send_signal(action.signal)

    def _report(self, action: msg.Report) -> None:
        self.pool.report(action.kind, action.job, action.index, action.payload)

    def _requeue(self, action: msg.Requeue) -> None:
        self.pool.requeue(action.rank, action.begin, action.to, action.attempt)

    def _mark(self, action: msg.Mark) -> None:
        kept = self.pool.cancel_queued(action.job, action.index)
        self._tell(msg.Marked(time.monotonic_ns(), action.job, action.index, kept, self._desks()))

    def _set_watching(self, action: msg.SetWatching) -> None:
        self.pool.watching = action.on

    def _exit(self, action: msg.Exit) -> None:
        self.over = True

    # -- In a forked worker

    def _work_forked(self, rank: int) -> None:
        self.control.close()
        for sitter in self.sitters.values():
            sitter.close()
        for number, handler in self.handlers.items():
            if handler is not None:
                signals.signal(number, handler)
        if self.main:
            this.inheriting = True
            try:
                spawn.import_main(self.main)
            finally:
                this.inheriting = False
        self.work(self.pool, rank, self.startup)


def _work_spawned(
    work: Callable[[Any, int, Any], object], pool: Any, rank: int, startup: Any, ignored: bool
) -> None:
    if not ignored:
        signals.signal(signals.SIGINT, signals.default_int_handler)
    work(pool, rank, startup)


_CARRY_OUT: dict[type[msg.Message], Callable[[Supervisor, Any], None]] = {
    msg.Start: Supervisor._start,
    msg.Strike: Supervisor._strike,
    msg.Report: Supervisor._report,
    msg.Requeue: Supervisor._requeue,
    msg.Clear: lambda self, action: self.pool.clear(action.rank),
    msg.Retire: lambda self, action: self.pool.order(action.rank, "retire"),
    msg.Kill: Supervisor._kill,
    msg.Mark: Supervisor._mark,
    msg.Forget: lambda self, action: self.pool.forget_cancelled(action.job, action.index),
    msg.CloseTasks: lambda self, action: self.pool.close_tasks(),
    msg.SetWatching: Supervisor._set_watching,
    msg.LookAgain: lambda self, action: self._look(True),
    msg.Exit: Supervisor._exit,
}


def _text_of(error: BaseException) -> str:
    import traceback

    return "".join(traceback.format_exception(error))
