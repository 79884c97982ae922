# As in the introduction, which the formatter and the linters leave alone.
# fmt: off
# ruff: noqa
# mypy: ignore-errors
from processing import Process, Lock

def f(l, i):
    l.acquire()
    print('hello world', i)
    l.release()

if __name__ == '__main__':
    lock = Lock()

    for num in range(10):
        Process(target=f, args=[lock, num]).start()
