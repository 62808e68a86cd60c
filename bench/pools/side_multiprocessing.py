"""multiprocessing's side: its Pool, by fork, which is the fastest of its ways."""

import multiprocessing
from functools import cache
from time import perf_counter

from player import Turn, timed
from tasks import mixed, next_of, use

WORKERS = 2
make_pool = multiprocessing.get_context("fork").Pool


@cache
def pool():
    return make_pool(WORKERS)


def new_pools(count, _):
    """Pools, one after the other, with two tasks each; `extra` is a pool's end."""
    seconds = ending = answer = 0
    for _ in range(count):
        begun = perf_counter()
        with make_pool(WORKERS) as new:
            answer += sum(new.map(next_of, (1, 2), 1))
            there = perf_counter()
        seconds += there - begun
        ending += perf_counter() - there
    return Turn(seconds / count, answer, ending / count)


def apply(count, _):
    call = pool().apply
    return timed(count, lambda: [call(next_of, (i,)) for i in range(count)])


def pool_map(count, chunksize):
    """Pool.map; a chunksize of 0 is its default."""
    call = pool().map
    return timed(count, lambda: call(next_of, range(count), chunksize or None))


def mixed_tasks(count, chunksize):
    """Tasks of 1 to 30 ms; `extra` is how long they take together."""
    times = mixed(count)
    call = pool().map
    begun = perf_counter()
    used = call(use, times, chunksize)
    return Turn(perf_counter() - begun, sum(used), sum(times) / 1000)


CASES = {
    "new-pools": new_pools,
    "apply": apply,
    "pool-map": pool_map,
    "mixed": mixed_tasks,
}
