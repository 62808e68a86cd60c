"""Worker processes that are kept and shared by later calls of Parallel.

`borrow` gives the workers for a key (how many, how started, which initializer),
started if there are none; `give_back` says that a call is done with them. Several
calls may have the same workers at once. Workers that nobody has had for their time
are ended by one thread, which lives only while there are some; so are those that have
waited longest where too many wait; all are ended at exit.

A forked child sees none of its parent's workers.
"""

import atexit
import os
import threading
import time

from allcores.budget import get_num_threads

__all__ = ["borrow", "end_all", "give_back"]

IDLE_SECONDS = 300.0
# Workers that may wait, for each core, besides the set given back last.
IDLE_PER_CORE = 4


class _Kept:
    """Workers, and who has them."""

    __slots__ = ("ends_at", "key", "users", "workers")

    def __init__(self, key, workers):
        self.key = key
        self.workers = workers
        self.users = 0
        self.ends_at = None


_changed = threading.Condition()
_kept = []
_ender = None
_registered = False
_inherited = []  # of the parent: kept alive so that nothing of them is ended here


def borrow(key, start):
    """The workers for `key`, of `start()` if there are none.

    Parameters
    ----------
    key : tuple
        Compared item by item; items need not be hashable.
    start : callable
        Makes the workers. Called with the lock held: it does not wait for them.

    Returns
    -------
    object
        To be handed to `give_back`; its `workers` are the workers.
    """
    global _registered
    with _changed:
        for kept in _kept:
            if _same(kept.key, key) and not _is_broken(kept.workers):
                break
        else:
            kept = _Kept(key, start())
            _kept.append(kept)
            if not _registered:
                atexit.register(end_all)
                os.register_at_fork(after_in_child=_in_child)
                _registered = True
        kept.users += 1
        kept.ends_at = None
        return kept


def give_back(kept, idle_seconds=IDLE_SECONDS):
    """A call is done with them. If they take no more tasks, no other call gets them."""
    global _ender
    ended = []
    with _changed:
        kept.users -= 1
        if _is_broken(kept.workers) and kept in _kept:
            _kept.remove(kept)
        if kept.users == 0 and kept not in _kept:
            ended.append(kept)
        elif kept.users == 0:
            _kept.remove(kept)
            _kept.append(kept)  # given back last
            kept.ends_at = time.monotonic() + idle_seconds
            ended += _too_many()
            if _ender is None:
                _ender = threading.Thread(
                    target=_end_idle, name="allcores-idle", daemon=True
                )
                _ender.start()
            elif idle_seconds < IDLE_SECONDS:
                _changed.notify()
    for old in ended:
        old.workers.terminate()


def _too_many():
    """Take out those that have waited longest, where too many wait."""
    idle = [kept for kept in _kept if kept.ends_at is not None]
    left = IDLE_PER_CORE * get_num_threads()
    taken = []
    for kept in reversed(idle[:-1]):
        left -= kept.workers.count
        if left < 0:
            _kept.remove(kept)
            taken.append(kept)
    return taken


def _is_broken(workers):
    return not workers.is_fit


def end_all():
    """End all workers that are kept, those in use too."""
    with _changed:
        ended, _kept[:] = list(_kept), []
        _changed.notify()
    for kept in ended:
        kept.workers.terminate()


def _end_idle():
    global _ender
    while True:
        ended = []
        with _changed:
            now = time.monotonic()
            times = []
            for kept in list(_kept):
                if kept.ends_at is not None and kept.ends_at <= now:
                    _kept.remove(kept)
                    ended.append(kept)
                elif kept.ends_at is not None:
                    times.append(kept.ends_at - now)
            if not ended:
                if not times:
                    _ender = None
                    return
                _changed.wait(min(times))
        for kept in ended:
            kept.workers.terminate()


def _in_child():
    global _changed, _ender
    _changed = threading.Condition()
    _inherited.extend(_kept)
    del _kept[:]
    _ender = None


def _same(one, other):
    return len(one) == len(other) and all(map(_equal, one, other))


def _equal(one, other):
    if isinstance(one, tuple) and isinstance(other, tuple):
        return _same(one, other)
    if one is other:
        return True
    try:
        return type(one) is type(other) and bool(one == other)
    except Exception:  # arrays, whose == is no truth
        return False
