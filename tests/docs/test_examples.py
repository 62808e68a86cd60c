"""The examples and the tour run on small sizes and print right answers.

The C programs check their answers against serial loops themselves; here it is
their output that is checked. `meson test` runs them too, also under sanitizers.
"""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
import zlib

import pytest
from blocks import BUILD, ROOT, TIMEOUT_S

FIGURES = (
    r"ours \d+\.\d ms, serial \d+\.\d ms(, lib(gomp|omp) \d+\.\d ms)?; "
    r"ours / serial \d+\.\d\d(, ours / lib(gomp|omp) \d+\.\d\d| \(built without.*\))\n"
)


def run(*command) -> subprocess.CompletedProcess:
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        env=os.environ | {"ALLCORES_BUILD_DIR": str(BUILD)},
    )


def output_of(*command) -> str:
    done = run(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def program(name: str):
    path = BUILD / "examples" / f"example_{name}"
    if not path.exists():
        pytest.skip(f"skipped: {path.name} is not built")
    return path


def steps_outside(re_part: float, im_part: float) -> int:
    """Return the grey of a point, computed once more."""
    z, c = 0j, complex(re_part, im_part)
    for step in range(100):
        if z.real * z.real + z.imag * z.imag >= 16:
            return 255 - 255 * step // 100
        z = complex(
            z.real * z.real - z.imag * z.imag + c.real, 2 * z.real * z.imag + c.imag
        )
    return 0


def test_the_c_mandelbrot_is_the_set(tmp_path):
    size, image = 40, tmp_path / "m.pgm"
    printed = output_of(program("mandelbrot"), size, image)
    pitch = 0.8 / size
    pixels = bytes(
        steps_outside(-0.235 - 0.4 + (col + 0.5) * pitch, 1.227 - (row + 0.5) * pitch)
        for row in range(size)
        for col in range(size)
    )
    header, data = b"P5\n40 40\n255\n", image.read_bytes()
    assert data[: len(header)] == header
    differ = sum(a != b for a, b in zip(data[len(header) :], pixels, strict=True))
    assert differ <= size  # a last bit may decide at the border of the set
    assert re.search(r"^Mandelbrot set, 40 x 40: " + FIGURES, printed)
    assert f"sum of the pixels: {sum(data[len(header) :])}\n" in printed


def test_the_c_sum_finds_the_sum_and_the_moments():
    printed = output_of(program("sum"), 1_000_000)
    assert re.search(r"^sum of 1000000 doubles: " + FIGURES, printed)
    assert re.search(r"^mean and variance of 1000000 .*: " + FIGURES, printed, re.M)
    # Uniform in [0, 1): mean 1/2, variance 1/12, each give or take 4 sigma.
    mean, variance = map(
        float, re.search(r"mean ([\d.]+), variance ([\d.]+)", printed).groups()
    )
    assert abs(mean - 1 / 2) < 0.0012
    assert abs(variance - 1 / 12) < 0.0004
    total = float(re.search(r"the sum: ([\d.]+)", printed).group(1))
    assert abs(total / 1_000_000 - mean) < 1e-6
    assert printed.endswith("on one thread both have the same bits\n")


def test_the_c_fib_counts_rabbits():
    printed = output_of(program("fib"), 15)
    assert re.search(r"^fib\(15\), a task for each call: " + FIGURES, printed)
    assert "fib(15) = 610\n" in printed


def test_the_c_group_counts_primes_searches_and_keeps_its_deadline():
    assert output_of(program("group"), 20_000) == (
        "primes below 20000: 2262\n"
        "first prime from a million on: 1000003; the group: AC_E_CANCELLED\n"
        "after the deadline: AC_E_TIMEOUT\n"
    )


def test_the_c_hello_meets_with_more_threads_than_there_are_cores():
    width = 16
    lines = [f"part {i} ran as worker {i} of {width}" for i in range(width)]
    assert output_of(program("hello"), width) == "\n".join(
        [*lines, f"all {width} met\n"]
    )


def test_the_c_pool_finds_the_longest_way_and_outlives_a_task():
    assert output_of(program("pool"), 100) == (
        "task 0: its worker was ended by signal 6\n"
        "the longest way to 1 from a number up to 100: from 97, 118 steps\n"
    )


@pytest.mark.parametrize("name", ["mandelbrot", "sum", "fib", "group", "hello", "pool"])
def test_a_c_example_refuses_a_size_that_is_none(name):
    done = run(program(name), "many")
    assert done.returncode == 2
    assert done.stderr.startswith("usage: ")


def test_the_python_sum_agrees_with_numpy():
    pytest.importorskip("numpy")
    printed = output_of(sys.executable, ROOT / "examples/python/sum.py", 200_000)
    assert printed.startswith("sum of 200,000 doubles: ours ")
    assert len(printed.splitlines()) == 7


def test_the_python_mandelbrot_reads_the_picture_and_writes_a_png(tmp_path):
    pytest.importorskip("numpy")
    image = tmp_path / "m.pgm"
    from_c = output_of(program("mandelbrot"), 100, image)
    printed = output_of(sys.executable, ROOT / "examples/python/mandelbrot.py", image)
    [total] = re.findall(r"^sum of the pixels: \d+$", from_c, re.M)
    assert total in printed.splitlines()
    pixels = image.read_bytes()[len(b"P5\n100 100\n255\n") :]
    assert read_png(image.with_suffix(".png").read_bytes()) == pixels


def read_png(data: bytes) -> bytes:
    """Return the pixels of a grey PNG of one chunk, each line with filter 0."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = {}, 8
    while at < len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        chunks[kind] = data[at + 8 : at + 8 + length]
        check = struct.unpack_from(">I", data, at + 8 + length)[0]
        assert check == zlib.crc32(kind + chunks[kind])
        at += length + 12
    columns, rows = struct.unpack_from(">II", chunks[b"IHDR"])
    lines = zlib.decompress(chunks[b"IDAT"])
    assert len(lines) == rows * (columns + 1)
    return b"".join(
        lines[row * (columns + 1) + 1 : (row + 1) * (columns + 1)]
        for row in range(rows)
    )


def test_the_tour_runs_every_step(tmp_path):
    pytest.importorskip("numpy")
    program("mandelbrot")
    tour = ROOT / "examples" / "tour.py"
    printed = output_of(sys.executable, tour, "--small", "--out", tmp_path)
    assert "FAILED" not in printed
    for said in (
        "What this machine grants, and why",
        "Mandelbrot set, 200 x 200: ours ",
        "sum of 1000000 doubles: ours ",
        "sum of 1,000,000 doubles: ours ",
        "fib(15) = 610",
        "Planned, and not there yet",
    ):
        assert said in printed
    assert {path.name for path in tmp_path.iterdir()} == {
        "mandelbrot.pgm",
        "mandelbrot.png",
    }


def test_the_tour_says_what_failed_and_ends_with_1(tmp_path):
    pytest.importorskip("numpy")
    tour = ROOT / "examples" / "tour.py"
    done = run(sys.executable, tour, "--small", "--only", "picture", "--out", tmp_path)
    assert done.returncode == 1
    assert "\nFAILED: The same picture from Python" in done.stdout
