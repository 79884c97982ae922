"""Listener and Client: families, authentication, hostile peers, TLS, forks, the standard library at the other end."""

from __future__ import annotations

import glob
import os
import resource
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import processing.listener
from helpers import LIMIT, SHORT, take_seconds
from processing import AuthenticationError
from processing.connection import Client, Listener, address_type, arbitrary_address
from processing.socketconnection import SocketConnection

KEY = b"the key of these tests"
PYENV = os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv")
PYTHONS = [
    path
    for path in sorted(glob.glob(f"{PYENV}/versions/3.*/bin/python"))
    if tuple(map(int, Path(path).parts[-3].split(".")[:2])) >= (3, 11)
] or [pytest.param("", marks=pytest.mark.skip(reason="no interpreters of pyenv here"))]

FAMILIES = ["AF_UNIX", "path", "AF_INET", "AF_INET6"]


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.fixture(params=FAMILIES)
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """What to give a Listener as address and family."""
    if request.param == "AF_INET6" and not has_ipv6():
        pytest.skip("no IPv6 here")
    return (str(tmp_path / "socket"), None) if request.param == "path" else (None, request.param)


class Doing:
    """A function in a thread; `result()` is what it returned, or raises what it raised."""

    def __init__(self, function: Callable[..., Any], *args: Any, **options: Any) -> None:
        self.outcome: Any = None
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self.run, args=(function, args, options))
        self.thread.start()

    def run(self, function: Callable[..., Any], args: Any, options: Any) -> None:
        try:
            self.outcome = function(*args, **options)
        except BaseException as error:
            self.error = error

    def result(self) -> Any:
        self.thread.join(LIMIT)
        assert not self.thread.is_alive()
        if self.error is not None:
            raise self.error
        return self.outcome


def connect(listener: Listener) -> socket.socket:
    """A bare socket."""
    family = socket.AF_UNIX if isinstance(listener.address, str) else socket.AF_INET
    sock = socket.socket(family)
    sock.settimeout(LIMIT)
    sock.connect(listener.address)
    return sock


def frame(data: bytes) -> bytes:
    return struct.pack(">i", len(data)) + data


def serve_one(listener: Listener, **options: Any) -> None:
    """A client of ours gets in."""
    client = Doing(Client, listener.address, authkey=KEY, **options)
    with listener.accept(LIMIT) as accepted, client.result() as connection:
        connection.send("ping")
        assert accepted.recv() == "ping"
        accepted.send("pong")
        assert connection.recv() == "pong"
        assert accepted.peer_is_processing and connection.peer_is_processing


# ---- What it is for -------------------------------------------------------------------------------------------------


def test_families(where: Any) -> None:
    with Listener(*where, authkey=KEY) as listener:
        serve_one(listener)
        assert isinstance(listener.address, str) == (where[1] in (None, "AF_UNIX"))
        assert repr(listener.address) in repr(listener)
        if where[1] in ("AF_INET", "AF_INET6"):
            assert listener.last_accepted[0] in ("127.0.0.1", "::1")
    assert "closed" in repr(listener)
    with pytest.raises(OSError, match="closed"):
        listener.accept()
    with pytest.raises(ConnectionRefusedError if where[0] is None else FileNotFoundError):
        Client(where[0] or listener._address, authkey=KEY)
    listener.close()


def test_without_a_key(where: Any) -> None:
    with Listener(*where) as listener:
        with Client(listener.address) as connection, listener.accept(LIMIT) as accepted:
            connection.send(1)
            assert accepted.recv() == 1
            assert not accepted.peer_is_processing


def test_addresses() -> None:
    assert address_type("/a") == address_type("\0a") == address_type(b"\0a") == "AF_UNIX"
    assert address_type(("localhost", 1)) == "AF_INET"
    assert address_type(("::1", 1)) == address_type(("::1", 1, 0, 0)) == "AF_INET6"
    for wrong in (7, b"path", None):
        with pytest.raises(ValueError):
            address_type(wrong)
    for family in ("AF_UNIX", "AF_INET", "AF_INET6"):
        assert address_type(arbitrary_address(family)) == family
    for wrong_family in ("AF_PIPE", "x"):
        with pytest.raises(ValueError):
            arbitrary_address(wrong_family)
        with pytest.raises(ValueError):
            Listener(None, wrong_family)


def test_keys_are_checked_first() -> None:
    for make in (lambda key: Listener(authkey=key), lambda key: Client("\0nobody", authkey=key)):
        with pytest.raises(TypeError, match="authkey"):
            make("text")
        with pytest.raises(ValueError, match="empty"):
            make(b"")


