"""Named shared memory: files in /dev/shm, and the book of those that the program has to remove.

A segment is a file in /dev/shm, which is what POSIX shared memory is on Linux (shm_overview(7)), so programs of any
language and the standard library's `shared_memory` find ours and we theirs. Plain system calls do: shm_open is
`open` in that folder, and `open` can do more:

    O_TMPFILE       a file without a name;
    fallocate       its memory is reserved: OSError (ENOSPC) now, not SIGBUS at some later store;
    book            the name and the inode are written down;
    link            it gets its name. Nobody ever sees a segment that is empty or half made.

The book is a file, /dev/shm/psm_pz.PROGRAM, that exists while the program has names to remove. There is no process
that watches (the standard library's resource tracker): whoever leaves last tidies up.

    program, orderly end    its first process removes what is in the book, then the book
    program, killed         any program of the same user that makes or opens a segment meets the book of a program that
                            is gone, and does the same, but leaves what somebody has open

A program is gone when no process maps its arena. The book says which file that is (device, inode) and in which pid
namespace its processes are; they are looked for in /proc by one that is in the same namespace, others leave the book
alone. So no pid is ever trusted, reused or not. A name is removed only if it is still the file of that inode, of our
user, and, for a program that was killed, if a write lease can be had: the kernel grants that when nobody else has the
file open or mapped, in whatever namespace.

The book is append-only (`+inode pid tag name`, `-name`; names in hex, so that they cannot contain what separates) and
written under a record lock, which a killed process gives up by itself. A line that it did not finish is ignored.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from _thread import allocate_lock, get_ident

from . import _program, fdkeeper, util

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FOLDER = "/dev/shm"
BOOK = util.BOOK_OF_NAMES.rpartition("/")[2]
SIGURG: int = __import__(
    "_signal"
).SIGURG  # ignored unless somebody asks for it; the module `signal` imports slowly
SMALL = 4096  # bytes of a book that is looked through whenever a name is taken out
PATIENCE = 5.0  # seconds between two looks for books of others


def path_of(name: str) -> str:
    """The file of a segment. ValueError for a null byte, OSError (EINVAL) for what cannot be a name."""
    bare = name.lstrip("/")
    if "\0" in bare:
        raise ValueError("embedded null character in the name of shared memory")
    if not bare or "/" in bare or bare in (".", ".."):
        raise OSError(errno.EINVAL, "this cannot be the name of shared memory", name)
    return f"{FOLDER}/{bare}"


def _bare(path: str) -> str:
    return path[len(FOLDER) + 1 :]


# ---- The book of one program ----------------------------------------------------------------------------------------


class Entry:
    """A name that a program has to remove. `tag` says for whom, "-" for nobody in particular."""

    __slots__ = ("inode", "name", "pid", "tag")

    def __init__(self, inode: int, pid: int, tag: str, name: str) -> None:
        self.inode, self.pid, self.tag, self.name = inode, pid, tag, name

    def line(self) -> bytes:
        return f"+{self.inode} {self.pid} {self.tag} {os.fsencode(self.name).hex()}\n".encode()


class Book:
    """The book at `path` while it is locked: a context manager. `missing_ok`: there may be none, `fd` is then -1."""

    def __init__(self, path: str, head: Callable[[], str] | None = None, wait: bool = True) -> None:
        self.path = path
        self.head = head  # makes the book if there is none
        self.how = fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB
        self.fd = -1
        self.size = 0

    def __enter__(self) -> Book:
        # Record locks belong to processes, so threads exclude each other first. Not inherited over a fork.
        turns.take()
        try:
            self._open()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *unused: object) -> None:
        self._close()

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        while True:
            try:
                self.fd = os.open(self.path, flags | (os.O_CREAT if self.head else 0), 0o600)
            except FileNotFoundError:
                return
            fcntl.lockf(self.fd, self.how)
            facts = os.fstat(self.fd)
            if facts.st_nlink:
                break
            # Somebody removed it, or wrote a shorter one, while we waited.
            os.close(self.fd)
            self.fd = -1
        self.size = facts.st_size
        if self.head and self.size == 0:
            self._append(self.head().encode())
        elif self.size and os.pread(self.fd, 1, self.size - 1) != b"\n":
            self._append(b"\n")  # somebody was killed within a line

    def _append(self, text: bytes) -> None:
        self.size += os.write(self.fd, text)

    def _close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)  # gives the lock up
            self.fd = -1
        turns.give()

    def read(self) -> tuple[list[str], dict[str, Entry]]:
        """The words of its head, and the names that are to be removed."""
        head, *lines = os.pread(self.fd, self.size, 0).split(b"\n")[:-1] or [b""]
        entries: dict[str, Entry] = {}
        for line in lines:
            try:
                name = os.fsdecode(bytes.fromhex(line[1:].rpartition(b" ")[2].decode()))
                if line[:1] == b"+":
                    inode, pid, tag, _ = line[1:].decode().split(" ")
                    entries[name] = Entry(int(inode), int(pid), tag, name)
                else:
                    entries.pop(name, None)
            except ValueError:
                continue
        return head.decode().split(" "), entries

    def add(self, inode: int, tag: str, name: str) -> Callable[[], None]:
        """Writes a name down; -> what takes it back."""
        size = self.size
        self._append(Entry(inode, os.getpid(), tag, name).line())

        def take_back() -> None:
            os.ftruncate(self.fd, size)
            self.size = size
            if size <= SMALL:
                self.rewrite(self.read()[1])

        return take_back

    def strike(self, name: str) -> None:
        """Takes a name out. Now and then the book is written anew; an empty one is removed."""
        self._append(f"-{os.fsencode(name).hex()}\n".encode())
        # When the size has just passed a power of two: each line is copied a few times at most.
        if self.size <= SMALL or (self.size - 256).bit_length() < self.size.bit_length():
            self.rewrite(self.read()[1])

    def rewrite(self, entries: dict[str, Entry]) -> None:
        """The book is to contain just these. One step for everybody else, also if this process is killed."""
        if not entries:
            os.unlink(self.path)
            return
        with open(self.fd, "rb", closefd=False) as file:
            file.seek(0)
            head = file.readline()
        text = b"".join([head, *(entry.line() for entry in entries.values())])
        if 2 * len(text) > self.size:
            return
        fresh = f"{self.path}.new"
        try:
            os.unlink(fresh)  # of one that was killed right here
        except FileNotFoundError:
            pass
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.write(fd, text)
            os.rename(fresh, self.path)
        finally:
            os.close(fd)


class Turns:
    """One thread of this process at a time has a book open.

    A garbage collection or a signal handler may want one while its thread has one: `are_mine()`.
    """

    def __init__(self) -> None:
        self.lock = allocate_lock()
        self.owner = 0
        self.later: list[str] = []  # marks, see unlink_tagged
        self.swept = 0.0
        os.register_at_fork(after_in_child=self.after_fork)

    def after_fork(self) -> None:
        self.lock = allocate_lock()
        self.owner = 0
        self.later = []

    def are_mine(self) -> bool:
        return self.owner == get_ident()

    def take(self) -> None:
        if self.are_mine():
            raise RuntimeError(
                "a signal handler or finalizer makes named shared memory while its thread does so already"
            )
        self.lock.acquire()
        self.owner = get_ident()

    def give(self) -> None:
        self.owner = 0
        self.lock.release()
        while self.later:
            unlink_tagged(self.later.pop())

    def may_sweep(self) -> bool:
        now = time.monotonic()
        if self.swept and now < self.swept + PATIENCE:
            return False
        self.swept = now
        return True


turns = Turns()


def own_path() -> str:
    """Of this program's book. Makes the arena."""
    _program.attach()
    return f"{FOLDER}/{BOOK}{_program.program_id():016x}"


