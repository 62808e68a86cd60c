"""A pool of worker processes: Pool beside multiprocessing's, in a plain script.

    python examples/python/pool.py [SECONDS]        default: tasks that sleep 0.3 s

There is no `if __name__ == "__main__"` here, and none is needed. The answers of both
are checked. What is shown: map, results that are asked in a busy loop whether they
are ready, a closure, and a worker that is killed.
"""

import multiprocessing
import os
import signal
import sys
import time

import allcores as ac

SECONDS = float(sys.argv[1]) if len(sys.argv) > 1 else 0.3

fork = multiprocessing.get_context("fork")  # the fastest of its ways to start
TOOLS = (("ours", ac.Pool), ("multiprocessing", fork.Pool))


def require(is_right, what):
    if not is_right:
        sys.exit(f"wrong: {what}")


def square(x):
    return x * x


def sleep(i):
    time.sleep(SECONDS)
    return i


def die(i):
    os.kill(os.getpid(), signal.SIGKILL)


# ---- map ---------------------------------------------------------------------

for name, make in TOOLS:
    begun = time.perf_counter()
    with make(4) as pool:
        squares = pool.map(square, range(1000))
        first = time.perf_counter()
        require(squares == [x * x for x in range(1000)], f"{name}: map")
        require(pool.map(square, range(1000)) == squares, f"{name}: map again")
        again = time.perf_counter()
    print(
        f"Pool(4).map of 1,000 calls, {name}: the first {1e3 * (first - begun):.1f} "
        f"ms, the pool's start included; another {1e3 * (again - first):.2f} ms",
        flush=True,
    )

# ---- ready() in a busy loop ------------------------------------------------------

print(f"Ten tasks that sleep {SECONDS:g} s on six workers, asked all the time:")
for name, make in TOOLS:
    with make(6) as pool:
        begun = time.perf_counter()
        results = [pool.apply_async(sleep, [i]) for i in range(10)]
        done, asked = set(), 0
        while len(done) < 10:
            for i, result in enumerate(results):
                asked += 1
                if result.ready():
                    done.add(i)
        seconds = time.perf_counter() - begun
        require([r.get() for r in results] == list(range(10)), f"{name}: get")
    print(
        f"  {name}: done after {seconds:.2f} s; ready() was called {asked:,} times, "
        f"at {1e6 * seconds / asked:.2f} µs",
        flush=True,
    )

# ---- A closure -------------------------------------------------------------------

offset = 100
add = lambda x: x + offset  # noqa: E731, the notebook's way
print("A lambda, mapped:")
for name, make in TOOLS:
    with make(2) as pool:
        try:
            print(f"  {name}: {pool.map(add, range(5))}", flush=True)
        except Exception as error:
            print(f"  {name}: {type(error).__name__}: {error}", flush=True)

# ---- A worker that is killed -------------------------------------------------------

print("A task whose worker is killed, then another:")
for name, make in TOOLS:
    with make(2) as pool:
        try:
            pool.apply_async(die, [0]).get(timeout=1)
        except ac.WorkerDiedError as error:
            print(f"  {name}: {error}")
        except multiprocessing.TimeoutError:
            print(f"  {name}: no result and no error within 1 s; get() would hang")
        print(f"  {name}: square(7) = {pool.apply(square, [7])}", flush=True)
