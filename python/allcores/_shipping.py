"""What travels between a parent and its worker processes, and how.

```
 parent: Sender                                  worker: Receiver
   pack(mode, function, data) ── payload, buffers ──> run()
       |                                               |
     store(blob) -> key   ......................   fetch(key)
                                                       |
   unpack_result() <──────────── payload, buffers ─────┘
```

A task is a head (`_TASK`), the function's bytes and the data's bytes. A function that
a worker can import is its name; the worker keeps what it loaded under those bytes, so
one that comes again costs a dictionary's lookup. Data goes by plain pickle first. Only
if that fails, or what it made names a module that a worker cannot import (`__main__`
is one), does the *rich* pickler run, which sends functions and classes by value.

By value means, here:

* A function is its code (stored once), its defaults and cells, and the name of its
  *space*: the dictionary of globals. A worker has one dictionary for each space, so
  what an initializer sets as a `global` is seen by every task.
* A global that the code refers to is a stored blob of its own, and so is a class. What
  a task needs of them, with the blobs' keys, is its *environment*, itself a stored
  blob. Before a task runs, the worker brings its spaces to that environment: a name
  whose key is new to it is loaded; one whose key is not is left alone, with what the
  worker's own functions did to it meanwhile.
* So a change in the parent (other code, another value, a list that grew) makes another
  key. What may change in place is pickled again at each call to see whether it has.
* A class has a number at both ends: what comes back is an instance of the parent's own.

Code travels by `marshal`; cloudpickle, which takes longer to import than a worker takes
to start, is imported when a class, or one of the odder types, goes by value.

Knows nothing of: processes, segments, and when a blob reaches a worker.
"""

import io
import marshal
import operator
import pickle
import struct
import sys
import threading
import weakref
from functools import _lru_cache_wrapper
from pickle import dumps, loads
from time import perf_counter
from types import (
    BuiltinFunctionType,
    CellType,
    CodeType,
    FunctionType,
    ModuleType,
)

from allcores._workers import CALL, CALLS, MAP, STARMAP, RemoteTraceback

__all__ = ["Receiver", "RemoteError", "Sender"]

# Head of a task: mode, flags, environment's key (0: none), bytes of the function.
_TASK = struct.Struct("<BBxxII")
_TOGETHER = 1  # flag: function and data are one pickle, (function, data)

# Head of a result: whether it is a value, index of the call that failed, seconds.
_RESULT = struct.Struct("<?xxxid")

# A buffer smaller than that travels in its pickle.
INBAND_BYTES = 2048
# A buffer smaller than that is copied by the worker, so that it may be written to.
WRITABLE_BYTES = 1 << 20
# A worker keeps so many functions loaded.
_FUNCTIONS_KEPT = 512

_MISSING = object()
_here = threading.local()  # .home: the Sender or Receiver that loads something


class RemoteError(RuntimeError):
    """Stands for an exception of a worker that could not be made again here.

    Attributes
    ----------
    type_name : str
        Of the original exception, with its module.
    """

    def __init__(self, message, type_name=None):
        super().__init__(message)
        self.type_name = type_name

    def __reduce__(self):
        return type(self), (self.args[0], self.type_name)


# ---- What a worker can import ------------------------------------------------

_importable_modules = {}  # name -> (module, its origin, answer)
_NEVER = ("__main__", "__mp_main__")


def _importable(name):
    """True if a fresh interpreter with this one's sys.path imports this very module."""
    if name in _NEVER:
        return False
    module = sys.modules.get(name)
    if module is None:
        return False
    known = _importable_modules.get(name)
    if known is not None and known[0]() is module:
        return known[1]
    answer = _found(name, module)
    try:
        _importable_modules[name] = (weakref.ref(module), answer)
    except TypeError:  # some put other things than modules into sys.modules
        pass
    return answer


def _found(name, module):
    spec = getattr(module, "__spec__", None)
    if spec is None or name != getattr(module, "__name__", None):
        return name in sys.builtin_module_names
    if spec.origin in ("built-in", "frozen") or name in sys.builtin_module_names:
        return True
    parent, _, _ = name.rpartition(".")
    path = None
    if parent:
        if not _importable(parent):
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


