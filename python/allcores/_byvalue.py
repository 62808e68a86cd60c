"""Pickles functions and classes that a worker process cannot import: by value.

* What a worker can import goes by its name, as with plain pickle (`by_reference`).
* A function goes as its code, its defaults, what its cells hold, and the name of its
  *space*: the dictionary of its globals. The globals that its code refers to
  (`_global_names` reads them off the bytecode) are not in the pickle: the pickler
  lists them in `needs`, for its *home* to send along.
* A class goes as a number, and is listed in `classes`, where the home knows it or
  numbers it; otherwise as cloudpickle takes it apart.
* `object()`, which is nothing but its identity, goes as a number too.

The home is the `Sender` or `Receiver` of `_shipping.py`; it is asked when something is
pickled (`_space_of`, `_class_number`, …) and when it is loaded (`_space`, `_class`, …).

Code travels by `marshal`. cloudpickle takes longer to import than a worker takes to
start, so it is imported only for a class, or one of the odder types.

Knows nothing of: tasks, keys, stores.
"""

import _pickle  # pickle itself imports re
import io
import marshal
import sys
import threading
import types
import weakref
from functools import _lru_cache_wrapper
from types import CellType, CodeType, FunctionType, ModuleType

__all__ = [
    "FILLED",
    "INLINE",
    "KNOWN",
    "by_reference",
    "here",
    "import_module",
    "importable",
    "names_stranger",
    "new_globals",
    "pickled",
    "reduced_class",
]

# How a space is filled at the other end: by the names that a function needs; not at
# all, since it is there; by what comes with each function.
FILLED, KNOWN, INLINE = range(3)

here = threading.local()  # .home: who loads something on this thread

NEVER_IMPORTED = ("__main__", "__mp_main__")


# ---- What a worker can import ------------------------------------------------

_importable = {}  # name -> (weak reference to the module, answer)


def importable(name):
    """True if a fresh interpreter with this one's sys.path imports this very module."""
    if name in NEVER_IMPORTED:
        return False
    module = sys.modules.get(name)
    if module is None:
        return False
    known = _importable.get(name)
    if known is not None and known[0]() is module:
        return known[1]
    answer = _is_found(name, module)
    try:
        _importable[name] = (weakref.ref(module), answer)
    except TypeError:  # some put other things than modules into sys.modules
        pass
    return answer


def _is_found(name, module):
    spec = getattr(module, "__spec__", None)
    if name in sys.builtin_module_names:
        return True
    if spec is None or getattr(module, "__name__", None) != name:
        return False
    if spec.origin in ("built-in", "frozen"):
        return True
    parent = name.rpartition(".")[0]
    path = None
    if parent:
        if not importable(parent):
            return False
        path = getattr(sys.modules[parent], "__path__", None)
    for finder in list(sys.meta_path):
        try:
            found = finder.find_spec(name, path)
        except Exception:
            continue
        if found is not None:
            return found.origin == spec.origin
    return False


def by_reference(thing):
    """True if a worker finds this function or class under its name."""
    try:
        name = thing.__module__
        if name is None or not importable(name):
            return False
        at = sys.modules[name]
        for part in thing.__qualname__.split("."):
            at = getattr(at, part)
    except Exception:
        return False
    return at is thing


_strangers = (0, None, ())  # how many modules there were, the last, what was found


def _stranger_names():
    """Names, as bytes, of the loaded modules that a worker could not import."""
    global _strangers
    modules = sys.modules
    if len(modules) != _strangers[0] or next(reversed(modules)) != _strangers[1]:
        names = [name for name in list(modules) if type(name) is str]
        found = [n for n in names if not _lies_on_path(n) and not importable(n)]
        found = {n.encode("utf-8", "replace") for n in (*found, *NEVER_IMPORTED)}
        _strangers = (len(modules), names[-1], (_BARE_OBJECT, *found))
    return _strangers[2]


