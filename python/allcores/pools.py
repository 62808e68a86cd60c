"""multiprocessing.pool's Pool and ThreadPool, on this package's workers.

Calls become tickets of `_workers.Workers`, which the results of `_results.py` hold. Who
asks for a result takes it in, so a pool without callbacks and without iterators runs no
thread of its own. Two things do need one:

- Callbacks: the workers' watching thread takes results in, a thread of the pool calls
  the callbacks. They may block, raise and use the pool: no lock is held, nobody waits
  for them to take in, and a callback that waits for a result whose own callback is due
  calls that first.
- `imap` over an iterable that is not a plain list or the like: its items may take
  their time, so a thread for each such call reads them and hands them over. It pauses
  while many tasks wait, so an endless iterable does not fill the memory.

Invariants: a result is ready after its callback has returned, as in multiprocessing. A
result keeps its pool alive until it is known to be ready, and not longer.

Knows nothing of: how tasks travel, worker processes.
"""

import os
import queue
import threading
import time
import warnings
import weakref
from collections import deque
from itertools import islice
from operator import index

from allcores._results import (
    CLOSE,
    INIT,
    RUN,
    TERMINATE,
    AsyncResult,
    IMapIterator,
    IMapUnorderedIterator,
    MapResult,
    as_submitted,
    error_of,
)
from allcores._workers import CALL, MAP, SLICE_SECONDS, STARMAP

__all__ = [
    "AsyncResult",
    "IMapIterator",
    "IMapUnorderedIterator",
    "MapResult",
    "Pool",
    "ThreadPool",
]

START_METHODS = ("forkserver", "fork", "spawn")

# imap reads these at once, and without a thread, if they make few chunks: to iterate
# over them cannot block.
PLAIN = (list, tuple, range, str, bytes, bytearray, dict, set, frozenset, deque)
FEW_CHUNKS = 1024
# imap's thread reads on while fewer tasks than that are out.
OUT_MAX = 4096


