"""concurrent.futures' Executor, on this package's worker processes.

```
 submit ──> Workers.submit ──> Ticket ──(taken in)──> _settle ──> Future
```

Who asks a future for its result takes in what has finished, so an executor whose
futures are only asked runs no thread of its own. Once a future is to tell somebody
else (a callback, `wait`, `as_completed`, asyncio), the workers' watching thread takes
everything in. Callbacks run in a thread of the executor that does nothing else, so one
that blocks, or wants a lock that somebody holds who waits for a result, holds up no
result.

Invariants: a future ends exactly once; an executor that is dropped ends its workers
when its tasks are done; nothing that a task does breaks another task, unless `strict`.

Knows nothing of: how tasks travel, worker processes.
"""

import atexit
import os
import threading
import time
import weakref
from collections import deque
from concurrent.futures import Executor as _Executor
from concurrent.futures import Future as _Future
from concurrent.futures import InvalidStateError
from itertools import islice
from operator import index

from allcores._workers import (
    CALL,
    MAP,
    SLICE_SECONDS,
    STARMAP,
    InitializerError,
    WorkerDiedError,
)

__all__ = ["Executor", "Future"]

START_METHODS = ("forkserver", "fork", "spawn")


def __getattr__(name):
    if name == "TaskLostError":
        return _task_lost_error()
    raise AttributeError(f"module 'allcores.executor' has no attribute {name!r}")


def _broken_pool(message, cause=None):
    # Imported late: it imports most of multiprocessing.
    from concurrent.futures.process import BrokenProcessPool

    error = BrokenProcessPool(message)
    error.__cause__ = cause
    return error


def _task_lost_error():
    """WorkerDiedError as a BrokenProcessPool, which programs look for."""
    from concurrent.futures.process import BrokenProcessPool

    class TaskLostError(WorkerDiedError, BrokenProcessPool):
        """The worker process that ran this task died; other tasks go on."""

    TaskLostError.__qualname__ = "TaskLostError"
    globals()["TaskLostError"] = TaskLostError
    return TaskLostError


# ---- Futures -----------------------------------------------------------------


class _Waiters(list):
    """Who waits for a future by concurrent.futures' own functions."""

    def __init__(self, core):
        super().__init__()
        self._core = core

    def append(self, waiter):
        super().append(waiter)
        core = self._core
        if not core.is_watched:
            # In another thread: this one holds the locks of many futures, none of
            # which may end while it goes from one to the next.
            core.callbacks.call(core.watch)


class Future(_Future):
    """The outcome of a task, to come: concurrent.futures' Future, and `stop`.

    Made by `Executor.submit`.
    """

    def __init__(self, core):
        super().__init__()
        self._core = core
        self._ticket = None
        self._waiters = _Waiters(core)

    def cancel(self):
        """Cancel the task if no worker has begun it.

        Returns
        -------
        bool
            False if it runs or is done: see `stop`.
        """
        return self._cancel(False)

    def stop(self):
        """Cancel the task, also if it runs: its worker process is ended.

        Another worker process takes its place. The future is then cancelled.

        Returns
        -------
        bool
            False if the task was done.
        """
        return self._cancel(True)

    def _cancel(self, kill):
        ticket = self._ticket
        if ticket is None or super().done():
            return super().cancelled()
        if not ticket.cancel(kill):
            return super().cancelled()
        if not super().cancel():
            return False
        self._core.workers.watch()
        return True

    def running(self):
        """True if a worker has begun the task and it is not done."""
        ticket = self._ticket
        return ticket is not None and not super().done() and ticket.is_running()

    def done(self):
        """True if the task was cancelled, returned or raised."""
        if super().done():
            return True
        self._core.watch()
        return False

    def result(self, timeout=None):
        """The task's result. Waits for it, at most `timeout` seconds.

        Raises
        ------
        concurrent.futures.CancelledError
            The task was cancelled.
        concurrent.futures.TimeoutError
            It was not done in time; it goes on.
        allcores.WorkerDiedError
            Its worker process died. Also a BrokenProcessPool.
        allcores.TaskTimeoutError
            It ran for longer than `Executor.with_options` allows, and was ended.
        BaseException
            What the task raised, with the worker's traceback as its cause.
        """
        return super().result(self._take_in(timeout))

    def exception(self, timeout=None):
        """What the task raised, or None. Waits as `result` does."""
        return super().exception(self._take_in(timeout))

    def _take_in(self, timeout):
        """Wait, if it is this thread's to do; gives the time-out that is left."""
        ticket = self._ticket
        core = self._core
        if ticket is None or core.is_watched or super().done():
            return timeout
        return None if ticket.wait(timeout) else 0

    def add_done_callback(self, fn):
        """Call ``fn(future)`` once it is done, in another thread; at once if it is."""
        super().add_done_callback(fn)
        if not super().done():
            self._core.watch()

    def _invoke_callbacks(self):
        if self._done_callbacks:
            self._core.callbacks.call(super()._invoke_callbacks)


