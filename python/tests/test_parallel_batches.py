"""How Parallel cuts batches, how far ahead it takes tasks, what it begins again.

The workers here are the test's own: tasks run when it says so, and take as long as it
says.
"""

import collections
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from allcores import _batches
from allcores._backends import amount_of
from allcores._batches import Run, Sizer
from allcores._workers import CALL, Ticket, WorkerDiedError, Workers
from allcores.parallel import Parallel, delayed


def square(x):
    return x * x


def fail_at(x, place):
    if x == place:
        raise ValueError(f"it is {x}")
    return x


class Held(Workers):
    """Workers whose tasks run when the test says so."""

    kind = "processes"

    def __init__(self, count=2, seconds=0.0):
        super().__init__(count)
        self.seconds = seconds  # that a call takes
        self.waiting = collections.deque()
        self.ended = collections.deque()
        self.sizes = []
        self.cancelled = []
        self.most = 0  # tickets out at once
        self.on_sleep = self.run_one

    def submit(
        self,
        mode,
        function,
        data,
        *,
        timeout=None,
        retries=0,
        on_done=None,
        tag=None,
        share=None,
    ):
        ticket = Ticket(self, on_done, tag)
        ticket._key = mode, function, data
        self._outstanding += 1
        self.most = max(self.most, self._outstanding)
        self.sizes.append(1 if mode == CALL else len(data))
        self.waiting.append(ticket)
        return ticket

    def run_one(self):
        """Run the oldest task."""
        ticket = self.waiting.popleft()
        mode, function, data = ticket._key
        calls = (
            [(function, *data)] if mode == CALL else [(function, d, {}) for d in data]
        )
        ticket.seconds = sum(
            self.seconds(*args) if callable(self.seconds) else self.seconds
            for _, args, _ in calls
        )
        try:
            value = [call(*args, **kwargs) for call, args, kwargs in calls]
            self.ended.append((ticket, True, value[0] if mode == CALL else value))
        except Exception as error:
            self.ended.append((ticket, False, error))

    def poll(self):
        taken = len(self.ended)
        while self.ended:
            self._end(*self.ended.popleft())
        return taken

    def _sleep(self, seconds):
        self.on_sleep()

    def cancel(self, ticket, kill=False):
        self.cancelled.append((ticket, kill))
        return True


def collected(workers, tasks, amount=4, size="auto", **options):
    run = Run(workers, workers.count, tasks, amount=amount, size=size, **options)
    return run.collect()


@pytest.mark.parametrize(
    "given, amount",
    [
        ("all", None),
        ("2 * n_jobs", 8),
        ("2*n_jobs", 8),
        ("1.5*n_jobs", 6),
        ("n_jobs", 4),
        ("(n_jobs + 1) * 3 // 2", 7),
        ("-(-n_jobs) % 3", 1),
        (5, 5),
        (np.int64(5), 5),
        ("12", 12),
    ],
)
def test_pre_dispatch_is_all_a_number_or_arithmetic(given, amount):
    assert amount_of(given, 4) == amount


@pytest.mark.parametrize(
    "given",
    [
        "n_jobs.bit_length()",
        "__import__('os')",
        "2 **",
        "2 ** 9 ** 9",
        "x",
        "n_jobs / 0",
        "1 if n_jobs else 2",
        "[1]",
        "",
        "-n_jobs",
        0,
        -3,
        None,
        "1e999",
        "'a' * 3",
        "(" * 60 + "1" + ")" * 60,
        "1" * 101,
    ],
)
def test_other_pre_dispatch_is_refused_and_not_run(given):
    with pytest.raises(ValueError, match="pre_dispatch"):
        amount_of(given, 4)


@pytest.mark.parametrize("amount", [1, 3, 8])
@pytest.mark.parametrize("size", [1, "auto", 4])
def test_before_the_first_result_no_more_tasks_are_taken_than_pre_dispatch(
    amount, size
):
    taken = []
    workers = Held(2)

    def look():
        if not looked:
            looked.append(len(taken))
        workers.run_one()

    looked = []
    workers.on_sleep = look
    tasks = (taken.append(i) or delayed(square)(i) for i in range(50))
    assert collected(workers, tasks, amount, size) == [i * i for i in range(50)]
    assert looked == [amount]


def test_single_tasks_are_never_further_ahead_than_pre_dispatch():
    workers = Held(2, seconds=1e-6)
    collected(workers, (delayed(square)(i) for i in range(99)), 3, 1)
    assert workers.most == 3