def _by_reference(thing):
    """True if a worker finds this function or class under its name."""
    name = getattr(thing, "__module__", None)
    if name is None or not _importable(name):
        return False
    at = sys.modules[name]
    try:
        for part in thing.__qualname__.split("."):
            at = getattr(at, part)
    except AttributeError:
        return False
    return at is thing


_strangers = (0, None, ())  # how many modules there were; the search's result


def _stranger_modules():
    """Names, as bytes, of the loaded modules that a worker could not import."""
    global _strangers
    count, last, names = _strangers
    if count != len(sys.modules) or last != next(reversed(sys.modules)):
        modules = list(sys.modules)
        found = [
            name.encode("utf-8", "surrogateescape")
            for name in modules
            if not _plausible(name) and not _importable(name)
        ]
        names = tuple({*found, *(n.encode() for n in _NEVER)})
        _strangers = (len(modules), modules[-1], names)
    return names


def _plausible(name):
    """Cheaply: True if the module lies where sys.path would have it."""
    module = sys.modules.get(name)
    spec = getattr(module, "__spec__", None)
    if spec is None or spec.name != name:
        return False
    origin = spec.origin
    if not isinstance(origin, str):  # a namespace package
        return name not in _NEVER
    if origin in ("built-in", "frozen"):
        return True
    tail = origin.rfind("/" + name.replace(".", "/"))
    return tail >= 0 and origin[:tail] in sys.path and name not in _NEVER


# ---- What code refers to -----------------------------------------------------

_codes = {}  # id -> (code, names, marshalled): kept, so that no id comes again


def _code_facts(code):
    facts = _codes.get(id(code))
    if facts is None:
        if len(_codes) > 4096:
            _codes.clear()
        facts = (code, tuple(_global_names(code)), _marshalled(code))
        _codes[id(code)] = facts
    return facts


def _global_names(code):
    """Names of the globals that `code`, or code within it, reads or writes."""
    from opcode import opmap

    load = opmap["LOAD_GLOBAL"]
    load_shift = 1 if sys.version_info >= (3, 11) else 0
    others = {
        opmap.get(name)
        for name in (
            "STORE_GLOBAL",
            "DELETE_GLOBAL",
            "LOAD_NAME",
            "LOAD_FROM_DICT_OR_GLOBALS",
        )
    }
    extended = opmap["EXTENDED_ARG"]
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


def _marshalled(code):
    try:
        return marshal.dumps(code)
    except ValueError:
        return None  # it holds constants that no compiler makes


def _submodules(package, code):
    """Modules below `package` that are loaded and that `code` reaches as attributes."""
    found = []
    todo = [package.__name__]
    while todo:
        prefix = todo.pop()
        for name in code.co_names:
            below = f"{prefix}.{name}"
            if below in sys.modules and below not in found:
                found.append(below)
                todo.append(below)
    return found


# ---- What pickles call when they are loaded ----------------------------------


def _load_space(space):
    return _here.home._space(space)


def _load_code(code):
    if type(code) is bytes:
        return marshal.loads(code)
    return _here.home._code(code)


def _load_function(code, space, name, cells):
    if type(code) is not CodeType:
        code = _load_code(code)
    return FunctionType(code, _here.home._space(space), name, None, cells)


def _fill_function(function, state):
    defaults, kwdefaults, cells, more = state
    function.__defaults__ = defaults
    if kwdefaults:
        function.__kwdefaults__ = kwdefaults
    for cell, content in zip(function.__closure__ or (), cells):
        if content:
            cell.cell_contents = content[0]
    if more:
        for name in more.pop("__imports__", ()):
            _load_module(name)
        for name, value in more.pop("__globals__", {}).items():
            function.__globals__.setdefault(name, value)
        function.__dict__.update(more.pop("__dict__", {}))
        for name, value in more.items():
            setattr(function, name, value)


def _load_module(name):
    __import__(name)
    return sys.modules[name]


def _load_main(space):
    return _here.home._space_module(space)


def _load_class(number):
    return _here.home._class(number)


def _load_token(number):
    return _here.home._token(number)


def _load_cached(function, parameters):
    from functools import lru_cache

    return lru_cache(**parameters)(function)


# ---- The rich pickler --------------------------------------------------------


class _NeedsCloudpickle(Exception):
    """The pass must begin again, with cloudpickle's table of types."""


