"""joblib's side: Parallel on loky's processes, and on threads."""

from functools import cache
from itertools import count as count_from
from time import perf_counter

from joblib import Parallel, delayed
from player import Turn, timed
from tasks import mixed, next_of, use

WORKERS = 2
numbers = count_from(1)


@cache
def held():
    """A Parallel that keeps its workers and its batches' size from turn to turn."""
    return Parallel(WORKERS).__enter__()


def parallel_with(**options):
    """A case: a Parallel of its own for each turn."""

    def case(count, _):
        return timed(
            count,
            lambda: Parallel(WORKERS, **options)(
                delayed(next_of)(i) for i in range(count)
            ),
        )

    return case


def parallel_held(count, _):
    run = held()
    return timed(count, lambda: run(delayed(next_of)(i) for i in range(count)))


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
    sums = run(delayed(piece_sum)(array, i) for i in range(PIECES))
    return Turn(perf_counter() - begun, int(sum(sums)) - first)


def results(run):
    """Four large results."""
    from tasks_numpy import filled

    begun = perf_counter()
    arrays = run(delayed(filled)(i) for i in range(4))
    seconds = perf_counter() - begun
    answer = sum(int(array[0] + array[-1]) + array.nbytes for array in arrays)
    return Turn(seconds, answer)


def mixed_tasks(count, _):
    """Tasks of 1 to 30 ms; `extra` is how long they take together."""
    times = mixed(count)
    begun = perf_counter()
    used = Parallel(WORKERS)(delayed(use)(t) for t in times)
    return Turn(perf_counter() - begun, sum(used), sum(times) / 1000)


CASES = {
    "parallel-single": parallel_with(batch_size=1),
    "parallel-single-all": parallel_with(batch_size=1, pre_dispatch="all"),
    "parallel-auto": parallel_with(),
    "parallel-auto-all": parallel_with(pre_dispatch="all"),
    "parallel-held": parallel_held,
    "parallel-threads": parallel_with(backend="threading"),
    "argument": lambda a, b: argument(Parallel(WORKERS), next(numbers)),
    "argument-held": lambda a, b: argument(held(), 0),
    "results": lambda a, b: results(Parallel(WORKERS)),
    "results-held": lambda a, b: results(held()),
    "mixed": mixed_tasks,
}
