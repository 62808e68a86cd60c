"""The worker's end of what travels; see `_shipping.py` for the whole of it.

Also what both ends share: the heads of tasks and results, and how data is pickled.

Knows nothing of: processes, segments; how the parent chooses what to send.
"""

import struct
import sys
from _pickle import PicklingError, dumps, loads  # pickle itself imports re
from time import perf_counter
from types import ModuleType

from allcores._byvalue import (
    INLINE,
    KNOWN,
    here,
    import_module,
    importable,
    load_attribute,
    load_code,
    pickled,
)
from allcores._workers import CALL, MAP, STARMAP

__all__ = ["Receiver"]

# Head of a task: mode, flags, of how many bits the size of a buffer is that the worker
# does not copy, the environment's key (0: none), how many bytes the function has.
TASK = struct.Struct("<BBBxQI")
TOGETHER = 1  # flag: function and data are one pickle, (function, data)

# Head of a result: whether it is a value, which call failed, seconds.
RESULT = struct.Struct("<?xxxid")

INBAND_BYTES = 2048  # a smaller buffer travels in its pickle
VIEW_BITS = 20  # a buffer of 2**20 bytes or more is not copied by the worker
_CACHED = 512  # so many functions, and environments, a worker keeps loaded


# ---- Data and its buffers ----------------------------------------------------


class Sorter:
    """A buffer_callback: large buffers into `raws`, small ones stay in the pickle."""

    def __init__(self):
        self.raws = []

    def begin(self):
        self.raws.clear()

    def __call__(self, buffer):
        try:
            raw = buffer.raw()
        except BufferError:  # not contiguous
            return True
        if raw.nbytes < INBAND_BYTES:
            return True
        self.raws.append(raw)
        return False


def plain(thing):
    """(bytes, raw buffers) of `thing` by plain pickle."""
    buffers = []
    sent = dumps(thing, 5, buffer_callback=buffers.append)
    if buffers:
        sorter = Sorter()
        if any(map(sorter, buffers)):
            sorter.begin()
            sent = dumps(thing, 5, buffer_callback=sorter)
        buffers = sorter.raws
    return sent, buffers


def rich(home, thing):
    """(bytes, raw buffers, needs, classes) of `thing` by the rich pickler."""
    sorter = Sorter()
    sent, needs, classes = pickled(home, thing, buffer_callback=sorter, is_task=True)
    return sent, sorter.raws, needs, classes


# ---- The worker's end --------------------------------------------------------


