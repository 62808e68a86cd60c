"""Workers that are threads of this process.

Submitting puts a ticket into a queue, from which all threads take; what is finished
goes into a deque, from which `poll` takes it in. No lock of ours lies on that way: each
step is one operation of a list, dict, deque or queue, which no other thread can see
half done.

Two such steps decide what happens once:

- who pops a ticket's call off its `_key`, a list of one, may run it, or has cancelled
  it;
- who pops a ticket off `_tickets` may end it, so that a task that was given up and
  returns later changes nothing.

Threads do not keep their workers alive, only the tickets in the queue do. A ticket that
one of the threads waits for is run by that thread itself if nobody has begun it, so
tasks may wait for tasks.

Knows nothing of: processes, pickling, the core budget (threads that were asked for by
number always run).
"""

import os
import queue
import threading
import time
import weakref
from collections import deque

from allcores._workers import (
    CALL,
    MAP,
    SLICE_SECONDS,
    STARMAP,
    InitializerError,
    Ticket,
    Workers,
)

__all__ = ["ThreadWorkers"]

_GIVEN_UP = None  # what `ok` is of a task that does not run or whose end is not awaited
_NOTHING = object()

_allocate_lock = threading.Lock
_clock = time.perf_counter
_get_ident = threading.get_ident

_living = weakref.WeakSet()


class ThreadWorkers(Workers):
    """`count` threads of their own.

    They are started as tasks come, and all of them run if there are fewer cores.

    Parameters
    ----------
    count : int
    initializer : callable, optional
        Called by each thread before its first task. If it raises, all tasks fail with
        InitializerError, and `submit` raises it.
    initargs : tuple
    """

    kind = "threads"

    def __init__(self, count, *, initializer=None, initargs=()):
        super().__init__(count)
        self._tickets = {}  # not ended; a dict for its order
        self._finished = deque()  # (ticket, ok, value), to be taken in
        self._sleepers = []  # a held lock for each thread in _sleep()
        self._queue = queue.SimpleQueue()  # tickets; None = threads, end
        self._put = self._queue.put
        self._setup = (initializer, initargs)
        self._start_lock = threading.RLock()  # a signal's handler may submit
        self._threads = []
        self._idents = set()  # of the threads that run
        self._started = 0
        self._refusal = None  # why submit() raises: makes the exception
        self._watched = False  # who finishes a task takes it in
        _living.add(self)

    def __del__(self):
        self._put(None)

    def submit(
        self, mode, function, data, *, timeout=None, retries=0, on_done=None, tag=None
    ):
        if timeout is not None:
            raise ValueError(
                f"timeout={timeout!r}: a thread cannot be stopped while it runs a "
                "task; use worker processes, or leave timeout out"
            )
        if self._refusal is not None:
            raise self._refusal()
        ticket = Ticket(self, on_done, tag)
        ticket._key = [(mode, function, data)]
        self._tickets[ticket] = None
        self._outstanding += 1
        self._put(ticket)
        if self._started < self.count and self._started < self._outstanding:
            self._start(ticket)
        if self._refusal is not None and self._take_back(ticket):
            raise self._refusal()  # closed meanwhile
        return ticket

    def _take_back(self, ticket):
        """Undo its submission, if it has neither begun nor ended."""
        try:
            ticket._key.pop()
        except IndexError:
            return False
        if self._tickets.pop(ticket, _NOTHING) is _NOTHING:
            return False
        ticket.on_done = None
        self._end(ticket, False, None)
        return True

    def _start(self, ticket):
        """Start one more thread, if there are not enough."""
        with self._start_lock:
            if self._started == self.count:
                return
            thread = threading.Thread(
                target=_work,
                args=(self._queue, self._idents, weakref.ref(self), self._setup),
                name=f"allcores-thread-{self._started + 1}",
                daemon=True,
            )
            self._started += 1  # first: the new thread may itself submit
            try:
                thread.start()
            except BaseException as error:
                self._started -= 1
                if self._threads:
                    return  # those that there are will do it
                if self._take_back(ticket):
                    raise RuntimeError(
                        f"no thread can be started ({error}): the system's limit on "
                        "threads or memory is reached; use fewer, or raise the limit"
                    ) from error
                return
            self._threads.append(thread)

    def poll(self):
        finished = self._finished
        taken = 0
        while finished:
            try:
                ticket, ok, value = finished.popleft()
            except IndexError:
                break
            if self._tickets.pop(ticket, _NOTHING) is _NOTHING:
                continue
            if ok is _GIVEN_UP:
                ticket.was_cancelled = True
                ok = False
            self._end(ticket, ok, value)
            taken += 1
        if taken and self._sleepers:
            self._wake()
        return taken

    def _wake(self):
        sleepers = self._sleepers
        while sleepers:
            try:
                sleepers.pop().release()
            except IndexError:
                return

    def _sleep(self, seconds):
        self._sleep_unless(seconds, bool)

    def _sleep_unless(self, seconds, is_over):
        """`_sleep`, but return at once if `is_over()`."""
        lock = _allocate_lock()
        lock.acquire()
        self._sleepers.append(lock)
        # Looked at only now, so what happens after has to wake this thread.
        if not (self._finished or is_over()):
            lock.acquire(timeout=seconds)
        try:
            self._sleepers.remove(lock)
        except ValueError:
            pass  # woken

    def wait_until(self, is_over, timeout=None):
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            self.poll()
            if is_over():
                return True
            left = SLICE_SECONDS
            if until is not None:
                left = min(left, until - time.monotonic())
                if left <= 0:
                    return False
            self._sleep_unless(left, is_over)

    def wait(self, ticket, timeout=None):
        if timeout is None:
            self.help((ticket,))
        return self.wait_until(lambda: ticket.done, timeout)

    def help(self, tickets):
        """If the caller is one of the threads, have it run those of `tickets` that
        nobody has begun: it is about to wait for them, so else nobody might be left to
        run them."""
        if _get_ident() in self._idents:
            for ticket in list(tickets):
                _run(ticket)

    def watch(self):
        """Have tickets taken in by the threads that run them, from now on."""
        self._watched = True
        self.poll()

    def is_running(self, ticket):
        return not (ticket._key or ticket.done or ticket.was_cancelled)

    def cancel(self, ticket, kill=False):
        try:
            ticket._key.pop()
        except IndexError:  # begun, or cancelled before
            return ticket.was_cancelled
        ticket.was_cancelled = True
        self._finish(ticket, _GIVEN_UP, None)
        return True

    def _finish(self, ticket, ok, value):
        self._finished.append((ticket, ok, value))
        if self._watched:
            self.poll()
        elif self._sleepers:
            self._wake()

    def _give_up(self, make_error=None):
        """End all tickets, as cancelled or with an error."""
        for ticket in list(self._tickets):
            ticket._key.clear()
            if make_error is None:
                self._finish(ticket, _GIVEN_UP, None)
            else:
                self._finish(ticket, False, make_error())

    def close(self):
        if self._refusal is None:
            self._refusal = _closed
            self._put(None)

    def terminate(self):
        """As `close`, and all tasks are cancelled. Threads cannot be stopped: one that
        runs a task ends when that returns, which `join` waits for and this does not.
        """
        if self._refusal is None:
            self._refusal = _closed
        self._give_up()
        self._put(None)
        self.poll()

    def join(self, timeout=None):
        if self._refusal is None:
            raise RuntimeError("join() before close(): the threads would never end")
        if _get_ident() in self._idents:
            raise RuntimeError(
                "join() was called by a task of the same threads, and would wait for "
                "that task, hence for itself; call it from outside"
            )
        until = None if timeout is None else time.monotonic() + timeout
        if not self.wait_until(lambda: self._outstanding == 0, timeout):
            return False
        for thread in self._threads:
            if until is None:
                thread.join()
                continue
            thread.join(max(0, until - time.monotonic()))
            if thread.is_alive():
                return False
        return True

    def _break(self, error):
        """The initializer raised `error`."""
        initializer, _ = self._setup
        name = getattr(initializer, "__qualname__", repr(initializer))

        def broken():
            made = InitializerError(
                f"no task can run: the initializer {name}() raised "
                f"{type(error).__name__}: {error}"
            )
            made.__cause__ = error
            return made

        self._refusal = broken
        self._give_up(broken)
        self._put(None)

    def _leave_behind(self):
        """In a forked child, where the threads are not."""
        self._refusal = _left_behind
        self._threads = []
        self._idents = set()
        self._sleepers = []
        self._give_up(_left_behind)


