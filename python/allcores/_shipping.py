"""What travels between a parent and its worker processes, and how.

```
 parent: Sender                                  worker: Receiver
   pack(mode, function, data) ── payload, buffers ──> run()
       |                                               |
     store(blob) -> key   ......................   fetch(key)
                                                       |
   unpack_result() <──────────── payload, buffers ─────┘
```

A task is a head (`TASK`), the function's bytes and the data's bytes. A function that
a worker can import is its name; the worker keeps what it loaded under those bytes, so
one that comes again costs a dictionary's lookup. Data goes by plain pickle first. Only
if that fails, or if what it made may name something that a worker cannot import, does
the rich pickler of `_byvalue.py` run. What that asks for besides is sent so:

* A global that a function refers to is a stored blob of its own, and so is a class.
  What a task needs of them, with the blobs' keys, is its *environment*, itself a blob.
* Before a task runs, the worker brings its spaces to the task's environment. A global
  whose key is new to it is loaded; one whose key is not is left alone, with what the
  worker's own functions have done to it: so what an initializer sets as a `global`, or
  puts into a dictionary, is seen by each task, and a change in the parent is, too.
* What can change in place is pickled anew for each task, to see whether it has.
* A function that is sent a second time unchanged is stored, and then goes as its key.
* A class keeps its number at both ends, so that what comes back is an instance of the
  parent's own class.

Invariants: a key always means the same bytes; the worker never asks the parent; a task
that cannot be made, run or answered is an outcome of that task and of nothing else.

Knows nothing of: processes, segments, and how a blob reaches a worker.
"""

import operator
import sys
import threading
import weakref
from _pickle import PicklingError, UnpicklingError, dumps, loads  # without re
from types import BuiltinFunctionType, FunctionType, ModuleType

from allcores._byvalue import (
    FILLED,
    by_reference,
    here,
    import_module,
    importable,
    load_kept,
    names_stranger,
    new_globals,
    pickled,
    reduced_class,
)
from allcores._receiving import (
    RESULT,
    TASK,
    TOGETHER,
    VIEW_BITS,
    Receiver,
    Sorter,
    plain,
    rich,
)
from allcores._workers import CALL, CALLS, STARMAP, RemoteTraceback

__all__ = ["Receiver", "RemoteError", "Sender"]

_DIGESTED_BYTES = 16384  # the parent remembers a larger blob by its digest
_COMPARED_BYTES = 1 << 25  # and a global that is larger, only by that

_MISSING = object()


class RemoteError(RuntimeError):
    """Stands for a worker's exception or result that could not be made again here.

    Attributes
    ----------
    type_name : str or None
        The original exception's type, with its module.
    """

    def __init__(self, message, type_name=None):
        super().__init__(message)
        self.type_name = type_name

    def __reduce__(self):
        return type(self), (self.args[0], self.type_name)


# ---- What may have changed ---------------------------------------------------

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

# Types of the globals of importable modules that are sent all the same.
_DATA = {bool, int, float, complex, str, bytes, type(None)}
_CONTAINERS = {list, tuple, dict, set, frozenset, bytearray}


def _is_fixed(value):
    """True if `value` changes only by being replaced (a class tells of itself)."""
    kind = type(value)
    if kind in _FIXED or isinstance(value, type):
        return True
    if kind is tuple or kind is frozenset:
        return all(map(_is_fixed, value))
    if kind is FunctionType:
        return by_reference(value)
    return False


def _marks(function):
    """Objects which, while they are the same, mean that a function is; or None."""
    marks = []
    return marks if _mark(function, marks) else None


def _mark(function, marks):
    if any(function is mark for mark in marks):
        return True
    defaults = function.__defaults__
    marks += (function, function.__code__, defaults)
    values = list(defaults) if defaults else []
    if function.__kwdefaults__:
        values += function.__kwdefaults__.values()
    for cell in function.__closure__ or ():
        try:
            values.append(cell.cell_contents)
        except ValueError:
            values.append(None)
    if function.__dict__:
        values += function.__dict__.values()
    for value in values:
        if type(value) is FunctionType and not by_reference(value):
            if not _mark(value, marks):
                return False
        elif _is_fixed(value):
            marks.append(value)
        else:
            return False
    return True


