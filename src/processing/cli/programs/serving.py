"""The server that the speed table reaches over TCP: a program of its own, with which the client shares nothing.

    python serving.py MODULE KEY      prints the port, and serves a manager of MODULE until it is terminated

KEY is the authentication key, in hexadecimal digits. It ends with its parent, too, whose end it notices on stdin.
"""

import importlib
import os
import sys
import threading


def end_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)


def main(module: str, key: bytes) -> None:
    manager = importlib.import_module(f"{module}.managers").SyncManager(("127.0.0.1", 0), key)
    server = manager.get_server()
    print(server.address[1], flush=True)
    threading.Thread(target=end_with_parent, daemon=True).start()
    server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1], bytes.fromhex(sys.argv[2]))
