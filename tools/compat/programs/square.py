"""Calls of several lengths through tqdm's process_map, and as many through a ProcessPoolExecutor of its own."""

import concurrent.futures
import math

from tqdm.contrib.concurrent import process_map


def work(n: int) -> float:
    return sum(math.sqrt(i) for i in range(n % 20_000))


if __name__ == "__main__":
    numbers = [(n * 7919) % 40_000 for n in range(1_500)]
    print(sum(process_map(work, numbers, max_workers=2, chunksize=5, disable=True)))
    with concurrent.futures.ProcessPoolExecutor(2) as pool:
        print(sum(pool.map(work, numbers[:300])), pool.submit(work, 1_000).result())
