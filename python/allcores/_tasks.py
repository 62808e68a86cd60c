"""What of Parallel runs where a task runs: nesting, seeds, retries, exceptions.

A worker is told once, when it starts, how deep it lies (`begin_worker`), so that a
plain task carries nothing of ours. Only a task with a seed, with retries or whose
exceptions are results is wrapped, in a `Task`.

Knows nothing of: how tasks travel, who hands them out.
"""

import os
import sys
import threading

from allcores._workers import RemoteTraceback

__all__ = [
    "Batch",
    "Failed",
    "Task",
    "begin_worker",
    "kept_seeds",
    "scope",
    "thread_limits",
    "writable",
]


class Scope(threading.local):
    """Where a thread's code runs: what `parallel_config` set, how deep it is nested.

    Attributes
    ----------
    level : int
        0 in the main program, 1 in a task, 2 in a task of a task.
    config : dict
        What the innermost open parallel_config says, by argument; what is not set
        is not in it.
    """

    process_level = 0  # of threads that nobody told: those of a worker process

    def __init__(self):
        self.level = Scope.process_level
        self.config = {}


scope = Scope()


def begin_worker(level, whole_process, cores, initializer, initargs):
    """The initializer of each worker of Parallel: says how deep its tasks lie."""
    if whole_process:
        Scope.process_level = level
        if cores is not None:
            limit_cores(cores)
    scope.level = level
    scope.config = {}
    if initializer is not None:
        initializer(*initargs)


# What the libraries that have threads of their own read when they are loaded.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMBA_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


def thread_limits():
    """What the environment says of such libraries now."""
    return [os.environ.get(name) for name in THREAD_VARIABLES]


def limit_cores(cores):
    """Have this process use so many cores, libraries that are loaded later too."""
    from allcores.budget import set_budget

    set_budget(cores)
    for name in THREAD_VARIABLES:
        os.environ[name] = str(cores)


class Failed:
    """What a task gives in place of the exception that it raised."""

    __slots__ = ("exception", "text")

    def __init__(self, exception, text):
        self.exception = exception
        self.text = text

    def __reduce__(self):
        return type(self), (self.exception, self.text)

    def unwrap(self):
        """The exception, with the traceback of where it was raised as its cause."""
        if self.text is not None:
            self.exception.__cause__ = RemoteTraceback(self.text)
        return self.exception

    @classmethod
    def of(cls, exception, travels):
        """`exception` as it can be handed over; `travels` if to another process."""
        if not travels:
            return cls(exception, None)
        import pickle
        import traceback

        text = "".join(
            traceback.format_exception(
                type(exception), exception, exception.__traceback__.tb_next
            )
        )
        exception.__traceback__ = None
        try:
            pickle.loads(pickle.dumps(exception))
        except Exception as reason:
            exception = RuntimeError(
                f"a task raised {type(exception).__qualname__}: {exception} "
                f"(the exception itself cannot be sent: {reason})"
            )
        return cls(exception, text)


class Task:
    """A function that is called with a seed, tried again, not let raise, or given
    arrays that it may write to.

    Called with the task's index in front of its arguments.
    """

    __slots__ = (
        "catches",
        "function",
        "retries",
        "seed",
        "travels",
        "with_numpy",
        "writable",
    )

    def __init__(
        self,
        function,
        seed=None,
        with_numpy=False,
        retries=0,
        catches=False,
        travels=False,
        writable=0,
    ):
        self.function = function
        self.seed = seed
        self.with_numpy = with_numpy
        self.retries = retries
        self.catches = catches
        self.travels = travels
        self.writable = writable

    def __reduce__(self):
        return Task, (
            self.function,
            self.seed,
            self.with_numpy,
            self.retries,
            self.catches,
            self.travels,
            self.writable,
        )

    def __call__(self, index, /, *args, **kwargs):
        if self.writable:
            args, kwargs = writable((args, kwargs), self.writable)
        left = self.retries
        while True:
            if self.seed is not None:
                sow(self.seed, index, self.with_numpy)
            try:
                return self.function(*args, **kwargs)
            except Exception as exception:
                if left == 0:
                    if self.catches:
                        return Failed.of(exception, self.travels)
                    raise
            left -= 1


def writable(value, most):
    """`value` with copies in place of the NumPy arrays in it that cannot be written to
    and have at most so many bytes. Looks into lists, tuples and dicts."""
    if "numpy" not in sys.modules:
        return value
    array = sys.modules["numpy"].ndarray

    def copied(value):
        kind = type(value)
        if isinstance(value, array):
            if value.flags.writeable or value.nbytes > most:
                return value
            return value.copy()
        if kind is list or kind is tuple:
            return kind(map(copied, value))
        if kind is dict:
            return {key: copied(item) for key, item in value.items()}
        return value

    return copied(value)


def sow(seed, index, with_numpy):
    """Seed `random`, and NumPy's global generator, for the task number `index`."""
    import random

    random.seed(f"{seed}/{index}")  # of a text: the same in every process
    if with_numpy:
        import numpy

        sequence = numpy.random.SeedSequence(seed, spawn_key=(index,))
        numpy.random.seed(sequence.generate_state(8))


class kept_seeds:
    """Put the caller's own random state back at the end of the block."""

    def __enter__(self):
        import random

        self._random = random
        self._state = random.getstate()
        self._numpy = sys.modules.get("numpy")
        if self._numpy is not None:
            self._numpy_state = self._numpy.random.get_state()

    def __exit__(self, *exception):
        self._random.setstate(self._state)
        if self._numpy is not None:
            self._numpy.random.set_state(self._numpy_state)


class Batch:
    """Calls as one callable without arguments: what other tools' workers are given.

    Attributes
    ----------
    items : list of (function, args, kwargs)
    level : int
        How deep the tasks lie.
    """

    def __init__(self, items, level):
        self.items = items
        self.level = level

    def __len__(self):
        return len(self.items)

    def __call__(self):
        before = scope.level, scope.config
        scope.level, scope.config = self.level, {}
        try:
            return [function(*args, **kwargs) for function, args, kwargs in self.items]
        finally:
            scope.level, scope.config = before
