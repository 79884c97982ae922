"""`python -m processing run` and `install()`: programs that use multiprocessing, served by processing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path
from typing import Any

import pytest

from helpers import LIMIT, output_of, run_program


def run(
    *arguments: str, cwd: Path, text: str = "", options: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """`python -m processing run ...`"""
    return subprocess.run(
        [sys.executable, *options, "-m", "processing", "run", *arguments],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        cwd=cwd,
        input=text,
    )


def lines(done: subprocess.CompletedProcess[str]) -> list[str]:
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))
    return path


# ---- What a program sees --------------------------------------------------------------------------------------------

TELL = """
import multiprocessing, multiprocessing.pool, sys
from multiprocessing import queues
from multiprocessing.managers import SyncManager

def tell(queue):
    import multiprocessing, multiprocessing.pool
    queue.put((multiprocessing.__name__, multiprocessing.pool.Pool.__module__, __name__))

if __name__ == "__main__":
    print(multiprocessing.__name__, multiprocessing.pool.__name__, queues.__name__, SyncManager.__module__)
    for method in multiprocessing.get_all_start_methods():
        context = multiprocessing.get_context(method)
        queue = context.Queue()
        process = context.Process(target=tell, args=(queue,))
        process.start()
        print(*queue.get())
        process.join()
        with context.Pool(2) as pool:
            print(pool.map(abs, [1, -2]))
