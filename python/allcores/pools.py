"""multiprocessing.pool's Pool and ThreadPool, on this package's workers.

Who asks for a result takes it in, so a pool without callbacks and without iterators
runs no thread of its own. Two things do need one:

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
from operator import attrgetter, index
from types import GenericAlias

from allcores._workers import (
    CALL,
    MAP,
    SLICE_SECONDS,
    STARMAP,
    RemoteTraceback,
    Ticket,
)

__all__ = [
    "AsyncResult",
    "IMapIterator",
    "IMapUnorderedIterator",
    "MapResult",
    "Pool",
    "ThreadPool",
]

# multiprocessing's own words, since programs look at Pool._state.
INIT = "INIT"
RUN = "RUN"
CLOSE = "CLOSE"
TERMINATE = "TERMINATE"

START_METHODS = ("forkserver", "fork", "spawn")

# imap reads these at once, and without a thread, if they make few chunks: to iterate
# over them cannot block.
PLAIN = (list, tuple, range, str, bytes, bytearray, dict, set, frozenset, deque)
FEW_CHUNKS = 1024
# imap's thread reads on while fewer tasks than that are out.
OUT_MAX = 4096


def _timed_out(seconds):
    """multiprocessing.TimeoutError, which is also Python's TimeoutError."""
    global _TimeoutError
    if _TimeoutError is None:
        import multiprocessing

        class Both(multiprocessing.TimeoutError, TimeoutError):
            """Not ready in time."""

        Both.__name__ = Both.__qualname__ = "TimeoutError"
        _TimeoutError = Both
    return _TimeoutError(f"no result within {seconds} s; the task goes on")


_TimeoutError = None


def _error(ticket):
    """What a ticket that is not `ok` raises."""
    if ticket.was_cancelled:
        return RuntimeError("the pool was terminated before the task was done")
    error = ticket.value
    if type(error.__cause__) is RemoteTraceback:
        from multiprocessing.pool import RemoteTraceback as Theirs

        error.__cause__ = Theirs(str(error.__cause__))
    return error


def _failed(workers, error):
    """A ticket for a task that could not be handed over."""
    ticket = Ticket(workers)
    ticket.ok = False
    ticket.value = error
    ticket.done = True
    return ticket


_place = attrgetter("tag")  # of a chunk in its list


def _report(error):
    """Print the traceback of what a callback raised, as of a thread that it ends."""
    threading.excepthook(
        threading.ExceptHookArgs(
            (type(error), error, error.__traceback__, threading.current_thread())
        )
    )


class AsyncResult:
    """A call's result to come, from `Pool.apply_async`."""

    __slots__ = (
        "__weakref__",
        "_called",
        "_callback",
        "_error_callback",
        "_outcome",
        "_pool",
        "_tickets",
    )

    def __init__(self, pool, callback=None, error_callback=None):
        for name, given in (("callback", callback), ("error_callback", error_callback)):
            if given is not None and not callable(given):
                raise TypeError(f"{name}= takes a callable or None, not {given!r}")
        self._pool = pool  # None once the outcome is known
        self._tickets = ()
        self._outcome = None  # (whether it succeeded, value or exception)
        self._callback = callback
        self._error_callback = error_callback
        self._called = None  # set once the callback has returned, if there is one
        if callback is not None or error_callback is not None:
            self._called = threading.Event()

    def _submit(self, mode, function, data):
        """Hand over the one task."""
        workers = self._pool._workers
        on_done = self._call_soon if self._called else None
        try:
            ticket = workers.submit(mode, function, data, on_done=on_done)
        except Exception as error:
            ticket = _failed(workers, error)
        self._tickets = (ticket,)
        if ticket.done and self._called:
            self._call_soon()  # it was called too early, or not at all

    def _call_soon(self, ticket=None):
        """Have the callback called if all is in. By who takes in; does not block."""
        pool = self._pool
        if pool is not None and self._is_in():
            pool._due.put(self)

    def _is_in(self):
        """Whether all its tickets are done."""
        tickets = self._tickets  # read before the outcome: cleared after that is set
        return self._outcome is not None or (bool(tickets) and tickets[0].done)

    def _settle(self):
        """Keep the outcome, let go of the rest. More than one thread may."""
        tickets = self._tickets
        if self._outcome is None:
            (ticket,) = tickets
            self._outcome = (
                (True, ticket.value) if ticket.ok else (False, _error(ticket))
            )
        self._tickets = ()
        self._pool = None

    def ready(self):
        """Whether the result, or the exception, is there. Never blocks.

        To call it over and over makes progress; it takes less than a microsecond when
        nothing changed.
        """
        pool = self._pool
        if pool is None:
            return True
        if self._called is not None:
            pool._workers.poll()
            return self._called.is_set()
        if self._is_in() or (pool._workers.poll() and self._is_in()):
            self._settle()
            return True
        return False

    def successful(self):
        """Whether the call returned without raising.

        Raises
        ------
        ValueError
            It is not ready.
        """
        if not self.ready():
            raise ValueError(f"{self!r} not ready: call wait() or get() first")
        return self._outcome[0]

    def wait(self, timeout=None):
        """Wait until it is ready, or `timeout` seconds have passed."""
        pool = self._pool
        if pool is not None and pool._wait(self, timeout) and self._called is None:
            self._settle()

    def get(self, timeout=None):
        """Wait, and return the result or raise the call's exception.

        Parameters
        ----------
        timeout : float, optional
            In seconds; None waits for as long as it takes.

        Raises
        ------
        multiprocessing.TimeoutError
            It was not ready in time. ``except TimeoutError`` catches it as well.
        WorkerDiedError
            The worker process ended while it ran the task.
        RuntimeError
            The pool was terminated before the task was done.
        """
        self.wait(timeout)
        if self._outcome is None or not (self._called is None or self._is_called()):
            raise _timed_out(timeout)
        succeeded, value = self._outcome
        if succeeded:
            return value
        try:
            raise value
        finally:
            del self, value  # the traceback holds this frame

    def _is_called(self):
        pool = self._pool  # a callback may get() its own result
        return self._called.is_set() or (pool is not None and pool._is_calling())

    def _call(self):
        """Settle, and call the callback. Only the pool's callback thread."""
        if self._outcome is not None:
            return  # it was due twice
        pool = self._pool
        given_up = any(ticket.was_cancelled for ticket in self._tickets)
        self._settle()
        self._pool = pool  # until the callback has returned
        succeeded, value = self._outcome
        callback = self._callback if succeeded else self._error_callback
        self._callback = self._error_callback = None
        try:
            if callback is not None and not given_up:
                callback(value)
        except BaseException as error:
            _report(error)
        finally:
            self._called.set()
            self._pool = None
            pool._expected.discard(self)

    __class_getitem__ = classmethod(GenericAlias)


