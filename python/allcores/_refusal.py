"""Says which object of a task could not be pickled, and where it lies.

`explain` is called only once pickling has failed. It walks down from what was sent:
at each step it takes apart the object (a container's items, a function's cells, an
instance's attributes or what its `__reduce_ex__` gives) and goes on with the first part
that cannot be pickled alone. What has no such part is to blame.

Knows nothing of: how things are pickled; it is given a function that tries.
"""

import functools
import types

__all__ = ["explain"]

_TRIES = 2000  # so many parts are tried before the search stops where it is


def explain(thing, name, try_pickle, first_error=None):
    """One sentence: what in `thing` cannot be sent, where it lies, what to do.

    Parameters
    ----------
    thing : object
    name : str
        What to call `thing`: "argument 2".
    try_pickle : callable
        Raises if its argument cannot be pickled.
    first_error : Exception, optional
        Why `thing` could not be sent: said if it can be pickled now, as after a
        shortage of memory.
    """
    tries = [_TRIES]
    path, error = name, None
    seen = set()
    while id(thing) not in seen:
        seen.add(id(thing))
        problem = _problem(thing, try_pickle, tries)
        if problem is None and error is None:
            break
        error = problem or error
        for step, part in _parts(thing):
            if tries[0] <= 0:
                break
            if _problem(part, try_pickle, tries) is not None:
                thing, path = part, path + step
                break
        else:
            break
        if tries[0] <= 0:
            break
    is_whole = error is None or isinstance(thing, (Call, Calls))
    error = error or first_error
    why = f"{type(error).__name__}: {error}" if error is not None else "unknown"
    if is_whole:
        whole = thing.name() if isinstance(thing, (Call, Calls)) else path
        return (
            f"{whole} cannot be sent to a worker process, though each of its parts can "
            f"be alone ({why})"
        )
    hint = _hint(thing, str(error))
    return f"{path}: {_what(thing)} cannot be sent to a worker process ({why}){hint}"


def _problem(thing, try_pickle, tries):
    tries[0] -= 1
    try:
        try_pickle(thing)
    except Exception as error:
        return error
    return None


def _what(thing):
    kind = type(thing)
    if isinstance(thing, types.FunctionType):
        return f"the function {thing.__qualname__!r}"
    if isinstance(thing, type):
        return f"the class {thing.__qualname__!r}"
    if isinstance(thing, types.ModuleType):
        return f"the module {thing.__name__!r}"
    name = kind.__qualname__
    if kind.__module__ != "builtins":
        name = f"{kind.__module__}.{name}"
    article = "an" if name[0].lower() in "aeiou" else "a"
    return f"{article} {name} object"


def _hint(thing, error):
    kind = type(thing)
    module = kind.__module__
    if "through inheritance" in error or module.startswith("multiprocessing."):
        return "; give it to the workers as they start, in initargs"
    if kind.__name__ in ("lock", "RLock") or module == "threading":
        return (
            "; make it in the worker, or give a multiprocessing one to the workers as "
            "they start, in initargs"
        )
    if isinstance(thing, types.GeneratorType):
        return "; give a list of what it yields"
    if module in ("_io", "io", "tempfile"):
        return "; give its name and open it in the worker"
    if isinstance(thing, RecursionError) or "recursion" in error:
        return "; it is nested too deeply"
    return "; give what it is made from, and make it in the worker"


# ---- What things consist of --------------------------------------------------


def _parts(thing):
    """(how to write the step, part) for what `thing` is made of."""
    kind = type(thing)
    try:
        if isinstance(thing, (Call, Calls)):
            yield from thing.parts()
        elif isinstance(thing, dict) and kind.__reduce_ex__ is dict.__reduce_ex__:
            for key, value in list(thing.items()):
                yield f"[{_short(key)}]", value
                yield f" (the key {_short(key)})", key
        elif kind in (list, tuple):
            for index, value in enumerate(thing):
                yield f"[{index}]", value
        elif kind in (set, frozenset):
            for value in list(thing):
                yield f" (the member {_short(value)})", value
        elif isinstance(thing, types.FunctionType):
            yield from _function_parts(thing)
        elif isinstance(thing, types.MethodType):
            yield ".__self__", thing.__self__
            yield ".__func__", thing.__func__
        elif isinstance(thing, functools.partial):
            yield ".func", thing.func
            for index, value in enumerate(thing.args):
                yield f".args[{index}]", value
            for key, value in thing.keywords.items():
                yield f".keywords[{key!r}]", value
        elif isinstance(thing, type):
            for key, value in list(vars(thing).items()):
                if key not in ("__dict__", "__weakref__"):
                    yield f".{key}", getattr(value, "__func__", value)
        elif not isinstance(thing, types.ModuleType):
            yield from _instance_parts(thing)
    except Exception:  # odd objects must not hide what is wrong with them
        return


def _function_parts(function):
    for index, value in enumerate(function.__defaults__ or ()):
        yield f" (default {index + 1})", value
    for key, value in (function.__kwdefaults__ or {}).items():
        yield f" (default of {key!r})", value
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or ()):
        try:
            value = cell.cell_contents
        except ValueError:
            continue
        yield f" (its variable {name!r})", value
    for key, value in function.__dict__.items():
        yield f".{key}", value
    from allcores._byvalue import _code_facts

    for name in _code_facts(function.__code__)[1]:
        if name in function.__globals__:
            yield f" (the global {name!r})", function.__globals__[name]


def _instance_parts(thing):
    reduced = thing.__reduce_ex__(5)
    if not isinstance(reduced, tuple):
        return
    state = reduced[2] if len(reduced) > 2 else None
    states = state if isinstance(state, tuple) and len(state) == 2 else (state,)
    for some in states:
        if isinstance(some, dict):
            for key, value in some.items():
                yield f".{key}", value
        elif some is not None:
            yield " (its state)", some
    if len(reduced) > 3 and reduced[3] is not None:
        for index, value in enumerate(reduced[3]):
            yield f"[{index}]", value
    if len(reduced) > 4 and reduced[4] is not None:
        for key, value in reduced[4]:
            yield f"[{_short(key)}]", value
    for index, value in enumerate(reduced[1]):
        if not (index == 0 and isinstance(value, type)):
            yield f" (part {index + 1} of its __reduce__)", value


def _short(value):
    try:
        text = repr(value)
    except Exception:
        return f"<{type(value).__name__}>"
    return text if len(text) <= 40 else text[:37] + "..."


class Call:
    """A task as the user sees it, to be walked down like any other object."""

    def __init__(
        self, function, args, kwargs, where="", name="the function", argument="argument"
    ):
        self.function = function
        self.args = args
        self.kwargs = kwargs
        self.words = (name, argument, where)

    def name(self):
        name, _, where = self.words
        if name == "the function":
            return f"the task{where}"
        return f"{name} with its arguments"

    def parts(self):
        name, argument, where = self.words
        if self.function is not None:
            yield f"{name}{where}", self.function
        for index, value in enumerate(self.args):
            yield f"{argument} {index + 1}{where}", value
        for key, value in self.kwargs.items():
            yield f"{argument} {key!r}{where}", value


class Calls:
    """A batch of calls."""

    def __init__(self, calls):
        self.calls = calls

    def name(self):
        return "the batch of calls"

    def parts(self):
        for call in self.calls:
            yield "", call
