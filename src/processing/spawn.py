"""The other end of spawn and forkserver: what a child does before its process object runs.

What a child needs comes as one parcel through the arena: 8 bytes with the length of the first pickle, the preparation
(paths, `argv`, working directory, which `__main__`), the process object. The preparation comes first because the
object can only be unpickled once modules are found and `__main__` is there.

    spawn        python -c 'from processing.spawn import spawn_main; spawn_main(...)' -> spawn_main
    forkserver   the zygote has forked                                                -> run_parcel
"""

from __future__ import annotations

import _pickle
import atexit
import os
import sys

from . import reduction, util
from ._this import program, this

TYPE_CHECKING = False  # as typing has it; importing that would make every child slower
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "get_command_line",
    "get_executable",
    "get_preparation_data",
    "import_main_path",
    "is_forking",
    "prepare",
    "spawn_main",
]

FLAG = "--processing-fork"

# A new interpreter need not find this package where this one has found it (a changed sys.path).
FIND_US = f"import sys; sys.path.append({os.path.dirname(os.path.dirname(os.path.abspath(__file__)))!r}); "

UNGUARDED = """\
processes are started by code that runs again when a child imports the main module: let only the main program run it,

    if __name__ == '__main__':
        main()        # what starts processes goes in here
"""


class Executable:
    """The interpreter to start."""

    def __init__(self) -> None:
        self.path: str = sys.executable


executable = Executable()


def set_executable(exe: str | bytes | os.PathLike[str]) -> None:
    """The Python interpreter with which spawn and the fork server start (default: `sys.executable`)."""
    executable.path = os.fsdecode(exe)


def get_executable() -> str:
    return executable.path


def is_forking(argv: list[str]) -> bool:
    """Whether this command line is that of a child of a frozen program."""
    return len(argv) >= 2 and argv[1] == FLAG


def freeze_support() -> None:
    """In the main module of a program frozen into an executable: runs the child if this is one."""
    if is_forking(sys.argv):
        numbers = dict(argument.split("=", 1) for argument in sys.argv[2:])
        spawn_main(**{name: int(value) for name, value in numbers.items()})


def get_command_line(**numbers: int) -> list[str]:
    """The command that starts a child."""
    if getattr(sys, "frozen", False):
        return [sys.executable, FLAG, *(f"{name}={value}" for name, value in numbers.items())]
    arguments = ", ".join(f"{name}={value}" for name, value in numbers.items())
    code = f"{FIND_US}from processing.spawn import spawn_main; spawn_main({arguments})"
    return [get_executable(), *util.interpreter_flags(), "-c", code, FLAG]


# ---- In the parent --------------------------------------------------------------------------------------------------


def get_preparation_data(name: str) -> dict[str, Any]:
    """What a child is to know before it can unpickle its process object."""
    if this.inheriting:
        raise UnguardedMain(UNGUARDED)
    main = sys.modules["__main__"]
    # What a child pickles from its copy of the main module must be found here.
    sys.modules["__mp_main__"] = main
    data: dict[str, Any] = {
        "name": name,
        "authkey": this.current.authkey,
        "log_to_stderr": util.log.to_stderr,
        "sys_path": [this.original_dir if path == "" and this.original_dir else path for path in sys.path],
        "sys_argv": sys.argv,
        "orig_dir": this.original_dir,
        "dir": os.getcwd(),
        "start_method": this.start_method or this.first_method(),
    }
    if this.stands_in:
        data["stands_in"] = True
    if util.log.logger is not None:
        data["log_level"] = util.log.logger.getEffectiveLevel()
    main_name = getattr(getattr(main, "__spec__", None), "name", None)
    if main_name is not None:
        data["init_main_from_name"] = main_name
    elif (path := main_path()) is not None:
        data["init_main_from_path"] = path
    return data


def main_path() -> str | None:
    """The file of the main module, if it was started from one that a child can run."""
    main = sys.modules["__main__"]
    path: str | None = getattr(main, "__file__", None)
    if path is None or getattr(main, "__spec__", None) is not None or not reduction.main_is_importable():
        return None
    if not os.path.isabs(path) and this.original_dir is not None:
        path = os.path.join(this.original_dir, path)
    return os.path.normpath(path)


def make_parcel(process: Any, popen: Any, on_retry: Any) -> bytes:
    """What `run_parcel` takes. `popen` is told of the descriptors that the child is to inherit."""
    data = process.__dict__.pop("_preparation", None) or get_preparation_data(process._name)
    reduction.spawning.popen = popen
    try:
        head = _pickle.dumps(data, reduction.PROTOCOL)
        body = reduction.dumps(process, by_value=True, name="Process", on_retry=on_retry)
    finally:
        reduction.spawning.popen = None
    return b"%s%s%s" % (len(head).to_bytes(8, "little"), head, body)


