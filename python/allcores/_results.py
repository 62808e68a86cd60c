"""The results of a pool's calls, before and after they have come.

A result holds tickets (see `_workers.py`) until all are done, then their outcome. It
has no lock: tickets are marked by whoever takes them in, and any thread that finds all
of them done may settle it, always to the same outcome.

Errors come as multiprocessing's own where that has some, so that programs catch them.

Knows nothing of: workers, threads that call back or hand over. See pools.py.
"""

import pickle
import threading
import time
from collections import deque
from operator import attrgetter
from types import GenericAlias

from allcores._workers import MAP, SLICE_SECONDS, RemoteTraceback, Ticket

__all__ = [
    "AsyncResult",
    "IMapIterator",
    "IMapUnorderedIterator",
    "MapResult",
    "as_submitted",
    "error_of",
]

# multiprocessing's own words, since programs look at Pool._state.
INIT = "INIT"
RUN = "RUN"
CLOSE = "CLOSE"
TERMINATE = "TERMINATE"


# ---- Errors ------------------------------------------------------------------


def _both(error, base, attributes=()):
    """`error` as an instance of its own class and of `base`; itself if that cannot be.

    What is printed and pickled is as before.
    """
    kind = type(error)
    body = {
        "__module__": kind.__module__,
        "__str__": lambda made: str(error),
        "__reduce__": lambda made: (kind, error.args),
        **dict(attributes),
    }
    try:
        made = type(kind.__name__, (kind, base), body)
        made = made.__new__(made, *error.args)
    except TypeError:  # the two do not go together
        return error
    made.__cause__ = error.__cause__
    made.__traceback__ = error.__traceback__
    return made


def _timed_out(seconds):
    """multiprocessing.TimeoutError, and Python's."""
    import multiprocessing

    text = f"no result within {seconds} s; the task goes on"
    return _both(TimeoutError(text), multiprocessing.TimeoutError)


def as_submitted(error):
    """What `submit` raised. multiprocessing passes on what pickle had raised, so what
    says which object cannot be sent is that, too."""
    cause = error.__cause__
    if isinstance(error, pickle.PicklingError) and isinstance(cause, Exception):
        if not isinstance(error, type(cause)):
            return _both(error, type(cause))
    return error


def error_of(ticket):
    """What a ticket that is not `ok` raises."""
    if ticket.was_cancelled:
        return RuntimeError("the pool was terminated before the task was done")
    error = ticket.value
    if type(error.__cause__) is RemoteTraceback:
        from multiprocessing.pool import MaybeEncodingError
        from multiprocessing.pool import RemoteTraceback as Theirs

        error.__cause__ = Theirs(str(error.__cause__))
        text = str(error)
        if isinstance(error, pickle.PicklingError) and text.startswith("the result"):
            value, _, why = text.partition(": ")
            return _both(error, MaybeEncodingError, {"value": value, "exc": why})
    return error


def _failed(workers, error):
    """A ticket for a task that could not be handed over."""
    ticket = Ticket(workers)
    ticket.ok = False
    ticket.value = as_submitted(error)
    ticket.done = True
    return ticket


_place = attrgetter("tag")  # of a chunk in its list


# ---- Single results and lists ------------------------------------------------


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
                (True, ticket.value) if ticket.ok else (False, error_of(ticket))
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
                    self._outcome = False, error_of(ticket)
                    break
            else:
                results = []
                for ticket in sorted(done, key=_place):
                    results += ticket.value
                self._outcome = True, results
        self._tickets = self._done = ()
        self._pool = None


# ---- Iterators --------------------------------------------------------------


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
                    raise error_of(ticket)
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