"""
TOLD = [
    "processing processing.pool processing.queues processing.managers",
    *("processing processing.pool __main__", "[1, 2]"),
    *("processing processing.pool __mp_main__", "[1, 2]") * 2,
]


def sorted_lines(done: subprocess.CompletedProcess[str]) -> list[str]:
    return sorted(lines(done))


def test_a_program_and_its_children(tmp_path: Path) -> None:
    write(tmp_path / "program.py", TELL)
    assert sorted_lines(run("program.py", cwd=tmp_path)) == sorted(TOLD)


def test_a_module_and_its_children(tmp_path: Path) -> None:
    write(tmp_path / "package" / "__init__.py", "")
    write(tmp_path / "package" / "module.py", TELL)
    assert sorted_lines(run("-m", "package.module", cwd=tmp_path)) == sorted(TOLD)


def test_install(tmp_path: Path) -> None:
    text = "import processing\nprocessing.install()\nprocessing.install()\n" + TELL
    assert sorted(output_of(tmp_path, text)) == sorted(TOLD)


def test_without_install_nothing_changes(tmp_path: Path) -> None:
    text = """
    import processing, multiprocessing, multiprocessing.pool
    print(multiprocessing.__name__, multiprocessing.pool.Pool.__module__, processing.Pool is multiprocessing.Pool)
    """
    assert output_of(tmp_path, text) == ["multiprocessing multiprocessing.pool False"]


SEES = """
import os, sys
print(__name__, __spec__ is None, __package__, os.path.basename(__file__), sys.argv[1:])
print(os.path.realpath(sys.path[0]) == os.path.realpath(sys.argv[1]), os.path.basename(sys.argv[0]))
print(sys.modules["__main__"].__dict__ is globals(), sorted(name for name in globals() if name[0] != "_"))
"""


def seen(tmp_path: Path, *command: str) -> list[str]:
    return lines(
        subprocess.run(
            [sys.executable, *command],
            capture_output=True,
            text=True,
            timeout=LIMIT,
            cwd=tmp_path,
            check=False,
        )
    )


@pytest.mark.parametrize("kind", ["file", "folder", "zip", "module", "package"])
def test_it_sees_what_it_would_see_without(tmp_path: Path, kind: str) -> None:
    folder = str(tmp_path)
    if kind == "file":
        write(tmp_path / "program.py", SEES)
        command = ["program.py", folder]
    elif kind == "folder":
        write(tmp_path / "app" / "__main__.py", SEES)
        command = ["app", str(tmp_path / "app")]
    elif kind == "zip":
        with zipfile.ZipFile(tmp_path / "app.zip", "w") as archive:
            archive.writestr("__main__.py", SEES)
        command = ["app.zip", str(tmp_path / "app.zip")]
    elif kind == "module":
        write(tmp_path / "module.py", SEES)
        command = ["-m", "module", folder]
    else:
        write(tmp_path / "package" / "__init__.py", "")
        write(tmp_path / "package" / "__main__.py", SEES)
        command = ["-m", "package", folder]
    command += ["-x", "--flag", "two words"]
    assert lines(run(*command, cwd=tmp_path)) == seen(tmp_path, *command)


def test_standard_input_and_exit_status(tmp_path: Path) -> None:
    write(tmp_path / "program.py", "import sys\nprint(input())\nsys.exit(7)")
    done = run("program.py", cwd=tmp_path, text="hello\n")
    assert (done.returncode, done.stdout, done.stderr) == (7, "hello\n", "")


@pytest.mark.parametrize(
    "text", ["1/0", "def f():\n    raise KeyError('x')\nf()", "x = (", "raise SystemExit('no')"]
)
def test_errors_look_as_without(tmp_path: Path, text: str) -> None:
    write(tmp_path / "program.py", text)
    done = run("program.py", cwd=tmp_path)
    plain = subprocess.run(
        [sys.executable, "program.py"], capture_output=True, text=True, timeout=LIMIT, cwd=tmp_path
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.replace(str(tmp_path) + "/", "") == plain.stderr.replace(str(tmp_path) + "/", "")


def test_control_c(tmp_path: Path) -> None:
    write(tmp_path / "program.py", "import time\nprint('ready', flush=True)\ntime.sleep(60)")
    with subprocess.Popen(
        [sys.executable, "-m", "processing", "run", "program.py"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == -signal.SIGINT
    assert errors.endswith("KeyboardInterrupt\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.py"], "there is no file 'nothing.py'"),
        (["-m", "no_such_module"], "there is no module 'no_such_module'"),
        (["-m"], "-m needs the name of a module"),
        (["--nonsense", "x.py"], "there is no option --nonsense"),
        (["."], "there is no __main__.py in '.'"),
        ([], "usage:"),
    ],
)
def test_what_cannot_be_run(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(message)
    assert "Traceback" not in done.stderr


def test_help(tmp_path: Path) -> None:
    assert lines(run("--help", cwd=tmp_path))[0].startswith("usage: python -m processing run")


def test_a_module_without_counterpart(tmp_path: Path) -> None:
    write(tmp_path / "program.py", "import multiprocessing.popen_spawn_win32")
    done = run("program.py", cwd=tmp_path)
    assert done.returncode == 1
    assert "processing stands in for multiprocessing" in done.stderr


# ---- What was imported before ---------------------------------------------------------------------------------------


def test_what_was_imported_before_gets_ours(tmp_path: Path) -> None:
    write(
        tmp_path / "early.py",
        """
        import multiprocessing
        import multiprocessing.pool as pools
        from multiprocessing import Queue, Process, get_context
        from multiprocessing.queues import Empty
        from multiprocessing.pool import ThreadPool
        import multiprocessing.connection
        """,
    )
    text = """
    import warnings
    warnings.simplefilter("error")
    import early, queue
    import processing
    processing.install()
    import multiprocessing
    print(early.multiprocessing is processing, early.pools.__name__, early.Process is processing.Process)
    print(early.ThreadPool is processing.ThreadPool, early.Empty is queue.Empty)
    print(type(early.Queue()).__module__, type(early.get_context("spawn")).__module__)
    """
    assert output_of(tmp_path, text) == [
        "True processing.pool True",
        "True True",
        "processing.queues processing.context",
    ]


def test_who_has_subclassed_theirs_keeps_it(tmp_path: Path) -> None:
    write(
        tmp_path / "early.py",
        """
        import multiprocessing
        class Own(multiprocessing.Process):
            pass
        """,
    )
    text = """
    import early
    import processing
    processing.install()
    import multiprocessing
    print(multiprocessing is processing, early.multiprocessing.__name__)
    """
    done = run_program(tmp_path, text)
    assert done.returncode == 0
    assert done.stdout.split() == ["True", "multiprocessing"]
    assert "RuntimeWarning: these modules were imported before processing.install()" in done.stderr
    assert "early" in done.stderr


# ---- Others who look into multiprocessing ---------------------------------------------------------------------------


def test_names_of_processes_in_logs(tmp_path: Path) -> None:
    text = """
    import logging, multiprocessing, sys
    logging.basicConfig(format="%(processName)s %(message)s", stream=sys.stdout, level=logging.INFO)

    def work():
        logging.info("hello")

    if __name__ == "__main__":
        logging.info("begin")
        for method in multiprocessing.get_all_start_methods():
            process = multiprocessing.get_context(method).Process(target=work, name=f"by {method}")
            process.start()
            process.join()
    """
    write(tmp_path / "program.py", text)
    assert lines(run("program.py", cwd=tmp_path)) == [
        "MainProcess begin",
        "by fork hello",
        *(f"by {method} hello" for method in ("spawn", "forkserver")),
    ]


def test_reducers_registered_as_torch_does(tmp_path: Path) -> None:
    text = """
    import multiprocessing
    from multiprocessing.reduction import ForkingPickler

    class Tensor:
        def __init__(self, value):
            self.value = value
        def __reduce__(self):
            raise TypeError("not by pickle")

    def rebuild(value):
        return Tensor(value + 1)

    ForkingPickler.register(Tensor, lambda tensor: (rebuild, (tensor.value,)))

    def work(tensor, queue):
        queue.put(tensor)

    if __name__ == "__main__":
        for method in multiprocessing.get_all_start_methods():
            context = multiprocessing.get_context(method)
            queue = context.Queue()
            process = context.Process(target=work, args=(Tensor(0), queue))
            process.start()
            print(method, queue.get().value)
            process.join()
    """
    write(tmp_path / "program.py", text)
    assert sorted(lines(run("program.py", cwd=tmp_path))) == ["fork 1", "forkserver 2", "spawn 2"]


EXECUTOR = """
import concurrent.futures, multiprocessing, os, sys

