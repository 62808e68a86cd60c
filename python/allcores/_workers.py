"""What Pool, Parallel and Executor share: workers that run calls, and tickets.

A `Workers` is a set of worker processes (`_processes.ProcessWorkers`) or threads
(`_threads.ThreadWorkers`) that runs calls handed to it by `submit`, each of which is
one call or a batch of calls. `submit` returns a `Ticket`.

Nothing runs behind the caller's back: a finished task is *taken in* (its ticket
marked, its `on_done` called) by whichever thread next calls `poll` or `wait`. Who needs
that to happen by itself, for callbacks or futures, calls `watch`, which keeps one
thread waiting for as long as tickets are out.

Knows nothing of: joblib's, multiprocessing's or concurrent.futures' calls.
"""

import threading
import time
import weakref

__all__ = [
    "CALL",
    "CALLS",
    "MAP",
    "STARMAP",
    "InitializerError",
    "RemoteTraceback",
    "TaskTimeoutError",
    "Ticket",
    "WorkerDiedError",
    "Workers",
]

# What `submit` is given: how `function` and `data` make calls.
CALL = 0  # data = (args, kwargs): function(*args, **kwargs)
MAP = 1  # data = a list of items: [function(item) for item in data]
STARMAP = 2  # data = a list of tuples: [function(*item) for item in data]
CALLS = 3  # function = None, data = a list of (function, args, kwargs)

# Python looks for signals (Ctrl-C) at least that often while it waits.
SLICE_SECONDS = 0.1

_LINGER_SECONDS = 0.05  # so long `watch`'s thread waits for another task to be out
_WATCH_FAILURES = 10  # so often in a row it goes on after an error


class WorkerDiedError(RuntimeError):
    """A worker process ended while it ran a task.

    Attributes
    ----------
    pid : int
        The worker's process number.
    exitcode : int
        As `multiprocessing.Process.exitcode`: what it gave to exit, or minus the
        number of the signal that ended it.
    attempts : int
        How often the task was begun.
    """

    def __init__(self, message, pid=None, exitcode=None, attempts=1):
        super().__init__(message)
        self.pid = pid
        self.exitcode = exitcode
        self.attempts = attempts

    def __reduce__(self):
        return type(self), (self.args[0], self.pid, self.exitcode, self.attempts)


class TaskTimeoutError(TimeoutError):
    """A task ran for longer than it was allowed to, and was ended."""


class InitializerError(RuntimeError):
    """A worker's initializer raised, so that no task can run: see `__cause__`."""


class RemoteTraceback(Exception):
    """The cause of an exception that came from a worker: its traceback there."""

    def __init__(self, text):
        super().__init__(text)
        self.text = text

    def __str__(self):
        return f'\n"""\n{self.text}"""'

    def __reduce__(self):
        return type(self), (self.text,)


class Ticket:
    """A task that was submitted, and at the end its outcome.

    Attributes
    ----------
    done : bool
        True once the outcome has been taken in.
    ok : bool or None
        True: `value` is the result (of a batch, the list of results). False: it is the
        exception, with the worker's traceback as `__cause__` where there is one.
    value : object
    failed_index : int
        Of a batch: which of its calls failed; -1 otherwise.
    was_cancelled : bool
        The task did not run, or was stopped, since `cancel` asked for it. `ok` is then
        False and `value` None.
    seconds : float
        How long it ran, as the worker measured.
    pid : int
        Of the worker process; 0 = a thread, or it did not run.
    tag : object
        The submitter's own.
    """

    __slots__ = (
        "__weakref__",
        "_key",
        "_workers",
        "done",
        "failed_index",
        "ok",
        "on_done",
        "pid",
        "seconds",
        "tag",
        "value",
        "was_cancelled",
    )

    def __init__(self, workers, on_done=None, tag=None):
        self._workers = workers
        self._key = None
        self.on_done = on_done
        self.tag = tag
        self.done = False
        self.ok = None
        self.value = None
        self.failed_index = -1
        self.was_cancelled = False
        self.seconds = 0.0
        self.pid = 0

    def wait(self, timeout=None):
        """Wait until it is done, at most `timeout` seconds. Returns `done`."""
        return self.done or self._workers.wait(self, timeout)

    def is_running(self):
        """True if a worker has begun it and it is not done. Never blocks."""
        return not self.done and self._workers.is_running(self)

    def cancel(self, kill=False):
        """Leave the task out if it has not begun; with `kill` also stop it if it has
        (its worker process is ended and another started; threads cannot be stopped).

        Returns True if the task will not give a result: the ticket is, or soon will be,
        `done` with `was_cancelled`. Returns False if it is done, or runs and goes on.
        """
        return not self.done and self._workers.cancel(self, kill)


