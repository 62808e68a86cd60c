"""Which workers a call of Parallel gets: names, what parallel_config says, nesting.

`choose` comes to a `Backend` from what the caller gave, what `parallel_config` says in
this thread, and how deep the call is nested: processes; inside a task, threads; inside
a task of a task, the caller alone. `hold_workers` gets the workers.

Knows nothing of: batches, results.
"""

from allcores._tasks import begin_worker, scope, thread_limits
from allcores.budget import get_num_threads

__all__ = [
    "PARAMETERS",
    "PRE_DISPATCH",
    "UNSET",
    "VIEW_BYTES",
    "HeldProcesses",
    "amount_of",
    "bytes_of",
    "check_parameters",
    "choose",
    "copied_bytes",
    "count_of",
    "effective_n_jobs",
    "hold_workers",
    "n_jobs_of",
    "parallel_backend",
    "parallel_config",
    "register_joblib",
    "register_parallel_backend",
    "setting",
]

UNSET = type("Unset", (), {"__repr__": lambda self: "<unset>"})()

# Names of backends to kinds of workers.
_KINDS = {
    "loky": "processes",
    "multiprocessing": "processes",
    "processes": "processes",
    "threading": "threads",
    "threads": "threads",
    "sequential": "sequential",
}
_registered = {}  # name: factory
_default = None  # the name that register_parallel_backend made the default

_DEFAULTS = {
    "n_jobs": None,
    "verbose": 0,
    "temp_folder": None,
    "max_nbytes": "1M",
    "mmap_mode": "r",
    "prefer": None,
    "require": None,
}
# What a backend of our own takes besides, from Parallel or parallel_config.
PARAMETERS = {
    "initializer": None,
    "initargs": (),
    "idle_worker_timeout": 300,
    "start_method": "forkserver",
    "inner_max_num_threads": None,
    "max_tasks_per_child": None,
}
PRE_DISPATCH = "2 * n_jobs"  # unless the caller says
VIEW_BYTES = 1 << 20  # larger buffers are read-only views in worker processes


class Backend:
    """What a backend's name, or object, came to."""

    __slots__ = ("kind", "object", "parameters")

    def __init__(self, kind, object=None, parameters=None):
        self.kind = kind  # "processes", "threads", "sequential" or "hosted"
        self.object = object  # hosted: an executor, a joblib backend, a Workers
        self.parameters = parameters or {}

    @property
    def shares_memory(self):
        if self.kind == "hosted":
            return getattr(self.object, "supports_sharedmem", False)
        return self.kind != "processes"

    def __repr__(self):
        if self.kind == "hosted":
            return type(self.object).__name__
        return self.kind


def _backend_of(given, parameters):
    """The Backend for a name or an object that a caller gave."""
    if isinstance(given, Backend):
        return given
    if isinstance(given, str):
        if given in _registered:
            return Backend("hosted", _registered[given](**parameters))
        if given in _KINDS:
            check_parameters(parameters)
            return Backend(_KINDS[given], parameters=parameters)
        if given == "dask":
            from allcores._hosted import dask_executor

            return Backend("hosted", dask_executor(**parameters))
        names = ", ".join(sorted([*_KINDS, "dask", *_registered]))
        raise ValueError(
            f"Invalid backend: {given!r}, expected one of {names}, an executor or a "
            "joblib backend; register_parallel_backend() adds a name"
        )
    if hasattr(given, "Pool") and hasattr(given, "Lock"):  # of multiprocessing
        method = given.get_start_method() or "forkserver"
        check_parameters(parameters)
        return Backend("processes", parameters={"start_method": method, **parameters})
    if hasattr(given, "submit"):
        if parameters:
            raise ValueError(
                "parameters of a backend go with its name; "
                f"{given!r} is made already: {', '.join(parameters)} cannot be set"
            )
        return Backend("hosted", given)
    raise TypeError(
        "backend is a name, a multiprocessing context, an executor (an object with "
        f"submit()) or a joblib backend, not {given!r}"
    )


def check_parameters(parameters):
    unknown = [name for name in parameters if name not in PARAMETERS]
    if unknown:
        raise TypeError(
            f"unknown argument {unknown[0]!r}: workers take "
            f"{', '.join(PARAMETERS)}; the rest is for Parallel itself"
        )


def setting(name, given):
    """An argument as it counts: given, else configured, else the default."""
    if given is not UNSET:
        return given
    return scope.config.get(name, _DEFAULTS[name])


