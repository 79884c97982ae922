"""`python -m processing run`: a program that uses `multiprocessing`, served by this package.

    python -m processing run [-i] PROGRAM [ARGUMENT...]     a file, or a folder or zip file with a __main__.py
    python -m processing run -m MODULE [ARGUMENT...]        a module, as `python -m` runs it

The program is not changed and cannot tell: it is `__main__`, sys.argv and sys.path are as if Python ran it.
"""

from __future__ import annotations

import importlib.util
import io
import os
import sys
import types
from typing import Any

from processing import standin

USAGE = """\
usage: python -m processing run PROGRAM [ARGUMENT...]
       python -m processing run -m MODULE [ARGUMENT...]

Runs a Python program in which `multiprocessing` is served by processing, its child processes included.
"""


class NotRunnable(Exception):
    """What was named is no program."""


def main(arguments: list[str]) -> int:
    """Runs the program that the arguments name; -> exit status."""
    if arguments[:1] in ([], ["-h"], ["--help"]):
        print(USAGE, end="", file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else 2
    standin.install()
    try:
        if arguments[0] == "-m":
            if len(arguments) < 2:
                raise NotRunnable("-m needs the name of a module")
            code, program = find_module(arguments[1])
            sys.argv = [program.__file__ or arguments[1], *arguments[2:]]
            _path_begins_with(os.getcwd())
        elif arguments[0].startswith("-"):
            raise NotRunnable(f"there is no option {arguments[0]}")
        else:
            sys.argv = arguments
            code, program = find_program(arguments[0])
    except NotRunnable as error:
        print(f"{error}\n\n{USAGE}", end="", file=sys.stderr)
        return 2
    return execute(code, program)


def execute(code: Any, program: types.ModuleType) -> int:
    """Runs it as `__main__`, which it stays: atexit functions and threads that go on find it."""
    sys.modules["__main__"] = program
    try:
        exec(code, program.__dict__)
    except Exception as error:
        # The traceback begins with the program's own frames, as ever.
        traceback = error.__traceback__
        own = traceback.tb_next if traceback is not None else None
        sys.excepthook(type(error), error.with_traceback(own), own)
        return 1
    return 0


def new_main(**facts: Any) -> types.ModuleType:
    """An empty `__main__`."""
    import builtins

    program = types.ModuleType("__main__")
    program.__dict__.update({"__builtins__": builtins, "__doc__": None, "__annotations__": {}, **facts})
    return program


def find_program(path: str) -> tuple[Any, types.ModuleType]:
    """The code of a file, and the module for it."""
    if os.path.isdir(path) or not (os.path.isfile(path) and not _is_archive(path)):
        return _find_in(path)
    try:
        with io.open_code(os.path.abspath(path)) as file:
            source = file.read()
    except OSError as error:
        raise NotRunnable(f"cannot read {path!r}: {error.strerror}") from None
    if path.endswith(".pyc"):
        import importlib.machinery

        loader = importlib.machinery.SourcelessFileLoader("__main__", path)
        code: Any = loader.get_code("__main__")
    else:
        code = _compiled(source, path)
    _path_begins_with(os.path.dirname(os.path.realpath(path)))
    return code, new_main(__file__=path, __spec__=None, __package__=None, __loader__=None, __cached__=None)


def _compiled(source: bytes, path: str) -> Any:
    try:
        return compile(source, path, "exec", dont_inherit=True)
    except SyntaxError as error:
        sys.excepthook(SyntaxError, error.with_traceback(None), None)
        raise SystemExit(1) from None


def _is_archive(path: str) -> bool:
    with open(path, "rb") as file:
        if file.read(2) in (b"#!", b"PK"):
            import zipfile

            return zipfile.is_zipfile(path)
    return False


def _find_in(path: str) -> tuple[Any, types.ModuleType]:
    """The `__main__` in a folder or archive."""
    if not os.path.exists(path):
        raise NotRunnable(f"there is no file {path!r}")
    import pkgutil

    importer = pkgutil.get_importer(path)
    spec = importer.find_spec("__main__") if importer is not None else None
    if spec is None or spec.loader is None:
        raise NotRunnable(f"there is no __main__.py in {path!r}")
    _path_begins_with(path)
    code = spec.loader.get_code("__main__")  # type: ignore[attr-defined]
    return code, new_main(
        __file__=spec.origin, __spec__=spec, __package__="", __loader__=spec.loader, __cached__=spec.cached
    )


def find_module(name: str) -> tuple[Any, types.ModuleType]:
    """The code of a module, or of a package's `__main__`, and the module for it."""
    _path_begins_with(os.getcwd())
    try:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            name = f"{name}.__main__"
            spec = importlib.util.find_spec(name)
    except (ImportError, ValueError) as error:
        raise NotRunnable(f"cannot find the module {name!r}: {error}") from None
    if spec is None or spec.loader is None:
        raise NotRunnable(f"there is no module {name!r}, or it cannot be run")
    code = spec.loader.get_code(name)  # type: ignore[attr-defined]
    if code is None:
        raise NotRunnable(f"the module {name!r} has no Python code")
    package = name.rpartition(".")[0]
    return code, new_main(
        __file__=spec.origin,
        __spec__=spec,
        __package__=package,
        __loader__=spec.loader,
        __cached__=spec.cached,
    )


def _path_begins_with(folder: str) -> None:
    """In place of what `python -m processing` put there."""
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = folder
