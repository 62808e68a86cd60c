"""Workers of other tools as workers of ours: executors, and backends for joblib.

`hold` makes a `Workers` of what a backend's name or object came to. An executor is
anything whose ``submit(function, *args)`` gives a future like concurrent.futures'. A
backend for joblib is driven by joblib's own protocol, as `register_parallel_backend`
lists it.

Tasks go as one `_tasks.Batch`, so allcores must be importable where they run.

Knows nothing of: how these tools work.
"""

import threading
import time
from collections import deque

from allcores._tasks import Batch
from allcores._workers import CALL, MAP, STARMAP, Ticket, Workers
from allcores.budget import get_num_threads

__all__ = ["count_of", "dask_executor", "hold"]


def count_of(backend, n_jobs):
    """How many workers `n_jobs` means there."""
    if hasattr(backend, "effective_n_jobs"):
        return backend.effective_n_jobs(n_jobs)
    if n_jobs > 0:
        return n_jobs
    most = getattr(backend, "_max_workers", None) or get_num_threads()
    return max(most + 1 + n_jobs, 1)


def hold(backend, count, parallel, level):
    """What Parallel holds: has `workers`, `count` and `let_go()`."""
    if isinstance(backend, Workers):
        return _Held(backend, count, None)
    if hasattr(backend, "configure"):
        workers = _JoblibWorkers(backend, parallel, level)
        return _Held(workers, workers.count, workers.let_go)
    return _Held(_ExecutorWorkers(backend, count, level), count, None)


def dask_executor(**parameters):
    """The executor of the dask client that the program has made."""
    try:
        from distributed import get_client
    except ImportError:
        raise ImportError(
            "backend='dask' needs the package distributed: install it, as with "
            "'pip install distributed', and make a Client first"
        ) from None
    return get_client().get_executor(**parameters)


class _Held:
    def __init__(self, workers, count, let_go):
        self.workers = workers
        self.count = count
        self.let_go = let_go or (lambda: None)


class _Hosted(Workers):
    """Tickets of work that runs elsewhere. What is done comes by `_came`."""

    kind = "hosted"

    def __init__(self, count, level):
        super().__init__(count)
        self._level = level
        self._came_in = deque()  # (ticket, ok, value, was cancelled)
        self._news = threading.Condition()

    def submit(
        self, mode, function, data, *, timeout=None, retries=0, on_done=None, tag=None
    ):
        if timeout is not None:
            raise ValueError(
                f"timeout={timeout!r}: tasks of {type(self).__name__} cannot be "
                "stopped; use worker processes, or leave timeout out"
            )
        if mode == CALL:
            calls = [(function, *data)]
        elif mode == MAP:
            calls = [(function, (item,), {}) for item in data]
        elif mode == STARMAP:
            calls = [(function, item, {}) for item in data]
        else:
            calls = data
        ticket = Ticket(self, on_done, tag)
        self._outstanding += 1
        try:
            self._send(ticket, Batch(calls, self._level), mode == CALL)
        except BaseException:
            self._outstanding -= 1
            raise
        return ticket

    def _send(self, ticket, batch, is_single):
        raise NotImplementedError

    def _came(self, ticket, ok, value, was_cancelled=False):
        with self._news:
            self._came_in.append((ticket, ok, value, was_cancelled))
            self._news.notify_all()

    def poll(self):
        taken = 0
        while self._came_in:
            try:
                ticket, ok, value, was_cancelled = self._came_in.popleft()
            except IndexError:
                break
            if not ticket.done:
                ticket.was_cancelled = was_cancelled
                ticket._key = None
                self._end(ticket, ok, value)
                taken += 1
        if taken:
            with self._news:
                self._news.notify_all()
        return taken

    def _sleep(self, seconds):
        with self._news:
            if not self._came_in:
                self._news.wait(seconds)

    def is_running(self, ticket):
        return not ticket.done

    def cancel(self, ticket, kill=False):
        return False

    def close(self):
        pass

    def terminate(self):
        pass


class _ExecutorWorkers(_Hosted):
    """An executor."""

    def __init__(self, executor, count, level):
        super().__init__(count, level)
        self._executor = executor

    def _send(self, ticket, batch, is_single):
        future = self._executor.submit(_timed, batch)
        ticket._key = future

        def done(future):
            if future.cancelled():
                return self._came(ticket, False, None, True)
            error = future.exception()
            if error is not None:
                return self._came(ticket, False, error)
            ticket.seconds, value = future.result()
            self._came(ticket, True, value[0] if is_single else value)

        future.add_done_callback(done)

    def is_running(self, ticket):
        return not ticket.done and ticket._key.running()

    def cancel(self, ticket, kill=False):
        return ticket._key.cancel()


def _timed(batch):
    begin = time.perf_counter()
    value = batch()
    return time.perf_counter() - begin, value


class _JoblibWorkers(_Hosted):
    """A backend for joblib. It measures and sizes its batches itself."""

    def __init__(self, backend, parallel, level):
        self._backend = backend
        if getattr(backend, "nesting_level", None) is None:
            backend.nesting_level = level - 1
        try:
            count = backend.configure(
                n_jobs=parallel.n_jobs, parallel=parallel, **parallel._backend_kwargs
            )
        except Exception as other:
            # joblib's FallbackToBackend: one worker is a loop.
            if type(other).__name__ != "FallbackToBackend":
                raise
            count = 1
        super().__init__(count, level)
        if count == 0:
            raise RuntimeError(f"{type(backend).__name__} has no active worker.")
        self.sizer = self
        self._send_batch = getattr(backend, "submit", None) or backend.apply_async
        self._started = count > 1
        if self._started and hasattr(backend, "start_call"):
            backend.start_call()

    def next(self, left=None):
        """As Sizer's."""
        return max(1, self._backend.compute_batch_size())

    def add(self, calls, seconds):
        """As Sizer's."""
        self._backend.batch_completed(calls, seconds)

    @property
    def target(self):
        """As Sizer's."""
        return 0.2

    def _send(self, ticket, batch, is_single):
        backend = self._backend
        begin = time.perf_counter()
        sent = []

        def done(out=None):
            ok, value = True, None
            try:
                if getattr(backend, "supports_retrieve_callback", False):
                    value = backend.retrieve_result_callback(out)
                elif hasattr(backend, "retrieve_result"):
                    value = backend.retrieve_result(sent[0])
                else:
                    value = sent[0].get()
            except BaseException as error:
                ok, value = False, error
            ticket.seconds = time.perf_counter() - begin
            self._came(ticket, ok, value[0] if ok and is_single else value)

        sent.append(self._send_batch(batch, callback=done))

    def cancel(self, ticket, kill=False):
        """joblib's backends stop all tasks or none."""
        if kill or not self._outstanding:
            return False
        abort = getattr(self._backend, "abort_everything", None)
        if abort is None:
            return False
        while self._started:
            self._started = False
            abort(ensure_ready=False)
        return False

    def let_go(self):
        if self._started and hasattr(self._backend, "stop_call"):
            self._backend.stop_call()
        if hasattr(self._backend, "terminate"):
            self._backend.terminate()