def _same(before, now):
    """True if these are the same objects, in the same order."""
    return (
        before is not None
        and now is not None
        and len(before) == len(now)
        and all(map(operator.is_, before, now))
    )


class _Reference:
    """Pickles as a function that was stored."""

    def __init__(self, key):
        self.key = key

    def __reduce__(self):
        return load_kept, (self.key,)


class _Kept:
    """A function, global or class as it was last sent."""

    __slots__ = ("blob", "classes", "key", "marks", "needs", "ref", "value")

    def __init__(self):
        self.blob = None
        self.key = 0
        self.marks = None


# ---- The parent's end --------------------------------------------------------


class Sender:
    """The parent's end. Methods may be called from any thread.

    Parameters
    ----------
    store : callable
        ``store(blob: bytes) -> int``: keeps the bytes where each worker, also one
        started later, finds them by the number that it returns: 1 or more.
    """

    def __init__(self, store):
        self._store = store
        self._lock = threading.RLock()
        self._plans = {}  # id(function) -> heads by mode, and what keeps the id valid
        self._functions = {}  # id(function) -> _Kept
        self._globals = {}  # (space, name) -> _Kept
        self._class_records = {}  # number -> _Kept
        self._contents = {}  # a blob, or its digest -> key
        self._environments = {}  # entries -> key
        self._spaces = {}  # id(dict) -> (space, how, the dictionary)
        self._dicts = {}  # space -> dictionary
        self._code_keys = {}  # id(code) -> (key, code)
        self._class_numbers = {}  # id(class) -> number
        self._classes = {}  # number -> weak reference
        self._tokens = {}  # id(object()) -> (number, it)
        self._token_objects = {}  # number -> it

    # ---- Tasks --------------------------------------------------------------

    def pack(self, mode, function, data, *, view_bits=VIEW_BITS):
        """Make a task's payload and buffers.

        Parameters
        ----------
        mode : CALL, MAP, STARMAP or CALLS
        function, data
            As `Workers.submit` is given them.
        view_bits : int
            The worker copies a buffer whose size in bytes has fewer bits, so that what
            lies in it may be written to; of others it gets read-only views. 255 =
            copies all.

        Returns
        -------
        payload : bytes
        buffers : list of memoryview
            Contiguous, of bytes: the memory of what `data` holds, not copies.

        Raises
        ------
        pickle.PicklingError
            Something cannot be sent; names the object and where it lies.
        """
        heads = self._plans.get(id(function)) or self._plan(function)
        head = heads[mode]
        if head is not None:
            buffers = []
            try:
                sent = dumps(data, 5, buffer_callback=buffers.append)
            except Exception:
                return self._pack_rich(mode, function, data, view_bits)
            if b"\x93" not in sent or not names_stranger(sent):
                if not buffers:
                    return head + sent, buffers
                sorter = Sorter()
                if any(map(sorter, buffers)):  # some belong into the pickle
                    sent, buffers = plain(data)
                else:
                    buffers = sorter.raws
                if view_bits != VIEW_BITS:
                    head = b"%b%c%b" % (head[:2], view_bits, head[3:])
                return head + sent, buffers
        return self._pack_rich(mode, function, data, view_bits)

    def _plan(self, function):
        """Heads of tasks by mode, for a function that goes by its name; else Nones."""
        heads = [None, None, None, None]
        if function is None:
            heads[CALLS] = TASK.pack(CALLS, 0, VIEW_BITS, 0, 0)
            self._plans[id(None)] = heads
            return heads
        kind = type(function)
        if kind is FunctionType or issubclass(kind, type):
            is_named = by_reference(function)
        elif kind is BuiltinFunctionType:
            is_named = type(function.__self__) in (ModuleType, type(None))
        else:
            is_named = kind.__name__ == "ufunc" and kind.__module__ == "numpy"
        try:
            name = dumps(function, 5) if is_named else b""
        except Exception:
            is_named = False
        if not is_named or names_stranger(name):
            return heads
        heads = [TASK.pack(m, 0, VIEW_BITS, 0, len(name)) + name for m in range(4)]
        plans, number = self._plans, id(function)
        try:
            heads.append(weakref.ref(function, lambda _: plans.pop(number, None)))
        except TypeError:
            heads.append(function)
        plans[number] = heads
        return heads

    def _pack_rich(self, mode, function, data, view_bits):
        try:
            with self._lock:
                heads = self._plans.get(id(function)) or self._plan(function)
                if heads[mode] is not None:
                    name, flags = heads[mode][TASK.size :], 0
                    sent, buffers, needs, classes = self._data(data)
                else:
                    kept = None
                    if type(function) is FunctionType:
                        kept = self._keep_function(function)
                    if kept is not None:
                        name, flags = kept.ref, 0
                        sent, buffers, needs, classes = self._data(data)
                        needs = {**kept.needs, **needs}
                        classes = {**kept.classes, **classes}
                    else:
                        name, flags = b"", TOGETHER
                        sent, buffers, needs, classes = self._together(function, data)
                key = self._environment(needs, classes)
            head = TASK.pack(mode, flags, view_bits, key, len(name))
            return b"".join((head, name, sent)), buffers
        except Exception as error:
            raise self._refusal(_calls(mode, function, data), error) from error

    def _together(self, function, data):
        if type(function) is FunctionType:
            return rich(self, (function, data))
        return self._data((function, data))

    def _data(self, data):
        try:
            sent, buffers = plain(data)
            if not names_stranger(sent):
                return sent, buffers, {}, {}
        except Exception:
            pass
        return rich(self, data)

    def pack_setup(self, function, args):
        """Make the payload of what a worker calls as it starts.

        Here multiprocessing's locks, queues and shared values may be among `args`.

        Returns
        -------
        payload : bytes
            For `Receiver.run_setup`.
        fds : list of int
            Descriptors that must reach the worker, in that order. They are the
            caller's, who closes them when no further worker will start.

        Raises
        ------
        pickle.PicklingError
            As `pack`.
        """
        from allcores import _inherited

        try:
            with self._lock, _inherited.sending() as (fds, table):
                call = (function, (args, {}))
                sent, needs, classes = pickled(self, call, table=table)
                key = self._environment(needs, classes)
                head = TASK.pack(CALL, TOGETHER, VIEW_BITS, key, 0)
                return head + sent, fds
        except Exception as error:
            with _inherited.sending() as (fds, table):
                calls = _calls(CALL, function, (args, {}), "the initializer", "initarg")
                refusal = self._refusal(calls, error, table)
                for fd in fds:
                    _inherited.os.close(fd)
            raise refusal from error

    def _refusal(self, calls, error, table=None):
        from allcores._refusal import explain

        def try_pickle(thing):
            sent, needs, classes = pickled(
                self, thing, buffer_callback=Sorter(), table=table
            )
            self._environment(needs, classes)

        with self._lock:
            return PicklingError(explain(calls, "", try_pickle, error))

    # ---- Environments -------------------------------------------------------

    def _environment(self, needs, classes):
        """Key of the environment with all of these, and of what those need."""
        if not needs and not classes:
            return 0
        entries = {}
        names = list(needs.items())
        types = list(classes.items())
        while names or types:
            if names:
                what, there = names.pop()
                if what in entries:
                    continue
                kept = self._global(what, there)
                if kept is None:
                    continue
            else:
                what, cls = types.pop()
                if what in entries:
                    continue
                kept = self._class_record(what, cls)
            entries[what] = kept.key
            if kept.needs:
                names += kept.needs.items()
            if kept.classes:
                types += kept.classes.items()
        entries = tuple(entries.items())
        key = self._environments.get(entries)
        if key is None:
            if len(self._environments) >= 4096:
                self._environments.clear()
            key = self._environments[entries] = self._keep(dumps(entries, 5))
        return key

    def _global(self, what, there):
        """The record of the global `what`, (space, name), up to date; or None."""
        kept = self._globals.get(what)
        space, name = what
        if not name:  # what every dictionary of globals has
            if kept is None:
                names = ("__name__", "__package__", "__file__")
                value = {n: there[n] for n in names if isinstance(there.get(n), str)}
                kept = self._record(what, kept, value, None)
            return kept
        value = there.get(name, _MISSING)
        if value is _MISSING:
            return None
        is_function = type(value) is FunctionType
        if kept is not None and kept.value is value and kept.marks is not None:
            if not is_function or _same(kept.marks, _marks(value)):
                return kept
        if space[0] == "=" and not self._is_data(value):
            return None
        marks = None
        if is_function:
            marks = () if by_reference(value) else _marks(value)
        elif _is_fixed(value):
            marks = ()
        return self._record(what, kept, value, marks)

    def _record(self, what, kept, value, marks):
        if kept is None:
            kept = self._globals[what] = _Kept()
        blob, kept.needs, kept.classes = pickled(self, value)
        if blob != kept.blob:
            kept.key = self._keep(blob)
            kept.blob = blob if len(blob) <= _COMPARED_BYTES else None
        kept.value = value
        kept.marks = marks
        return kept

    def _is_data(self, value):
        """Of an importable module's globals, only data is sent: it may have changed."""
        kind = type(value)
        if kind in _DATA:
            return True
        if kind not in _CONTAINERS and kind.__name__ != "ndarray":
            return False
        try:
            return not names_stranger(plain(value)[0])
        except Exception:
            return False

    def _class_record(self, number, cls):
        kept = self._class_records.get(number)
        members = list(vars(cls).values())
        if kept is not None and _same(kept.value, members):
            if all(self._is_member_same(*mark) for mark in kept.marks):
                return kept
        if kept is None:
            kept = self._class_records[number] = _Kept()
        reduced = (*reduced_class(cls), None, None, None, None)
        skeleton, needs, classes = pickled(self, reduced[:2])
        filling, needs_too, classes_too = pickled(self, (reduced[5], reduced[2]))
        kept.key = self._keep(dumps((skeleton, filling), 5))
        kept.needs = {**needs, **needs_too}
        kept.classes = {**classes, **classes_too}
        kept.value = members
        kept.marks = []
        for name, member in vars(cls).items():
            member = getattr(member, "__func__", member)
            if type(member) is FunctionType:
                marks = _marks(member)
            elif type(member) in _CONTAINERS:
                marks = None
            else:
                continue
            if marks is not None:
                kept.marks.append((member, marks))
            elif not name.startswith("_") or not name.endswith("_"):
                kept.marks.append((member, pickled(self, member)[0]))
        return kept

    def _is_member_same(self, member, mark):
        if type(mark) is list:
            return _same(mark, _marks(member))
        return mark == pickled(self, member)[0]

    def _keep(self, blob):
        """The key under which `blob` is stored."""
        content = blob
        if len(blob) > _DIGESTED_BYTES:
            from hashlib import blake2b

            content = blake2b(blob).digest()
        key = self._contents.get(content)
        if key is None:
            key = self._contents[content] = self._store(blob)
        return key

    # ---- What the pickler asks ----------------------------------------------

    def _keep_function(self, function):
        """The record of a function that is sent again as it was; else None."""
        marks = _marks(function)
        if marks is None:
            return None
        kept = self._functions.get(id(function))
        if kept is None or not _same(kept.marks, marks[1:]):
            if len(self._functions) >= 4096:
                self._functions.clear()
            kept = _Kept()
            functions, number = self._functions, id(function)
            kept.value = weakref.ref(function, lambda _: functions.pop(number, None))
            functions[number] = kept
            kept.marks = marks[1:]  # all but the function itself: it may go
            return None
        if not kept.key:
            blob, kept.needs, kept.classes = pickled(self, function)
            kept.key = self._keep(blob)
            kept.ref = dumps(_Reference(kept.key), 5)
        return kept

    def _known_as(self, function):
        """(space, name) if the environment can bring this function under its name."""
        there = function.__globals__
        space, _ = self._space_of(there, function.__module__)
        name = function.__qualname__
        if "<" in name or space[0] == "=":
            return None
        first, _, rest = name.partition(".")
        thing = there.get(first)
        for part in rest.split(".") if rest else ():
            thing = getattr(thing, part, None)
        return (space, name) if thing is function else None

    def _space_of(self, there, module_name):
        known = self._spaces.get(id(there))
        if known is None:
            name = there.get("__name__", module_name)
            module = sys.modules.get(name) if isinstance(name, str) else None
            if module is None or getattr(module, "__dict__", None) is not there:
                space = f"{name}#{len(self._spaces)}"
            else:
                space = f"={name}" if importable(name) else name
            known = self._spaces[id(there)] = (space, FILLED, there)
            self._dicts[space] = there
        return known[:2]

    def _code_key(self, code, marshalled):
        known = self._code_keys.get(id(code))
        if known is None:
            known = self._code_keys[id(code)] = (self._keep(marshalled), code)
        return known[0]

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
            self._token_objects[known[0]] = token
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
            Of a batch, the call that failed; else -1.
        seconds : float
            How long it ran.
        """
        ok, failed_index, seconds = RESULT.unpack_from(payload)
        before = getattr(here, "home", None)
        here.home = self
        try:
            value = loads(memoryview(payload)[RESULT.size :], buffers=buffers)
            if not ok:
                value = _exception(*value)
            return ok, value, failed_index, seconds
        except (Exception, SystemExit) as error:
            why = f"{type(error).__name__}: {error}"
            value = RemoteError(f"the result could not be read in this process: {why}")
            value.__cause__ = error
            return False, value, failed_index, seconds
        finally:
            here.home = before  # a thread outlives its pools

    def _space(self, space):
        there = self._dicts.get(space)
        if there is None:
            if space[0] == "=":
                return vars(import_module(space[1:]))
            there = new_globals(space.partition("#")[0])
        return there

    def _space_module(self, space):
        return sys.modules[space.lstrip("=")]

    def _class(self, number):
        cls = self._classes[number]()
        if cls is None:
            raise UnpicklingError("its class no longer exists here")
        return cls

    def _token(self, number):
        return self._token_objects[number]


def _calls(mode, function, data, function_name="the function", argument="argument"):
    """A task as its sender sees it, for the sentence that says what is wrong."""
    from allcores._refusal import Call, Calls

    if mode == CALLS:
        calls = [
            Call(each[0], each[1], each[2], f" of call {index + 1}")
            for index, each in enumerate(data)
        ]
        return calls[0] if len(calls) == 1 else Calls(calls)
    if mode == CALL:
        return Call(function, *data, "", function_name, argument)
    items = data if mode == STARMAP else [(item,) for item in data]
    calls = [
        Call(function, item, {}, f" of item {index + 1}" if len(data) > 1 else "")
        for index, item in enumerate(items)
    ]
    return Calls(calls)


def _exception(sent, type_name, message, text):
    """The exception that a worker sent, or one that stands for it."""
    try:
        error = loads(sent)
        if not isinstance(error, BaseException):
            raise TypeError(f"{error!r} is no exception")
    except (Exception, SystemExit) as why:
        error = RemoteError(
            f"{type_name}: {message}\n(The exception itself could not be made again in "
            f"this process: {type(why).__name__}: {why})",
            type_name,
        )
    error.__cause__ = RemoteTraceback(text)
    return error
