# As in the introduction, which the formatter and the linters leave alone.
# fmt: off
# ruff: noqa
# mypy: ignore-errors
from processing import Process, LocalManager

def f(n, s, a):
    n.value = 42
    s.value = (0.75, 'hello')
    for i in range(len(a)):
        a[i] = -a[i]

if __name__ == '__main__':
    manager = LocalManager()

    number = manager.SharedValue('i', 0)
    struct = manager.SharedStruct('d256p', (0.0, ''))
    array = manager.SharedArray('i', range(10))

    p = Process(target=f, args=[number, struct, array])
    p.start()
    p.join()

    print(number)
    print(struct)
    print(array)