class MapResult(AsyncResult):
    """A list of results to come, from `Pool.map_async` and `starmap_async`.

    If calls raise, its exception is the first that came in; it is ready once all calls
    have ended.
    """

    __slots__ = ("_count", "_done")

    def __init__(self, pool, callback=None, error_callback=None):
        super().__init__(pool, callback, error_callback)
        self._done = []  # tickets as they were taken in
        self._count = 0  # of tickets

    def _submit_chunks(self, mode, function, items, chunksize):
        workers = self._pool._workers
        submit = workers.submit
        on_done = self._chunk_is_done if self._called else self._done.append
        tickets = self._tickets = []
        self._count = -(-len(items) // chunksize)
        try:
            for i in range(0, len(items), chunksize):
                chunk = items[i : i + chunksize]
                tickets.append(submit(mode, function, chunk, on_done=on_done, tag=i))
        except Exception as error:
            self._fail(error)
        else:
            if not tickets and self._called:
                self._call_soon()

    def _fail(self, error):
        """No more tickets come, for this reason."""
        ticket = _failed(self._pool._workers, error)
        self._tickets = [*self._tickets, ticket]
        self._done.append(ticket)
        self._count = len(self._tickets)
        if self._called:
            self._call_soon()

    def _chunk_is_done(self, ticket):
        self._done.append(ticket)
        self._call_soon()

    def _is_in(self):
        done = self._done
        return self._outcome is not None or len(done) == self._count

    def _settle(self):
        done = self._done
        if self._outcome is None:
            for ticket in done:
                if not ticket.ok:
                    self._outcome = False, _error(ticket)
                    break
            else:
                results = []
                for ticket in sorted(done, key=_place):
                    results += ticket.value
                self._outcome = True, results
        self._tickets = self._done = ()
        self._pool = None


class IMapIterator:
    """Results in the order of the items, from `Pool.imap`.

    An item whose call raised raises from `next`, and the next call of `next` goes on
    behind it. Of a chunk with such an item nothing else is given.
    """

    def __init__(self, pool):
        self._pool = pool  # None once all is given
        self._lock = threading.RLock()  # held by the thread that is in next()
        self._tickets = deque()  # chunks, in order
        self._values = deque()  # of the chunk that is being given
        self._all_fed = False
        self._fed = threading.Event()  # something was; only a waiting next() clears it

    # ---- The side that hands over ----

    def _feed_chunk(self, function, chunk):
        workers = self._pool._workers
        try:
            ticket = self._submit(workers, function, chunk)
        except Exception as error:
            ticket = _failed(workers, error)
            self._add_failed(ticket)
        else:
            self._add(ticket)
        self._tell()

    def _submit(self, workers, function, chunk):
        return workers.submit(MAP, function, chunk)

    def _add(self, ticket):
        self._tickets.append(ticket)

    def _add_failed(self, ticket):
        self._tickets.append(ticket)

    def _feed_end(self, error=None):
        if error is not None:
            self._add_failed(_failed(self._pool._workers, error))
        self._all_fed = True
        self._tell()

    def _tell(self):
        if not self._fed.is_set():
            self._fed.set()

    # ---- The side that takes ----

    def __iter__(self):
        return self

    def next(self, timeout=None):
        """The next result.

        Raises
        ------
        StopIteration
            There is none.
        multiprocessing.TimeoutError
            It did not come within `timeout` seconds.
        """
        until = None if timeout is None else time.monotonic() + max(0, timeout)
        if not self._lock.acquire(timeout=-1 if timeout is None else max(0, timeout)):
            raise _timed_out(timeout)
        try:
            while not self._values:
                ticket = self._take(until, timeout)
                if ticket is None:
                    self._pool = None
                    raise StopIteration
                if not ticket.ok:
                    raise _error(ticket)
                self._values.extend(ticket.value)
            return self._values.popleft()
        finally:
            ticket = None  # an exception's traceback holds this frame
            self._lock.release()

    __next__ = next

    def _take(self, until, timeout):
        """The next ticket, done; None if all were taken."""
        tickets = self._tickets
        while not tickets:
            if self._all_fed and not tickets:
                return None
            self._await_feed(lambda: tickets or self._all_fed, until, timeout)
        ticket = tickets[0]
        if not ticket.done:
            self._await(lambda: ticket.done, (ticket,), until, timeout)
        return tickets.popleft()

    def _await(self, is_over, tickets, until, timeout):
        left = None if until is None else max(0, until - time.monotonic())
        if not self._pool._wait_until(is_over, tickets, left):
            raise _timed_out(timeout)

    def _await_feed(self, is_over, until, timeout):
        pool = self._pool
        pool._check_home()
        self._fed.clear()
        while not is_over():
            if pool._state == TERMINATE:
                raise RuntimeError("the pool was terminated before the end was reached")
            left = SLICE_SECONDS
            if until is not None:
                left = min(left, until - time.monotonic())
                if left <= 0:
                    raise _timed_out(timeout)
            self._fed.wait(left)


class IMapUnorderedIterator(IMapIterator):
    """Results in the order in which they come, from `Pool.imap_unordered`."""

    def __init__(self, pool):
        super().__init__(pool)
        self._tickets = {}  # not done; a dict for its order
        self._done = deque()  # tickets as they were taken in
        self._sent = 0
        self._taken = 0

    def _submit(self, workers, function, chunk):
        self._sent += 1
        try:
            return workers.submit(MAP, function, chunk, on_done=self._done.append)
        except BaseException:
            self._sent -= 1
            raise

    def _add(self, ticket):
        self._tickets[ticket] = None
        if ticket.done:  # perhaps even taken
            self._tickets.pop(ticket, None)

    def _add_failed(self, ticket):
        self._sent += 1
        self._done.append(ticket)

    def _take(self, until, timeout):
        done = self._done
        while not done:
            if self._taken < self._sent:
                self._await(lambda: done, self._tickets, until, timeout)
            elif self._all_fed and self._taken == self._sent:
                return None
            else:
                self._await_feed(
                    lambda: self._taken < self._sent or self._all_fed, until, timeout
                )
        ticket = done.popleft()
        self._taken += 1
        self._tickets.pop(ticket, None)
        return ticket


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
        if self._state == RUN and self._pid == _getpid():
            _warn(
                f"unclosed running multiprocessing pool {self!r}: leave it through "
                "'with', or close() and join() it",
                ResourceWarning,
                source=self,
            )
        if self._workers is not None:
            self._due.put(None)

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
        ticket = self._workers.submit(CALL, func, call)
        ticket.wait()
        if ticket.ok:
            return ticket.value
        try:
            raise _error(ticket)
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
                self._workers.close()

    # ---- Its end ----

    def close(self):
        """Take no more calls; the workers end when all are done."""
        with self._lock:
            if self._state == RUN:
                self._state = CLOSE
                # Else the last of the threads that still hand over closes.
                if not self._feeders and self._pid == os.getpid():
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
            if self._state != TERMINATE and feeder is not me:
                feeder.join()
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

    def _help(self, tickets):
        self._workers.help(tickets)


def _chunks(items, size):
    """Iterate over lists of `size` items each, the last aside."""
    return iter(lambda: list(islice(items, size)), [])


def _checked_count(name, given):
    if given is None:
        from allcores.budget import get_num_threads

        return get_num_threads()
    allowed = "processes= an integer from 1 on, or None for one for each core"
    try:
        if isinstance(given, bool):
            raise TypeError
        count = index(given)
    except TypeError:
        raise TypeError(f"{name}() takes {allowed}, not {given!r}") from None
    if count < 1:
        raise ValueError(f"{name}() takes {allowed}, not {count}")
    return count


def _checked_chunksize(given):
    allowed = "chunksize= takes an integer from 1 on"
    try:
        if isinstance(given, bool):
            raise TypeError
        size = index(given)
    except TypeError:
        raise TypeError(f"{allowed}, not {given!r}") from None
    if size < 1:
        raise ValueError(f"{allowed}, not {size}")
    return size


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