class _Pickler(pickle.Pickler):
    """Sends functions and classes that a worker could not import by value.

    What the result needs besides (globals, classes) is in `needs` and `classes`.
    """

    def __init__(self, home, file, buffer_callback=None, table=None):
        if table is not None:
            self.dispatch_table = table
        super().__init__(file, 5, buffer_callback=buffer_callback)
        self.home = home
        self.is_full = table is not None
        self.needs = {}  # (space, name) -> the dictionary
        self.classes = {}  # number -> class

    def reducer_override(self, thing):
        kind = type(thing)
        if kind is FunctionType:
            if _by_reference(thing):
                return NotImplemented
            return self._function(thing)
        if issubclass(kind, type):
            return self._class(thing)
        if kind is ModuleType or isinstance(thing, ModuleType):
            return self._module(thing)
        if kind is CellType:
            return CellType, ()
        if kind is CodeType:
            code = self._code(thing)
            return NotImplemented if code is thing else (_load_code, (code,))
        if kind is object:
            return _load_token, (self.home._token_number(thing),)
        if kind is _lru_cache_wrapper and not _by_reference(thing):
            return _load_cached, (thing.__wrapped__, thing.cache_parameters())
        return NotImplemented

    def _code(self, code):
        marshalled = _code_facts(code)[2]
        if marshalled is None:
            self._be_full()
            return code
        return self.home._code_key(code, marshalled)

    def _function(self, function):
        home = self.home
        code = function.__code__
        names = _code_facts(code)[1]
        there = function.__globals__
        space, is_ours = home._space_of(there, function.__module__)
        more = {}
        imports = []
        values = [there[name] for name in names if name in there]
        cells = []
        for cell in function.__closure__ or ():
            try:
                value = cell.cell_contents
            except ValueError:
                cells.append(())
            else:
                cells.append((value,))
                values.append(value)
        for value in values:
            if type(value) is ModuleType and hasattr(value, "__path__"):
                imports += _submodules(value, code)
        if imports:
            more["__imports__"] = imports
        if is_ours:
            for name in names:
                self.needs[space, name] = there
            for name in ("__name__", "__package__", "__file__"):
                self.needs[space, name] = there
        elif names:
            sent = {n: there[n] for n in names if n in there}
            if sent:
                more["__globals__"] = sent
        if function.__dict__:
            more["__dict__"] = dict(function.__dict__)
        if function.__annotations__:
            more["__annotations__"] = function.__annotations__
        if function.__qualname__ != getattr(code, "co_qualname", None):
            more["__qualname__"] = function.__qualname__
        if function.__module__ != there.get("__name__"):
            more["__module__"] = function.__module__
        if function.__doc__ != (code.co_consts[0] if code.co_consts else None):
            more["__doc__"] = function.__doc__
        state = (function.__defaults__, function.__kwdefaults__, cells, more)
        made = (self._code(code), space, function.__name__, function.__closure__)
        return _load_function, made, state, None, None, _fill_function

    def _class(self, cls):
        number = self.home._class_number(cls)
        if number is not None:
            self.classes[number] = cls
            return _load_class, (number,)
        if cls in _ODD_TYPES:
            return type, (_ODD_TYPES[cls],)
        if _by_reference(cls):
            return NotImplemented
        number = self.home._new_class_number(cls)
        if number is not None:
            self.classes[number] = cls
            return _load_class, (number,)
        self._be_full()
        return _reduced_class(cls)

    def _module(self, module):
        if _importable(module.__name__):
            return _load_module, (module.__name__,)
        space, is_ours = self.home._space_of(vars(module), module.__name__)
        return _load_main, (space,)

    def _be_full(self):
        if not self.is_full:
            raise _NeedsCloudpickle


_ODD_TYPES = {type(x): x for x in (None, Ellipsis, NotImplemented)}
_full_table = None
_class_lock = threading.Lock()


def _cloudpickle_table():
    """cloudpickle's reducers by type."""
    global _full_table
    if _full_table is None:
        import cloudpickle

        table = dict(cloudpickle.Pickler(io.BytesIO()).dispatch_table)
        for kind in (CellType, ModuleType):
            table.pop(kind, None)
        _full_table = table
        # Reducers that were registered since count as well.
        import copyreg
        from collections import ChainMap

        _full_table = ChainMap(table, copyreg.dispatch_table)
    return _full_table