def choose(backend, prefer, require, verbose):
    """The Backend for a call here, and the n_jobs configured for it."""
    if prefer not in ("processes", "threads", None):
        raise ValueError(
            f"prefer is 'processes', 'threads' or None, not {prefer!r}: it is not a "
            "valid backend hint"
        )
    if require not in ("sharedmem", None):
        raise ValueError(
            f"require is 'sharedmem' or None, not {require!r}: it is not a valid "
            "backend constraint"
        )
    if prefer == "processes" and require == "sharedmem":
        raise ValueError(
            "prefer='processes' and require='sharedmem' are inconsistent: only "
            "threads share memory; leave one of them out"
        )
    n_jobs = scope.config.get("n_jobs")
    if backend is not None:
        chosen = _backend_of(backend, {})
        if require == "sharedmem" and not chosen.shares_memory:
            raise ValueError(
                f"backend={backend!r} does not support shared memory, which "
                "require='sharedmem' asks for; leave one of them out"
            )
        return chosen, n_jobs
    configured = scope.config.get("backend")
    if configured is not None:
        if require == "sharedmem" and not configured.shares_memory:
            if verbose >= 10:
                print(
                    f"Using threads as backend instead of {configured} as the latter "
                    "does not provide shared memory semantics."
                )
            return Backend("threads"), 1
        return configured, n_jobs
    if scope.level > 1:
        return Backend("sequential"), n_jobs
    if scope.level == 1 or require == "sharedmem":
        return Backend("threads"), n_jobs
    if prefer is not None:
        return Backend(prefer), n_jobs
    if _default is not None:
        return _backend_of(_default, {}), n_jobs
    return Backend("processes"), n_jobs


def n_jobs_of(given):
    """`n_jobs` as joblib reads it: an integer that is not 0."""
    try:
        n_jobs = int(given)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(
            f"n_jobs could not be converted to int: it is {given!r}; give a number of "
            "workers, -1 for all cores, -2 for all but one, or None"
        ) from None
    if n_jobs == 0:
        raise ValueError(
            f"n_jobs == 0 in Parallel has no meaning (given: {given!r}): give a number "
            "of workers, -1 for all cores, -2 for all but one, or None"
        )
    return n_jobs


def count_of(backend, n_jobs):
    """How many workers `n_jobs` means on that backend."""
    if backend.kind == "sequential":
        return 1
    if backend.kind == "hosted":
        from allcores import _hosted

        return _hosted.count_of(backend.object, n_jobs)
    return n_jobs if n_jobs > 0 else max(get_num_threads() + 1 + n_jobs, 1)


def effective_n_jobs(n_jobs=-1):
    """The number of workers that a `Parallel` here would use.

    Parameters
    ----------
    n_jobs : int or None, default -1
        As `Parallel` takes it; None is what `parallel_config` says, else 1.

    Returns
    -------
    int
        At least 1. Inside a task of a task it is 1.

    Raises
    ------
    ValueError
        `n_jobs` is 0, or no integer.
    """
    backend, configured = choose(
        None,
        setting("prefer", UNSET),
        setting("require", UNSET),
        setting("verbose", UNSET),
    )
    if n_jobs is None:
        n_jobs = 1 if configured is None else configured
    n_jobs = n_jobs_of(n_jobs)
    return 1 if n_jobs == 1 else count_of(backend, n_jobs)


def register_parallel_backend(name, factory, make_default=False):
    """Give workers of another tool a name that `Parallel(backend=name)` understands.

    Parameters
    ----------
    name : str
    factory : callable
        Called without arguments, or with those that parallel_config() was given for
        it. What it gives is one of:

        - an executor: ``submit(function, *args)`` gives a future as those of
          concurrent.futures (``add_done_callback``, ``result``, ``cancel``);
        - a backend made for joblib (a ``ParallelBackendBase``), whose ``configure``,
          ``submit`` or ``apply_async``, ``retrieve_result_callback``,
          ``abort_everything``, ``terminate``, ``start_call``, ``stop_call``,
          ``compute_batch_size`` and ``batch_completed`` are used.
    make_default : bool, default False
        Use it wherever no backend is given.
    """
    global _default
    if not isinstance(name, str) or not callable(factory):
        raise TypeError(
            "register_parallel_backend() takes a name and a callable that makes the "
            f"backend, not {name!r} and {factory!r}"
        )
    _registered[name] = factory
    if make_default:
        _default = name