def _closed():
    return RuntimeError("the workers were closed; they take no more tasks")


def _left_behind():
    return RuntimeError(
        "the workers are threads of the parent process, which a fork does not copy; "
        "make others in this process"
    )


def _forked():
    for workers in list(_living):
        workers._leave_behind()


os.register_at_fork(after_in_child=_forked)


def _work(queue, idents, workers, setup):
    """What a thread does. `workers` is a weak reference."""
    ident = _get_ident()
    initializer, initargs = setup
    if initializer is not None:
        try:
            initializer(*initargs)
        except BaseException as error:
            if (broken := workers()) is not None:
                broken._break(_without_our_frame(error))
            return
    idents.add(ident)
    get = queue.get
    while (ticket := get()) is not None:
        _run(ticket)
        del ticket  # it would live until the next one comes
    idents.discard(ident)
    queue.put(None)  # for the others


def _run(ticket):
    """Run its task, unless somebody else has or it was cancelled."""
    try:
        mode, function, data = ticket._key.pop()
    except IndexError:
        return
    begin = _clock()
    try:
        if mode == CALL:
            args, kwargs = data
            value = function(*args, **kwargs)
        else:
            value = []
            if mode == MAP:
                for item in data:
                    value.append(function(item))
            elif mode == STARMAP:
                for item in data:
                    value.append(function(*item))
            else:
                for function, args, kwargs in data:
                    value.append(function(*args, **kwargs))
    except BaseException as error:
        ticket.seconds = _clock() - begin
        if mode != CALL:
            ticket.failed_index = len(value)
        ticket._workers._finish(ticket, False, _without_our_frame(error))
        # The traceback's frames hold this one: no cycle, and no argument kept alive.
        ticket = function = data = value = item = args = kwargs = None
        return
    ticket.seconds = _clock() - begin
    ticket._workers._finish(ticket, True, value)


def _without_our_frame(error):
    """`error` with a traceback that begins in the task."""
    return error.with_traceback(error.__traceback__.tb_next)