def _head() -> str:
    arena = os.fstat(_program.arena_fd())
    namespace = os.stat("/proc/self/ns/pid").st_ino
    return f"processing {namespace} {os.major(arena.st_dev)} {os.minor(arena.st_dev)} {arena.st_ino}\n"


# ---- Segments -------------------------------------------------------------------------------------------------------


def create(name: str, size: int, mode: int, track: bool) -> int:
    """A new segment of `size` zeroed bytes, all reserved; -> its descriptor. FileExistsError if the name is taken."""
    path = path_of(name)
    sweep_sometimes()
    if os.path.lexists(path):
        sweep(_bare(path))  # of a program that was killed, perhaps
    fd = os.open(FOLDER, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, mode)
    try:
        _reserve(fd, size, path)
        if not track:
            _link(fd, path)
            return fd
        with Book(own_path(), _head) as book:
            take_back = book.add(os.fstat(fd).st_ino, "-", _bare(path))
            try:
                _link(fd, path)
            except BaseException:
                take_back()
                raise
        return fd
    except BaseException:
        os.close(fd)
        raise


def _reserve(fd: int, size: int, path: str) -> None:
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.ENOMEM, errno.EFBIG):
            raise
        facts = os.statvfs(FOLDER)
        raise OSError(
            error.errno,
            f"no room for {size} bytes of named shared memory: {FOLDER} has {facts.f_bavail * facts.f_frsize} of "
            f"{facts.f_blocks * facts.f_frsize} left (docker run --shm-size; what strangers need not open by name is "
            f"better kept in processing.arrays, which does not use {FOLDER})",
            path,
        ) from None


def _link(fd: int, path: str) -> None:
    try:
        # A folder's descriptor makes it linkat(), which follows the link that /proc has for the file without a name.
        os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=fd, follow_symlinks=True)
    except FileExistsError as error:
        raise FileExistsError(error.errno, os.strerror(errno.EEXIST), path) from None


def attach(name: str, flags: int, mode: int) -> int:
    """A descriptor of a segment that somebody made. FileNotFoundError if there is none."""
    path = path_of(name)
    if not sweep_sometimes():
        sweep(_bare(path))
    return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, mode)


def unlink(name: str) -> None:
    """Takes the name away; who has the memory open keeps it. FileNotFoundError if there is none."""
    path = path_of(name)
    if turns.are_mine() or not _program.is_attached():
        # A name that stays in the book is no harm: it is not the file of that inode any more.
        os.unlink(path)
        return
    with Book(own_path()) as book:
        os.unlink(path)
        if book.fd >= 0:
            book.strike(_bare(path))