class _Callbacks:
    """A thread that makes calls in their order, as long as there are any."""

    LINGER_SECONDS = 2.0

    def __init__(self):
        self._changed = threading.Condition()
        self._calls = deque()
        self._thread = None
        self._linger = self.LINGER_SECONDS

    def call(self, function):
        with self._changed:
            self._calls.append(function)
            if self._thread is not None:
                self._changed.notify_all()
                return
            self._thread = threading.Thread(
                target=self._run, name="allcores-callbacks", daemon=True
            )
            try:
                self._thread.start()
                return
            except RuntimeError:  # no thread can be started, perhaps ever
                self._thread = None
        self._run()

    def _run(self):
        while True:
            with self._changed:
                if not self._calls and self._linger:
                    self._changed.wait(self._linger)
                if not self._calls:
                    self._thread = None
                    return
                function = self._calls[0]
            try:
                function()
            finally:
                function = None
                with self._changed:
                    self._calls.popleft()
                    self._changed.notify_all()

    def join(self):
        """Wait until all calls were made. In one of them, return at once."""
        with self._changed:
            self._linger = 0
            self._changed.notify_all()
            if self._thread is threading.current_thread():
                return
            while self._calls and self._thread is not None:
                self._changed.wait(SLICE_SECONDS)


def _settle(ticket):
    """Give a ticket's outcome to its future. Called by who takes it in."""
    future = ticket.tag
    ticket.tag = None
    core = future._core
    core.futures.discard(future)
    try:
        if ticket.ok:
            future.set_result(ticket.value)
        elif ticket.was_cancelled:
            error = core.broken
            if error is not None and not future.cancelled():
                future.set_exception(error)
            else:
                _Future.cancel(future)
                future.set_running_or_notify_cancel()
        else:
            future.set_exception(core.error_for(ticket.value))
    except InvalidStateError:
        pass  # somebody else set it
    finally:
        future._ticket = None


# ---- The executor ------------------------------------------------------------


class _Core:
    """What an executor and its futures share; futures do not keep the executor."""

    def __init__(self, workers, strict):
        self.workers = workers
        self.strict = strict
        self.futures = set()  # not done
        self.callbacks = _Callbacks()
        self.is_watched = False
        self.is_shut = False
        self.broken = None  # the exception of all futures, once no task can run

    def watch(self):
        """From now on, the watching thread takes in."""
        self.is_watched = True
        self.workers.watch()

    def submit(self, mode, function, data, timeout, retries):
        if self.broken is not None:
            raise _broken_pool(str(self.broken), self.broken.__cause__)
        if self.is_shut:
            raise RuntimeError("cannot schedule new futures after shutdown")
        if _is_exiting:
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")
        from pickle import PicklingError

        future = Future(self)
        self.futures.add(future)
        try:
            ticket = self.workers.submit(
                mode,
                function,
                data,
                timeout=timeout,
                retries=retries,
                on_done=_settle,
                tag=future,
            )
        except PicklingError as error:  # the future's, as in the standard library
            self.futures.discard(future)
            future.set_exception(error)
            return future
        except InitializerError as error:
            self.futures.discard(future)
            raise self.break_off(str(error), error) from error
        except BaseException:
            self.futures.discard(future)
            raise
        if not ticket.done:
            future._ticket = ticket
            if ticket.done:  # meanwhile
                future._ticket = None
        if self.is_watched:
            self.workers.watch()
        return future

    def error_for(self, error):
        """The exception that a future gets for the one that its ticket has."""
        if isinstance(error, WorkerDiedError):
            if self.strict:
                return self.break_off(
                    "a worker process died, and with strict=True that ends all tasks: "
                    f"{error}",
                    error,
                )
            kind = globals().get("TaskLostError") or _task_lost_error()
            lost = kind(str(error), error.pid, error.exitcode, error.attempts)
            lost.__cause__ = error.__cause__
            return lost
        if isinstance(error, InitializerError):
            return self.break_off(str(error), error)
        return error

    def break_off(self, message, cause):
        """No task can run any more. Returns the exception."""
        if self.broken is None:
            self.broken = _broken_pool(message, cause)
            # Not in this thread: it may be in the middle of taking in.
            threading.Thread(
                target=self.workers.terminate, name="allcores-break", daemon=True
            ).start()
            self.watch()
        return self.broken

    def close(self):
        """Take no more tasks; those that there are end by themselves."""
        self.is_shut = True
        self.workers.close()
        if self.workers.outstanding:
            self.workers.watch()

    def join(self):
        """Take no more tasks; return once all have ended, and what they call."""
        self.is_shut = True
        self.workers.close()
        self.workers.join()
        # The watching thread may be about to settle some.
        for future in list(self.futures):
            try:
                future.exception()
            except BaseException:
                pass
        self.callbacks.join()