def _reduced_class(cls):
    """A class's skeleton and state, as cloudpickle takes it apart."""
    import cloudpickle

    module = sys.modules.get(cls.__module__)
    pickler = cloudpickle.Pickler(io.BytesIO())
    with _class_lock:
        added = False
        if isinstance(module, ModuleType) and module.__name__ == cls.__module__:
            registered = cloudpickle.list_registry_pickle_by_value()
            if module.__name__ not in registered:
                cloudpickle.register_pickle_by_value(module)
                added = True
        try:
            return pickler.reducer_override(cls)
        finally:
            if added:
                cloudpickle.unregister_pickle_by_value(module)


def _pickled(home, thing, buffer_callback=None):
    """(bytes, needs, classes) of `thing` by the rich pickler."""
    table = _full_table
    while True:
        file = io.BytesIO()
        pickler = _Pickler(home, file, buffer_callback, table)
        try:
            pickler.dump(thing)
        except _NeedsCloudpickle:
            table = _cloudpickle_table()
        except Exception:
            if table is not None:
                raise
            table = _cloudpickle_table()
        else:
            return file.getvalue(), pickler.needs, pickler.classes


def _raw(buffers):
    """The memory of PickleBuffers; None if some should travel in their pickle."""
    raws = []
    for buffer in buffers:
        try:
            raw = buffer.raw()
        except BufferError:
            return None
        if raw.nbytes < INBAND_BYTES:
            return None
        raws.append(raw)
    return raws


def _sorter(raws):
    """A buffer_callback that leaves small buffers in their pickle."""

    def inband(buffer):
        try:
            raw = buffer.raw()
        except BufferError:
            return True
        if raw.nbytes < INBAND_BYTES:
            return True
        raws.append(raw)
        return False

    return inband


def _plain(thing):
    """(bytes, raw buffers) of `thing` by plain pickle."""
    buffers = []
    data = dumps(thing, 5, buffer_callback=buffers.append)
    if buffers:
        raws = _raw(buffers)
        if raws is None:
            raws = []
            data = dumps(thing, 5, buffer_callback=_sorter(raws))
        return data, raws
    return data, buffers


def _rich(home, thing):
    """(bytes, raw buffers, needs, classes) of `thing` by the rich pickler."""
    buffers = []
    data, needs, classes = _pickled(home, thing, buffers.append)
    raws = _raw(buffers)
    if raws is None:
        raws = []
        data, needs, classes = _pickled(home, thing, _sorter(raws))
    return data, raws, needs, classes


# ---- The parent's end --------------------------------------------------------

# Types whose values cannot change in place.
_FIXED = {
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    range,
    type(None),
    type(Ellipsis),
    type(NotImplemented),
    BuiltinFunctionType,
    ModuleType,
    object,
}


def _fixed(value):
    """True if `value` can only change by being replaced."""
    kind = type(value)
    if kind in _FIXED:
        return True
    if kind is tuple or kind is frozenset:
        return all(map(_fixed, value))
    if kind is FunctionType or kind is type:
        return _by_reference(value)
    return False


class _Kept:
    """A global or a class as it was last sent."""

    __slots__ = ("blob", "classes", "fixed", "key", "marks", "needs", "value")


def _function_marks(function):
    """What tells whether a function changed, as long as its cells do not."""
    if function.__closure__ or function.__dict__:
        return None
    defaults = function.__defaults__
    if defaults is not None and not _fixed(defaults):
        return None
    if function.__kwdefaults__:
        return None
    return (function.__code__, defaults)


