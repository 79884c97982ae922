"""`python -m processing`: which command runs, the tour, and its job."""

from __future__ import annotations

import hashlib
import importlib.util
import keyword
import os
import struct
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path
from queue import Empty
from typing import Any

import pytest

from processing.cli import checksums, terminal, tour


def run(*arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "processing", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=55, stdin=subprocess.DEVNULL, **more
    )


# ---- Commands -------------------------------------------------------------------------------------------------------


def test_help_lists_the_commands() -> None:
    done = run("--help")
    assert done.returncode == 0
    for command in ("tour", "bench", "doctor"):
        assert command in done.stdout
        assert run(command, "--help").returncode == 0


def test_version() -> None:
    import processing

    assert processing.__version__ in run("--version").stdout


def test_unknown_command() -> None:
    done = run("benhc")
    assert done.returncode == 2
    assert "no command 'benhc'" in done.stderr
    assert "bench" in done.stderr


def test_a_command_loads_only_itself() -> None:
    code = (
        "import sys; import processing.__main__\n"
        "print(sorted(name for name in sys.modules if name.startswith('processing.cli') or name == 'argparse'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert done.stdout.strip() == "[]"


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "processing", "bench", "--list"],
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            timeout=30,
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


# ---- The tour -------------------------------------------------------------------------------------------------------