class _Submitting(_Executor):
    """submit and map, for an executor and for one with options."""

    _core = None
    _timeout = None
    _retries = 0

    def submit(self, fn, /, *args, **kwargs):
        """Have ``fn(*args, **kwargs)`` called by a worker process.

        Returns
        -------
        Future
            If something cannot be sent, with a pickle.PicklingError that names it.

        Raises
        ------
        concurrent.futures.process.BrokenProcessPool
            No task can run any more: the initializer raised, or a worker process died
            under ``strict=True``.
        RuntimeError
            The executor was shut down.
        """
        return self._core.submit(CALL, fn, (args, kwargs), self._timeout, self._retries)

    def map(self, fn, *iterables, timeout=None, chunksize=1, buffersize=None):
        """Results of ``fn`` over the iterables' items, in their order.

        Parameters
        ----------
        fn : callable
            Takes as many arguments as there are iterables.
        *iterables
            The shortest ends it.
        timeout : float, optional
            Seconds from this call within which each result must be there.
        chunksize : int, default 1
            Items handed to a worker at a time.
        buffersize : int, optional
            Read the iterables only so many chunks ahead of what was taken from the
            result. None reads them to their end at once.

        Returns
        -------
        iterator
            Closing it, or an exception, cancels what has not begun.

        Raises
        ------
        TypeError, ValueError
            `chunksize` or `buffersize` is no integer, or less than 1.
        """
        try:
            chunksize = index(chunksize)
        except TypeError:
            raise TypeError(
                f"chunksize must be an integer, not {chunksize!r}"
            ) from None
        if chunksize < 1:
            raise ValueError(f"chunksize must be >= 1, not {chunksize}")
        if buffersize is not None:
            try:
                buffersize = index(buffersize)
            except TypeError:
                raise TypeError(
                    f"buffersize must be an integer or None, not {buffersize!r}"
                ) from None
            if buffersize < 1:
                raise ValueError(f"buffersize must be None or > 0, not {buffersize}")
        until = None if timeout is None else time.monotonic() + timeout
        if len(iterables) == 1:
            mode, items = MAP, iter(iterables[0])
        else:
            mode, items = STARMAP, zip(*iterables)
        options = (self._timeout, self._retries)
        core = self._core
        chunks = iter(lambda: list(islice(items, chunksize)), [])
        futures = deque()
        try:
            for chunk in islice(chunks, buffersize):
                futures.append(core.submit(mode, fn, chunk, *options))
        except BaseException:
            _cancel(futures)
            raise

        def more():
            chunk = next(chunks, None)
            if chunk:
                futures.append(core.submit(mode, fn, chunk, *options))

        return _results(futures, None if buffersize is None else more, until)


def _results(futures, more, until):
    try:
        while futures:
            future = futures.popleft()
            try:
                left = None if until is None else max(0, until - time.monotonic())
                values = future.result(left)
            except BaseException:
                future.cancel()
                raise
            finally:
                future = None  # no cycle through the exception's traceback
            if more is not None:
                more()
            values.reverse()
            while values:
                yield values.pop()
    finally:
        _cancel(futures)


def _cancel(futures):
    for future in futures:
        future.cancel()