def test_tiny_single_tasks_go_further_ahead_where_the_caller_left_that_open():
    workers = Held(2, seconds=1e-6)
    collected(workers, (delayed(square)(i) for i in range(999)), 4, 1, deepens=True)
    assert workers.most == 4 * _batches.DEEPEST
    workers = Held(2, seconds=0.1)
    collected(workers, (delayed(square)(i) for i in range(999)), 4, 1, deepens=True)
    assert workers.most == 4


def test_batches_at_most_double_and_stop_growing_at_their_time():
    workers = Held(2, seconds=1e-3)
    collected(workers, (delayed(square)(i) for i in range(2000)))
    longest = 1
    for size in workers.sizes:
        assert size <= 2 * longest
        longest = max(longest, size)
    assert 0.9 < longest * 1e-3 / _batches.TARGET_SECONDS <= 1
    assert sum(workers.sizes) == 2000


def test_long_tasks_travel_alone():
    workers = Held(2, seconds=0.5)
    collected(workers, (delayed(square)(i) for i in range(50)))
    assert set(workers.sizes) == {1}


@pytest.mark.parametrize("fast", [10, 100, 1000])
def test_a_fast_prefix_makes_no_huge_batch_of_the_slow_rest(fast):
    workers = Held(2, seconds=lambda i: 1e-6 if i < fast else 0.5)
    collected(workers, (delayed(square)(i) for i in range(2 * fast)))
    slow = [size for size in workers.sizes[-1:0:-1] if size > 1]
    # Of the slow ones no more stick together than the workers had done each.
    assert max(workers.sizes) <= fast
    assert workers.sizes[-1] == 1 and sum(slow) <= 8 * fast


def test_batches_shrink_at_once_when_calls_get_slow():
    sizer = Sizer(2)
    for _ in range(20):
        sizer.add(sizer.size, 1e-5 * sizer.size)
    assert sizer.size > 500
    sizer.add(10, 10.0)
    assert sizer.size == 1


@pytest.mark.parametrize("sized", [False, True])
@pytest.mark.parametrize("count", [2, 5])
def test_towards_the_end_every_worker_is_left_two_batches(sized, count):
    workers = Held(count, seconds=1e-3)
    tasks = [delayed(square)(i) for i in range(600)]
    collected(workers, tasks if sized else iter(tasks), 2 * count)
    if sized:
        left = 600
        for size in workers.sizes:
            assert size <= max(1, left // (2 * count))
            left -= size
    else:
        assert workers.sizes[-1] < max(workers.sizes)


def test_a_slow_iterator_is_not_waited_for_to_fill_a_batch(monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(
        _batches, "time", SimpleNamespace(perf_counter=lambda: clock.now)
    )
    workers = Held(2, seconds=1e-6)

    def slow():
        for i in range(400):
            clock.now += 0.01
            yield delayed(square)(i)

    assert len(collected(workers, slow())) == 400
    assert max(workers.sizes) <= 64


def test_all_takes_every_task_before_the_first_runs():
    taken = []
    workers = Held(2)
    workers.on_sleep = lambda: (taken.append(len(log)), workers.run_one())
    log = []
    tasks = (log.append(i) or delayed(square)(i) for i in range(200))
    collected(workers, tasks, None)
    assert taken[0] == 200


def test_the_iterator_is_taken_in_the_callers_thread():
    seen = set()

    def tasks():
        for i in range(50):
            seen.add(threading.get_ident())
            yield delayed(square)(i)

    Parallel(2, "threads")(tasks())
    assert seen == {threading.get_ident()}


def test_after_an_exception_nothing_more_is_taken_and_the_rest_is_cancelled():
    taken = []
    workers = Held(2)
    tasks = (taken.append(i) or delayed(fail_at)(i, 2) for i in range(50))
    with pytest.raises(ValueError, match="it is 2"):
        collected(workers, tasks, 4, 1)
    assert len(taken) == 6
    assert [kill for _, kill in workers.cancelled] == [True] * 3


def test_a_dead_batch_is_run_again_call_by_call():
    deaths = {3}

    def run(workers):
        ticket = workers.waiting[0]
        mode, _, data = ticket._key
        items = [data[0][0]] if mode == CALL else [d[0] for d in data]
        if deaths & set(items):
            workers.waiting.popleft()
            workers.ended.append((ticket, False, WorkerDiedError("died")))
        else:
            workers.run_one()

    workers = Held(2)
    workers.on_sleep = lambda: run(workers)
    tasks = [delayed(square)(i) for i in range(8)]
    got = collected(workers, tasks, 8, 4, death_is_result=True)
    assert isinstance(got.pop(3), WorkerDiedError)
    assert got == [0, 1, 4, 16, 25, 36, 49]
    assert sorted(workers.sizes) == [1, 1, 1, 1, 4, 4]
