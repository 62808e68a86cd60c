"""joblib's Parallel on allcores' workers.

A call of `Parallel` chooses workers, borrows warm processes or starts threads, and
gives the work to a `_batches.Run`. With one worker it is a loop here.

    parallel.py   the face: arguments, what is printed
    _backends.py  which workers: names, configuration, nesting
    _batches.py   one call: batches, results in order, generators
    _tasks.py     what runs inside a worker
    _warm.py      worker processes that later calls share
    _hosted.py    other tools' workers: executors, joblib's backends
    _joblib.py    the other way round: a backend for joblib
"""

import sys
import threading
import time
from math import floor, log10, sqrt
from operator import index
from types import MethodType

from allcores._backends import (
    PRE_DISPATCH,
    UNSET,
    amount_of,
    bytes_of,
    check_parameters,
    choose,
    copied_bytes,
    count_of,
    effective_n_jobs,
    hold_workers,
    n_jobs_of,
    parallel_backend,
    parallel_config,
    register_joblib,
    register_parallel_backend,
    setting,
)
from allcores._batches import Run, check_calls
from allcores._tasks import Failed, Task, kept_seeds
from allcores.budget import cpu_count

__all__ = [
    "Parallel",
    "cpu_count",
    "delayed",
    "effective_n_jobs",
    "parallel_backend",
    "parallel_config",
    "register_joblib",
    "register_parallel_backend",
]

# A task at which workers die is tried so often if on_death="retry" and no retries.
_DEATH_RETRIES = 3


class delayed:  # noqa: N801, a function in all but name
    """Keep a function's arguments for a call later.

    Parameters
    ----------
    function : callable

    Returns
    -------
    callable
        Called with arguments it gives ``(function, args, kwargs)``: a task for
        `Parallel`.

    Examples
    --------
    >>> from math import sqrt
    >>> import allcores as ac
    >>> ac.delayed(sqrt)(4)
    (<built-in function sqrt>, (4,), {})
    """

    __slots__ = ("__wrapped__",)

    def __init__(self, function):
        self.__wrapped__ = function

    def __call__(self, /, *args, **kwargs):
        return self.__wrapped__, args, kwargs

    def __get__(self, owner, kind=None):
        return self if owner is None else MethodType(self, owner)

    def __getattr__(self, name):
        if name == "__wrapped__":  # half made: while it is unpickled
            raise AttributeError(name)
        return getattr(self.__wrapped__, name)

    def __reduce__(self):
        return delayed, (self.__wrapped__,)

    def __repr__(self):
        return f"delayed({self.__wrapped__!r})"