class Workers:
    """A set of workers. Subclasses run the calls; see the module's docstring.

    Methods may be called from any thread of the process that made it.
    """

    kind = ""  # "processes" or "threads"
    is_fit = True  # False: later calls should have others

    def __init__(self, count):
        self.count = count  # workers, as asked for
        self._outstanding = 0  # tickets not done; under the GIL
        self._watcher = None
        self._watch_lock = threading.Lock()

    # ---- What subclasses do -------------------------------------------------

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
        """Hand over a task. Returns its `Ticket` at once.

        Parameters
        ----------
        mode : CALL, MAP, STARMAP or CALLS
            See above. Of a batch the first call that raises ends it.
        timeout : float, optional
            Seconds that the task may run, once begun. Past them its worker process is
            ended and the ticket's value is a TaskTimeoutError. Threads refuse it.
        retries : int
            How often a task whose worker process died is begun again before it fails
            with WorkerDiedError.
        share : dict, optional
            The same one for several tasks: a large array that more than one of them is
            given is then copied once, as it is at the first. It is the workers' to
            fill. Worker processes only; threads share what they are given anyway.
        on_done : callable, optional
            Called with the ticket, by the thread that takes it in, right after
            `done`. Must not raise and must not block.

        Raises
        ------
        RuntimeError
            The workers were closed, or belong to a parent process.
        pickle.PicklingError
            Something cannot be sent; names the object and where it lies.
        """
        raise NotImplementedError

    def poll(self):
        """Take in what has finished. Never blocks. Returns how many tickets."""
        raise NotImplementedError

    def _sleep(self, seconds):
        """Sleep until there is something to take in, or another thread has taken
        something in, at most `seconds`. Releases the GIL. May return early."""
        raise NotImplementedError

    def is_running(self, ticket):
        raise NotImplementedError

    def cancel(self, ticket, kill=False):
        raise NotImplementedError

    def close(self):
        """Take no more tasks; workers end when all are done. A second call is fine."""
        raise NotImplementedError

    def terminate(self):
        """End at once: tasks that wait or run are cancelled; worker processes are
        ended. Returns when none is left. A second call is fine."""
        raise NotImplementedError

    def join(self, timeout=None):
        """After `close`: wait until all tasks are done and all workers have ended.
        Returns whether they have."""
        raise NotImplementedError

    def pids(self):
        """The worker processes' numbers now; [] for threads."""
        return []

    # ---- What they share ----------------------------------------------------

    @property
    def outstanding(self):
        """Tickets that are not done."""
        return self._outstanding

    def wait(self, ticket, timeout=None):
        """Take in what finishes until `ticket` is done. Returns `ticket.done`."""
        return self.wait_until(lambda: ticket.done, timeout)

    def wait_until(self, is_over, timeout=None):
        """Take in what finishes until `is_over()`, which is asked after each time.
        Returns what it said last. Ctrl-C raises KeyboardInterrupt within 0.1 s."""
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            taken = self.poll()
            if is_over():
                return True
            if taken:
                continue
            left = SLICE_SECONDS
            if until is not None:
                left = min(left, until - time.monotonic())
                if left <= 0:
                    return False
            self._sleep(left)

    def watch(self):
        """Have tickets taken in by a thread, for as long as any is out."""
        with self._watch_lock:
            if self._watcher is None:
                watcher = threading.Thread(
                    target=_watch,
                    args=(weakref.ref(self),),
                    name="allcores-watch",
                    daemon=True,
                )
                watcher.start()  # before it is noted: there may be no more threads
                self._watcher = watcher

    def _end(self, ticket, ok, value):
        """For subclasses: a task's outcome, once. Under the GIL."""
        ticket.ok = ok
        ticket.value = value
        self._outstanding -= 1
        ticket.done = True
        on_done, ticket.on_done = ticket.on_done, None
        if on_done is not None:
            on_done(ticket)


def _watch(ref):
    this = threading.current_thread()
    until = None  # when this thread ends, if no task is out
    failures = 0
    try:
        while (workers := ref()) is not None:
            before = workers._outstanding
            try:
                if workers.poll():
                    failures = 0
                    continue
            except Exception as error:  # an on_done's; others wait for theirs
                failures = failures + 1 if workers._outstanding >= before else 0
                if failures == _WATCH_FAILURES:
                    raise
                threading.excepthook(
                    threading.ExceptHookArgs(
                        (type(error), error, error.__traceback__, this)
                    )
                )
                if failures == 0:
                    continue
            left = SLICE_SECONDS
            with workers._watch_lock:
                if workers._outstanding:
                    until = None
                else:
                    now = time.monotonic()
                    until = until or now + _LINGER_SECONDS
                    left = until - now
                    if left <= 0:
                        workers._watcher = None
                        return
            workers._sleep(left)
            del workers
    finally:
        workers = ref()
        if workers is not None:
            with workers._watch_lock:
                if workers._watcher is this:
                    workers._watcher = None