class Sender:
    """The parent's end. Methods may be called from any thread.

    Parameters
    ----------
    store : callable
        ``store(blob: bytes) -> int``: keeps the bytes where each worker, also one
        started later, finds them by the number returned, which is not 0.
    """

    def __init__(self, store):
        self._store = store
        self._lock = threading.RLock()
        self._plans = {}  # id(function) -> (weakref, head and bytes by mode)
        self._contents = {}  # bytes -> key
        self._spaces = {}  # id(dict) -> (space, is ours, the dict)
        self._space_dicts = {}  # space -> dict
        self._code_keys = {}  # id(code) -> (code, key)
        self._globals = {}  # (space, name) -> _Kept
        self._class_numbers = {}  # id(class) -> number
        self._classes = {}  # number -> weakref
        self._class_records = {}  # number -> _Kept
        self._tokens = {}  # id -> (number, object)
        self._tokens_by_number = {}

    # ---- Tasks --------------------------------------------------------------

    def pack(self, mode, function, data):
        """Make a task's payload and buffers.

        Parameters
        ----------
        mode : CALL, MAP, STARMAP or CALLS
        function, data
            As `Workers.submit` is given them.

        Returns
        -------
        payload : bytes
        buffers : list of memoryview
            Contiguous, of bytes; the memory of what `data` holds, not copies.

        Raises
        ------
        pickle.PicklingError
            Something cannot be sent; names the object and where it lies.
        """
        plan = self._plans.get(id(function))
        if plan is None:
            plan = self._plan(function)
        head = plan[mode]
        if head is not None:
            buffers = []
            try:
                sent = dumps(data, 5, buffer_callback=buffers.append)
            except Exception:
                return self._pack_rich(mode, function, data)
            if b"\x93" not in sent and not buffers:
                return head + sent, buffers
            if not _names_stranger(sent):
                if buffers:
                    sent, buffers = _plain(data)
                return head + sent, buffers
        return self._pack_rich(mode, function, data)

    def _plan(self, function):
        """Heads of tasks by mode, for a function that goes by its name; else Nones."""
        heads = [None] * 4
        if function is None:
            heads[CALLS] = _TASK.pack(CALLS, 0, 0, 0)
            self._plans[id(None)] = heads
            return heads
        kind = type(function)
        if kind is FunctionType or issubclass(kind, type):
            named = _by_reference(function)
        elif kind is BuiltinFunctionType:
            named = type(function.__self__) in (ModuleType, type(None))
        else:
            named = kind.__name__ == "ufunc" and kind.__module__ == "numpy"
        if not named:
            return heads
        try:
            sent = dumps(function, 5)
        except Exception:
            return heads
        heads = [_TASK.pack(mode, 0, 0, len(sent)) + sent for mode in range(4)]
        plans, number = self._plans, id(function)
        try:
            heads.append(weakref.ref(function, lambda _: plans.pop(number, None)))
        except TypeError:
            heads.append(function)
        plans[number] = heads
        return heads

    def _pack_rich(self, mode, function, data):
        with self._lock:
            if type(function) is FunctionType:
                kept = self._function_record(function)
                sent, buffers, needs, classes = self._data(data)
                key = self._environment([kept.needs, needs], [kept.classes, classes])
                head = _TASK.pack(mode, 0, key, len(kept.blob)) + kept.blob
                return head + sent, buffers
            sent, buffers, needs, classes = self._data((function, data))
            key = self._environment([needs], [classes])
            return _TASK.pack(mode, _TOGETHER, key, 0) + sent, buffers

    def _data(self, data):
        try:
            sent, buffers = _plain(data)
            if not _names_stranger(sent):
                return sent, buffers, (), ()
        except Exception:
            pass
        return _rich(self, data)

    # ---- By value -----------------------------------------------------------

    def _function_record(self, function):
        kept = self._plans.get(~id(function))
        if kept is not None:
            marks = kept.marks
            if marks is not None and marks == _function_marks(function):
                return kept
        kept = _Kept()
        kept.marks = _function_marks(function)
        kept.blob, kept.needs, kept.classes = _pickled(self, function)
        plans, number = self._plans, ~id(function)
        kept.value = weakref.ref(function, lambda _: plans.pop(number, None))
        plans[number] = kept
        return kept

    def _environment(self, needs, classes):
        """Key of the environment with all that these need, and what those need."""
        entries = {}
        names = [item for some in needs if some for item in some.items()]
        types = [item for some in classes if some for item in some.items()]
        while names or types:
            if names:
                (space, name), there = names.pop()
                if (space, name) in entries:
                    continue
                value = there.get(name, _MISSING)
                if value is _MISSING:
                    continue
                kept = self._global(space, name, value)
                if kept is None:
                    continue
                entries[space, name] = kept.key
            else:
                number, cls = types.pop()
                if number in entries:
                    continue
                kept = self._class_record(number, cls)
                entries[number] = kept.key
            names.extend(kept.needs.items())
            types.extend(kept.classes.items())
        if not entries:
            return 0
        return self._keep(dumps(tuple(entries.items()), 5))

    def _global(self, space, name, value):
        kept = self._globals.get((space, name))
        if kept is not None and kept.value is value:
            if kept.fixed:
                return kept
            if kept.marks is not None and kept.marks == _function_marks(value):
                return kept
        elif kept is None:
            kept = _Kept()
            kept.blob = kept.key = None
        blob, needs, classes = _pickled(self, value)
        if blob != kept.blob:
            kept.blob = blob
            kept.key = self._keep(blob)
        kept.value = value
        kept.needs = needs
        kept.classes = classes
        kept.fixed = _fixed(value)
        kept.marks = _function_marks(value) if type(value) is FunctionType else None
        self._globals[space, name] = kept
        return kept

    def _class_record(self, number, cls):
        kept = self._class_records.get(number)
        members = vars(cls)
        if kept is not None and self._class_is_unchanged(kept, members):
            return kept
        if kept is None:
            kept = _Kept()
            kept.blob = kept.key = None
        _cloudpickle_table()
        reduced = _reduced_class(cls)
        state, setter = (reduced[2], reduced[5]) if len(reduced) > 5 else (None, None)
        skeleton, needs, classes = _pickled(self, reduced[:2])
        filling, needs_too, classes_too = _pickled(self, (setter, state))
        blob = dumps((skeleton, filling), 5)
        if blob != kept.blob:
            kept.blob = blob
            kept.key = self._keep(blob)
        kept.needs = {**needs, **needs_too}
        kept.classes = {**classes, **classes_too}
        kept.classes.pop(number, None)
        kept.value = list(members.values())
        kept.marks = self._class_marks(kept.value)
        self._class_records[number] = kept
        return kept

    def _class_marks(self, values):
        marks = []
        for value in values:
            inner = getattr(value, "__func__", value)
            if type(inner) is FunctionType:
                marks.append((inner, _function_marks(inner)))
            elif type(value) in (list, dict, set, bytearray):
                marks.append((value, _pickled(self, value)[0]))
        return marks

    def _class_is_unchanged(self, kept, members):
        if len(kept.value) != len(members):
            return False
        if not all(map(operator.is_, kept.value, members.values())):
            return False
        for value, mark in kept.marks:
            if type(value) is FunctionType:
                if mark is not None and mark != _function_marks(value):
                    return False
            elif mark != _pickled(self, value)[0]:
                return False
        return True

    def _keep(self, blob):
        """The key under which `blob` is stored."""
        if len(blob) > 1024:
            from hashlib import blake2b

            content = blake2b(blob).digest()
        else:
            content = blob
        key = self._contents.get(content)
        if key is None:
            key = self._contents[content] = self._store(blob)
        return key

    # ---- What the pickler asks ----------------------------------------------

    def _space_of(self, there, module_name):
        """Name of the space of a dictionary of globals, and whether we fill it."""
        known = self._spaces.get(id(there))
        if known is None:
            name = there.get("__name__", module_name)
            module = sys.modules.get(name) if isinstance(name, str) else None
            if module is not None and vars(module) is there:
                known = (name, True, there)
            else:
                known = (f"{name}#{len(self._spaces)}", True, there)
            self._spaces[id(there)] = known
            self._space_dicts[known[0]] = there
        return known[:2]

    def _code_key(self, code, marshalled):
        known = self._code_keys.get(id(code))
        if known is None:
            known = self._code_keys[id(code)] = (code, self._keep(marshalled))
        return known[1]

    def _class_number(self, cls):
        return self._class_numbers.get(id(cls))

    def _new_class_number(self, cls):
        number = len(self._classes) + 1
        numbers, at = self._class_numbers, id(cls)
        self._classes[number] = weakref.ref(cls, lambda _: numbers.pop(at, None))
        numbers[at] = number
        return number

    def _token_number(self, token):
        known = self._tokens.get(id(token))
        if known is None:
            known = self._tokens[id(token)] = (len(self._tokens) + 1, token)
            self._tokens_by_number[known[0]] = token
        return known[0]

    # ---- Results ------------------------------------------------------------

    def unpack_result(self, payload, buffers):
        """Take apart what `Receiver.run` returned.

        Returns
        -------
        ok : bool
        value : object
            The result, or the exception, with a `RemoteTraceback` as its cause.
        failed_index : int
        seconds : float
        """
        ok, failed_index, seconds = _RESULT.unpack_from(payload)
        _here.home = self
        body = memoryview(payload)[_RESULT.size :]
        try:
            value = loads(body, buffers=buffers)
        except Exception as error:
            return False, _unreadable(error), failed_index, seconds
        if not ok:
            value = _exception(*value)
        return ok, value, failed_index, seconds

    def _space(self, space):
        there = self._space_dicts.get(space)
        if there is None:
            there = vars(_load_module(space)) if _may_import(space) else {}
        return there

    def _space_module(self, space):
        return sys.modules[space]

    def _class(self, number):
        cls = self._classes[number]()
        if cls is None:
            raise pickle.UnpicklingError(
                "the result is an instance of a class that no longer exists here"
            )
        return cls

    def _token(self, number):
        return self._tokens_by_number[number]