def pixels_of(path: Path) -> tuple[int, int, bytes]:
    """Width, height and the filtered lines of a PNG of 8-bit colours; checks what a reader of it would."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = {}, 8
    while at < len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        [checksum] = struct.unpack_from(">I", data, at + 8 + length)
        assert zlib.crc32(data[at + 4 : at + 8 + length]) == checksum
        chunks[kind] = data[at + 8 : at + 8 + length]
        at += 12 + length
    assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
    width, height, *form = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert form == [8, 2, 0, 0, 0]
    return width, height, zlib.decompress(chunks[b"IDAT"])


HAS_TQDM = importlib.util.find_spec("tqdm") is not None
HAS_PICTURE = all(importlib.util.find_spec(name) is not None for name in tour.PICTURE.needs)


@pytest.mark.once
@pytest.mark.parametrize("method", [None, "forkserver", "spawn"])
def test_tour(method: str | None, tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    options = ["--plain", "--workers", "2", "--picture", str(picture)]
    done = run(*options, *(["--start-method", method] if method else []))
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert "  > hello bob" in lines
    assert lines.count("  > [42, None, 'hello']") == 2
    assert {f"  > hello world {number}" for number in range(10)} <= set(lines)
    assert "  > SharedArray('i', [0, -1, -2, -3, -4, -5, -6, -7, -8, -9])" in lines
    assert "  > {1: '1', '2': 2, 0.25: None}" in lines
    assert "  > [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]" in lines
    assert lines.count("  > 100") == 1
    assert lines.count("  > [0, 1, 4, 9, 16, 25, 36, 49, 64, 81]") == 1
    assert {"  > Alice: 300", "  > Bob: 100", "  > perfect numbers: 6 28 496"} <= set(lines)
    assert any(line.startswith("worker 2") for line in lines)
    assert "FAILED" not in done.stdout
    if HAS_TQDM:
        head = next(number for number, line in enumerate(lines) if line.startswith("  > identifier"))
        table = [line.split()[1:] for line in lines[head + 1 : head + 11]]
        times = [int(number.replace(",", "")) for _, number in table]
        assert table[0][0] == "self" and not any(keyword.iskeyword(name) for name, _ in table)
        assert times == sorted(times, reverse=True) and times[-1] > 1000
    if HAS_PICTURE:
        assert f"  > 900 x 600 pixels by 4 processes: {picture}" in lines
        width, height, pixels = pixels_of(picture)
        assert len(pixels) == height * (1 + 3 * width)
        assert not any(pixels[:: 1 + 3 * width])  # no filter, on any line
        middle = height // 2 * (1 + 3 * width) + 1
        assert pixels[middle + 3 * width // 2 : middle + 3 * width // 2 + 3] == bytes(3)  # inside: black
        assert len(set(zip(pixels[1::3], pixels[2::3], pixels[3::3], strict=False))) > 50
    assert (f"set_start_method({method!r})" in done.stdout) is (method is not None)


CUSTOMISED, ACROSS = tour.MANAGERS
METHODS = pytest.mark.parametrize("method", [None, "forkserver", "spawn"])


@METHODS
def test_the_customised_manager(method: str | None, tmp_path: Path) -> None:
    status, output, _ = tour.run(tour.source_of(CUSTOMISED, method), CUSTOMISED.file, tmp_path)
    assert (status, output) == (0, "Alice: 300\nBob: 100\nFalse True\n")


@pytest.mark.once
@METHODS
@pytest.mark.parametrize("network", ["namespaces", "loopback"])
def test_the_work_queue_across_a_network(method: str | None, network: str, tmp_path: Path) -> None:
    """In namespaces where that is allowed; the fallback everywhere."""
    source = tour.source_of(ACROSS, method)
    if network == "loopback":
        refused = source.replace("'unshare'", "'there is no such command'")
        assert refused != source
        source = refused
    status, output, _ = tour.run(source, ACROSS.file, tmp_path)
    where, found = output.splitlines()
    assert (status, found) == (0, "perfect numbers: 6 28 496")
    on_loopback = "server and client on the loopback interface: network namespaces are not allowed here"
    if network == "loopback" or where == on_loopback:
        assert where == on_loopback
    else:
        assert where == "server and client in two network namespaces"


def test_a_program_that_fails_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.py").write_text("print('before')\nraise SystemExit(3)\n")
    monkeypatch.setattr(tour, "FOLDER", tmp_path)
    scripts = tmp_path / "run"
    scripts.mkdir()
    assert not tour.show(
        tour.Program("broken.py", "Broken", "..."), None, scripts, terminal.Terminal(plain=True)
    )
    out = capsys.readouterr().out
    assert "  > before" in out
    assert "FAILED: exit status 3" in out


def test_the_picture_is_left_out_where_something_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert tour.show(tour.PICTURE, None, tmp_path, terminal.Terminal(plain=True), "picture.png")
    assert "Not run: it needs numpy and tqdm" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not HAS_TQDM, reason="tqdm is not installed")
def test_the_words_of_a_small_library(tmp_path: Path) -> None:
    """The counts, checked on files that a reader can count."""
    library = tmp_path / "library"
    (library / "site-packages").mkdir(parents=True)
    (library / "a.py").write_text("# no name\nfor x in y: x = 'not a name' + \"x\" + y\n'''x\nx'''\n")
    (library / "b.txt").write_text("x y z")
    (library / "image.png").write_bytes(b"x")
    (library / "site-packages" / "c.py").write_text("z")
    source = tour.source_of(tour.WORDS).replace("sysconfig.get_paths()['stdlib']", repr(str(library)))
    status, output, _ = tour.run(source, "words.py", tmp_path)
    assert status == 0, output
    lines = output.splitlines()
    assert lines[0] == "17 words, 9 of them different, in 2 files"
    assert [line.split() for line in lines[3:]] == [["x", "2"], ["y", "2"]]


@pytest.mark.skipif(not HAS_PICTURE, reason="numpy or tqdm is not installed")
def test_the_picture_goes_to_a_file_that_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = tour.parser().parse_args(["--plain"])
    assert tour.show_picture(options, tmp_path, terminal.Terminal(plain=True))
    [line] = [line for line in capsys.readouterr().out.splitlines() if "900 x 600" in line]
    path = Path(line.partition(": ")[2])
    assert pixels_of(path)[:2] == (900, 600)
    path.unlink()


def test_no_empty_picture_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(tour, "TIME_LIMIT", 0.01)
    assert tour.show_picture(
        tour.parser().parse_args(["--plain"]), tmp_path, terminal.Terminal(plain=True)
    ) is (not HAS_PICTURE)
    assert not list(tmp_path.glob("*.png"))


def test_a_program_that_hangs_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tour, "TIME_LIMIT", 1.0)
    status, output, _ = tour.run(
        "import time\nprint('waits', flush=True)\ntime.sleep(100)\n", "slow.py", tmp_path
    )
    assert (status, output) == (None, "waits\n")


# ---- The job --------------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    for number in range(50):
        (tmp_path / f"{number}.bin").write_bytes(os.urandom(number * 1000))
    return sorted(str(path) for path in tmp_path.iterdir())


def test_checksums(start_method: Any, files: list[str]) -> None:
    with terminal.Progress(len(files), "files") as progress:
        outcome = checksums.compute(start_method, files, 3, progress)
    expected = {path: hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in files}
    assert {path: digest.digest for path, digest in outcome.digests.items()} == expected
    assert sum(summary.files for summary in outcome.summaries.values()) == len(files)
    assert sum(summary.size for summary in outcome.summaries.values()) == sum(map(os.path.getsize, files))
    assert set(outcome.summaries) == {1, 2, 3}
    assert checksums.errors_of(outcome, files) == []


def test_the_library_is_all_there() -> None:
    files = checksums.files_of_the_library()
    names = {os.path.basename(path) for path in files}
    assert {"os.py", "threading.py", "decoder.py"} <= names
    assert not [path for path in files if "/site-packages/" in path or "/__pycache__/" in path]
    assert os.path.dirname(os.__file__) in {os.path.dirname(path) for path in files}


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    assert checksums.checksum(str(tmp_path / "gone")) == checksums.Digest(str(tmp_path / "gone"), 0, None)


def test_wrong_and_missing_results_are_noticed(files: list[str]) -> None:
    outcome = checksums.Outcome(died=["worker 1 ended with exit code -9"])
    outcome.digests = {path: checksums.checksum(path) for path in files[1:]}
    sampled = files[checksums.SAMPLE]
    outcome.digests[sampled] = checksums.Digest(sampled, 1, "0" * 64)
    died, missing, wrong = checksums.errors_of(outcome, files)
    assert "exit code -9" in died
    assert missing.startswith("1 files have no result") and files[0] in missing
    assert wrong.startswith(sampled)


def test_the_fingerprint_does_not_depend_on_the_order(files: list[str]) -> None:
    digests = {path: checksums.checksum(path) for path in files}
    backwards = dict(reversed(digests.items()))
    assert checksums.fingerprint(digests) == checksums.fingerprint(backwards)


class FakeWorker:
    def __init__(self, alive: bool) -> None:
        self.alive = alive

    def is_alive(self) -> bool:
        return self.alive


class FakeQueue:
    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def get(self, timeout: float) -> Any:
        if not self.items:
            raise Empty
        return self.items.pop(0)


def test_a_worker_that_died_does_not_hang_the_job() -> None:
    done = checksums.Summary(2, 1, 1, 0.1)
    digest = checksums.Digest("a", 1, "00")
    workers = {1: FakeWorker(alive=False), 2: FakeWorker(alive=False)}
    assert list(checksums.results_of(FakeQueue([digest, done]), workers)) == [digest, done]


def test_a_worker_that_is_killed_is_named(files: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import processing

    real = checksums.checksum

    def deadly(path: str) -> checksums.Digest:
        if path == files[7]:
            os.kill(os.getpid(), 9)
        return real(path)

    # A forked child has what is patched here.
    monkeypatch.setattr(checksums, "checksum", deadly)
    with terminal.Progress(len(files), "files") as progress:
        outcome = checksums.compute(processing.get_context("fork"), files, 2, progress)
    monkeypatch.undo()
    assert len(outcome.died) == 1 and "exit code -9" in outcome.died[0]
    assert files[7] not in outcome.digests
    assert len(outcome.digests) == len(files) - 1


# ---- What is printed ------------------------------------------------------------------------------------------------


def test_plain_table() -> None:
    text = terminal.plain_table("Title", ("name", "n"), [["a", "1"], None, ["long", "1,000"]], frozenset({1}))
    assert text.splitlines() == [
        "Title",
        "",
        "====  =====",
        "name      n",
        "====  =====",
        "a         1",
        "",
        "long  1,000",
        "====  =====",
    ]


def test_table_without_names_of_columns() -> None:
    assert terminal.plain_table("T", ("", ""), [["a", "b"]], frozenset()) == "T\n-\na  b"
