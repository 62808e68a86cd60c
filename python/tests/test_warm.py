"""Worker processes that are kept for later calls."""

import os
import queue
import warnings

import numpy as np
import pytest
from allcores import _warm


class Ended:
    """Two workers that say when they are ended."""

    is_fit = True
    count = 2

    def __init__(self, log):
        self.log = log

    def terminate(self):
        self.log.put("ended")


@pytest.fixture
def log():
    return queue.Queue()


def test_later_calls_get_the_same_warm_workers(log):
    key = ("test", 1, (), np.arange(3))
    first = _warm.borrow(key, lambda: Ended(log))
    second = _warm.borrow(("test", 1, (), key[3]), lambda: Ended(log))
    other = _warm.borrow(("test", 2, (), key[3]), lambda: Ended(log))
    assert first is second and other is not first
    _warm.give_back(first, 60)
    _warm.give_back(other, 0)
    assert log.get(timeout=60) == "ended"  # the other's: its time is over
    assert _warm.borrow(key, lambda: Ended(log)) is first
    _warm.give_back(first, 0)
    _warm.give_back(second, 0)
    assert log.get(timeout=60) == "ended"
    assert log.empty()


def test_warm_workers_that_take_no_more_tasks_are_not_lent_again(log):
    first = _warm.borrow(("broken",), lambda: Ended(log))
    first.workers.is_fit = False
    second = _warm.borrow(("broken",), lambda: Ended(log))
    assert second is not first
    _warm.give_back(first, 60)
    assert log.get_nowait() == "ended"
    _warm.give_back(second, 0)
    assert log.get(timeout=60) == "ended"


def test_no_more_than_so_many_warm_workers_wait(log, budget):
    budget(1)
    kept = [_warm.borrow(("many", i), lambda: Ended(log)) for i in range(5)]
    for some in kept:
        _warm.give_back(some, 60)
    assert log.qsize() == 2  # the first two of five pairs
    assert _warm.borrow(("many", 4), lambda: Ended(log)) is kept[4]
    assert _warm.borrow(("many", 0), lambda: Ended(log)) is not kept[0]
    for some in kept[2:]:
        some.workers.is_fit = False


def test_warm_workers_are_ended_at_exit(run_python):
    assert "ended" in run_python(
        """
        from types import SimpleNamespace
        from allcores import _warm
        workers = SimpleNamespace(
            count=1, is_fit=True, terminate=lambda: print("ended")
        )
        _warm.give_back(_warm.borrow((1,), lambda: workers))
        """
    )


def test_a_forked_child_has_no_warm_workers(log):
    kept = _warm.borrow(("forked",), lambda: Ended(log))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        other = _warm.borrow(("forked",), lambda: Ended(log))
        os._exit(0 if other is not kept else 1)
    assert os.waitpid(pid, 0)[1] == 0
    _warm.give_back(kept, 0)
    assert log.get(timeout=60) == "ended"
