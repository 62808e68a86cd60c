"""allcores' worker processes as a backend for joblib.

>>> import allcores as ac, joblib                     # doctest: +SKIP
>>> ac.register_joblib()                              # doctest: +SKIP
>>> with joblib.parallel_config("allcores"):          # doctest: +SKIP
...     search.fit(X, y)                              # scikit-learn, say

joblib cuts the batches and asks to be called when one is done, which a thread that
watches the workers does. The workers are the warm ones that `Parallel` uses too.

Knows nothing of: how Parallel itself cuts batches.
"""

import pickle

from joblib import parallel as host
from joblib._parallel_backends import FallbackToBackend, SequentialBackend
from joblib.parallel import AutoBatchingMixin, ParallelBackendBase

from allcores._backends import PARAMETERS, VIEW_BYTES, HeldProcesses, copied_bytes
from allcores._tasks import writable
from allcores._workers import CALL
from allcores.budget import get_num_threads

__all__ = ["AllcoresBackend", "register"]


class AllcoresBackend(AutoBatchingMixin, ParallelBackendBase):
    """See the module's docstring; the methods are joblib's protocol."""

    supports_retrieve_callback = True
    supports_inner_max_num_threads = True
    supports_sharedmem = False
    uses_threads = False

    # Batches are sized by what the workers measured, as joblib means it.
    _measured = None

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self._workers = None  # a HeldProcesses
        self._out = set()
        self._copies = 0

    def effective_n_jobs(self, n_jobs):
        if n_jobs == 0:
            raise ValueError(
                "n_jobs == 0 in Parallel has no meaning: give a number of workers, -1 "
                "for all cores, -2 for all but one, or None"
            )
        if n_jobs is None:
            return 1
        return n_jobs if n_jobs > 0 else max(get_num_threads() + 1 + n_jobs, 1)

    def configure(self, n_jobs=1, parallel=None, prefer=None, require=None, **given):
        count = self.effective_n_jobs(n_jobs)
        if count == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        given = {**self.backend_kwargs, **given}
        self._copies = copied_bytes(
            given.get("max_nbytes", VIEW_BYTES), given.get("mmap_mode", "r")
        )
        parameters = {
            name: given.get(name, default) for name, default in PARAMETERS.items()
        }
        if self.inner_max_num_threads is not None:
            parameters["inner_max_num_threads"] = self.inner_max_num_threads
        if parameters["initargs"] is None:
            parameters["initargs"] = ()
        self._workers = HeldProcesses(count, parameters)
        self.parallel = parallel
        return count

    def submit(self, func, callback=None):
        def done(ticket):
            self._out.discard(ticket)
            self._measured = ticket.seconds
            if callback is not None:
                _guarded(callback, ticket)

        workers = self._workers.workers
        try:
            ticket = workers.submit(
                CALL, run_batch, ((func, self._copies), {}), on_done=done
            )
        except pickle.PicklingError as error:
            return self._refused(error, callback)
        self._out.add(ticket)
        if ticket.done:
            self._out.discard(ticket)
        workers.watch()
        return ticket

    apply_async = submit

    def _refused(self, error, callback):
        """A batch that cannot be sent fails like one that raised."""
        refused = pickle.PicklingError(
            f"Could not pickle the task to send to the workers: {error}"
        )
        refused.__cause__ = error
        refused = _Refused(refused)
        if callback is not None:
            callback(refused)
        return refused

    def retrieve_result_callback(self, out):
        if out.ok:
            return out.value
        if out.was_cancelled:
            raise RuntimeError(
                "The executor underlying Parallel has been shutdown: the worker "
                "processes were ended while they had its tasks"
            )
        raise out.value

    def batch_completed(self, batch_size, duration):
        measured = self._measured
        super().batch_completed(batch_size, duration if measured is None else measured)

    def abort_everything(self, ensure_ready=True):
        self._cancel()
        self.terminate()
        if ensure_ready:
            self.configure(
                n_jobs=self.parallel.n_jobs,
                parallel=self.parallel,
                **self.parallel._backend_kwargs,
            )

    def terminate(self):
        held, self._workers = self._workers, None
        if held is not None:
            self._cancel()
            held.let_go()
        self.reset_batch_stats()

    def _cancel(self):
        for ticket in list(self._out):
            if not ticket.done:
                ticket.cancel(kill=True)
        self._out.clear()


class _Refused:
    ok = False
    was_cancelled = False

    def __init__(self, value):
        self.value = value


def _guarded(callback, ticket):
    """Call joblib's callback, which takes tasks from the caller's iterator too."""
    try:
        callback(ticket)
    except Exception:
        import logging

        logging.getLogger("allcores").exception("joblib's callback raised")


def run_batch(batch, copies):
    """In a worker: joblib's BatchedCalls; arrays of up to so many bytes are copies."""
    if copies:
        batch.items = writable(batch.items, copies)
    return batch()


def register(make_default=False):
    """Make the name "allcores" known to joblib.

    Parameters
    ----------
    make_default : bool, default False
        Have joblib use it wherever no backend is given.
    """
    host.register_parallel_backend(
        "allcores", AllcoresBackend, make_default=make_default
    )


register()  # in a worker too, for calls inside tasks