def tag(name: str, mark: str) -> None:
    """The program removes this segment together with all that have this mark."""
    path = path_of(name)
    with Book(own_path(), _head) as book:
        book.add(os.stat(path).st_ino, mark, _bare(path))


def remember(path: str) -> None:
    """The program removes this file at its end. FileNotFoundError."""
    with Book(own_path(), _head) as book:
        book.add(os.stat(path).st_ino, "-", _bare(path))


def forget(path: str) -> None:
    """It does not."""
    if _program.is_attached():
        with Book(own_path()) as book:
            if book.fd >= 0:
                book.strike(_bare(path))


def unlink_tagged(mark: str) -> None:
    """Removes all segments with this mark; a little later if this thread is just doing something with the book."""
    if turns.are_mine():
        turns.later.append(mark)
        return
    with Book(own_path()) as book:
        if book.fd >= 0:
            _, entries = book.read()
            for entry in [entry for entry in entries.values() if entry.tag == mark]:
                _remove(entry, unless_open=False)
                del entries[entry.name]
            book.rewrite(entries)


def _remove(entry: Entry, unless_open: bool) -> bool:
    """Takes away the name of what was made under it; -> whether that is not there any more."""
    path = path_of(entry.name)
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        return error.errno == errno.ENOENT
    try:
        facts = os.fstat(fd)
        if facts.st_ino != entry.inode or facts.st_uid != os.geteuid() or not stat.S_ISREG(facts.st_mode):
            return True
        if unless_open:
            # Given only if no one else has it open or mapped; it goes with the descriptor. Who opens it right now is
            # kept waiting till then, and we get a signal: one that does nothing, the usual one kills.
            fcntl.fcntl(fd, fcntl.F_SETSIG, SIGURG)
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        os.unlink(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


# ---- The end of programs --------------------------------------------------------------------------------------------


def end_of_program() -> None:
    """The first process of the program ends: so do the names, unless another process of it goes on."""
    with Book(own_path()) as book:
        if book.fd >= 0:
            # The keeper of descriptors ends right after us.
            keeper = fdkeeper.find(_program.arena_fd())
            leaving = (os.getpid(), keeper[2]) if keeper else (os.getpid(),)
            _tidy(book, leaving, unless_open=False)


def sweep_sometimes() -> bool:
    """Removes what programs left behind that were killed, if this process has not done so for some seconds."""
    may = turns.may_sweep()
    if may:
        sweep()
    return may


def sweep(wanted: str | None = None) -> None:
    """Removes what programs left behind that were killed; `wanted`: those that have made this name. OSErrors are left
    to the next who looks."""
    if turns.are_mine():
        return  # in a finalizer or signal handler: some other time
    word = None if wanted is None else f" {os.fsencode(wanted).hex()}\n".encode()
    own = f"{BOOK}{_program.program_id():016x}" if _program.is_attached() else ""
    for name in os.listdir(FOLDER):
        if not name.startswith(BOOK) or name.startswith(own or " "):
            continue
        path = f"{FOLDER}/{name}"
        try:
            facts = os.lstat(path)
            if facts.st_uid != os.geteuid() or not stat.S_ISREG(facts.st_mode):
                continue
            if name.endswith(".new"):
                if not os.path.exists(path.removesuffix(".new")):
                    os.unlink(path)
                continue
            if word is not None and word not in _text(path):
                continue
            with Book(path, wait=False) as book:
                if book.fd >= 0:
                    _tidy(book, (), unless_open=True)
        except (OSError, ValueError):
            continue


def _text(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return file.read()


def _tidy(book: Book, leaving: tuple[int, ...], unless_open: bool) -> None:
    head, entries = book.read()
    if entries:
        if len(head) != 5 or _is_alive(head, entries, leaving):
            return
        entries = {name: entry for name, entry in entries.items() if not _remove(entry, unless_open)}
    book.rewrite(entries)


def _is_alive(head: list[str], entries: dict[str, Entry], leaving: tuple[int, ...]) -> bool:
    """Whether a process other than those maps that arena, or might, for all that can be seen from here."""
    _, namespace, major, minor, inode = head
    try:
        if str(os.stat("/proc/self/ns/pid").st_ino) != namespace:
            return True
        if os.readlink("/proc/self") != str(os.getpid()):  # /proc is of another namespace
            return True
        makers = [str(entry.pid) for entry in entries.values()]
        mapping = f" {int(major):02x}:{int(minor):02x} {inode} ".encode()
        pids = _each_once(makers, os.listdir("/proc"))
        return any(_maps(pid, mapping) for pid in pids if int(pid) not in leaving)
    except OSError:
        return True


def _each_once(first: list[str], others: list[str]) -> Iterator[str]:
    yield from dict.fromkeys(first)
    yield from (pid for pid in others if pid.isdigit())


def _maps(pid: str, mapping: bytes) -> bool:
    try:
        return mapping in _text(f"/proc/{pid}/maps")
    except OSError:
        return False  # it is gone, or of another user
