"""Read the picture that the C program rendered, measure it, and save it as PNG.

    build/release/examples/example_mandelbrot 4000 out/mandelbrot.pgm
    python examples/python/mandelbrot.py [out/mandelbrot.pgm]

allcores cannot render it from Python yet: that needs compiled loops (jit,
vectorize), which are not there. So C renders, and Python does what it can do
today: sums over the pixels, as a whole and row by row. The PNG lies beside the
image; Python's zlib writes it.
"""

import struct
import sys
import zlib
from pathlib import Path
from time import perf_counter

import allcores as ac
import numpy as np


def read_pgm(path):
    """Return the pixels of a binary PGM as a read-only map of the file."""
    with open(path, "rb") as file:
        header = [file.readline() for _ in range(3)]
        offset = file.tell()
    if header[0].strip() != b"P5" or header[2].strip() != b"255":
        sys.exit(f"{path} is not a PGM image as example_mandelbrot writes it")
    columns, rows = map(int, header[1].split())
    return np.memmap(path, np.uint8, "r", offset, (rows, columns))


def write_png(path, pixels):
    """Write grey pixels, rows by columns of uint8."""

    def chunk(kind, data):
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    rows, columns = pixels.shape
    lines = np.zeros((rows, columns + 1), np.uint8)  # each begins with its filter: 0
    lines[:, 1:] = pixels
    header = struct.pack(">IIBBBBB", columns, rows, 8, 0, 0, 0, 0)
    parts = [
        b"\x89PNG\r\n\x1a\n",
        chunk(b"IHDR", header),
        chunk(b"IDAT", zlib.compress(lines.tobytes(), 1)),
        chunk(b"IEND", b""),
    ]
    Path(path).write_bytes(b"".join(parts))


def timed(call, rounds=3):
    """Return what `call` returns, and the least time of some rounds in ms."""
    times = []
    for _ in range(rounds):
        begun = perf_counter()
        value = call()
        times.append(perf_counter() - begun)
    return value, min(times) * 1e3


def require(is_right, what):
    if not is_right:
        sys.exit(f"wrong: {what}")


def measure(pixels):
    with ac.threads(1):
        alone, serial_ms = timed(lambda: ac.sum(pixels))
    ours, ours_ms = timed(lambda: ac.sum(pixels))
    numpys, numpy_ms = timed(lambda: np.sum(pixels))
    require(ours == alone == numpys, "the sums of the pixels differ")
    print(
        f"sum of {pixels.size:,} pixels: ours {ours_ms:.1f} ms, on one thread "
        f"{serial_ms:.1f} ms, NumPy {numpy_ms:.1f} ms"
    )
    print(f"sum of the pixels: {ours}")

    by_row, ours_ms = timed(lambda: [ac.sum(row) for row in pixels])
    numpys, numpy_ms = timed(lambda: pixels.sum(axis=1, dtype=np.int64))
    require(by_row == numpys.tolist(), "the sums of the rows differ")
    print(
        f"each of {len(pixels):,} rows: ours, a call a row, {ours_ms:.1f} ms; "
        f"NumPy in one call {numpy_ms:.1f} ms"
    )

    inside, ours_ms = timed(lambda: ac.sum(pixels == 0))
    numpys, numpy_ms = timed(lambda: np.count_nonzero(pixels == 0))
    require(inside == numpys, "the counts differ")
    print(
        f"in the set: {inside / pixels.size:.2%} of the pixels; counted by ours in "
        f"{ours_ms:.1f} ms, NumPy {numpy_ms:.1f} ms, the comparison included"
    )


def main(arguments):
    image = Path(arguments[0] if arguments else "out/mandelbrot.pgm")
    if not image.exists():
        sys.exit(
            f"there is no {image}: render it with "
            f"build/release/examples/example_mandelbrot 4000 {image}"
        )
    pixels = read_pgm(image)
    measure(pixels)
    png = image.with_suffix(".png")
    write_png(png, pixels)
    print(f"written: {png}")


if __name__ == "__main__":
    main(sys.argv[1:])