def test_nothing_is_left_of_an_address(tmp_path: Path) -> None:
    with Listener() as listener:
        assert listener.address.startswith("\0")
    path = tmp_path / "socket"
    with Listener(str(path)) as listener:
        with pytest.raises(OSError, match="remove the file"):
            Listener(str(path))
        assert path.exists()
    assert not path.exists()
    with Listener(str(path)):
        path.unlink()
        path.write_text("somebody else's")
    assert path.exists()
    path.unlink()
    program = f"from processing.connection import Listener; keep = Listener({str(path)!r})"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=LIMIT)
    assert not path.exists()


def times_out(listener: Listener, seconds: float) -> None:
    with pytest.raises(TimeoutError):
        listener.accept(seconds)


def test_timeouts() -> None:
    with Listener(authkey=KEY) as listener:
        seconds, _ = take_seconds(lambda: times_out(listener, SHORT))
        assert SHORT * 0.9 <= seconds < LIMIT
        with pytest.raises(TimeoutError):
            listener.accept(0)
        with pytest.raises(TimeoutError, match="stalls"):
            Client(listener.address, authkey=KEY, timeout=SHORT)
    with Listener(backlog=0) as listener, Client(listener.address):
        with pytest.raises(TimeoutError, match="backlog"):
            Client(listener.address, timeout=SHORT)


def test_descriptor_tells_when_to_accept() -> None:
    with Listener(authkey=KEY) as listener:
        client = Doing(Client, listener.address, authkey=KEY)
        while True:
            assert processing.connection.wait([listener], LIMIT) == [listener]
            try:
                accepted = listener.accept(timeout=0)
                break
            except TimeoutError:
                pass
        accepted.close()
        client.result().close()
        assert processing.connection.wait([listener], 0) == []


def test_data_right_behind_the_handshake() -> None:
    """accept() reads not a byte of what follows."""
    with Listener(authkey=KEY, max_message=100_000) as listener:

        def client() -> None:
            with Client(listener.address, authkey=KEY) as connection:
                connection.send("first")
                connection.send_bytes(bytes(100_001))

        doing = Doing(client)
        with listener.accept(LIMIT) as accepted:
            assert accepted.recv() == "first"
            with pytest.raises(OSError, match="max_message"):
                accepted.recv()
        doing.thread.join(LIMIT)


def test_close_wakes_accept() -> None:
    listener = Listener(authkey=KEY)
    accepting = Doing(listener.accept)
    while listener._left == 0 or not accepting.thread.is_alive():
        time.sleep(0.001)
    time.sleep(SHORT)
    listener.close()
    with pytest.raises(OSError, match="closed"):
        accepting.result()


def test_threads_take_turns() -> None:
    with Listener(authkey=KEY) as listener:
        accepting = [Doing(listener.accept, LIMIT) for _ in range(4)]
        clients = [Doing(Client, listener.address, authkey=KEY) for _ in range(4)]
        for doing in accepting + clients:
            doing.result().close()


# ---- Keys and users -------------------------------------------------------------------------------------------------


def test_wrong_key(where: Any) -> None:
    with Listener(*where, authkey=KEY) as listener:
        client = Doing(Client, listener.address, authkey=b"wrong")
        with pytest.raises(AuthenticationError, match="different keys"):
            listener.accept(LIMIT)
        with pytest.raises(AuthenticationError, match="different keys"):
            client.result()
        serve_one(listener)


def test_a_client_without_a_key_or_a_listener_without_one() -> None:
    with Listener(authkey=KEY) as listener, Client(listener.address) as connection:
        connection.send("let me in")
        with pytest.raises(AuthenticationError):
            listener.accept(LIMIT)
    with Listener() as listener:
        client = Doing(Client, listener.address, authkey=KEY)
        with listener.accept(LIMIT) as accepted:
            accepted.send("welcome")
            with pytest.raises(AuthenticationError, match="use a key"):
                client.result()
    with Listener() as listener:
        client = Doing(Client, listener.address, authkey=KEY)
        listener.accept(LIMIT).close()
        with pytest.raises(EOFError, match="key"):
            client.result()


def test_replayed_challenge() -> None:
    """A peer that has only what we sent ourselves: it answers with our challenge, and with a recorded answer."""
    with Listener(authkey=KEY) as listener:
        for _ in range(2):
            with connect(listener) as sock:
                with pytest.raises(TimeoutError):
                    listener.accept(0)
                challenge = sock.recv(1000)
                sock.sendall(challenge)
                with pytest.raises(AuthenticationError):
                    listener.accept(LIMIT)
        serve_one(listener)