def square(number):
    return number * number

def nested(number):
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        return sum(pool.map(square, range(number)))

def fail():
    raise ValueError("as it should")

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
        print(list(pool.map(square, range(5), chunksize=2)), pool.submit(nested, 4).result())
        print(repr(pool.submit(fail).exception()))
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            pool.submit(os._exit, 3).result()
        except concurrent.futures.process.BrokenProcessPool:
            print("broken")
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_process_pool_executors_of_the_standard_library(tmp_path: Path, method: str) -> None:
    write(tmp_path / "program.py", EXECUTOR)
    found = lines(run("program.py", method, cwd=tmp_path))
    assert found == ["[0, 1, 4, 9, 16] 14", "ValueError('as it should')", "broken"]


def test_the_start_method_of_newer_pythons(tmp_path: Path) -> None:
    """From 3.14 on it is forkserver; without standing in it stays fork."""
    text = """
    import multiprocessing, sys

    def tell(queue):
        import multiprocessing
        queue.put((multiprocessing.current_process().name, multiprocessing.get_start_method()))

    if __name__ == "__main__":
        sys.version_info = (3, 14, 0, "final", 0)
        print(multiprocessing.get_start_method(allow_none=True))
        queue = multiprocessing.SimpleQueue()
        process = multiprocessing.Process(target=tell, args=(queue,))
        process.start()
        print(*queue.get(), multiprocessing.get_start_method())
        process.join()
    """
    program = write(tmp_path / "program.py", text)
    assert lines(run("program.py", cwd=tmp_path)) == ["None", "Process-1 forkserver forkserver"]
    program.write_text(
        program.read_text().replace("import multiprocessing", "import processing as multiprocessing")
    )
    assert output_of(tmp_path, program.read_text()) == ["None", "Process-1 fork fork"]


def test_loky_keeps_the_standard_library(tmp_path: Path) -> None:
    pytest.importorskip("joblib")
    text = """
    import joblib
    import joblib.externals.loky.backend.context as theirs
    import multiprocessing, multiprocessing.pool
    import joblib.pool

    if __name__ == "__main__":
        for backend in ("loky", "multiprocessing"):
            with joblib.parallel_config(backend, n_jobs=2):
                print(joblib.Parallel()(joblib.delayed(abs)(number) for number in (-1, 2)))
        print(theirs.mp.__name__, multiprocessing.__name__, joblib.pool.Pool.__module__)
        with multiprocessing.Manager() as manager:
            shared = manager.list()
            joblib.Parallel(2, backend="loky")(joblib.delayed(shared.append)(number) for number in range(2))
            print(sorted(shared))
    """
    write(tmp_path / "program.py", text)
    found = lines(run("program.py", cwd=tmp_path))
    assert found == ["[1, 2]", "[1, 2]", "multiprocessing processing processing.pool", "[0, 1]"]


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_one_authkey_for_both_packages(tmp_path: Path, method: str) -> None:
    """Managed objects work in processes that the standard library has started, also if it is imported afterwards."""
    text = f"""
    import processing
    import multiprocessing, multiprocessing.process
    from concurrent.futures import ProcessPoolExecutor

    if __name__ == "__main__":
        assert multiprocessing is not processing
        with processing.Manager() as manager:
            shared = manager.list()
            context = multiprocessing.get_context({method!r})
            with ProcessPoolExecutor(1, mp_context=context) as executor:
                executor.submit(shared.append, 1).result()
            print(shared)
    """
    assert output_of(tmp_path, text) == ["[1]"]


# ---- The fork server ------------------------------------------------------------------------------------------------


def test_main_modules_that_make_shared_objects(tmp_path: Path) -> None:
    """They cannot be imported by the fork server, as that is no part of the program: children import them."""
    text = """
    import processing
    lock = processing.Lock()

    def work(queue):
        with lock:
            queue.put("done")

    if __name__ == "__main__":
        context = processing.get_context("forkserver")
        queue = context.SimpleQueue()
        for _ in range(2):
            process = context.Process(target=work, args=(queue,))
            process.start()
            process.join()
            print(process.exitcode, queue.get())
    """
    assert output_of(tmp_path, text) == ["0 done", "0 done"]


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_children_find_the_package_where_the_parent_found_it(tmp_path: Path, method: str) -> None:
    import processing

    where = str(Path(processing.__file__).parent.parent)
    write(
        tmp_path / "program.py",
        f"""
        import sys
        sys.path.append({where!r})
        import processing
        if __name__ == "__main__":
            process = processing.get_context({method!r}).Process(target=print, args=("hello",))
            process.start()
            process.join()
        """,
    )
    environ: dict[str, Any] = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "program.py"],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        cwd=tmp_path,
        env=environ,
    )
    assert lines(done) == ["hello"]
