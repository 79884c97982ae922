"""Starts uvicorn with two workers, asks it until both have answered and 400 times at least, and stops it.

python serve.py [-m processing run]: the arguments stand between the interpreter and `-m uvicorn`.
"""

import http.client
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

LIMIT = 60.0


def ask(port: int, body: bytes) -> tuple[int, int]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT)
    try:
        connection.request("POST", "/", body)
        pid, total = connection.getresponse().read().split()
        return int(pid), int(total)
    finally:
        connection.close()


def main() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, *sys.argv[1:], "-m", "uvicorn", "application:application", "--workers", "2"]
    command += ["--port", str(port), "--log-level", "error", "--app-dir", str(Path(__file__).parent)]
    server = subprocess.Popen(command)
    try:
        end = time.monotonic() + LIMIT
        pids: set[int] = set()
        right = asked = 0
        while len(pids) < 2 or asked < 400:
            body = bytes(range(asked % 256))
            try:
                pid, total = ask(port, body)
            except OSError:  # not there yet
                if time.monotonic() > end or server.poll() is not None:
                    sys.exit("no answer")
                time.sleep(0.005)
                continue
            if time.monotonic() > end:
                sys.exit("only one worker ever answered")
            pids.add(pid)
            asked += 1
            right += total == sum(body)
    finally:
        server.send_signal(signal.SIGTERM)
        status = server.wait(LIMIT)
    print(len(pids) == 2, server.pid in pids, right == asked, status)


if __name__ == "__main__":
    main()
