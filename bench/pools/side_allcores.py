"""Our side of P3 to P9."""

from functools import cache
from itertools import count as count_from
from time import perf_counter

import allcores as ac
from player import Turn, timed
from tasks import mixed, next_of, use

WORKERS = 2
numbers = count_from(1)


@cache
def pool():
    return ac.Pool(WORKERS)


@cache
def executor():
    return ac.Executor(WORKERS)


@cache
def thread_pool():
    return ac.ThreadPool(WORKERS)


@cache
def held(**options):
    """A Parallel that keeps its workers from turn to turn."""
    return ac.Parallel(WORKERS, **options).__enter__()


def new_pools(count, _):
    """Pools, one after the other, with two tasks each; `extra` is a pool's end."""
    seconds = ending = answer = 0
    for _ in range(count):
        begun = perf_counter()
        with ac.Pool(WORKERS) as new:
            answer += sum(new.map(next_of, (1, 2), 1))
            there = perf_counter()
        seconds += there - begun
        ending += perf_counter() - there
    return Turn(seconds / count, answer, ending / count)


def new_executors(count, _):
    """The same with executors."""
    seconds = ending = answer = 0
    for _ in range(count):
        begun = perf_counter()
        with ac.Executor(WORKERS) as new:
            answer += sum(new.map(next_of, (1, 2)))
            there = perf_counter()
        seconds += there - begun
        ending += perf_counter() - there
    return Turn(seconds / count, answer, ending / count)


def apply(count, _):
    call = pool().apply
    return timed(count, lambda: [call(next_of, (i,)) for i in range(count)])


def submit(count, _):
    call = executor().submit
    return timed(count, lambda: [call(next_of, i).result() for i in range(count)])


def parallel_with(**options):
    """A case: a Parallel of its own for each turn."""

    def case(count, _):
        return timed(
            count,
            lambda: ac.Parallel(WORKERS, **options)(
                ac.delayed(next_of)(i) for i in range(count)
            ),
        )

    return case


def parallel_held(count, _):
    run = held()
    return timed(count, lambda: run(ac.delayed(next_of)(i) for i in range(count)))


def pool_map(count, chunksize):
    """Pool.map; a chunksize of 0 is its default."""
    call = pool().map
    return timed(count, lambda: call(next_of, range(count), chunksize or None))


def executor_map(count, chunksize):
    call = executor().map
    return timed(count, lambda: call(next_of, range(count), chunksize=chunksize))


def thread_pool_map(count, chunksize):
    call = thread_pool().map
    return timed(count, lambda: call(next_of, range(count), chunksize))


@cache
def large():
    import numpy as np
    from tasks_numpy import DOUBLES

    return np.arange(DOUBLES, dtype=float)


def argument(run, first):
    """One array to eight tasks. Its first element is set anew before."""
    from tasks_numpy import PIECES, piece_sum

    array = large()
    array[0] = first
    begun = perf_counter()
    sums = run(ac.delayed(piece_sum)(array, i) for i in range(PIECES))
    return Turn(perf_counter() - begun, int(sum(sums)) - first)


def results(run):
    """Four large results."""
    from tasks_numpy import filled

    begun = perf_counter()
    arrays = run(ac.delayed(filled)(i) for i in range(4))
    seconds = perf_counter() - begun
    answer = sum(int(array[0] + array[-1]) + array.nbytes for array in arrays)
    return Turn(seconds, answer)


def mixed_tasks(count, _):
    """Tasks of 1 to 30 ms; `extra` is how long they take together."""
    times = mixed(count)
    begun = perf_counter()
    used = ac.Parallel(WORKERS)(ac.delayed(use)(t) for t in times)
    return Turn(perf_counter() - begun, sum(used), sum(times) / 1000)


CASES = {
    "new-pools": new_pools,
    "new-executors": new_executors,
    "apply": apply,
    "submit": submit,
    "parallel-single": parallel_with(batch_size=1),
    "parallel-auto": parallel_with(),
    "parallel-held": parallel_held,
    "parallel-threads": parallel_with(prefer="threads"),
    "pool-map": pool_map,
    "executor-map": executor_map,
    "thread-pool-map": thread_pool_map,
    "argument": lambda a, b: argument(ac.Parallel(WORKERS), next(numbers)),
    "argument-held": lambda a, b: argument(held(), 0),
    "results": lambda a, b: results(ac.Parallel(WORKERS)),
    "results-held": lambda a, b: results(held()),
    "mixed": mixed_tasks,
}