class Executor(_Submitting):
    """Run calls on worker processes: concurrent.futures.ProcessPoolExecutor's calls.

    Closures, lambdas and what is defined in ``__main__`` or a notebook work as
    functions and as arguments. A worker process that dies fails only its own task.

    Parameters
    ----------
    max_workers : int, optional
        Default: the budget, `get_num_threads`.
    mp_context : multiprocessing context or str, optional
        Only its start method counts: "forkserver" (the default), "fork" or "spawn".
    initializer : callable, optional
        Called by each worker process before its first task. If it raises, the executor
        is broken. What it sets as a ``global`` is seen by the tasks.
    initargs : tuple
        May hold multiprocessing's locks, queues and shared values.
    max_tasks_per_child : int, optional
        A worker process is replaced after so many tasks.
    strict : bool, default False
        Let the death of a worker process break the whole executor, as the standard
        library does: all futures that are not done raise BrokenProcessPool.

    Examples
    --------
    >>> import allcores as ac
    >>> with ac.Executor(2) as executor:        # doctest: +SKIP
    ...     future = executor.submit(pow, 2, 10)
    ...     print(future.result(), *executor.map(lambda x: x * x, range(3)))
    1024 0 1 4

    A task that may run for a second, and is begun again up to twice if its worker
    process dies:

    >>> executor.with_options(timeout=1, retries=2).submit(f, x)   # doctest: +SKIP
    """

    def __init__(
        self,
        max_workers=None,
        mp_context=None,
        initializer=None,
        initargs=(),
        *,
        max_tasks_per_child=None,
        strict=False,
    ):
        if max_workers is None:
            from allcores.budget import get_num_threads

            max_workers = get_num_threads()
        else:
            try:
                max_workers = index(max_workers)
            except TypeError:
                raise TypeError(
                    f"max_workers must be an integer, not {max_workers!r}"
                ) from None
            if max_workers < 1:
                raise ValueError(
                    f"max_workers must be greater than 0, not {max_workers}"
                )
        if initializer is not None and not callable(initializer):
            raise TypeError(f"initializer must be a callable, not {initializer!r}")
        if max_tasks_per_child is not None:
            if not isinstance(max_tasks_per_child, int):
                raise TypeError(
                    "max_tasks_per_child must be an integer, not "
                    f"{max_tasks_per_child!r}"
                )
            if max_tasks_per_child < 1:
                raise ValueError(
                    f"max_tasks_per_child must be >= 1, not {max_tasks_per_child}"
                )
        workers = self._make_workers(
            max_workers,
            start_method=_start_method(mp_context),
            initializer=initializer,
            initargs=tuple(initargs),
            max_tasks_per_child=max_tasks_per_child,
        )
        self._core = _Core(workers, strict)
        _cores.add(self._core)
        self._finalizer = weakref.finalize(self, self._core.close)
        self._finalizer.atexit = False

    def _make_workers(self, count, **options):
        from allcores._processes import ProcessWorkers

        return ProcessWorkers(count, **options)

    @property
    def _max_workers(self):
        return self._core.workers.count

    @property
    def _broken(self):
        return False if self._core.broken is None else str(self._core.broken)

    def with_options(self, *, timeout=None, retries=0):
        """This executor with options for the tasks that are submitted through it.

        Parameters
        ----------
        timeout : float, optional
            Seconds that a task may run, once begun. Past them its worker process is
            ended, another takes its place, and the future raises TaskTimeoutError.
            For a chunk of `map`, the chunk counts as the task.
        retries : int, default 0
            How often a task whose worker process died is begun again.

        Returns
        -------
        concurrent.futures.Executor
            With the same workers; to shut it down shuts down this one.
        """
        if timeout is not None and not timeout > 0:
            raise ValueError(f"timeout must be None or more than 0 s, not {timeout!r}")
        retries = index(retries)
        if retries < 0:
            raise ValueError(f"retries must be 0 or more, not {retries}")
        return _WithOptions(self, timeout, retries)

    def shutdown(self, wait=True, *, cancel_futures=False):
        """Take no more tasks; end the worker processes once all tasks are done.

        Parameters
        ----------
        wait : bool, default True
            Return only then.
        cancel_futures : bool, default False
            Cancel what no worker has begun.
        """
        core = self._core
        core.is_shut = True
        if cancel_futures:
            _cancel(list(core.futures))
        if wait:
            core.join()
        else:
            core.close()

    def terminate_workers(self):
        """End the worker processes at once.

        Tasks that have not begun are cancelled; those that run raise
        BrokenProcessPool. The executor is shut down.
        """
        core = self._core
        core.is_shut = True
        _cancel(list(core.futures))
        if core.broken is None and core.futures:
            core.broken = _broken_pool("the worker processes were ended on request")
        core.workers.terminate()

    def kill_workers(self):
        """As `terminate_workers`, which already ends processes that ignore signals."""
        self.terminate_workers()

    def __repr__(self):
        return f"<allcores.Executor of {self._max_workers} worker processes>"


class _WithOptions(_Submitting):
    """What `Executor.with_options` returns."""

    def __init__(self, executor, timeout, retries):
        self._executor = executor  # keeps it alive
        self._core = executor._core
        self._timeout = timeout
        self._retries = retries

    def shutdown(self, wait=True, *, cancel_futures=False):
        self._executor.shutdown(wait, cancel_futures=cancel_futures)


def _start_method(context):
    if context is None:
        return START_METHODS[0]
    name = context
    if not isinstance(name, str):
        get = getattr(context, "get_start_method", None)
        if get is None:
            raise TypeError(
                "mp_context must be what multiprocessing.get_context() returns, or one "
                f"of {', '.join(START_METHODS)}; not {context!r}"
            )
        name = get()
    if name not in START_METHODS:
        raise ValueError(
            f"mp_context must be one of {', '.join(START_METHODS)}, not {name!r}"
        )
    return name


# ---- The end of the program --------------------------------------------------

_cores = weakref.WeakSet()
_is_exiting = False


def _at_exit():
    """Tasks that were submitted are done before the interpreter ends."""
    global _is_exiting
    _is_exiting = True
    for core in list(_cores):
        try:
            core.join()
        except Exception:  # workers of a parent process
            pass


atexit.register(_at_exit)
os.register_at_fork(after_in_child=_cores.clear)  # they are the parent's to end