def register_joblib(make_default=False):
    """Make allcores' worker processes a backend of joblib, by the name "allcores".

    Then ``with joblib.parallel_config("allcores"):`` has all that calls joblib, such
    as scikit-learn, run on them.

    Parameters
    ----------
    make_default : bool, default False
        Have joblib use it wherever no backend is given.

    Raises
    ------
    ImportError
        joblib is not installed.
    """
    try:
        import joblib  # noqa: F401
    except ImportError:
        raise ImportError(
            "register_joblib() needs the package joblib: install it, as with "
            "'pip install joblib'"
        ) from None
    from allcores._joblib import register

    register(make_default)


class parallel_config:  # noqa: N801, as joblib spells it
    """What `Parallel` is to use where its caller does not say, in this thread.

    Counts from the call on; in a ``with`` block until its end, otherwise until
    `unregister`. Blocks inside each other add up.

    Parameters
    ----------
    backend : str or object, optional
        As for `Parallel`.
    n_jobs, verbose, temp_folder, max_nbytes, mmap_mode, prefer, require
        As for `Parallel`.
    inner_max_num_threads : int, optional
        Cores that the code in each worker process may use.
    **backend_params
        With a backend's name: what makes its workers: initializer, initargs,
        idle_worker_timeout, start_method, max_tasks_per_child; or the arguments of a
        registered factory.

    Raises
    ------
    ValueError
        The backend is not known, or has no such parameter.

    Examples
    --------
    >>> from operator import neg
    >>> import allcores as ac
    >>> with ac.parallel_config(backend="threads", n_jobs=2):
    ...     ac.Parallel()(ac.delayed(neg)(i) for i in range(3))
    [0, -1, -2]
    """

    def __init__(
        self,
        backend=UNSET,
        *,
        n_jobs=UNSET,
        verbose=UNSET,
        temp_folder=UNSET,
        max_nbytes=UNSET,
        mmap_mode=UNSET,
        prefer=UNSET,
        require=UNSET,
        inner_max_num_threads=None,
        **backend_params,
    ):
        if inner_max_num_threads is not None:
            backend_params["inner_max_num_threads"] = inner_max_num_threads
        if backend is UNSET or backend is None:
            if backend_params:
                raise ValueError(
                    f"{', '.join(backend_params)}: only supported when backend is not "
                    "None; name one, as in parallel_config('processes', ...)"
                )
        else:
            backend = _backend_of(backend, backend_params)
        given = {
            "backend": backend,
            "n_jobs": n_jobs,
            "verbose": verbose,
            "temp_folder": temp_folder,
            "max_nbytes": max_nbytes,
            "mmap_mode": mmap_mode,
            "prefer": prefer,
            "require": require,
        }
        self.old_parallel_config = scope.config
        self.parallel_config = dict(scope.config)
        for name, value in given.items():
            if value is not UNSET:
                self.parallel_config[name] = value
        scope.config = self.parallel_config

    def __enter__(self):
        return self.parallel_config

    def __exit__(self, *exception):
        self.unregister()

    def unregister(self):
        """Put back what counted before."""
        scope.config = self.old_parallel_config


class parallel_backend(parallel_config):  # noqa: N801, as joblib spells it
    """joblib's older form of `parallel_config`: n_jobs is -1 unless it is given."""

    def __init__(
        self, backend, n_jobs=-1, inner_max_num_threads=None, **backend_params
    ):
        super().__init__(
            backend,
            n_jobs=n_jobs,
            inner_max_num_threads=inner_max_num_threads,
            **backend_params,
        )

    def __enter__(self):
        return self.parallel_config["backend"], self.parallel_config["n_jobs"]


# ---- Workers for a call -----------------------------------------------------


def hold_workers(backend, count, given, parallel):
    """Workers for a call: has `workers`, `count` and `let_go()`."""
    if backend.kind == "hosted":
        from allcores import _hosted

        return _hosted.hold(backend.object, count, parallel, scope.level + 1)
    parameters = {**PARAMETERS, **backend.parameters, **given}
    if backend.kind == "threads":
        return _HeldThreads(count, parameters)
    return HeldProcesses(count, parameters)