class Parallel:
    """Call functions on many arguments at once, on worker processes or threads.

    ``Parallel(n_jobs=4)(delayed(f)(x) for x in xs)`` gives ``[f(x) for x in xs]``.
    The arguments are joblib's and mean what they mean there, those after ``require``
    aside.

    Parameters
    ----------
    n_jobs : int, optional
        How many workers. -1 is one for each core of the budget, -2 one fewer and so
        on; None is what `parallel_config` says, else 1. With 1 the functions run in
        the caller, one after the other.
    backend : str or object, optional
        "processes" ("loky" and "multiprocessing" mean the same), "threads"
        ("threading"), "sequential", "dask", a registered name, a multiprocessing
        context (for its start method), an executor or a joblib backend. Default:
        processes; inside a task, threads; inside a task of a task, sequential.
    return_as : {"list", "generator", "generator_unordered"}
        A generator gives results as they come, in the order of the tasks or of their
        end. The work begins at the call. A generator that is closed or let go of
        cancels the rest.
    verbose : int
        Above 0 lines about the progress are printed, the more the higher; from 50 on
        to standard output, else to standard error.
    timeout : float, optional
        Seconds that the next result may take to come; past them the rest is
        cancelled and a TimeoutError raised. Not with one worker.
    pre_dispatch : int or str
        How many tasks are taken from the iterator before there is a result: "all", a
        number, or arithmetic with n_jobs. Then as many batches are out at once; more
        if this is left at its default and the tasks are tiny.
    batch_size : int or "auto"
        How many calls travel together. "auto" begins with 1 and grows while a batch
        is short, as the workers measure it; on threads it is 1.
    temp_folder : str, optional
        Taken for joblib's sake: arrays travel in memory that needs no files.
    max_nbytes, mmap_mode
        Arrays larger than `max_nbytes` bytes (at least 1M) reach worker processes
        without a copy and read-only; of others a task gets its own copy. None for
        either, or mmap_mode="c", "r+" or "w+", means copies of all.
    prefer : {"processes", "threads"}, optional
        A hint, where no backend is given.
    require : {"sharedmem"}, optional
        Insist on threads.
    progress : bool or dict
        Show a bar (tqdm's, in terminals and notebooks); a dict holds arguments for
        it, such as ``{"desc": "fits"}``.
    retries : int
        How often a task is begun again that raised an exception or whose worker died.
    on_death : {"raise", "retry", "return"}
        When a task's worker process died and no retries are left: raise the
        WorkerDiedError, or put it in the result's place; "retry" is "raise" with at
        least 3 retries of such tasks. Other calls of the same batch are begun again.
    return_exceptions : bool
        Put the exceptions that tasks raise in their results' places.
    max_buffered : int, optional
        Of a generator: no more than so many results wait to be read, those of tasks
        that run counted in.
    seed : int, optional
        Each task begins with `random`'s generator seeded from this number and its
        place among the tasks, and NumPy's global one too if the caller has imported
        NumPy: the same values for any n_jobs and batch_size. Not on threads, which
        share these generators.
    initializer, initargs : callable, tuple
        Called once in each worker when it starts.
    idle_worker_timeout : float
        Worker processes are kept for later calls, for so many seconds.
    start_method : {"forkserver", "fork", "spawn"}
    max_tasks_per_child : int, optional
        Tasks after which a worker process is replaced.
    inner_max_num_threads : int, optional
        Cores that the code in each worker process may use.

    Raises
    ------
    ValueError, TypeError
        An argument is not what is allowed.

    Notes
    -----
    Worker processes import a task's modules anew, unless start_method="fork": what a
    program changed in a module while it ran is not seen there. Functions and globals of
    ``__main__`` go along as they are.

    joblib's Memory, dump and load have no counterpart here: use joblib's.

    Used as a context manager it keeps its workers for several calls. One object runs
    one call at a time. After an exception or Ctrl-C, tasks that have not begun are
    left out and worker processes that still run one are replaced; the workers can be
    used again.

    Examples
    --------
    >>> from math import sqrt
    >>> import allcores as ac
    >>> ac.Parallel(n_jobs=1)(ac.delayed(sqrt)(i**2) for i in range(5))
    [0.0, 1.0, 2.0, 3.0, 4.0]
    """

    def __init__(
        self,
        n_jobs=UNSET,
        backend=None,
        return_as="list",
        verbose=UNSET,
        timeout=None,
        pre_dispatch=PRE_DISPATCH,
        batch_size="auto",
        temp_folder=UNSET,
        max_nbytes=UNSET,
        mmap_mode=UNSET,
        prefer=UNSET,
        require=UNSET,
        *,
        progress=False,
        retries=0,
        on_death="raise",
        return_exceptions=False,
        max_buffered=None,
        seed=None,
        **backend_kwargs,
    ):
        self.verbose = setting("verbose", verbose)
        self._backend, configured = choose(
            backend,
            setting("prefer", prefer),
            setting("require", require),
            self.verbose,
        )
        if n_jobs is UNSET or n_jobs is None:
            n_jobs = 1 if configured is None else configured
        self.n_jobs = n_jobs_of(n_jobs)
        if return_as not in ("list", "generator", "generator_unordered"):
            raise ValueError(
                "return_as is 'list', 'generator' or 'generator_unordered', not "
                f"{return_as!r}"
            )
        self.return_as = return_as
        self.return_generator = return_as != "list"
        self.return_ordered = return_as != "generator_unordered"
        self.timeout = timeout
        self.pre_dispatch = pre_dispatch
        if batch_size != "auto":
            batch_size = _checked("batch_size", batch_size, 1, "'auto' or ")
        self.batch_size = batch_size
        self.temp_folder = setting("temp_folder", temp_folder)
        self.max_nbytes = bytes_of(setting("max_nbytes", max_nbytes))
        self.mmap_mode = setting("mmap_mode", mmap_mode)
        if self.mmap_mode not in (None, "r", "r+", "w+", "c"):
            raise ValueError(
                f"mmap_mode is None, 'r', 'r+', 'w+' or 'c', not {self.mmap_mode!r}"
            )
        self.progress = progress
        self.retries = _checked("retries", retries, 0)
        if on_death not in ("raise", "retry", "return"):
            raise ValueError(
                f"on_death is 'raise', 'retry' or 'return', not {on_death!r}"
            )
        self.on_death = on_death
        self.return_exceptions = return_exceptions
        if max_buffered is not None:
            max_buffered = _checked("max_buffered", max_buffered, 1, "None or ")
            if not self.return_generator:
                raise ValueError(
                    "max_buffered is for generators: give return_as='generator' or "
                    "'generator_unordered' with it"
                )
        self.max_buffered = max_buffered
        self.seed = None if seed is None else _checked("seed", seed, 0, "None or ")
        if self._backend.kind != "hosted":
            check_parameters(backend_kwargs)
        self._backend_kwargs = backend_kwargs
        self._id = f"{id(self):x}"
        self._lock = threading.Lock()
        self._running = False
        self._held = None  # the workers, between calls of a with block
        self._bar = None
        self._begin_counting(None)

    def __repr__(self):
        return f"{type(self).__name__}(n_jobs={self.n_jobs})"

    def __enter__(self):
        count = count_of(self._backend, self.n_jobs)
        if count > 1:
            self._held = self._hold_workers(count)
        return self

    def __exit__(self, *exception):
        held, self._held = self._held, None
        if held is not None:
            held.let_go()

    def __call__(self, iterable):
        """Run the tasks of `iterable`, made by `delayed`.

        Returns
        -------
        list or generator
            The functions' results.

        Raises
        ------
        RuntimeError
            A call of this object runs already.
        Exception
            What a task raised, with its traceback in the worker as cause. The other
            tasks are cancelled.
        WorkerDiedError
            A worker process ended while it ran a task.
        TimeoutError
            The next result did not come within `timeout`.
        """
        with self._lock:
            if self._running:
                raise RuntimeError(
                    "This Parallel instance is already running: wait for its results, "
                    "or let go of its generator, before the next call; or make another "
                    "Parallel"
                )
            self._running = True
        try:
            output = self._begin(iterable)
        except BaseException:
            self._end()
            raise
        if self.return_generator:
            return output
        try:
            return output.collect() if isinstance(output, Run) else list(output)
        finally:
            self._end()

    # ---- Inside a call ------------------------------------------------------

    def _begin(self, iterable):
        """What is to be collected: a Run, or a generator that has begun."""
        self._begin_counting(iterable)
        count = count_of(self._backend, self.n_jobs)
        held = self._held
        if count > 1 and held is None:
            held = self._hold_workers(count)
        if held is None or held.count == 1:
            if held is not None and held is not self._held:
                held.let_go()
            if self.timeout is not None:
                self._warn_of_timeout()
            self._open_bar()
            output = self._run_here(iterable)
            next(output)
            return output
        self._held_now = held
        if self.seed is not None and held.workers.kind == "threads":
            raise ValueError(
                "seed cannot be used with threads, which share the generators that it "
                "would seed: use backend='processes', or give each task a generator "
                "as an argument"
            )
        amount = amount_of(self.pre_dispatch, held.count)
        self._amount = amount or 0
        self._print(
            f"Using backend {self._backend} with {held.count} concurrent workers."
        )
        self._open_bar()
        travels = held.workers.kind != "threads"
        copies = travels and copied_bytes(self.max_nbytes, self.mmap_mode)
        wraps = (
            self.seed is not None or self.retries or self.return_exceptions or copies
        )
        reports = (
            self.verbose
            or self._bar is not None
            or type(self).print_progress is not Parallel.print_progress
        )
        run = self._run = Run(
            held.workers,
            held.count,
            iterable,
            amount=amount,
            size=self.batch_size,
            deepens=self.pre_dispatch in (PRE_DISPATCH, "all"),
            ordered=self.return_ordered,
            timeout=self.timeout,
            wrap=self._wrapper(travels, copies) if wraps else None,
            retries=max(self.retries, _DEATH_RETRIES * (self.on_death == "retry")),
            death_is_result=self.on_death == "return",
            failure_is_result=self.return_exceptions,
            max_unread=self.max_buffered,
            report=self._report if reports else None,
        )
        if not self.return_generator:
            return run
        output = run.stream(self._end)
        next(output)
        return output

    def _run_here(self, iterable):
        """The results one after the other, in the caller. The first is None."""
        wrap = None
        seeds = None
        if self.seed is not None or self.retries or self.return_exceptions:
            wrap = self._wrapper(False, False)
        if self.seed is not None:
            seeds = kept_seeds()
            seeds.__enter__()
        try:
            yield None
            for place, call in enumerate(_batched(iterable, self.batch_size)):
                try:
                    function, args, kwargs = call
                except (TypeError, ValueError):
                    check_calls([call])
                    raise
                self.n_dispatched_tasks += 1
                self.n_dispatched_batches += 1
                if wrap is None:
                    value = function(*args, **kwargs)
                else:
                    value = wrap(function)(place, *args, **kwargs)
                    if type(value) is Failed:
                        value = value.unwrap()
                self._report(None, 1)
                yield value
                del value
        finally:
            if seeds is not None:
                seeds.__exit__()
            if self.return_generator:
                self._end()

    def _wrapper(self, travels, copies):
        with_numpy = "numpy" in sys.modules
        seed, retries, catches = self.seed, self.retries, self.return_exceptions
        return lambda function: Task(
            function, seed, with_numpy, retries, catches, travels, int(copies)
        )

    def _end(self):
        """The call is over, however it ended."""
        if self._run is not None:
            self._count_from(self._run)
        held, self._held_now, self._run = self._held_now, None, None
        if held is not None and held is not self._held:
            held.let_go()
        if self._iterating:
            self._iterating = False
            if self.verbose:
                self.print_progress()
        bar, self._bar = self._bar, None
        if bar is not None:
            bar.close()
        self._running = False

    def _hold_workers(self, count):
        return hold_workers(self._backend, count, self._backend_kwargs, self)

    def _warn_of_timeout(self):
        import warnings

        warnings.warn(
            "tasks that run in the caller, as with one worker, do not support "
            f"timeout: timeout={self.timeout} in Parallel will not be used",
            stacklevel=4,
        )

    # ---- What is told -------------------------------------------------------

    def _begin_counting(self, iterable):
        self.n_tasks = len(iterable) if hasattr(iterable, "__len__") else None
        self.n_dispatched_tasks = 0
        self.n_dispatched_batches = 0
        self.n_completed_tasks = 0
        self._start_time = time.time()
        self._run = self._held_now = None
        self._iterating = iterable is not None
        self._amount = 0  # tasks taken before there is a result
        self._known_total = False  # all tasks were taken from the iterator

    def _count_from(self, run):
        self.n_dispatched_tasks = run.dispatched
        self.n_dispatched_batches = run.batches
        self.n_completed_tasks = run.completed
        self._known_total = run.exhausted and not run.buffer

    def _report(self, run, tasks):
        if run is None:
            self.n_completed_tasks += tasks
        else:
            self._count_from(run)
        if self._bar is not None:
            self._bar.update(tasks)
        self.print_progress()

    def _open_bar(self):
        if self.progress is False or self.progress is None:
            return
        try:
            from tqdm.auto import tqdm
        except ImportError:
            raise ImportError(
                "progress=True needs the package tqdm: install it, as with "
                "'pip install tqdm', or leave progress out"
            ) from None
        options = self.progress if isinstance(self.progress, dict) else {}
        self._bar = tqdm(**{"total": self.n_tasks, **options})

    def _print(self, message):
        """Write a line about the progress, where `verbose` says."""
        if self.verbose:
            stream = sys.stderr if self.verbose < 50 else sys.stdout
            stream.write(f"[{self}]: {message}\n")

    def print_progress(self):
        """Print how far the call is, as often as `verbose` asks for."""
        if not self.verbose:
            return
        done, out = self.n_completed_tasks, self.n_dispatched_tasks
        width = floor(log10(self.n_tasks)) + 1 if self.n_tasks else 3
        elapsed = time.time() - self._start_time
        head = f"Done {done:{width}d}"
        if not self._iterating:
            if done == out:
                self._print(
                    f"{head} out of {done:{width}d} | elapsed: {_short(elapsed)} "
                    "finished"
                )
        elif not self._known_total:
            if _is_left_out(self.n_dispatched_batches, self.verbose):
                return
            total = f"out of {self.n_tasks:{width}d}" if self.n_tasks else "tasks"
            total = total.ljust(len("out of ") + width)
            self._print(f"{head} {total} | elapsed: {_short(elapsed)}")
        elif done < out:
            # The last tasks: evenly often, the one before the last never.
            place = out - done + 1 - self._amount
            if place % (out // self.verbose + 1) or done + 1 == out:
                return
            left = elapsed / max(done, 1) * (out - done)
            self._print(
                f"{head} out of {out:{width}d} | elapsed: {_short(elapsed)} "
                f"remaining: {_short(left)}"
            )


def _checked(name, given, least, also=""):
    """`given` as an integer, or an exception that says what is allowed."""
    try:
        if isinstance(given, bool):
            raise TypeError
        number = index(given)
    except TypeError:
        number = least - 1
    if number < least:
        raise ValueError(f"{name} is {also}an integer from {least}, not {given!r}")
    return number


def _batched(iterable, size):
    """Tasks one by one, taken from the iterator so many at a time."""
    if size == "auto" or size == 1:
        return iterable
    from itertools import chain, islice

    iterator = iter(iterable)
    return chain.from_iterable(iter(lambda: list(islice(iterator, size)), []))


def _short(seconds):
    """A time in eight places, as joblib prints it."""
    return f"{seconds / 60:4.1f}min" if seconds > 60 else f" {seconds:5.1f}s"


def _is_left_out(batches, verbose):
    """Whether a line after so many batches is one too many: lines come further and
    further apart, their distance as the square root of the number."""
    if verbose > 10:
        return False
    if batches == 0:
        return False
    scale = 0.5 * (11 - verbose) ** 2
    return int(sqrt(batches / scale)) == int(sqrt((batches + 1) / scale))
