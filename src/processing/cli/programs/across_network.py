# Shown as it is, in the introduction's style, which the formatter and the linters leave alone.
# fmt: off
# ruff: noqa
# mypy: ignore-errors
import os, queue, subprocess, sys
from processing import Process
from processing.managers import BaseManager

COUNT, WORKERS, SECONDS = 1000, 2, 15
TASKS, RESULTS = queue.Queue(), queue.Queue()           # used in the server process

def tasks():
    return TASKS

def results():
    return RESULTS

class WorkManager(BaseManager):
    pass

WorkManager.register('tasks', tasks)
WorkManager.register('results', results)

def work(tasks, results):
    while (number := tasks.get(timeout=SECONDS)) is not None:
        results.put((number, [d for d in range(1, number + 1) if number % d == 0]))

def client():                                           # this side has the workers
    print('here', flush=True)
    host, port, key = input().split()
    if host != '127.0.0.1':
        run('ip link set lo up', 'ip addr add 10.77.0.2/24 dev cable1', 'ip link set cable1 up')
    manager = WorkManager(address=(host, int(port)), authkey=bytes.fromhex(key))
    manager.connect()
    tasks, results = manager.tasks(), manager.results()
    workers = [Process(target=work, args=[tasks, results]) for _ in range(WORKERS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

def server(host):                                       # this side has the queues
    apart = ['unshare', '--net'] if host != '127.0.0.1' else []
    with subprocess.Popen([*apart, sys.executable, __file__, 'client'], text=True,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        if apart:                                       # a cable between the two, plugged in on this side
            run(f'ip link add cable0 type veth peer name cable1 netns {other.pid}',
                'ip link set lo up', 'ip addr add 10.77.0.1/24 dev cable0', 'ip link set cable0 up')
        key = os.urandom(16)
        with WorkManager(address=(host, 0), authkey=key) as manager:
            other.stdin.write(f'{host} {manager.address[1]} {key.hex()}\n')
            other.stdin.flush()
            tasks, results = manager.tasks(), manager.results()
            for number in [*range(1, COUNT + 1), *[None] * WORKERS]:
                tasks.put(number)
            divisors = dict(results.get(timeout=SECONDS) for _ in range(COUNT))
            other.wait(SECONDS)
    print('perfect numbers:', *sorted(n for n in divisors if sum(divisors[n]) == 2 * n))

def run(*commands):
    for command in commands:
        subprocess.run(command.split(), check=True, timeout=SECONDS)

def namespaces():
    """The command that makes a network namespace: interfaces of its own, like another machine. None: not allowed."""
    for command in (['unshare', '--map-root-user', '--net'], ['unshare', '--net']):
        attempt = [*command, 'ip', 'link', 'add', 'cable0', 'type', 'veth', 'peer', 'name', 'cable1']
        try:
            if subprocess.run(attempt, stderr=subprocess.DEVNULL, timeout=SECONDS).returncode == 0:
                return command
        except OSError:
            pass

if __name__ == '__main__':
    os.environ['PATH'] += ':/usr/sbin:/sbin'
    if sys.argv[1:] == ['client']:
        client()
    elif sys.argv[1:]:
        server(sys.argv[1])
    elif apart := namespaces():
        print('server and client in two network namespaces')
        sys.stdout.flush()
        subprocess.run([*apart, sys.executable, __file__, '10.77.0.1'], check=True, timeout=3 * SECONDS)
    else:
        print('server and client on the loopback interface: network namespaces are not allowed here')
        server('127.0.0.1')