class Receiver:
    """The worker's end, for one thread.

    Parameters
    ----------
    fetch : callable
        ``fetch(key: int)`` gives a read-only buffer: the blob that the parent stored.
    install : bool, default True
        Put a stand-in for the parent's ``__main__`` into `sys.modules`.
    """

    def __init__(self, fetch, *, install=True):
        self._fetch = fetch
        self._named = {}  # a function's bytes -> function
        self._kept = {}  # key -> function
        self._codes = {}  # key -> code
        self._dicts = {}  # space -> dictionary
        self._spaces = {}  # id(dict) -> space
        self._modules = {}  # space -> stand-in
        self._versions = {}  # (space, name) -> key
        self._environments = {}  # key -> entries
        self._environment = 0  # the key of the one that holds now
        self._classes = {}  # number -> class
        self._class_numbers = {}  # id(class) -> number
        self._class_keys = {}  # number -> key of what the class is made of
        self._wanted = {}  # number -> key of what it is to be made of
        self._tokens = {}  # number -> object()
        self._token_numbers = {}  # id(object()) -> number
        self._strangers = {b"__main__"}  # that, in a pickle, wants the rich pickler
        if install:
            sys.modules["__main__"] = self._space_module("__main__")

    def run(self, payload, buffers):
        """Run a task: what `Sender.pack` made. Never raises.

        Parameters
        ----------
        payload : bytes-like
        buffers : list of memoryview
            Read-only. Those of 1 MiB or more must stay as they are for as long as a
            view of them lives.

        Returns
        -------
        payload : bytes
        buffers : list of memoryview
            The memory of what the result holds.
        """
        begin = perf_counter()
        done = None  # the results of a batch that runs
        try:
            mode, flags, view_bits, environment, size = TASK.unpack_from(payload)
            here.home = self  # for good: it lives as long as its process
            if environment and environment != self._environment:
                self._enter(environment)
            view = memoryview(payload)
            if buffers:
                buffers = _own_small(buffers, view_bits)
            function = None
            if flags & TOGETHER:
                function, data = loads(view[TASK.size :], buffers=buffers)
            else:
                at = TASK.size + size
                data = loads(view[at:], buffers=buffers)
                if size:
                    name = bytes(view[TASK.size : at])
                    function = self._named.get(name) or self._load_named(name)
            if mode == CALL:
                value = function(*data[0], **data[1])
            else:
                value = done = []
                if mode == MAP:
                    for item in data:
                        done.append(function(item))
                elif mode == STARMAP:
                    for item in data:
                        done.append(function(*item))
                else:
                    for function, args, kwargs in data:
                        done.append(function(*args, **kwargs))
            seconds = perf_counter() - begin
            done = None
            return self._answer(value, seconds)
        except BaseException as error:
            index = -1 if done is None else len(done)
            return self._answer_error(error, index, perf_counter() - begin)

    def run_setup(self, payload, fds):
        """Call what `Sender.pack_setup` was given. Raises what that raises.

        Parameters
        ----------
        payload : bytes-like
        fds : list of int
            This process's own, in the order of those that `pack_setup` returned.
        """
        from allcores import _inherited

        _inherited.Received.fds = fds
        _, _, _, environment, _ = TASK.unpack_from(payload)
        here.home = self
        if environment:
            self._enter(environment)
        function, (args, kwargs) = loads(memoryview(payload)[TASK.size :])
        function(*args, **kwargs)

    def _load_named(self, name):
        function = loads(name)
        if len(self._named) >= _CACHED:
            self._named.clear()
        self._named[name] = function
        return function

    def _answer(self, value, seconds):
        buffers = []
        try:
            sent = dumps(value, 5, buffer_callback=buffers.append)
            if buffers:
                sent, buffers = plain(value)
            is_plain = b"\x93" not in sent or not self._names_stranger(sent)
        except Exception:
            is_plain = False
        if not is_plain:
            try:
                sent, buffers, _, _ = rich(self, value)
            except Exception as error:
                raise self._refusal(value, error) from error
        return RESULT.pack(True, -1, seconds) + sent, buffers

    def _answer_error(self, error, index, seconds):
        kind = type(error)
        type_name = kind.__qualname__
        if kind.__module__ != "builtins":
            type_name = f"{kind.__module__}.{type_name}"
        try:
            message = str(error)
        except Exception:
            message = "(it has no message: its __str__ raised an exception)"
        try:
            text = _traceback_text(error)
        except Exception:
            text = f"{type_name}: {message}\n"
        try:
            sent = dumps(error, 5)
            if self._names_stranger(sent):
                sent = pickled(self, error, is_task=True)[0]
        except Exception:
            try:
                sent = pickled(self, error, is_task=True)[0]
            except Exception as why:
                sent = b""
                message += f"\n(It could not be pickled: {type(why).__name__}: {why})"
        body = dumps((sent, type_name, message, text), 5)
        return RESULT.pack(False, index, seconds) + body, []

    def _refusal(self, value, error):
        from allcores._refusal import explain

        def try_pickle(thing):
            pickled(self, thing, buffer_callback=Sorter())

        return PicklingError(explain(value, "the result", try_pickle, error))

    def _names_stranger(self, sent):
        return any(name in sent for name in self._strangers)

    # ---- Environments -------------------------------------------------------

    def _enter(self, key):
        """Bring spaces and classes to the environment of that key."""
        entries = self._environments.get(key)
        if entries is None:
            if len(self._environments) >= _CACHED:
                self._environments.clear()
            entries = self._environments[key] = loads(self._fetch(key))
        self._environment = 0
        for what, blob in entries:
            if type(what) is int:
                self._wanted[what] = blob
            else:
                self._space(what[0])
        for what, blob in entries:
            if type(what) is int:
                self._class(what)
            elif self._versions.get(what) != blob:
                space, name = what
                there = self._space(space)
                value = loads(self._fetch(blob))
                if name:
                    there[name] = value
                elif space[0] != "=":
                    there.update(value)
                self._versions[what] = blob
        self._environment = key

    def _space(self, space):
        there = self._dicts.get(space)
        if there is None:
            if space[0] == "=":
                there = self._dicts[space] = vars(import_module(space[1:]))
                self._spaces[id(there)] = space
            else:
                there = vars(self._space_module(space))
        return there

    def _space_module(self, space):
        if space[0] == "=":
            return import_module(space[1:])
        module = self._modules.get(space)
        if module is None:
            name = space.partition("#")[0]
            module = self._modules[space] = ModuleType(name)
            module.__builtins__ = __builtins__
            there = self._dicts[space] = vars(module)
            self._spaces[id(there)] = space
            self._strangers.add(name.encode("utf-8", "replace"))
        return module

    def _code(self, key):
        code = self._codes.get(key)
        if code is None:
            code = self._codes[key] = load_code(bytes(self._fetch(key)))
        return code

    def _kept_function(self, key):
        function = self._kept.get(key)
        if function is None:
            function = self._kept[key] = loads(self._fetch(key))
        return function

    def _class(self, number):
        wanted = self._wanted[number]
        cls = self._classes.get(number)
        if cls is not None and self._class_keys[number] == wanted:
            return cls
        skeleton, filling = loads(self._fetch(wanted))
        if cls is None:
            make, args = loads(skeleton)
            cls = self._classes[number] = make(*args)
            self._class_numbers[id(cls)] = number
            self._strangers.add(cls.__module__.encode("utf-8", "replace"))
            stand_in = self._modules.get(cls.__module__)
            if stand_in is not None and cls.__qualname__.isidentifier():
                setattr(stand_in, cls.__qualname__, cls)
        self._class_keys[number] = wanted
        setter, state = loads(filling)
        if setter is not None:
            setter(cls, state)
        return cls

    def _token(self, number):
        token = self._tokens.get(number)
        if token is None:
            token = self._tokens[number] = object()
            self._token_numbers[id(token)] = number
            self._strangers.add(b"\x8c\x06object\x94\x93")
        return token

    # ---- What the pickler asks ----------------------------------------------

    def _keep_function(self, function):
        return None

    def _known_as(self, function):
        space = self._spaces.get(id(function.__globals__))
        name = function.__qualname__
        try:
            if "<" in name or load_attribute(space, name) is not function:
                return None
        except (KeyError, AttributeError, TypeError):
            return None
        return space, name

    def _space_of(self, there, module_name):
        space = self._spaces.get(id(there))
        if space is not None:
            return space, KNOWN
        name = there.get("__name__", module_name)
        module = sys.modules.get(name) if isinstance(name, str) else None
        if module is not None and vars(module) is there and importable(name):
            return f"={name}", KNOWN
        return f"{name}#", INLINE

    def _code_key(self, code, marshalled):
        return marshalled

    def _class_number(self, cls):
        return self._class_numbers.get(id(cls))

    def _new_class_number(self, cls):
        return None

    def _token_number(self, token):
        return self._token_numbers.get(id(token))


def _own_small(buffers, view_bits):
    """Buffers to load from: small ones as copies, which may be written to."""
    return [
        bytearray(each) if each.nbytes.bit_length() <= view_bits else each
        for each in buffers
    ]


def _traceback_text(error):
    import traceback

    trace = error.__traceback__
    if trace is not None and trace.tb_next is not None:
        trace = trace.tb_next  # the frame of run()
    return "".join(traceback.format_exception(type(error), error, trace))