class _HeldThreads:
    """Threads of one Parallel's own."""

    def __init__(self, count, parameters):
        from allcores._threads import ThreadWorkers

        initializer, initargs = parameters["initializer"], parameters["initargs"]
        level = scope.level + 1

        def begin():
            begin_worker(level, False, None, initializer, initargs)

        if initializer is not None:  # what errors are to call it
            begin.__qualname__ = getattr(initializer, "__qualname__", repr(initializer))
        self.count = count
        self.workers = ThreadWorkers(count, initializer=begin)

    def let_go(self):
        self.workers.close()


class HeldProcesses:
    """Warm worker processes, borrowed: `workers`, until `let_go`.

    Parameters
    ----------
    count : int
    parameters : dict
        As PARAMETERS, which see.
    """

    def __init__(self, count, parameters):
        from allcores import _warm

        self.count = count
        self.give_back = _warm.give_back
        idle = parameters["idle_worker_timeout"]
        self.idle_seconds = _warm.IDLE_SECONDS if idle is None else idle
        initargs = (
            scope.level + 1,
            True,
            parameters["inner_max_num_threads"],
            parameters["initializer"],
            tuple(parameters["initargs"]),
        )
        options = {
            "start_method": parameters["start_method"],
            "max_tasks_per_child": parameters["max_tasks_per_child"],
        }

        def start():
            from allcores._processes import ProcessWorkers

            return ProcessWorkers(
                count, initializer=begin_worker, initargs=initargs, lazy=True, **options
            )

        key = (count, initargs, *options.values(), *thread_limits())
        self.kept = _warm.borrow(key, start)
        self.workers = self.kept.workers

    def let_go(self):
        self.give_back(self.kept, self.idle_seconds)


# ---- What arguments mean ----------------------------------------------------


def amount_of(given, n_jobs):
    """The tasks that `pre_dispatch` means, or None for 'all'.

    An expression holds numbers, n_jobs, + - * / // % and parentheses.
    """
    if given == "all":
        return None
    amount = given
    if isinstance(given, str):
        if given.replace(" ", "") == "2*n_jobs":
            return 2 * n_jobs
        amount = _evaluated(given, n_jobs)
    try:
        amount = int(amount)
    except (TypeError, ValueError, OverflowError):
        amount = 0
    if amount < 1:
        raise ValueError(
            "pre_dispatch is 'all', a number of tasks from 1 or an expression such as "
            f"'2 * n_jobs', not {given!r}"
        )
    return amount


def _evaluated(text, n_jobs):
    import ast
    import operator

    known = {
        ast.Add: operator.add,
        ast.Sub: operator.sub,
        ast.Mult: operator.mul,
        ast.Div: operator.truediv,
        ast.FloorDiv: operator.floordiv,
        ast.Mod: operator.mod,
        ast.UAdd: operator.pos,
        ast.USub: operator.neg,
    }

    def value(node):
        if isinstance(node, ast.Constant) and type(node.value) in (int, float):
            return node.value
        if isinstance(node, ast.Name) and node.id == "n_jobs":
            return n_jobs
        if isinstance(node, ast.BinOp):
            return known[type(node.op)](value(node.left), value(node.right))
        if isinstance(node, ast.UnaryOp):
            return known[type(node.op)](value(node.operand))
        raise KeyError(type(node))

    try:
        if len(text) > 100:
            raise KeyError(text)
        return value(ast.parse(text.strip(), mode="eval").body)
    except (KeyError, SyntaxError, ValueError, ArithmeticError, RecursionError):
        raise ValueError(
            f"pre_dispatch={text!r} cannot be computed: an expression holds numbers, "
            "n_jobs, + - * / // % and parentheses, as in '2 * n_jobs'"
        ) from None


def bytes_of(given):
    """The bytes that `max_nbytes` means ('1M', '512K', a number), or None."""
    if given is None or (isinstance(given, int) and not isinstance(given, bool)):
        return given
    try:
        return int(
            float(given[:-1]) * {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}[given[-1]]
        )
    except (TypeError, ValueError, KeyError, IndexError):
        raise ValueError(
            "max_nbytes is a number of bytes, a text such as '512K', '1M' or '2G', or "
            f"None, not {given!r}"
        ) from None


def copied_bytes(max_nbytes, mmap_mode):
    """Up to how many bytes an array is to be copied in the worker that would be a
    read-only view there; 0 = none."""
    if max_nbytes is None or mmap_mode != "r":
        return 1 << 62
    return max_nbytes if max_nbytes > VIEW_BYTES else 0
