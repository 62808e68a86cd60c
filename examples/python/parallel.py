"""Loops on worker processes: Parallel beside joblib's, in a plain script.

    python examples/python/parallel.py [SECONDS]        default: tasks that sleep 0.3 s

There is no `if __name__ == "__main__"` here, and none is needed. The answers of both
are checked against a plain loop; times are of a single call. What is shown: a loop
for every n_jobs, short loops one after the other, ten tasks that sleep, and a worker
that is killed.
"""

import os
import signal
import sys
import time
from math import sqrt

import allcores as ac
import joblib

SECONDS = float(sys.argv[1]) if len(sys.argv) > 1 else 0.3


def timed(call):
    """Return what `call` returns, and the time that it took in ms."""
    begun = time.perf_counter()
    value = call()
    return value, (time.perf_counter() - begun) * 1e3


def require(is_right, what):
    if not is_right:
        sys.exit(f"wrong: {what}")


def both(what, call, expected, ours=ac, theirs=joblib):
    """Have both make one call, print one line, and check the answers."""
    answer, ours_ms = timed(lambda: call(ours))
    require(answer == expected, f"{what}: ours gave {answer}")
    answer, joblib_ms = timed(lambda: call(theirs))
    require(answer == expected, f"{what}: joblib gave {answer}")
    print(
        f"{what}: ours {ours_ms:.1f} ms, joblib {joblib_ms:.1f} ms; "
        f"ours / joblib {ours_ms / joblib_ms:.2f}",
        flush=True,
    )


# ---- Loops -------------------------------------------------------------------

offset = 0.5


def root(x):
    """It lives in this script, and reads a variable of it."""
    return sqrt(x) + offset


def loop(n_jobs, count):
    """Return a call of the loop that both tools spell in the same way."""
    return lambda tool: tool.Parallel(n_jobs=n_jobs)(
        tool.delayed(root)(x) for x in range(count)
    )


roots = [root(x) for x in range(100)]
both("100 calls, n_jobs=2, the first loop of the process", loop(2, 100), roots)
for n_jobs in (-1, -2):
    workers = ac.effective_n_jobs(n_jobs)
    what = f"100 calls, n_jobs={n_jobs}: {workers} worker{'s' * (workers > 1)} here"
    both(what, loop(n_jobs, 100), roots)

step = 3
both(
    "a closure, eight times",
    lambda tool: tool.Parallel(n_jobs=2)(
        tool.delayed(lambda x: x * step)(x) for x in range(8)
    ),
    [x * step for x in range(8)],
)
both(
    "fifty loops of eight calls, one after the other",
    lambda tool: [loop(2, 8)(tool) for _ in range(50)],
    [roots[:8]] * 50,
)


def held(tool):
    """The same, with the workers kept by a with block."""
    with tool.Parallel(n_jobs=2) as parallel:
        return [parallel(tool.delayed(root)(x) for x in range(8)) for _ in range(50)]


both("the same in a with block", held, [roots[:8]] * 50)

# ---- Ten tasks that sleep ------------------------------------------------------


def sleep(i):
    time.sleep(SECONDS)
    return i


def sleepers(n_jobs):
    return lambda tool: tool.Parallel(n_jobs=n_jobs)(
        tool.delayed(sleep)(i) for i in range(10)
    )


print(f"Ten tasks that sleep {SECONDS:g} s each (the notebook's: 3 s):", flush=True)
for n_jobs in (-2, 5):
    workers = ac.effective_n_jobs(n_jobs)
    what = f"  n_jobs={n_jobs}, {workers} worker{'s' * (workers > 1)}"
    both(what, sleepers(n_jobs), list(range(10)))
print("  With progress=True:", flush=True)
bar = {"desc": "  sleeping", "ncols": 60, "mininterval": 0}
ac.Parallel(n_jobs=5, progress=bar)([ac.delayed(sleep)(i) for i in range(10)])

# ---- A worker that is killed ---------------------------------------------------


def fragile(i):
    if i == 3:
        os.kill(os.getpid(), signal.SIGKILL)  # as the system does when memory is short
    return i * i


def calls(tool):
    return (tool.delayed(fragile)(i) for i in range(6))


print("Six tasks, of which one has its worker killed:", flush=True)
results = ac.Parallel(n_jobs=2, on_death="return")(calls(ac))
for i, result in enumerate(results):
    if i == 3:
        require(isinstance(result, ac.WorkerDiedError), "task 3 did not die")
        print(f"  ours, task 3: {result}")
    else:
        require(result == i * i, f"task {i} gave {result}")
print(f"  ours, the other tasks: {[r for r in results if isinstance(r, int)]}")
try:
    joblib.Parallel(n_jobs=2)(calls(joblib))
except Exception as error:
    print(f"  joblib, all tasks: {type(error).__name__}", flush=True)
both("  the next loop, 100 calls", loop(2, 100), roots)
