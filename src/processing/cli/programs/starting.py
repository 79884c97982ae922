"""The program whose processes the speed table starts and joins: a script of its own, as users have them.

    python starting.py MODULE METHOD COUNT      prints the seconds that COUNT processes took, after a first one

The target is the script's. Under spawn and forkserver its children need this file, which imports next to nothing.
"""

import importlib
import sys
import time


def nothing() -> None:
    """What the processes do."""


def main(module: str, method: str, count: int) -> float:
    peer = importlib.import_module(module)
    start_one = peer.Thread if module == "threading" else peer.get_context(method).Process
    start = 0.0
    for number in range(1 + count):
        if number == 1:
            start = time.perf_counter()
        process = start_one(target=nothing)
        process.start()
        process.join()
        if getattr(process, "exitcode", 0):
            raise SystemExit(f"the process ended with exit code {process.exitcode}")
    return time.perf_counter() - start


if __name__ == "__main__":
    print(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