def _lies_on_path(name):
    """Cheaper than `importable`: the module's file is where sys.path would have it."""
    spec = getattr(sys.modules.get(name), "__spec__", None)
    if spec is None or spec.name != name:
        return False
    origin = spec.origin
    if origin in ("built-in", "frozen"):
        return True
    if not isinstance(origin, str):
        return False
    at = origin.rfind("/" + name.replace(".", "/"))
    return at >= 0 and origin[:at] in sys.path


# How a plain pickle says `object`, of which object() is an instance.
_BARE_OBJECT = b"\x8c\x06object\x94\x93"


def names_stranger(sent):
    """True if this plain pickle may refer to what a worker could not import.

    A pickle with no STACK_GLOBAL in it (the usual task) refers to nothing by name.
    """
    return b"\x93" in sent and any(name in sent for name in _stranger_names())


# ---- What code refers to -----------------------------------------------------

_codes = {}  # id -> (code, names, marshalled); holds the code, so that ids are unique


def _code_facts(code):
    facts = _codes.get(id(code))
    if facts is None:
        if len(_codes) >= 4096:
            _codes.clear()
        try:
            marshalled = marshal.dumps(code)
        except ValueError:
            marshalled = None  # it holds constants that no compiler makes
        facts = _codes[id(code)] = (code, tuple(_global_names(code)), marshalled)
    return facts


def _global_names(code):
    """Names of the globals that `code`, or code within it, reads or writes."""
    from opcode import opmap

    extended = opmap["EXTENDED_ARG"]
    load = opmap["LOAD_GLOBAL"]
    load_shift = 1 if sys.version_info >= (3, 11) else 0
    others = {
        opmap[name]
        for name in (
            "STORE_GLOBAL",
            "DELETE_GLOBAL",
            "LOAD_NAME",
            "LOAD_FROM_DICT_OR_GLOBALS",
        )
        if name in opmap
    }
    names = {}
    todo = [code]
    while todo:
        code = todo.pop()
        todo.extend(c for c in code.co_consts if type(c) is CodeType)
        ops = code.co_code
        arg = 0
        for at in range(0, len(ops), 2):
            op = ops[at]
            arg |= ops[at + 1]
            if op == extended:
                arg <<= 8
                continue
            if op == load:
                names[code.co_names[arg >> load_shift]] = None
            elif op in others:
                names[code.co_names[arg]] = None
            arg = 0
    return names


def _submodules(package, code):
    """Modules below `package` that are loaded and that `code` reaches as attributes."""
    found = []
    todo = [package.__name__]
    while todo:
        above = todo.pop()
        for name in code.co_names:
            below = f"{above}.{name}"
            if below in sys.modules and below not in found:
                found.append(below)
                todo.append(below)
    return found


# ---- What pickles call when they are loaded ----------------------------------


def import_module(name):
    __import__(name)
    return sys.modules[name]


def new_globals(name):
    """An empty dictionary of globals."""
    return {"__name__": name, "__builtins__": __builtins__}


def load_code(code):
    return marshal.loads(code) if type(code) is bytes else here.home._code(code)


def load_function(code, space, name, cells):
    if type(code) is not CodeType:
        code = load_code(code)
    return FunctionType(code, here.home._space(space), name, None, cells)


def fill_function(function, state):
    defaults, kwdefaults, cells, more = state
    function.__defaults__ = defaults
    function.__kwdefaults__ = kwdefaults
    for cell, content in zip(function.__closure__ or (), cells):
        if content:
            cell.cell_contents = content[0]
    if more:
        for name in more.pop("__imports__", ()):
            import_module(name)
        for name, value in more.pop("__globals__", {}).items():
            function.__globals__.setdefault(name, value)
        function.__dict__.update(more.pop("__dict__", {}))
        for name, value in more.items():
            setattr(function, name, value)


def load_attribute(space, qualname):
    """What a function or class that is known at this end is bound to here."""
    first, _, rest = qualname.partition(".")
    thing = here.home._space(space)[first]
    for name in rest.split(".") if rest else ():
        thing = getattr(thing, name)
    return thing