def _names_stranger(sent):
    return b"\x93" in sent and any(name in sent for name in _stranger_modules())


def _may_import(space):
    return space not in _NEVER and "#" not in space


def _exception(sent, type_name, message, text):
    """The exception that a worker sent, or one that stands for it."""
    try:
        error = loads(sent)
        if not isinstance(error, BaseException):
            raise TypeError(f"not an exception: {error!r}")
    except Exception as why:
        error = RemoteError(
            f"{type_name}: {message}\n(That exception could not be made again in this "
            f"process: {type(why).__name__}: {why})",
            type_name,
        )
    error.__cause__ = RemoteTraceback(text)
    return error


def _unreadable(error):
    return RemoteError(
        "the task's result could not be read in this process: "
        f"{type(error).__name__}: {error}"
    )


# ---- The worker's end --------------------------------------------------------


class Receiver:
    """The worker's end, for one thread.

    Parameters
    ----------
    fetch : callable
        ``fetch(key: int)`` gives a read-only buffer: the blob that the parent stored.
    install : bool
        Put a stand-in for the parent's ``__main__`` into `sys.modules`.
    """

    def __init__(self, fetch, *, install=True):
        self._fetch = fetch
        self._functions = {}  # bytes -> function
        self._spaces = {}  # space -> dict
        self._space_names = {}  # id(dict) -> space
        self._modules = {}  # space -> stand-in module
        self._codes = {}  # key -> code
        self._versions = {}  # (space, name) -> key
        self._classes = {}  # number -> class
        self._class_keys = {}  # number -> key of what it is made of
        self._wanted = {}  # number -> key
        self._class_numbers = weakref.WeakKeyDictionary()
        self._tokens = {}
        self._token_numbers = {}
        self._environments = {}  # key -> its entries
        self._environment = 0
        self._strange = {b"__main__"}
        self._install = install
        if install:
            sys.modules["__main__"] = self._space_module("__main__")

    def run(self, payload, buffers):
        """Run a task: what `Sender.pack` made. Never raises.

        Returns
        -------
        payload : bytes
        buffers : list of memoryview
            To be kept, with what they are of, until they have been copied.
        """
        begin = perf_counter()
        index = -1
        try:
            function, data, mode = self._unpack(payload, buffers)
            if mode == CALL:
                value = function(*data[0], **data[1])
            else:
                value = []
                index = 0
                if mode == MAP:
                    for item in data:
                        value.append(function(item))
                        index += 1
                elif mode == STARMAP:
                    for item in data:
                        value.append(function(*item))
                        index += 1
                else:
                    for function, args, kwargs in data:
                        value.append(function(*args, **kwargs))
                        index += 1
            seconds = perf_counter() - begin
            return self._pack(value, seconds)
        except BaseException as error:
            seconds = perf_counter() - begin
            return self._pack_error(error, index, seconds)

    def _unpack(self, payload, buffers):
        mode, flags, environment, size = _TASK.unpack_from(payload)
        _here.home = self
        if buffers:
            buffers = [bytearray(b) if len(b) < WRITABLE_BYTES else b for b in buffers]
        if environment and environment != self._environment:
            self._enter(environment)
        view = memoryview(payload)
        at = _TASK.size + size
        data = loads(view[at:], buffers=buffers)
        if flags & _TOGETHER:
            return (*data, mode)
        if not size:
            return None, data, mode
        sent = bytes(view[_TASK.size : at])
        function = self._functions.get(sent)
        if function is None:
            function = loads(sent)
            if len(self._functions) >= _FUNCTIONS_KEPT:
                self._functions.clear()
            self._functions[sent] = function
        return function, data, mode

    def _pack(self, value, seconds):
        try:
            sent, buffers = _plain(value)
            if b"\x93" in sent and any(n in sent for n in self._strange):
                sent, buffers, _, _ = _rich(self, value)
        except Exception:
            sent, buffers, _, _ = _rich(self, value)
        return _RESULT.pack(True, -1, seconds) + sent, buffers

    def _pack_error(self, error, index, seconds):
        text = _traceback_text(error)
        kind = type(error)
        type_name = f"{kind.__module__}.{kind.__qualname__}"
        if kind.__module__ == "builtins":
            type_name = kind.__qualname__
        try:
            message = str(error)
        except Exception:
            message = "(its message could not be made)"
        try:
            sent = dumps(error, 5)
            if any(n in sent for n in self._strange):
                raise pickle.PicklingError
        except Exception:
            try:
                sent = _pickled(self, error)[0]
            except Exception:
                sent = b""
        body = dumps((sent, type_name, message, text), 5)
        return _RESULT.pack(False, index, seconds) + body, []

    # ---- Environments -------------------------------------------------------

    def _enter(self, key):
        """Bring spaces and classes to the environment of that key."""
        entries = self._environments.get(key)
        if entries is None:
            entries = self._environments[key] = loads(self._fetch(key))
        self._environment = 0
        for what, blob in entries:
            if type(what) is int:
                self._wanted[what] = blob
        for what, blob in entries:
            if type(what) is int:
                self._class(what)
            elif self._versions.get(what) != blob:
                space, name = what
                self._space(space)[name] = loads(self._fetch(blob))
                self._versions[what] = blob
        self._environment = key

    def _space(self, space):
        there = self._spaces.get(space)
        if there is None:
            there = vars(self._space_module(space))
        return there

    def _space_module(self, space):
        module = self._modules.get(space)
        if module is None:
            name, _, _ = space.partition("#")
            module = ModuleType(name)
            module.__builtins__ = __builtins__
            self._modules[space] = module
            self._spaces[space] = vars(module)
            self._space_names[id(vars(module))] = space
            self._strange.add(name.encode())
        return module

    def _code(self, key):
        code = self._codes.get(key)
        if code is None:
            code = self._codes[key] = marshal.loads(self._fetch(key))
        return code

    def _class(self, number):
        wanted = self._wanted.get(number)
        cls = self._classes.get(number)
        if cls is not None and self._class_keys[number] == wanted:
            return cls
        skeleton, filling = loads(self._fetch(wanted))
        if cls is None:
            make, args = loads(skeleton)
            cls = self._classes[number] = make(*args)
            self._class_numbers[cls] = number
        self._class_keys[number] = wanted
        setter, state = loads(filling)
        if setter is not None:
            setter(cls, state)
        if "<locals>" not in cls.__qualname__ and "." not in cls.__qualname__:
            for space, module in self._modules.items():
                if space == cls.__module__:
                    vars(module).setdefault(cls.__name__, cls)
        return cls

    def _token(self, number):
        token = self._tokens.get(number)
        if token is None:
            token = self._tokens[number] = object()
            self._token_numbers[id(token)] = number
        return token

    # ---- What the pickler asks ----------------------------------------------

    def _space_of(self, there, module_name):
        space = self._space_names.get(id(there))
        if space is None:
            space = there.get("__name__", module_name) or "#"
        else:
            return space, False
        return space, False

    def _code_key(self, code, marshalled):
        return marshalled

    def _class_number(self, cls):
        return self._class_numbers.get(cls)

    def _new_class_number(self, cls):
        return None

    def _token_number(self, token):
        return self._token_numbers.get(id(token), 0)


def _traceback_text(error):
    import traceback

    trace = error.__traceback__
    if trace is not None and trace.tb_next is not None:
        trace = trace.tb_next  # the frame of run()
    return "".join(traceback.format_exception(type(error), error, trace))
