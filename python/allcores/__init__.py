"""allcores: all your cores, never more than that.

One parallel runtime for scientific work, on one team of threads and one budget of
cores. This package is a thin face of the C library of the same name.

>>> import allcores as ac
>>> ac.cpu_count()                  # doctest: +SKIP
8
>>> with ac.threads(2):             # doctest: +SKIP
...     total = ac.sum(x)
>>> ac.Parallel(n_jobs=-1)(ac.delayed(f)(x) for x in xs)   # doctest: +SKIP

Importing it starts no thread and no process and imports no NumPy: each name below
is fetched from its module when it is first used.
"""

_HOMES = {
    "Executor": "executor",
    "Info": "budget",
    "InitializerError": "_workers",
    "Parallel": "parallel",
    "Pool": "pools",
    "RemoteTraceback": "_workers",
    "TaskTimeoutError": "_workers",
    "ThreadPool": "pools",
    "WorkerDiedError": "_workers",
    "counters": "budget",
    "cpu_count": "budget",
    "delayed": "parallel",
    "effective_n_jobs": "parallel",
    "get_num_threads": "budget",
    "info": "budget",
    "parallel_backend": "parallel",
    "parallel_config": "parallel",
    "register_joblib": "parallel",
    "register_parallel_backend": "parallel",
    "set_budget": "budget",
    "shared_array": "shared",
    "sum": "arrays",
    "threads": "budget",
}
_MODULES = frozenset(home for home in _HOMES.values() if home[0] != "_")

__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name):
    if name == "__version__":
        from allcores._core import version

        value = version()
    elif name in _HOMES:
        from importlib import import_module

        value = getattr(import_module(f"allcores.{_HOMES[name]}"), name)
    elif name in _MODULES:
        from importlib import import_module

        return import_module(f"allcores.{name}")
    else:
        raise AttributeError(f"module 'allcores' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__():
    return sorted({*__all__, *_MODULES, *globals()} - {"_HOMES", "_MODULES"})
