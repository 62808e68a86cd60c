"""One new process that imports a library and, for P2, makes its first two calls.

    python first.py LIBRARY KIND

Prints the seconds and the answer. A plain script: there is no `__main__` guard.
"""

import sys
from time import perf_counter

LIBRARY, KIND = sys.argv[1:]


def imported(statement):
    """Return how long an import takes."""
    code = compile(statement, "import", "exec")
    begun = perf_counter()
    exec(code, {})
    return perf_counter() - begun


def function_of(kind):
    """Return the function to be called."""
    if kind == "closure":
        step = 1
        return lambda number: number + step
    if kind == "numpy":
        from tasks_numpy import squares

        return squares
    if kind == "caller":
        import sklearn.ensemble  # noqa: F401
    if kind == "estimator":
        from tasks_sklearn import leaves

        return leaves
    from tasks import next_of

    return next_of


if KIND == "import":
    print(imported(f"import {LIBRARY}"), 0)
elif KIND == "names":
    print(imported(f"from {LIBRARY} import Parallel, delayed"), 0)
else:
    function = function_of(KIND)
    if LIBRARY == "allcores":
        from allcores import Parallel, delayed
    else:
        from joblib import Parallel, delayed
    begun = perf_counter()
    values = Parallel(2)(delayed(function)(i) for i in (5, 6))
    print(perf_counter() - begun, sum(values))
