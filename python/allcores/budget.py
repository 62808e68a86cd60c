"""How many cores the process uses, and why.

The budget is the process's: the number of threads that all of allcores together
runs at a time. It begins as what the machine grants (the affinity mask and the
processor quotas of the process's cgroups) or as ``ALLCORES_NUM_THREADS`` says.
`set_budget` sets it, `threads` narrows it for a while.
"""

from collections import namedtuple
from operator import index

from allcores import _core

__all__ = [
    "Info",
    "counters",
    "cpu_count",
    "get_num_threads",
    "info",
    "set_budget",
    "threads",
]

CORES_MAX = 1024

# Bits of a code object's flags: generator, coroutine, asynchronous generator.
_SUSPENDING = 0x20 | 0x80 | 0x200


def _checked(caller, given, also=""):
    """`given` as a number of cores, or an exception that says what is allowed."""
    allowed = f"an integer from 1 to {CORES_MAX}{also}"
    if isinstance(given, bool):
        raise TypeError(f"{caller} takes {allowed}, not {given}")
    try:
        cores = index(given)
    except TypeError:
        raise TypeError(f"{caller} takes {allowed}, not {given!r}") from None
    if not 1 <= cores <= CORES_MAX:
        raise ValueError(f"{caller} takes {allowed}, not {cores}")
    return cores


class Info(
    namedtuple(
        "Info",
        "online affinity physical nodes smt packages quota granted user_cap cores "
        "limit l1d_bytes l2_bytes l3_bytes quota_path reason",
    )
):
    """The machine as this process sees it. Counts are in processors.

    Attributes
    ----------
    online : int
        Processors online.
    affinity : int
        Of those, allowed by the affinity mask of the process.
    physical : int
        Physical cores among the allowed processors.
    nodes, packages : int
        NUMA nodes and sockets among them.
    smt : int
        Most hardware threads on one allowed core.
    quota : float or None
        Processors granted by cgroups; None if they set no limit.
    granted : int
        What the machine grants: the smaller of affinity and quota, rounded up.
    user_cap : int or None
        What ALLCORES_NUM_THREADS or set_budget() says; None if neither does.
    cores : int
        What the process's team uses.
    limit : str
        Which of these decided `cores`: "online", "affinity", "quota" or "user".
    l1d_bytes, l2_bytes, l3_bytes : int or None
        Sizes of the first of each cache; None if not known.
    quota_path : str or None
        The cgroup that limits; None if none does.
    reason : str
        One sentence: why `cores` was chosen.
    """

    __slots__ = ()

    def __repr__(self):
        lines = (f"    {name}={value!r}," for name, value in self._asdict().items())
        return "\n".join(["Info(", *lines, ")"])


def info():
    """Read the machine anew and say how many cores are used, and why.

    Returns
    -------
    Info
        A named tuple; its repr has one field a line.
    """
    read = _core.topology()
    for name in (
        "quota",
        "user_cap",
        "l1d_bytes",
        "l2_bytes",
        "l3_bytes",
        "quota_path",
    ):
        read[name] = read[name] or None
    return Info(**read)


def cpu_count(only_physical_cores=False):
    """Number of processors that the machine grants this process.

    The affinity mask and the cgroups' quotas count; what `set_budget` or
    ``ALLCORES_NUM_THREADS`` says does not: see `get_num_threads` for that.

    Parameters
    ----------
    only_physical_cores : bool, default False
        Count the hardware threads of one core once.

    Returns
    -------
    int
        At least 1.
    """
    read = _core.topology()
    if only_physical_cores:
        return max(1, min(read["physical"], read["granted"]))
    return read["granted"]


def get_num_threads():
    """Number of threads that a loop may use now.

    Returns
    -------
    int
        The budget: the smallest of what was set and of every `threads` block that
        is open, in any thread. At least 1.
    """
    return _core.budget()


def set_budget(n):
    """Set how many cores the whole process may use.

    Parameters
    ----------
    n : int or None
        From 1 to 1024; None is what the machine grants, read anew. More than the
        machine grants is allowed: asked for by number, it is given.

    Raises
    ------
    TypeError, ValueError
        `n` is neither; nothing has changed.
    """
    _core.budget_set(0 if n is None else _checked("set_budget()", n, " or None"))


class threads:  # a function in all but name
    """Narrow the budget of the whole process for a while.

    A context manager and a decorator. While several are open, in whatever threads
    and order, the smallest counts. It never widens: more than the budget changes
    nothing.

    Parameters
    ----------
    n : int
        From 1 to 1024.

    Raises
    ------
    TypeError, ValueError
        `n` is not such a number, or what is decorated is a generator or a
        coroutine, which would run mostly outside the block.

    Examples
    --------
    >>> import allcores as ac
    >>> with ac.threads(1):
    ...     ac.get_num_threads()
    1
    >>> @ac.threads(1)
    ... def f():
    ...     return ac.get_num_threads()
    >>> f()
    1
    """

    def __init__(self, n, /):
        self._cores = _checked("threads()", n)
        self._held = []  # one for each time that this object is open

    def __enter__(self):
        self._held.append(_core.limit_hold(self._cores))
        return self

    def __exit__(self, *exception):
        if not self._held:
            raise RuntimeError("threads() was left more often than it was entered")
        self._held.pop().release()

    def __call__(self, function, /):
        from functools import wraps

        code = getattr(function, "__code__", None)
        if not callable(function) or (code and code.co_flags & _SUSPENDING):
            raise TypeError(
                "threads() decorates plain functions, not "
                f"{function!r}: use 'with threads(n):' inside it"
            )

        @wraps(function)
        def narrowed(*args, **kwargs):
            with self:
                return function(*args, **kwargs)

        return narrowed

    def __repr__(self):
        return f"allcores.threads({self._cores})"


def counters():
    """What the process's team of threads did since it was made.

    Returns
    -------
    dict of str to int
        Zeros if it has not started. ``allcores info --counters`` says what each
        one counts.
    """
    return _core.counters()
