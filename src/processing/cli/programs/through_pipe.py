# As in the introduction, which the formatter and the linters leave alone.
# fmt: off
# ruff: noqa
# mypy: ignore-errors
from processing import Process, Pipe

def f(conn):
    conn.send([42, None, 'hello'])

if __name__ == '__main__':
    parent_conn, child_conn = Pipe()
    p = Process(target=f, args=[child_conn])
    p.start()
    print(parent_conn.recv())   # prints "[42, None, 'hello']"
    p.join()