def load_kept(key):
    return here.home._kept_function(key)


def load_stand_in(space):
    return here.home._space_module(space)


def load_class(number):
    return here.home._class(number)


def load_token(number):
    return here.home._token(number)


def load_cached(function, parameters):
    from functools import lru_cache

    return lru_cache(**parameters)(function)


# ---- The pickler -------------------------------------------------------------


class NeedsCloudpickle(BaseException):
    """The pass must begin again with cloudpickle's reducers."""


class Pickler(_pickle.Pickler):
    """The rich pickler.

    Attributes
    ----------
    needs : dict
        Globals that are needed besides: (space, name) to the parent's dictionary.
    classes : dict
        Classes that are: number to class.
    """

    def __init__(self, home, file, buffer_callback, table, is_task):
        if table is not None:
            self.dispatch_table = table
        super().__init__(file, 5, buffer_callback=buffer_callback)
        self.home = home
        self.is_full = table is not None
        self.is_task = is_task
        self.needs = {}
        self.classes = {}

    def reducer_override(self, thing):
        kind = type(thing)
        if kind is FunctionType:
            if by_reference(thing):
                return NotImplemented
            return self._function(thing)
        if issubclass(kind, type):
            return self._class(thing)
        if isinstance(thing, ModuleType):
            if importable(thing.__name__):
                return import_module, (thing.__name__,)
            space, _ = self.home._space_of(vars(thing), thing.__name__)
            return load_stand_in, (space,)
        if kind is CellType:
            return CellType, ()  # what it holds comes with the function
        if kind is CodeType:
            code = self._code(thing)
            return NotImplemented if code is thing else (load_code, (code,))
        if kind is object:  # nothing but its identity
            number = self.home._token_number(thing)
            return NotImplemented if number is None else (load_token, (number,))
        if kind is _lru_cache_wrapper and not by_reference(thing):
            return load_cached, (thing.__wrapped__, thing.cache_parameters())
        if kind.__name__ == "_MISSING_TYPE" and kind.__module__ == "dataclasses":
            return "MISSING"
        return NotImplemented

    def _code(self, code):
        marshalled = _code_facts(code)[2]
        if marshalled is None:
            self._be_full()
            return code
        return self.home._code_key(code, marshalled)

    def _function(self, function):
        if self.is_task:
            name = self.home._known_as(function)
            if name is not None:
                space, qualname = name
                first = qualname.partition(".")[0]
                self.needs[space, first] = function.__globals__
                return load_attribute, name
            kept = self.home._keep_function(function)
            if kept is not None:
                self.needs.update(kept.needs)
                self.classes.update(kept.classes)
                return load_kept, (kept.key,)
        code = function.__code__
        names = _code_facts(code)[1]
        there = function.__globals__
        space, how = self.home._space_of(there, function.__module__)
        cells = []
        packages = [there.get(name) for name in names]
        for cell in function.__closure__ or ():
            try:
                content = (cell.cell_contents,)
            except ValueError:  # nothing was assigned to it yet
                content = ()
            cells.append(content)
            packages += content
        more = {}
        imports = []
        for package in packages:
            if type(package) is ModuleType and hasattr(package, "__path__"):
                imports += _submodules(package, code)
        if imports:
            more["__imports__"] = imports
        if how == FILLED:
            self.needs[space, ""] = there
            for name in names:
                self.needs[space, name] = there
        elif how == INLINE:
            more["__globals__"] = {n: there[n] for n in names if n in there}
        if function.__dict__:
            more["__dict__"] = dict(function.__dict__)
        try:
            annotations = function.__annotations__
        except Exception:  # since Python 3.14 they are evaluated here, and may fail
            annotations = None
        if annotations:
            more["__annotations__"] = annotations
        if function.__qualname__ != getattr(code, "co_qualname", None):
            more["__qualname__"] = function.__qualname__
        if function.__module__ != there.get("__name__"):
            more["__module__"] = function.__module__
        if function.__doc__ != (code.co_consts[0] if code.co_consts else None):
            more["__doc__"] = function.__doc__
        state = (function.__defaults__, function.__kwdefaults__, cells, more)
        parts = (self._code(code), space, function.__name__, function.__closure__)
        return load_function, parts, state, None, None, fill_function

    def _class(self, cls):
        number = self.home._class_number(cls)
        if number is None:
            if cls in _ODD_TYPES:
                return type, (_ODD_TYPES[cls],)
            if by_reference(cls):
                return NotImplemented
            if not cls.__flags__ & _HEAP_TYPE:  # made in C: it has a name, or none
                name = _NAMES_IN_TYPES.get(cls)
                return (load_attribute, ("=types", name)) if name else NotImplemented
            number = self.home._new_class_number(cls)
        if number is not None:
            self.classes[number] = cls
            return load_class, (number,)
        self._be_full()
        return reduced_class(cls)

    def _be_full(self):
        if not self.is_full:
            raise NeedsCloudpickle


