# Shown as it is, in the introduction's style, which the formatter and the linters leave alone.
# fmt: off
# ruff: noqa
# mypy: ignore-errors
import struct, sys, zlib
import numpy
from tqdm import tqdm
from processing import Process, Queue, arrays

WIDTH, HEIGHT, LIMIT, WORKERS = 900, 600, 150, 4

def render(image, rows, done):
    numpy.seterr(all='ignore')
    t = (numpy.arange(LIMIT + 1) / LIMIT) ** 0.5
    palette = 255 * numpy.stack([9 * (1-t) * t**3, 15 * (1-t)**2 * t**2, 8.5 * (1-t)**3 * t], axis=1)
    x = numpy.linspace(-2.25, 0.75, WIDTH)
    while (row := rows.get()) is not None:
        c = x + 1j * (1 - 2 * row / HEIGHT)
        z, steps = 0 * c, numpy.zeros(WIDTH, int)
        for _ in range(LIMIT):
            z = z * z + c
            steps += abs(z) < 2
        image[row] = palette[steps]         # seen by all processes
        done.put(row)

def save(image, path):
    def chunk(kind, data):
        return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
    lines = numpy.insert(image.reshape(HEIGHT, -1), 0, 0, axis=1)
    with open(path, 'wb') as file:
        file.write(b'\x89PNG\r\n\x1a\n')
        file.write(chunk(b'IHDR', struct.pack('>IIBBBBB', WIDTH, HEIGHT, 8, 2, 0, 0, 0)))
        file.write(chunk(b'IDAT', zlib.compress(lines.tobytes())))
        file.write(chunk(b'IEND', b''))

if __name__ == '__main__':
    path = sys.argv[1] if len(sys.argv) > 1 else 'mandelbrot.png'
    image = arrays.zeros((HEIGHT, WIDTH, 3), 'u1')
    rows, done = Queue(), Queue()
    workers = [Process(target=render, args=[image, rows, done]) for _ in range(WORKERS)]
    for worker in workers:
        worker.start()
    rows.put_many(range(HEIGHT))
    rows.put_many([None] * WORKERS)
    for _ in tqdm(range(HEIGHT), unit='rows', leave=False, disable=None):
        done.get()
    for worker in workers:
        worker.join()
    save(image, path)
    print(f'{WIDTH} x {HEIGHT} pixels by {WORKERS} processes:', path)
