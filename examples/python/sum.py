"""Sum many numbers with allcores, NumPy and plain Python, side by side.

    python examples/python/sum.py [SIZE]        default: 100,000,000 doubles, 800 MB

Three things are checked: the sum has the same bits on one thread and on all; it
agrees with NumPy's; on the first numbers it agrees with the exact sum (math.fsum).
"""

import math
import sys
from time import perf_counter

import allcores as ac
import numpy as np

ROUNDS = 3
FEW = 1_000_000  # for Python's own loop, which takes some 30 ms for a million


def least_ms(call, rounds=ROUNDS):
    """Return what `call` returns, and the least time of some rounds in ms."""
    least = math.inf
    for _ in range(rounds):
        begun = perf_counter()
        value = call()
        least = min(least, perf_counter() - begun)
    return value, least * 1e3


def require(is_right, what):
    if not is_right:
        sys.exit(f"wrong: {what}")


def compare(what, x):
    """Sum `x` in three ways, print one line, and check the sums."""
    with ac.threads(1):
        alone, serial_ms = least_ms(lambda: ac.sum(x))
    ours, ours_ms = least_ms(lambda: ac.sum(x))
    numpys, numpy_ms = least_ms(lambda: np.sum(x))
    print(
        f"{what}: ours {ours_ms:.1f} ms, on one thread {serial_ms:.1f} ms, "
        f"NumPy {numpy_ms:.1f} ms; ours / NumPy {ours_ms / numpy_ms:.2f}"
    )
    require(ours == alone, f"{what}: one thread gives other bits")
    # In float32 NumPy's sum over strides or axes may be off by more than ours.
    tolerance = 1e-3 if x.dtype == np.float32 else 1e-9
    require(math.isclose(ours, numpys, rel_tol=tolerance), f"{what}: NumPy disagrees")


def main(arguments):
    size = int(arguments[0]) if arguments else 100_000_000
    if size < 1000:
        sys.exit("usage: sum.py [SIZE of 1000 or more]")
    x = np.random.default_rng(1).random(size)

    compare(f"sum of {size:,} doubles", x)
    compare("  every second of them", x[::2])
    compare("  as an array of 8 rows, transposed", x[: size // 8 * 8].reshape(8, -1).T)
    compare("  a tenth of them as float32", x[: size // 10].astype(np.float32))
    compare("  a tenth as integers", (x[: size // 10] * 1e6).astype(np.int32))

    few = x[:FEW]
    as_list = few.tolist()
    builtin, builtin_ms = least_ms(lambda: sum(as_list))
    ours, ours_ms = least_ms(lambda: ac.sum(few))
    print(
        f"the first {few.size:,}: ours {ours_ms:.2f} ms, Python's own sum() of a "
        f"list {builtin_ms:.2f} ms"
    )
    exact = math.fsum(as_list)
    print(
        f"  relative error: ours {abs(ours - exact) / exact:.1e}, "
        f"NumPy {abs(float(np.sum(few)) - exact) / exact:.1e}, "
        f"sum() {abs(builtin - exact) / exact:.1e}"
    )
    require(math.isclose(ours, exact, rel_tol=1e-12), "the exact sum disagrees")


if __name__ == "__main__":
    main(sys.argv[1:])