_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: made by a class statement
_ODD_TYPES = {type(x): x for x in (None, Ellipsis, NotImplemented)}
_NAMES_IN_TYPES = {t: n for n, t in vars(types).items() if isinstance(t, type)}


def pickled(home, thing, *, buffer_callback=None, is_task=False, table=None):
    """Pickle by value what cannot go by its name.

    Parameters
    ----------
    home : Sender or Receiver
    thing : object
    buffer_callback : callable, optional
        As pickle's; called anew if the pass has to begin again with cloudpickle, so
        `buffer_callback.begin()`, if there is one, is called first.
    is_task : bool
        It is loaded once the environment has been entered: functions that this brings,
        or that `home` has stored, are only referred to.
    table : mapping, optional
        Reducers by type that count before all others.

    Returns
    -------
    sent : bytes
    needs, classes : dict
        See `Pickler`.
    """
    full = _full_table
    while True:
        file = io.BytesIO()
        if buffer_callback is not None:
            buffer_callback.begin()
        both = full
        if table is not None:
            from collections import ChainMap

            both = ChainMap(table, full or {})
        pickler = Pickler(home, file, buffer_callback, both, is_task)
        pickler.is_full = full is not None
        try:
            pickler.dump(thing)
        except (NeedsCloudpickle, Exception):
            if full is not None:
                raise
            full = cloudpickle_table()
        else:
            return file.getvalue(), pickler.needs, pickler.classes


_full_table = None
_class_lock = threading.Lock()


def cloudpickle_table():
    """cloudpickle's reducers by type, and those registered with copyreg."""
    global _full_table
    if _full_table is None:
        import copyreg
        from collections import ChainMap

        import cloudpickle

        table = dict(cloudpickle.Pickler(io.BytesIO()).dispatch_table)
        _full_table = ChainMap(table, copyreg.dispatch_table)
    return _full_table


def reduced_class(cls):
    """A class as cloudpickle takes it apart, also if its module is in sys.modules."""
    import cloudpickle

    cloudpickle_table()
    module = sys.modules.get(cls.__module__)
    pickler = cloudpickle.Pickler(io.BytesIO())
    with _class_lock:
        is_added = False
        if isinstance(module, ModuleType) and module.__name__ == cls.__module__:
            if module.__name__ not in cloudpickle.list_registry_pickle_by_value():
                cloudpickle.register_pickle_by_value(module)
                is_added = True
        try:
            make, args, *rest = pickler.reducer_override(cls)
        finally:
            if is_added:
                cloudpickle.unregister_pickle_by_value(module)
    if len(args) > 2 and isinstance(args[-2], str) and len(args[-2]) == 32:
        # The number by which cloudpickle would find a class that it has made before,
        # and overwrite it. Where that matters, we have numbers of our own.
        args = (*args[:-2], None, args[-1])
    return make, args, *rest