def test_who_may_connect(tmp_path: Path) -> None:
    seen = []

    def nobody(credentials: Any) -> bool:
        seen.append(credentials)
        return False

    for address in (None, str(tmp_path / "socket")):
        with Listener(address, check_peer=nobody) as listener, connect(listener) as sock:
            with pytest.raises(TimeoutError):
                listener.accept(SHORT)
            assert sock.recv(1) == b""
            assert seen.pop() == (os.getpid(), os.getuid(), os.getgid())
    with pytest.raises(ValueError, match="abstract"):
        Listener(check_peer=False)
    with Listener(str(tmp_path / "socket"), check_peer=False) as listener, Client(listener.address):
        listener.accept(LIMIT).close()
    with Listener() as listener, pytest.raises(AuthenticationError, match="another user"):
        Client(listener.address, check_peer=nobody)


def test_only_our_user_and_root(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = processing.socketaddresses
    for uid, allowed in ((os.geteuid(), True), (0, True), (os.geteuid() + 1, False)):
        made = addresses.credentials_of
        monkeypatch.setattr(addresses, "credentials_of", lambda sock, uid=uid: _Uid(uid))
        first, second = socket.socketpair()
        with first, second:
            assert addresses.is_welcome(first, True) is allowed
        monkeypatch.setattr(addresses, "credentials_of", made)


class _Uid:
    def __init__(self, uid: int) -> None:
        self.uid = uid


# ---- Bad peers ------------------------------------------------------------------------------------------------------

BAD = {
    "nothing": b"",
    "truncated header": b"\0\0",
    "truncated message": frame(bytes(100))[:-1],
    "too long": struct.pack(">i", 257) + bytes(257),
    "far too long": struct.pack(">i", 2**31 - 1),
    "long form": struct.pack(">iQ", -1, 5) + b"hello",
    "negative": struct.pack(">i", -5),
    "empty": frame(b"") * 10,
    "http": b"GET / HTTP/1.0\r\n\r\n",
    "zeros": bytes(10_000),
}


@pytest.mark.parametrize("what", sorted(BAD))
def test_garbage(what: str) -> None:
    """Such peers are dropped; accept goes on."""
    with Listener(None, "AF_INET", authkey=KEY) as listener:
        with connect(listener) as sock:
            sock.sendall(BAD[what])
            sock.shutdown(socket.SHUT_WR)
            serve_one(listener)
            with pytest.raises(TimeoutError):
                listener.accept(SHORT)
            assert not listener._pending


def test_a_peer_that_does_not_finish() -> None:
    """Half-open, and a byte now and then: the deadline holds for the whole handshake."""
    with Listener(authkey=KEY, handshake_timeout=0.2) as listener:
        with connect(listener) as silent, connect(listener) as slow:
            gone = threading.Event()

            def drip() -> None:
                try:
                    for byte in frame(bytes(200)):
                        slow.send(bytes([byte]))
                        gone.wait(0.01)
                except OSError:
                    gone.set()

            doing = Doing(drip)
            seconds, _ = take_seconds(lambda: times_out(listener, 0.6))
            assert seconds >= 0.5
            assert not listener._pending
            doing.result()
            assert gone.is_set()
            assert silent.recv(1000).startswith(b"\0\0\0")
            assert silent.recv(1) == b""
        serve_one(listener)


def test_time_outside_accept_does_not_count() -> None:
    with Listener(authkey=KEY, handshake_timeout=0.3) as listener:
        with connect(listener):
            with pytest.raises(TimeoutError):
                listener.accept(0)
            time.sleep(0.4)
            with pytest.raises(TimeoutError):
                listener.accept(0)
            assert len(listener._pending) == 1


def test_500_silent_clients() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    silent: list[socket.socket] = []
    try:
        with Listener(authkey=KEY, backlog=1000) as listener:
            silent += [connect(listener) for _ in range(500)]
            seconds, _ = take_seconds(lambda: serve_one(listener))
            assert seconds < 1
            assert len(listener._pending) == 500
            seconds, _ = take_seconds(lambda: serve_one(listener))
            assert seconds < 1
    finally:
        for sock in silent:
            sock.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_no_more_than_so_many_pending(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processing.listener, "MAX_PENDING", 3)
    with Listener(authkey=KEY) as listener:
        socks = [connect(listener) for _ in range(5)]
        with pytest.raises(TimeoutError):
            listener.accept(0)
        assert len(listener._pending) == 3
        for index, sock in enumerate(socks):
            sock.setblocking(False)
            sock.recv(1000)  # the challenge
            if index < 2:
                assert sock.recv(1) == b""
            else:
                with pytest.raises(BlockingIOError):
                    sock.recv(1)
            sock.close()


def test_descriptors_run_out() -> None:
    """Those that pend are dropped for those that come."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Listener(authkey=KEY) as listener:
        socks = [connect(listener) for _ in range(6)]
        with pytest.raises(TimeoutError):
            listener.accept(0)
        socks.append(connect(listener))
        fillers = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 50, hard))
        try:
            try:
                while True:
                    fillers.append(os.dup(0))
            except OSError:
                pass
            with pytest.raises(TimeoutError):
                listener.accept(0)
            assert len(listener._pending) == 6
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for fd in fillers:
                os.close(fd)
        for sock in socks:
            sock.close()


# ---- Forks ----------------------------------------------------------------------------------------------------------


def test_fork_inheritance() -> None:
    """Parent and child accept from one listener; clients that pend stay with the parent."""
    with Listener(authkey=KEY) as listener:
        with connect(listener) as pending:
            with pytest.raises(TimeoutError):
                listener.accept(0)
            assert len(listener._pending) == 1
            pid = os.fork()
            if pid == 0:
                try:
                    with listener.accept(LIMIT) as accepted:
                        accepted.send(os.getpid())
                        accepted.recv()
                    listener.close()
                    os._exit(0)
                finally:
                    os._exit(1)
            with Client(listener.address, authkey=KEY) as connection:
                assert connection.recv() == pid
                connection.send("go")
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            assert len(listener._pending) == 1
            pending.settimeout(LIMIT)
            assert pending.recv(1000)
            serve_one(listener)


def test_a_child_does_not_remove_the_path(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with Listener(str(path), authkey=KEY) as listener:
        pid = os.fork()
        if pid == 0:
            listener.close()
            os._exit(0)
        os.waitpid(pid, 0)
        assert path.exists()
        serve_one(listener)


def accept_and_close(listener: Listener) -> None:
    with listener, listener.accept(LIMIT) as accepted:
        accepted.send(os.getpid())


def test_in_the_arguments_of_a_process(start_method: Any, tmp_path: Path) -> None:
    """A listener there accepts, and closing it leaves the path to the process that made it."""
    path = tmp_path / "socket"
    with Listener(str(path), authkey=KEY) as listener:
        process = start_method.Process(target=accept_and_close, args=[listener])
        process.start()
        with Client(listener.address, authkey=KEY) as connection:
            assert connection.recv() == process.pid
        process.join(LIMIT)
        assert process.exitcode == 0
        process.close()
        assert path.exists()
        serve_one(listener)
    assert not path.exists()


# ---- TLS ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca.pem signs both server.pem (for localhost) and client.pem; rogue.pem is signed by nobody."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl command here")
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True, timeout=LIMIT)

    new = ("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    # What VERIFY_X509_STRICT asks for, which is on by default from Python 3.13 on.
    (folder / "names").write_text(
        "subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n"
        "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
    )
    authority = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")
    for name in ("ca", "rogue"):
        files = ("-keyout", f"{name}.key", "-out", f"{name}.pem")
        openssl(*new, "-x509", *files, "-subj", f"/CN={name}", *authority)
    for name in ("server", "client"):
        openssl(*new, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        openssl(
            *("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"),
            *("-out", f"{name}.pem", "-days", "2", "-extfile", "names"),
        )
    return folder


def server_context(folder: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(folder / "ca.pem"))
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(folder: Path, name: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    if name is not None:
        context.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
    return context


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls(certificates: Path, version: ssl.TLSVersion) -> None:
    context = client_context(certificates, "client")
    context.minimum_version = context.maximum_version = version
    with Listener(("localhost", 0), authkey=KEY, ssl_context=server_context(certificates)) as listener:
        with connect(listener):  # a silent one
            client = Doing(Client, ("localhost", listener.address[1]), authkey=KEY, ssl_context=context)
            with listener.accept(LIMIT) as accepted, client.result() as connection:
                assert "TLS" in repr(accepted)
                with pytest.raises(TypeError, match="TLS connection cannot be sent"):
                    processing.Queue().put(accepted)
                assert not accepted.poll()
                assert not connection.poll(SHORT)  # what came is TLS's own
                connection.send("small")
                assert accepted.poll(LIMIT) and accepted.recv() == "small"
                data = os.urandom(3 << 20)
                senders = [Doing(end.send_bytes, data) for end in (accepted, connection)]  # both ways at once
                assert accepted.recv_bytes() == data and connection.recv_bytes() == data
                for sender in senders:
                    sender.result()
                connection.send(1)
                connection.send(2)
                assert accepted.recv() == 1
                assert processing.connection.wait([accepted], LIMIT) == [accepted]
                assert accepted.recv() == 2
                connection.close()
                assert accepted.poll(LIMIT)
                with pytest.raises(EOFError):
                    accepted.recv()


@pytest.mark.parametrize("name", [None, "rogue"])
def test_tls_clients_need_a_certificate(certificates: Path, name: str | None) -> None:
    with Listener(("localhost", 0), authkey=KEY, ssl_context=server_context(certificates)) as listener:
        address = ("localhost", listener.address[1])
        client = Doing(Client, address, authkey=KEY, ssl_context=client_context(certificates, name))
        with pytest.raises(TimeoutError):
            listener.accept(0.3)
        with pytest.raises(OSError):
            client.result()
        client = Doing(Client, address, authkey=KEY, ssl_context=client_context(certificates, "client"))
        listener.accept(LIMIT).close()
        client.result().close()


def test_tls_with_a_plain_peer(certificates: Path) -> None:
    with Listener(("localhost", 0), authkey=KEY, ssl_context=server_context(certificates)) as listener:
        client = Doing(Client, ("localhost", listener.address[1]), authkey=KEY, timeout=0.3)
        with pytest.raises(TimeoutError):
            listener.accept(0.5)
        with pytest.raises(TimeoutError):
            client.result()


# ---- The standard library -------------------------------------------------------------------------------------------

THEIR_CLIENT = """
    import sys
    from multiprocessing import AuthenticationError
    from multiprocessing.connection import Client
    try:
        connection = Client(eval(sys.argv[1]), authkey=eval(sys.argv[2]))
    except AuthenticationError:
        sys.exit(3)
    connection.send(["hello", sys.version_info[:2]])
    connection.send_bytes(connection.recv_bytes()[::-1])
"""
THEIR_LISTENER = """
    import sys
    from multiprocessing import AuthenticationError
    from multiprocessing.connection import Listener
    listener = Listener(eval(sys.argv[1]), authkey=eval(sys.argv[2]))
    print(repr(listener.address), flush=True)
    try:
        connection = listener.accept()
    except AuthenticationError:
        sys.exit(3)
    connection.send(["hello", sys.version_info[:2]])
    connection.send_bytes(connection.recv_bytes()[::-1])
"""


@pytest.fixture
def run() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Runs a program with another interpreter."""
    started: list[subprocess.Popen[str]] = []

    def start(python: str, program: str, *args: object) -> subprocess.Popen[str]:
        words = [python, "-c", textwrap.dedent(program), *map(repr, args)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        started.append(subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def talk(connection: SocketConnection, process: subprocess.Popen[str]) -> None:
    with connection:
        hello, version = connection.recv()
        assert hello == "hello" and version >= (3, 11)
        data = os.urandom(1 << 20)
        connection.send_bytes(data)
        assert connection.recv_bytes() == data[::-1]
        assert not connection.peer_is_processing
        assert process.wait(LIMIT) == 0
        with pytest.raises(EOFError):
            connection.recv()


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("kind", ["abstract", "path", "AF_INET"])
def test_their_client(python: str, kind: str, tmp_path: Path, run: Any) -> None:
    address = {"abstract": None, "path": str(tmp_path / "socket"), "AF_INET": ("localhost", 0)}[kind]
    with Listener(address, authkey=KEY) as listener:
        process = run(python, THEIR_CLIENT, listener.address, KEY)
        talk(listener.accept(LIMIT), process)
        process = run(python, THEIR_CLIENT, listener.address, b"wrong")
        with pytest.raises(AuthenticationError):
            listener.accept(LIMIT)
        assert process.wait(LIMIT) == 3


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("kind", ["abstract", "path", "AF_INET"])
def test_their_listener(python: str, kind: str, tmp_path: Path, run: Any) -> None:
    address = {
        "abstract": arbitrary_address("AF_UNIX"),
        "path": str(tmp_path / "socket"),
        "AF_INET": ("localhost", 0),
    }
    process = run(python, THEIR_LISTENER, address[kind], KEY)
    talk(Client(eval(process.stdout.readline()), authkey=KEY), process)
    process = run(python, THEIR_LISTENER, address[kind], KEY)
    with pytest.raises(AuthenticationError, match="different keys"):
        Client(eval(process.stdout.readline()), authkey=b"wrong")
    assert process.wait(LIMIT) == 3


# ---- Fuzzing --------------------------------------------------------------------------------------------------------


@pytest.mark.once
def test_fuzz() -> None:
    program = Path(__file__).with_name("fuzz_listener.py")
    done = subprocess.run(
        [sys.executable, str(program), "--seconds", "2", "--seed", "11"],
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "fuzz: passed" in done.stdout
