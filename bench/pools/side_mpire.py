"""mpire's side: its WorkerPool, by fork, whose workers are kept alive.

They look for work every 10 ms, so mpire plays in matches of its own.
"""

import atexit
from functools import cache
from time import perf_counter

from mpire import WorkerPool
from player import Turn, timed
from tasks import next_of

WORKERS = 2


@cache
def pool():
    made = WorkerPool(WORKERS, keep_alive=True)
    atexit.register(made.stop_and_join)
    return made


def new_pools(count, _):
    """Pools, one after the other, with two tasks each; `extra` is a pool's end."""
    seconds = ending = answer = 0
    for _ in range(count):
        begun = perf_counter()
        with WorkerPool(WORKERS) as new:
            answer += sum(new.map(next_of, (1, 2), chunk_size=1))
            there = perf_counter()
        seconds += there - begun
        ending += perf_counter() - there
    return Turn(seconds / count, answer, ending / count)


def apply(count, _):
    call = pool().apply
    return timed(count, lambda: [call(next_of, (i,)) for i in range(count)])


def pool_map(count, chunksize):
    """WorkerPool.map; a chunksize of 0 is its default."""
    call = pool().map
    return timed(
        count, lambda: call(next_of, range(count), chunk_size=chunksize or None)
    )


CASES = {"new-pools": new_pools, "apply": apply, "pool-map": pool_map}
