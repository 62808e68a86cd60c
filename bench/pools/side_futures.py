"""concurrent.futures' side: ProcessPoolExecutor and ThreadPoolExecutor."""

from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import cache
from time import perf_counter

from player import Turn, timed
from tasks import next_of

WORKERS = 2


@cache
def executor():
    return ProcessPoolExecutor(WORKERS)


@cache
def threads():
    return ThreadPoolExecutor(WORKERS)


def new_executors(count, _):
    """Executors, one after the other, with two tasks each; `extra` is one's end."""
    seconds = ending = answer = 0
    for _ in range(count):
        begun = perf_counter()
        with ProcessPoolExecutor(WORKERS) as new:
            answer += sum(new.map(next_of, (1, 2)))
            there = perf_counter()
        seconds += there - begun
        ending += perf_counter() - there
    return Turn(seconds / count, answer, ending / count)


def submit(count, _):
    call = executor().submit
    return timed(count, lambda: [call(next_of, i).result() for i in range(count)])


def executor_map(count, chunksize):
    call = executor().map
    return timed(count, lambda: call(next_of, range(count), chunksize=chunksize))


def thread_map(count, _):
    call = threads().map
    return timed(count, lambda: call(next_of, range(count)))


CASES = {
    "new-executors": new_executors,
    "submit": submit,
    "executor-map": executor_map,
    "thread-map": thread_map,
}
