# As in the introduction, which the formatter and the linters leave alone.
# fmt: off
# ruff: noqa
# mypy: ignore-errors
from processing import Process

def f(name):
    print('hello', name)

if __name__ == '__main__':
    p = Process(target=f, args=['bob'])
    p.start()
    p.join()
