"""The program whose pools the speed table starts: a script of its own, as users have them.

    python starting_pools.py MODULE METHOD COUNT      prints the seconds until COUNT pools of two workers were ready

Ready: both workers have answered. Each runs a call that ends when the other one runs its own: they open the two ends of
a named pipe, each of which blocks until the other is open. A first pool, which starts the fork server, does not count.
"""

import importlib
import os
import sys
import tempfile
import time


def meet(path: str, flags: int) -> None:
    """What both workers do."""
    os.close(os.open(path, flags))


def main(module: str, method: str, count: int) -> float:
    make_pool = importlib.import_module(module).get_context(method).Pool
    seconds = 0.0
    with tempfile.TemporaryDirectory(prefix="processing-bench-") as folder:
        path = f"{folder}/fifo"
        os.mkfifo(path)
        for number in range(1 + count):
            start = time.perf_counter()
            pool = make_pool(2)
            results = [pool.apply_async(meet, (path, flags)) for flags in (os.O_RDONLY, os.O_WRONLY)]
            for result in results:
                result.get()
            if number:
                seconds += time.perf_counter() - start
            pool.terminate()
            pool.join()
    return seconds


if __name__ == "__main__":
    print(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