def start_interpreter(command: list[str], fds: list[int]) -> int:
    """Starts a program that inherits just `fds` and the standard streams; returns its pid."""
    import _posixsubprocess

    # The stubs know one of its signatures.
    fork_exec: Any = _posixsubprocess.fork_exec

    failed, fail = os.pipe()
    try:
        path = os.fsencode(command[0])
        arguments: list[Any] = [
            [os.fsencode(word) for word in command],
            [path],
            True,
            tuple(sorted({*fds, fail})),
        ]
        # Working directory, environment; six ends of standard streams; the pipe for errors; restore signals, new
        # session; process group, group, groups, user, umask, a function to call: all as they are.
        arguments += [
            None,
            None,
            -1,
            -1,
            -1,
            -1,
            -1,
            -1,
            failed,
            fail,
            False,
            False,
            -1,
            None,
            None,
            None,
            -1,
            None,
        ]
        try:
            # CPython 3.11 to 3.13; the last says that vfork may be used.
            pid: int = fork_exec(*arguments, True)
        except TypeError:
            pid = fork_exec(*arguments)
        os.close(fail)
        fail = -1
        if error := os.read(failed, 256):
            os.waitpid(pid, 0)
            number = int(error.split(b":")[1], 16) if error.startswith(b"OSError:") else 0
            raise OSError(number, f"cannot start the interpreter: {os.strerror(number)}", command[0])
        return pid
    finally:
        os.close(failed)
        if fail >= 0:
            os.close(fail)


# ---- In the child ---------------------------------------------------------------------------------------------------


class UnguardedMain(RuntimeError):
    """A process was started while the main module of the parent is imported in a child."""


def spawn_main(
    arena: int, token: int, offset: int, generation: int, lifeline: int, sentinel: int, zygote: int = -1
) -> None:
    """The whole life of a spawned child. The numbers are descriptors and what names the parcel."""
    from . import _program

    for fd in (arena, lifeline, sentinel, zygote):
        if fd >= 0:
            os.set_inheritable(fd, False)
    atexit.register(this.say_goodbye)
    this.parent_lifeline, this.own_sentinel = lifeline, sentinel
    _program.adopt(arena, token)
    this.prepare_for_children()
    if zygote >= 0:
        from .forkserver import server

        server.inherit(zygote)
    code = run_parcel(_program.unpark(offset, generation))
    if this.ended_by_stop:
        # The parent reads why before it reads that: no time may pass in between.
        this.exit(code)
    sys.exit(code)


def run_parcel(parcel: bytes) -> int:
    """Prepares this process as the parcel says and runs the process object in it; returns the exit code."""
    name = "?"
    this.inheriting = True
    try:
        length = int.from_bytes(parcel[:8], "little")
        view = memoryview(parcel)
        data = _pickle.loads(view[8 : 8 + length])
        name = data["name"]
        prepare(data)
        process = reduction.loads(view[8 + length :])
    except UnguardedMain as error:
        sys.stderr.write(f"Process {name}:\nRuntimeError: {error}")
        return 1
    finally:
        this.inheriting = False
    del view, parcel, data
    program().unparked()
    code: int = process._bootstrap()
    return code


def prepare(data: dict[str, Any]) -> None:
    """Makes this process like its parent, as far as modules can tell."""
    this.current.name = data["name"]
    this.current.authkey = data["authkey"]
    if data["log_to_stderr"]:
        util.log_to_stderr()
    if "log_level" in data:
        util.get_logger().setLevel(data["log_level"])
    sys.path = data["sys_path"]
    sys.argv = data["sys_argv"]
    os.chdir(data["dir"])
    this.original_dir = data["orig_dir"]
    this.start_method = data["start_method"]
    if "stands_in" in data:
        from .standin import install

        install()
    import_main(data)


def import_main(data: dict[str, Any]) -> None:
    """Imports the parent's main module if there is one to import, unless a process that forked this one has done so."""
    if "init_main_from_name" in data:
        _main_from_name(data["init_main_from_name"])
    elif "init_main_from_path" in data:
        import_main_path(data["init_main_from_path"])


def _main_from_name(name: str) -> None:
    """`python -m name` in the parent."""
    # The start of a package or a zip file does not check for __main__: it is not run again.
    if name == "__main__" or name.endswith(".__main__"):
        return
    if getattr(sys.modules["__main__"].__spec__, "name", None) == name:
        return  # forked from a process that has done it
    import runpy

    _become_main(runpy.run_module(name, run_name="__mp_main__", alter_sys=True))


def import_main_path(main_path: str) -> None:
    """`python path` in the parent: the file is run here under another name, so that what is guarded does not run."""
    # ipython's start script had no guard for long.
    if os.path.splitext(os.path.basename(main_path))[0] == "ipython":
        return
    if getattr(sys.modules["__main__"], "__file__", None) == main_path:
        return  # forked from a process that has done it
    import runpy

    _become_main(runpy.run_path(main_path, run_name="__mp_main__"))


def _become_main(content: dict[str, Any]) -> None:
    old_mains.append(sys.modules["__main__"])
    main = type(sys)("__mp_main__")
    main.__dict__.update(content)
    sys.modules["__main__"] = sys.modules["__mp_main__"] = main


# Kept: their functions may be running, and a module that is collected takes its globals with it.
old_mains: list[Any] = []


def __getattr__(name: str) -> Any:
    from .standardnames import find

    return find(__name__, name)