class Pool:
    """Worker processes that run calls: multiprocessing.pool.Pool's methods.

    Functions need not be importable, scripts need no `__main__` guard, and a worker
    that dies fails its own task, with `WorkerDiedError`, while the pool goes on.

    Parameters
    ----------
    processes : int, optional
        How many. By default one for each core of the budget: see `get_num_threads`.
    initializer : callable, optional
        Called by each worker when it starts, with `initargs`. What it sets as
        ``global`` is seen by the tasks. If it raises, all tasks fail.
    initargs : iterable
    maxtasksperchild : int, optional
        A worker is replaced after so many tasks; a chunk of `map` is one task.
    context : str or multiprocessing context, optional
        How workers are started: "forkserver" (the default), "fork" or "spawn".

    Raises
    ------
    TypeError, ValueError
        An argument is not as above; nothing was started.

    Examples
    --------
    >>> import allcores as ac
    >>> with ac.Pool(2) as pool:                    # doctest: +SKIP
    ...     pool.map(lambda x: x * x, range(4))
    [0, 1, 4, 9]
    """

    _state = INIT
    _workers = None

    def __init__(
        self,
        processes=None,
        initializer=None,
        initargs=(),
        maxtasksperchild=None,
        context=None,
    ):
        name = type(self).__name__
        self._processes = _checked_count(name, processes)
        if initializer is not None and not callable(initializer):
            raise TypeError(
                f"{name}() takes initializer= a callable or None, not {initializer!r}"
            )
        if maxtasksperchild is not None and (
            isinstance(maxtasksperchild, bool)
            or not isinstance(maxtasksperchild, int)
            or maxtasksperchild < 1
        ):
            raise ValueError(
                f"{name}() takes maxtasksperchild= an integer from 1 on, or None for "
                f"workers that stay, not {maxtasksperchild!r}"
            )
        self._pid = os.getpid()
        self._has_initializer = initializer is not None
        self._lock = threading.RLock()
        self._feeders = []  # threads that read imap's iterables
        self._expected = set()  # results whose callbacks have not returned
        self._due = queue.SimpleQueue()  # of those, what can be called; None = end
        self._caller = None  # the thread that calls them
        self._workers = self._make_workers(
            self._processes,
            initializer,
            tuple(initargs),
            maxtasksperchild,
            _start_method(name, context),
        )
        self._state = RUN

    def _make_workers(
        self, count, initializer, initargs, max_tasks_per_child, start_method
    ):
        from allcores._processes import ProcessWorkers

        return ProcessWorkers(
            count,
            start_method=start_method,
            initializer=initializer,
            initargs=initargs,
            max_tasks_per_child=max_tasks_per_child,
        )

    def __del__(self, _warn=warnings.warn, _getpid=os.getpid):
        if self._workers is None or self._pid != _getpid():
            return
        if self._state == RUN:
            _warn(
                f"unclosed running multiprocessing pool {self!r}: leave it through "
                "'with', or close() and join() it",
                ResourceWarning,
                source=self,
            )
        # Neither blocks: tasks that are out would have kept the pool.
        self._due.put(None)
        self._workers.close()

    def __repr__(self):
        cls = type(self)
        return (
            f"<{cls.__module__}.{cls.__qualname__} state={self._state} "
            f"pool_size={self._processes}>"
        )

    def __reduce__(self):
        raise NotImplementedError(
            "pool objects cannot be passed between processes or pickled; make a pool "
            "in the process that uses it"
        )

    def __enter__(self):
        self._check_running()
        return self

    def __exit__(self, *exception):
        self.terminate()

    # ---- Calls ----

    def apply(self, func, args=(), kwds=None):
        """Return ``func(*args, **kwds)``, as a worker calls it."""
        self._check_running()
        call = tuple(args), {} if kwds is None else dict(kwds)
        try:
            ticket = self._workers.submit(CALL, func, call)
        except Exception as error:
            raise as_submitted(error) from error.__cause__
        ticket.wait()
        if ticket.ok:
            return ticket.value
        try:
            raise error_of(ticket)
        finally:
            del ticket  # the traceback holds this frame

    def apply_async(self, func, args=(), kwds=None, callback=None, error_callback=None):
        """Have a worker call ``func(*args, **kwds)``.

        Parameters
        ----------
        callback, error_callback : callable, optional
            Called with the result, or with the exception, by a thread of the pool,
            before the result is ready. They may use the pool. One that raises has its
            traceback printed.

        Returns
        -------
        AsyncResult
            At once. What is wrong with the task, such as an argument that cannot be
            sent, comes out of its `get`.
        """
        self._check_running()
        result = AsyncResult(self, callback, error_callback)
        call = tuple(args), {} if kwds is None else dict(kwds)
        self._hand_over(result, result._submit, CALL, func, call)
        return result

    def map(self, func, iterable, chunksize=None):
        """Return ``[func(item) for item in iterable]``, as the workers call it.

        Parameters
        ----------
        chunksize : int, optional
            Items in a task. By default four tasks come to each worker.
        """
        return self._map(MAP, func, iterable, chunksize).get()

    def map_async(
        self, func, iterable, chunksize=None, callback=None, error_callback=None
    ):
        """`map`, but return a `MapResult` at once. Callbacks as in `apply_async`."""
        return self._map(MAP, func, iterable, chunksize, callback, error_callback)

    def starmap(self, func, iterable, chunksize=None):
        """Return ``[func(*item) for item in iterable]``, as the workers call it."""
        return self._map(STARMAP, func, iterable, chunksize).get()

    def starmap_async(
        self, func, iterable, chunksize=None, callback=None, error_callback=None
    ):
        """`starmap`, but return a `MapResult` at once."""
        return self._map(STARMAP, func, iterable, chunksize, callback, error_callback)

    def _map(self, mode, func, iterable, chunksize, callback=None, error_callback=None):
        self._check_running()
        if chunksize is not None:
            chunksize = _checked_chunksize(chunksize)
        # As in multiprocessing: what an iterable without a length raises is raised
        # here, what another raises comes out of get().
        items = None if hasattr(iterable, "__len__") else list(iterable)
        result = MapResult(self, callback, error_callback)
        if items is None:
            try:
                items = list(iterable)
            except Exception as error:
                self._hand_over(result, result._fail, error)
                return result
        if chunksize is None:
            chunksize = max(1, -(-len(items) // (4 * self._processes)))
        self._hand_over(result, result._submit_chunks, mode, func, items, chunksize)
        return result

    def _hand_over(self, result, submit, *args):
        """Call ``submit(*args)``, which submits `result`'s tasks."""
        if result._called is None:
            submit(*args)
            return
        self._expect_callback(result)
        try:
            submit(*args)
        except BaseException:
            self._expected.discard(result)
            raise
        self._workers.watch()

    def imap(self, func, iterable, chunksize=1):
        """Iterate over ``func(item)`` for each item, in order, as results come.

        A list, tuple, range or the like is read at once, any other iterable by a
        thread, ahead of the results that are asked for.

        Returns
        -------
        IMapIterator
            Its `next` takes a timeout.
        """
        return self._imap(IMapIterator, func, iterable, chunksize)

    def imap_unordered(self, func, iterable, chunksize=1):
        """`imap`, but results come in the order in which calls end."""
        return self._imap(IMapUnorderedIterator, func, iterable, chunksize)

    def _imap(self, kind, func, iterable, chunksize):
        self._check_running()
        chunksize = _checked_chunksize(chunksize)
        results = kind(self)
        if type(iterable) in PLAIN and len(iterable) <= FEW_CHUNKS * chunksize:
            for chunk in _chunks(iter(iterable), chunksize):
                results._feed_chunk(func, chunk)
            results._feed_end()
            return results
        items = iter(iterable)
        with self._lock:
            self._check_running()
            feeder = threading.Thread(
                target=self._feed,
                args=(results, func, items, chunksize),
                name="allcores-imap",
                daemon=True,
            )
            self._feeders.append(feeder)
        try:
            feeder.start()
        except BaseException:
            self._feeder_ended(feeder)
            raise
        return results

    def _feed(self, results, func, items, chunksize):
        """What imap's thread does."""
        workers = self._workers
        error = None
        try:
            for chunk in _chunks(items, chunksize):
                if self._state == TERMINATE:
                    error = RuntimeError(
                        "the pool was terminated before all items were read"
                    )
                    break
                results._feed_chunk(func, chunk)
                del chunk
                if workers.outstanding >= OUT_MAX:
                    workers.wait_until(lambda: workers.outstanding < OUT_MAX // 2)
        except BaseException as raised:
            error = raised
        results._feed_end(error)
        self._feeder_ended(threading.current_thread())

    def _feeder_ended(self, feeder):
        with self._lock:
            self._feeders.remove(feeder)
            if self._state == CLOSE and not self._feeders:
                self._close_workers()

    # ---- Its end ----

    def close(self):
        """Take no more calls; the workers end when all are done."""
        with self._lock:
            if self._state == RUN:
                self._state = CLOSE
                # Else the last of the threads that still hand over closes.
                if not self._feeders and self._pid == os.getpid():
                    self._close_workers()

    def _close_workers(self):
        # Workers that are still to be started would not be, without tasks; in
        # multiprocessing the initializer runs in each, come what may.
        if self._has_initializer and len(self._workers.pids()) < self._processes:
            try:
                for _ in range(self._processes):
                    self._workers.submit(CALL, int, ((), {}))
            except RuntimeError:
                pass  # the initializer has raised
        self._workers.close()

    def terminate(self):
        """End at once. Results that are out raise RuntimeError from `get`."""
        with self._lock:
            self._state = TERMINATE
        if self._pid == os.getpid():
            self._workers.terminate()
            self._due.put(None)

    def join(self):
        """Wait until the workers have ended and all callbacks have returned.

        Raises
        ------
        ValueError
            Neither `close` nor `terminate` was called before.
        """
        if self._state == RUN:
            raise ValueError(
                "Pool is still running: call close() or terminate() before join()"
            )
        self._check_home()
        me = threading.current_thread()
        for feeder in list(self._feeders):
            while self._state != TERMINATE and feeder.is_alive() and feeder is not me:
                feeder.join(SLICE_SECONDS)
        self._workers.join()
        for result in list(self._expected):
            self._wait(result, None)
        if self._caller is not None and not self._is_calling():
            self._due.put(None)
            self._caller.join()

    def _check_running(self):
        if self._state != RUN:
            raise ValueError(
                "Pool not running: it was closed or terminated; make another"
            )

    def _check_home(self):
        if self._pid != os.getpid():
            raise RuntimeError(
                "the pool belongs to the parent process; make one in this process"
            )

    # ---- Waiting ----

    def _wait(self, result, timeout):
        """Wait until `result` is ready; returns whether it is."""
        if result._called is None:
            return self._wait_until(result._is_in, result._tickets, timeout)
        self._check_home()
        if self._is_calling():
            return self._call_until(result, timeout)
        if timeout is None:
            self._help(result._tickets)
        return result._called.wait(timeout)

    def _wait_until(self, is_over, tickets, timeout):
        self._check_home()
        if timeout is None:
            self._help(tickets)
        return self._workers.wait_until(is_over, timeout)

    def _help(self, tickets):
        """Called before a wait for `tickets` without end."""

    # ---- Callbacks ----

    def _expect_callback(self, result):
        """Have tickets taken in, and callbacks called, by threads of the pool."""
        with self._lock:
            self._check_running()  # else the thread may have ended
            if self._caller is None:
                caller = threading.Thread(
                    target=_call_back,
                    args=(self._due, weakref.ref(self)),
                    name="allcores-callbacks",
                    daemon=True,
                )
                caller.start()
                self._caller = caller
            self._expected.add(result)

    def _is_calling(self):
        """Whether this is the callback thread."""
        return threading.current_thread() is self._caller

    def _call_until(self, result, timeout):
        """A callback waits for a result with a callback: call what is due."""
        until = None if timeout is None else time.monotonic() + timeout
        while result._outcome is None:
            left = None if until is None else max(0, until - time.monotonic())
            try:
                due = self._due.get(timeout=left)
            except queue.Empty:
                return False
            if due is not None:
                due._call()
        return True


def _call_back(due, pool):
    """What the callback thread does. `pool` is a weak reference."""
    while True:
        result = due.get()
        if result is not None:
            result._call()
        if (owner := pool()) is None:
            return
        if not owner._expected and (result is None or owner._state == TERMINATE):
            return
        del owner, result  # they would live until the next one comes


class ThreadPool(Pool):
    """Threads that run calls: multiprocessing.pool.ThreadPool's methods.

    As many as asked for, even if there are fewer cores; they are started as calls come.
    A task may itself use the pool and wait for what it gets. Threads cannot be stopped:
    `terminate` drops the calls that have not begun, `join` waits for those that have.

    Parameters
    ----------
    processes : int, optional
        How many threads. By default one for each core of the budget.
    initializer : callable, optional
        Called by each thread before its first call, with `initargs`.
    initargs : iterable
    """

    def __init__(self, processes=None, initializer=None, initargs=()):
        super().__init__(processes, initializer, initargs)

    def _make_workers(self, count, initializer, initargs, *of_processes):
        from allcores._threads import ThreadWorkers

        return ThreadWorkers(count, initializer=initializer, initargs=initargs)

    def _close_workers(self):
        self._workers.close()

    def _help(self, tickets):
        self._workers.help(tickets)


def _chunks(items, size):
    """Iterate over lists of `size` items each, the last aside."""
    return iter(lambda: list(islice(items, size)), [])


def _checked_count(name, given):
    if given is None:
        from allcores.budget import get_num_threads

        return get_num_threads()
    return _checked(
        f"{name}() takes processes= an integer from 1 on, or None for one "
        "for each core",
        given,
    )


def _checked_chunksize(given):
    return _checked("chunksize= takes an integer from 1 on", given)


def _checked(allowed, given):
    """`given` as an integer from 1 on, or an exception that says what is allowed."""
    try:
        if isinstance(given, bool):
            raise TypeError
        number = index(given)
    except TypeError:
        raise TypeError(f"{allowed}, not {given!r}") from None
    if number < 1:
        raise ValueError(f"{allowed}, not {number}")
    return number


def _start_method(name, context):
    """The start method that `context` names."""
    if context is None:
        return START_METHODS[0]
    method = context
    if not isinstance(context, str):
        ask = getattr(context, "get_start_method", None)
        method = ask() if callable(ask) else None
    if method not in START_METHODS:
        error = ValueError if isinstance(method, str) else TypeError
        raise error(
            f"{name}() takes context= a start method, 'forkserver', 'fork' or 'spawn', "
            f"or a context of multiprocessing with one of these, not {context!r}"
        )
    return method
