"""What travels: to a worker in this process, and to one in another."""

import base64
import collections
import dataclasses
import dis
import enum
import functools
import gc
import io
import json
import math
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import types
import weakref

import pytest
from allcores import _byvalue, _printed
from allcores._receiving import INBAND_BYTES
from allcores._shipping import Receiver, RemoteError, Sender
from allcores._workers import CALL, CALLS, MAP, STARMAP, RemoteTraceback


class Loop:
    """A sender and a receiver in one process, with a store between them."""

    def __init__(self):
        self.blobs = [b""]  # keys begin at 1
        self.sender = Sender(self.store)
        self.receiver = self.new_receiver()

    def new_receiver(self):
        return Receiver(lambda key: memoryview(self.blobs[key]), install=False)

    def store(self, blob):
        self.blobs.append(bytes(blob))
        return len(self.blobs) - 1

    def run(self, mode, function, data, receiver=None, **options):
        payload, buffers = self.sender.pack(mode, function, data, **options)
        buffers = [memoryview(bytes(buffer)) for buffer in buffers]
        payload, buffers = (receiver or self.receiver).run(payload, buffers)
        buffers = [memoryview(bytes(buffer)) for buffer in buffers]
        return self.sender.unpack_result(payload, buffers)

    def call(self, function, *args, **kwargs):
        ok, value, _, _ = self.run(CALL, function, (args, kwargs))
        if not ok:
            raise value
        return value


@pytest.fixture
def loop():
    return Loop()


pytestmark = pytest.mark.filterwarnings("ignore:.*module_repr:DeprecationWarning")

# No worker can import this module, so what is in it goes by value, as from __main__.
__spec__ = None

number = None
table = {}
MISSING = object()


def test_this_module_is_one_that_a_worker_cannot_import():
    assert not _byvalue.importable(__name__)


@dataclasses.dataclass
class Point:
    x: float
    y: float = 0.0

    def norm(self):
        return math.hypot(self.x, self.y)

    def doubled(self):
        return type(self)(2 * self.x, 2 * self.y)


class Colour(enum.Enum):
    RED = 1
    GREEN = "green"


class Flags(enum.IntFlag):
    A = 1
    B = 2


Pair = collections.namedtuple("Pair", "left right")


class Base:
    def who(self):
        return "base"


class Derived(Base):
    made = 0

    def who(self):
        return "derived of " + super().who()

    @classmethod
    def make(cls):
        return cls()

    @staticmethod
    def three():
        return 3

    @property
    def two(self):
        return 2


class OddError(Exception):
    def __init__(self, code, extra):
        super().__init__(f"code {code}")
        self.code = code


class GoodError(Exception):
    pass


def set_number(value):
    global number
    number = value


def fill_table(value):
    table["value"] = value


def read_number():
    return number


def read_table():
    return table.get("value")


def same(value):
    return value


def is_even(n):
    return n == 0 or is_odd(n - 1)


def is_odd(n):
    return n != 0 and is_even(n - 1)


def is_missing(value=MISSING):
    return value is MISSING


def fail(error):
    raise error


# ---- Calls -------------------------------------------------------------------


def test_all_modes_give_what_the_plain_calls_give(loop):
    assert loop.call(math.hypot, 3, 4) == 5
    assert loop.call(int, "11", base=2) == 3
    assert loop.run(MAP, math.sqrt, [1.0, 4.0])[:2] == (True, [1.0, 2.0])
    assert loop.run(STARMAP, pow, [(2, 3), (3, 2)])[:2] == (True, [8, 9])
    calls = [(pow, (2, 3), {}), (int, ("z",), {"base": 36})]
    assert loop.run(CALLS, None, calls)[:2] == (True, [8, 35])
    assert loop.run(CALLS, None, [(lambda: 1, (), {})])[:2] == (True, [1])


def test_a_batch_says_which_of_its_calls_failed(loop):
    ok, error, index, seconds = loop.run(MAP, math.sqrt, [1.0, 4.0, -1.0, 9.0])
    assert (ok, type(error), index) == (False, ValueError, 2)
    assert seconds >= 0
    assert loop.run(CALL, math.sqrt, ((-1.0,), {}))[2] == -1
    assert loop.run(MAP, lambda x: 1 // x, [1, 0])[2] == 1


def test_an_importable_function_goes_by_its_name_and_stores_nothing(loop):
    for function in (math.sqrt, len, textwrap.dedent, dict, str.upper, json.dumps):
        payload, buffers = loop.sender.pack(CALL, function, (("a",), {}))
        assert len(payload) < 120 and buffers == []
    assert loop.blobs == [b""]


def test_what_can_be_called_besides_functions(loop):
    assert loop.call(functools.partial(pow, 2), 5) == 32
    assert loop.call(functools.partial(is_even, 4)) is True
    assert loop.call("x".join, "ab") == "axb"
    assert loop.call(Point(3, 4).norm) == 5
    assert loop.call(Point.norm, Point(3, 4)) == 5
    assert loop.call(Point, 1, 2) == Point(1, 2)
    assert loop.call(Derived.make).who() == "derived of base"
    assert loop.call(Derived.three) == 3
    assert loop.call(collections.Counter, "aab") == {"a": 2, "b": 1}


def test_a_numpy_ufunc_goes_by_its_name(loop):
    numpy = pytest.importorskip("numpy")
    assert loop.call(numpy.add, 1, 2) == 3
    assert loop.call(numpy.linalg.norm, [3, 4]) == 5


# ---- Functions by value ------------------------------------------------------


def test_lambdas_nested_functions_and_mutual_recursion(loop):
    def outer(n):
        def fact(n):
            return 1 if n < 2 else n * fact(n - 1)

        return fact(n)

    for _ in range(3):
        assert loop.call(lambda x, *, y=2: x * y, 4) == 8
        assert loop.call(outer, 5) == 120
        assert loop.call(is_even, 7) is False
        assert loop.call(is_odd, 7) is True


def test_a_function_that_refers_to_itself_through_a_cell(loop):
    def fact(n):
        return 1 if n < 2 else n * fact(n - 1)

    for _ in range(3):
        assert loop.call(fact, 6) == 720


def test_two_closures_share_the_variable_that_they_shared(loop):
    def counter():
        count = 0

        def up():
            nonlocal count
            count += 1
            return count

        return up, lambda: count

    up, read = counter()

    def use(up, read):
        up()
        up()
        return read()

    assert loop.call(use, up, read) == 2
    assert read() == 0


def test_a_variable_that_is_not_yet_assigned_stays_so(loop):
    def outer():
        def inner():
            return later

        if not inner:
            later = 1
        return inner

    with pytest.raises(NameError):
        loop.call(outer())


def test_functions_keep_their_looks(loop):
    def f(a: int, *, b="b") -> str:
        """Says."""
        return f"{a}{b}"

    f.mark = 7
    for _ in range(3):
        g = loop.call(same, f)
        assert g(1) == "1b"
        assert (g.__doc__, g.mark, g.__name__) == ("Says.", 7, "f")
        assert g.__qualname__ == f.__qualname__ and g.__module__ == f.__module__
        assert g.__annotations__ == {"a": int, "return": str}


def test_a_function_that_comes_back_has_this_modules_globals(loop):
    g = loop.call(same, read_number)
    assert g.__globals__ is globals()

    h = loop.call(lambda: lambda: number)
    assert h.__globals__ is globals()


def test_decorated_functions_and_caches(loop):
    def twice(function):
        @functools.wraps(function)
        def inner(*args):
            return function(*args) * 2

        return inner

    @twice
    def f(x):
        return x + 1

    @functools.lru_cache(maxsize=100)
    def fib(n):
        return n if n < 2 else fib(n - 1) + fib(n - 2)

    assert loop.call(f, 1) == 4
    assert loop.call(fib, 80) == 23416728348467685


def test_a_submodule_that_the_code_uses_is_imported(loop):
    import concurrent.futures
    import xml.etree.ElementTree

    def f():
        return xml.etree.ElementTree.__name__, concurrent.futures.wait.__name__

    assert loop.call(f) == ("xml.etree.ElementTree", "wait")
    payload, _ = loop.sender.pack(CALL, f, ((), {}))
    whole = payload + b"".join(loop.blobs[1:])
    assert b"xml.etree.ElementTree" in whole and b"concurrent.futures" in whole


def test_global_names_are_those_that_dis_sees():
    def inner_sets():
        global number
        number = [math.pi for _ in range(3) if table]

        class Local(Base):
            attribute = Pair

        del number
        return lambda: (Local, is_even, Colour.RED, textwrap.dedent)

    def by_dis(code):
        for line in dis.get_instructions(code):
            if line.opname in (
                "LOAD_GLOBAL",
                "STORE_GLOBAL",
                "DELETE_GLOBAL",
                "LOAD_NAME",
                "LOAD_FROM_DICT_OR_GLOBALS",
            ):
                yield line.argval
        for const in code.co_consts:
            if isinstance(const, types.CodeType):
                yield from by_dis(const)

    functions = [inner_sets, by_dis, dataclasses.dataclass, argparse_like()]
    functions += [f for f in vars(subprocess.Popen).values() if callable(f)]
    functions += [f for f in vars(textwrap).values() if callable(f)]
    for function in functions:
        if isinstance(function, types.FunctionType):
            code = function.__code__
            assert set(_byvalue._global_names(code)) == set(by_dis(code))


def argparse_like():
    names = "\n".join(f"    v{i} = g{i}" for i in range(400))
    space = {}
    exec(f"def many():\n{names}\n", space)
    return space["many"]


def test_one_code_with_many_names_is_read_past_255(loop):
    function = argparse_like()
    assert "g399" in _byvalue._global_names(function.__code__)


# ---- Globals -----------------------------------------------------------------


def test_what_an_initializer_sets_is_seen_by_the_tasks(loop):
    assert number is None and table == {}
    loop.call(set_number, 5)
    loop.call(fill_table, 6)
    for _ in range(3):
        assert loop.call(read_number) == 5
        assert loop.call(read_table) == 6
    assert loop.call(lambda: (number, table)) == (5, {"value": 6})
    assert number is None and table == {}


def test_a_key_may_be_past_4_gib(loop):
    first = 1 << 33
    blobs = {}

    def store(blob):
        blobs[first + len(blobs)] = bytes(blob)
        return first + len(blobs) - 1

    loop.sender = Sender(store)
    loop.receiver = Receiver(blobs.__getitem__, install=False)
    for _ in range(3):
        assert loop.call(is_even, 4) is True
    assert blobs


def test_a_sender_lives_no_longer_than_its_user_keeps_it():
    loop = Loop()
    assert loop.call(same, Point(1, 2)) == Point(1, 2)
    answer = loop.receiver.run(loop.sender.pack(CALL, same, ((1,), {}))[0], [])
    payload = answer[0][:-2]  # cannot be read
    _byvalue.here.home = None  # the receiver, which the loop's store refers to
    assert type(loop.sender.unpack_result(payload, [])[1]) is RemoteError
    assert _byvalue.here.home is None
    ended = weakref.ref(loop.sender)
    del loop
    gc.collect()
    assert ended() is None


def test_a_global_that_changed_in_the_parent_is_seen(loop):
    global number
    try:
        for value in (1, 2.5, "x", [1], {"a": [2]}, Point(1, 2), 1, True):
            number = value
            got = loop.call(read_number)
            assert got == value and type(got) is type(value)
        number = []
        for i in range(3):
            number.append(i)
            assert loop.call(read_number) == list(range(i + 1))
        number = Point(1, 1)
        number.x = 9
        assert loop.call(read_number) == Point(9, 1)
    finally:
        number = None


def test_a_task_sees_the_globals_as_they_were_when_it_was_sent(loop):
    global number
    try:
        payloads = []
        for value in ("first", "second"):
            number = value
            payloads.append(loop.sender.pack(CALL, read_number, ((), {}))[0])
        for which in (0, 1, 0, 0, 1):
            answer = loop.receiver.run(payloads[which], [])
            assert loop.sender.unpack_result(*answer)[1] == ("first", "second")[which]
    finally:
        number = None


def test_a_worker_that_starts_later_gets_everything(loop):
    for _ in range(3):
        assert loop.call(is_even, 4)
    late = loop.new_receiver()
    assert loop.run(CALL, is_even, ((4,), {}), late)[:2] == (True, True)
    assert loop.run(CALL, same, ((Point(1, 2),), {}), late)[1] == Point(1, 2)


def test_a_function_whose_code_defaults_or_cells_change_is_sent_again(loop):
    def f(x=1):
        return x

    def g(x=1):
        return x + 10

    def outer():
        value = 1

        def change(to):
            nonlocal value
            value = to

        return change, lambda: value

    assert [loop.call(f) for _ in range(3)] == [1, 1, 1]
    f.__defaults__ = (2,)
    assert [loop.call(f) for _ in range(3)] == [2, 2, 2]
    f.__code__ = g.__code__
    assert [loop.call(f) for _ in range(3)] == [12, 12, 12]
    change, read = outer()
    for value in (1, 2, [3], [4]):
        change(value)
        assert [loop.call(read) for _ in range(3)] == [value] * 3


def test_a_helper_that_changes_is_sent_again(loop, monkeypatch):
    assert loop.call(is_even, 1) is False
    monkeypatch.setitem(globals(), "is_odd", lambda n: "changed")
    assert loop.call(is_even, 1) == "changed"


def test_an_identity_object_is_the_workers_global(loop):
    assert loop.call(is_missing) is True
    assert loop.call(is_missing, MISSING) is True
    assert loop.call(is_missing, None) is False
    assert loop.call(same, [MISSING])[0] is MISSING
    assert loop.call(lambda: MISSING) is MISSING


def test_a_large_global_is_stored_once_and_again_only_if_it_changes(loop):
    global number
    try:
        number = list(range(100_000))
        assert len(loop.call(read_number)) == 100_000
        count = len(loop.blobs)
        for _ in range(3):
            assert len(loop.call(read_number)) == 100_000
        assert sum(map(len, loop.blobs[count:])) < 1000
        number[50_000] = None
        assert loop.call(read_number)[50_000] is None
        assert sum(map(len, loop.blobs[count:])) > 100_000
    finally:
        number = None


def test_code_run_by_exec_keeps_its_own_globals(loop):
    spaces = []
    for k in (1, 2):
        space = {"k": k}
        exec("def set(x):\n global k\n k = x\ndef get():\n return k", space)
        spaces.append(space)
    assert [loop.call(space["get"]) for space in spaces] == [1, 2]
    loop.call(spaces[0]["set"], 7)
    assert [loop.call(space["get"]) for space in spaces] == [7, 2]


def test_a_nested_function_of_an_importable_module_uses_that_module(
    loop, tmp_path, monkeypatch
):
    (tmp_path / "shipped_module.py").write_text(
        "import threading\n"
        "lock = threading.Lock()\n"
        "value = 1\n"
        "def make():\n"
        "    def inner():\n"
        "        with lock:\n"
        "            return value, __name__\n"
        "    return inner\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import shipped_module

    inner = shipped_module.make()
    assert loop.call(inner) == (1, "shipped_module")
    shipped_module.value = 2
    assert loop.call(inner) == (2, "shipped_module")


# ---- Classes and instances ---------------------------------------------------


def test_instances_inside_containers_come_back_as_our_own(loop):
    sent = {
        "points": [Point(1, 2), Point(3, 4)],
        Colour.RED: (Colour.GREEN, Flags.A | Flags.B),
        "pair": Pair(Point(5, 6), {Colour.RED}),
    }
    got = loop.call(same, sent)
    assert got == sent
    assert type(got["points"][0]) is Point and type(got["pair"]) is Pair
    assert got[Colour.RED][0] is Colour.GREEN
    assert got[Colour.RED][1] is Flags.A | Flags.B or sys.version_info < (3, 11)
    assert loop.call(lambda: (Point(7, 8), Colour.RED, Pair(1, 2))) == (
        Point(7, 8),
        Colour.RED,
        Pair(1, 2),
    )


def test_classes_work_as_in_the_parent(loop):
    def use(d):
        return d.who(), d.two, d.three(), d.make().who(), isinstance(d, Base)

    expected = use(Derived())
    assert loop.call(use, Derived()) == expected
    assert loop.call(same, Derived) is Derived
    assert loop.call(same, Point.norm) is Point.norm
    assert loop.call(lambda p: p.doubled(), Point(1, 2)) == Point(2, 4)


def test_a_class_that_changes_is_sent_again(loop):
    def make():
        class Thing:
            size = 1
            items = []

            def get(self):
                return self.size, self.items

        return Thing

    Thing = make()
    thing = Thing()
    get = Thing.get
    assert loop.call(lambda t: t.get(), thing) == (1, [])
    Thing.size = 2
    Thing.items.append(3)
    assert loop.call(lambda t: t.get(), thing) == (2, [3])
    Thing.get = lambda self: "other"
    assert loop.call(lambda t: t.get(), thing) == "other"
    assert Thing.get is not get


def test_the_same_class_is_stored_once(loop):
    for _ in range(2):
        loop.call(same, Point(1, 2))
    count = len(loop.blobs)
    for i in range(10):
        loop.call(same, [Point(i, i)] * 3)
    assert len(loop.blobs) == count


def test_many_kinds_of_classes(loop):
    import abc
    import typing

    T = typing.TypeVar("T")

    class Shape(abc.ABC):
        @abc.abstractmethod
        def area(self): ...

    class Square(Shape):
        __slots__ = ("side",)

        def __init__(self, side):
            self.side = side

        def area(self):
            return self.side**2

    class Box(typing.Generic[T]):
        def __init__(self, item: T):
            self.item = item

    class Meta(type):
        def __call__(cls, *args):
            made = super().__call__(*args)
            made.by_meta = True
            return made

    class WithMeta(metaclass=Meta):
        pass

    class Typed(typing.NamedTuple):
        a: int
        b: str = "b"

    @dataclasses.dataclass(frozen=True, slots=True)
    class Frozen:
        a: int

    class Tree:
        def __init__(self, *children):
            self.children = children

        def depth(self):
            return 1 + max((c.depth() for c in self.children), default=0)

    assert loop.call(lambda s: s.area(), Square(3)) == 9
    assert type(loop.call(same, Square(3))) is Square
    with pytest.raises(TypeError, match="abstract"):
        loop.call(Shape)
    assert loop.call(lambda b: b.item, Box[int](4)) == 4
    assert loop.call(WithMeta).by_meta is True
    assert loop.call(same, Typed(1)) == Typed(1, "b")
    assert loop.call(same, Frozen(1)) == Frozen(1)
    assert loop.call(Tree.depth, Tree(Tree(), Tree(Tree()))) == 3


def test_a_dataclass_without_a_default_has_none_in_the_worker_either(loop):
    def has_default(cls):
        return [f.default is not dataclasses.MISSING for f in dataclasses.fields(cls)]

    assert loop.call(has_default, Point) == [False, True]

    def derive(cls):
        @dataclasses.dataclass
        class Point3(cls):
            z: float = 1.0

        return Point3(1, 2).z

    assert loop.call(derive, Point) == 1.0


def test_a_class_made_in_the_worker_comes_back(loop):
    def make():
        class Local:
            def one(self):
                return 1

        return Local()

    assert loop.call(make).one() == 1


def test_a_module_that_is_in_no_file_goes_by_value(loop):
    module = types.ModuleType("only_in_memory")
    exec(
        "class A:\n def one(self): return two() - 1\ndef two(): return 2", vars(module)
    )
    sys.modules["only_in_memory"] = module
    try:
        assert loop.call(module.two) == 2
        assert loop.call(lambda a: a.one(), module.A()) == 1
        assert type(loop.call(same, [module.A()])[0]) is module.A
    finally:
        del sys.modules["only_in_memory"]


# ---- Buffers -----------------------------------------------------------------


def test_large_buffers_travel_beside_the_pickle_and_small_ones_in_it(loop):
    numpy = pytest.importorskip("numpy")
    small = numpy.zeros(8)
    large = numpy.arange(INBAND_BYTES, dtype=float)
    _, buffers = loop.sender.pack(CALL, len, ((small,), {}))
    assert buffers == []
    payload, buffers = loop.sender.pack(CALL, len, ((large, small), {}))
    assert len(buffers) == 1 and buffers[0].nbytes == large.nbytes
    assert len(payload) < 1000
    for array in (small, large, large[::2], large.reshape(64, 32).T, large[:0]):
        got = loop.call(same, array)
        assert (got == array).all() and got.shape == array.shape
        got = loop.call(same, {"a": [array, Point(array, 1)]})
        assert (got["a"][0] == array).all() and (got["a"][1].x == array).all()


def test_arrays_of_a_megabyte_are_views_and_smaller_ones_are_the_workers_own(loop):
    numpy = pytest.importorskip("numpy")

    def writable(array):
        return array.flags.writeable

    for count, options, expected in (
        (100, {}, True),
        (100_000, {}, True),
        (1 << 17, {}, False),
        (1 << 17, {"view_bits": 255}, True),
        (100_000, {"view_bits": 10}, False),
    ):
        data = ((numpy.zeros(count),), {})
        assert loop.run(CALL, writable, data, **options)[1] is expected


def test_the_memory_that_is_sent_is_the_arrays_own(loop):
    numpy = pytest.importorskip("numpy")
    array = numpy.zeros(10_000)
    _, buffers = loop.sender.pack(CALL, len, ((array,), {}))
    array[3] = 7
    assert numpy.frombuffer(buffers[0])[3] == 7


def test_a_pickle_buffer_may_be_read_only_or_of_bytes(loop):
    sent = pickle.PickleBuffer(bytes(5000))
    assert bytes(loop.call(same, sent)) == bytes(5000)
    assert loop.call(len, bytearray(5000)) == 5000


# ---- What cannot be sent -----------------------------------------------------


class Holder:
    def __init__(self, inner):
        self.inner = inner


class Slotted:
    __slots__ = ("inner",)


def test_the_refusal_names_the_object_and_the_path_to_it(loop):
    lock = threading.Lock()
    slotted = Slotted()
    slotted.inner = [lock]
    global number

    def closure():
        return lock

    def check(path, function, *args, **kwargs):
        with pytest.raises(pickle.PicklingError) as caught:
            loop.sender.pack(CALL, function, (args, kwargs))
        message = str(caught.value)
        assert message.startswith(f"{path}: a _thread.lock object cannot be sent to a")
        assert "initargs" in message

    check("argument 1", len, lock)
    check("argument 2['lock'].inner", same, 1, {"lock": Holder(lock)})
    check("argument 'key'[1][0]", same, key=(1, [lock]))
    check("argument 1.inner[0]", same, slotted)
    check("the function (its variable 'lock')", closure)
    check("the function.args[0]", functools.partial(same, lock))
    check("argument 1 (default 1)", same, lambda x=lock: x)
    check("the function.__self__.inner", types.MethodType(same, Holder(lock)))
    try:
        number = lock
        check("the function (the global 'number')", read_number)
    finally:
        number = None


def test_a_refusal_where_each_part_can_be_sent_says_so_and_why(loop, monkeypatch):
    environment = loop.sender._environment
    failures = []

    def refuse_once(needs, classes):
        if not failures:
            failures.append(1)
            raise MemoryError("the store is full")
        return environment(needs, classes)

    monkeypatch.setattr(loop.sender, "_environment", refuse_once)
    for mode, function, data, name in (
        (CALL, same, ((), {}), "the task"),
        (MAP, same, [1, 2], "the batch of calls"),
        (CALLS, None, [(same, (lambda: 1,), {})], "the task of call 1"),
    ):
        failures.clear()
        with pytest.raises(pickle.PicklingError) as caught:
            loop.sender.pack(mode, function, data)
        assert str(caught.value) == (
            f"{name} cannot be sent to a worker process, though each of its parts can "
            "be alone (MemoryError: the store is full)"
        )


def test_the_refusal_of_a_batch_names_the_item(loop):
    with pytest.raises(pickle.PicklingError, match=r"^argument 1 of item 2\[0\]: a"):
        loop.sender.pack(MAP, same, [[1], [threading.Lock()]])
    with pytest.raises(pickle.PicklingError, match=r"^argument 2 of call 2: a"):
        calls = [(same, (), {}), (same, (1, threading.Lock()), {})]
        loop.sender.pack(CALLS, None, calls)


def test_other_things_that_cannot_be_sent(loop, tmp_path):
    def generator():
        yield 1

    deep = []
    for _ in range(100_000):
        deep = [deep]
    for thing, hint in (
        (generator(), "list"),
        (open(tmp_path / "file", "w"), "open it in the worker"),
        (deep, "too deeply"),
        (sys._getframe(), "make it in the worker"),
    ):
        with pytest.raises(pickle.PicklingError, match=hint):
            loop.sender.pack(CALL, same, ((thing,), {}))
    while deep:
        deep = deep[0]
    assert loop.call(same, 1) == 1


def test_a_reduce_that_raises_is_named(loop):
    class Bad:
        def __reduce__(self):
            raise RuntimeError("no luck")

    with pytest.raises(pickle.PicklingError, match="argument 1.*Bad object.*no luck"):
        loop.sender.pack(CALL, same, ((Bad(),), {}))


def test_a_result_that_cannot_be_sent_fails_its_task(loop):
    with pytest.raises(pickle.PicklingError) as caught:
        loop.call(lambda: {"a": [threading.Lock()]})
    assert str(caught.value).startswith("the result['a'][0]: a _thread.lock object")
    assert isinstance(caught.value.__cause__, RemoteTraceback)


# ---- Exceptions --------------------------------------------------------------


def test_an_exception_carries_the_workers_traceback(loop):
    with pytest.raises(ZeroDivisionError) as caught:
        loop.call(lambda: 1 / 0)
    text = str(caught.value.__cause__)
    assert "ZeroDivisionError" in text and "<lambda>" in text
    assert "allcores" not in text


def test_exceptions_of_this_module_come_back_as_our_own(loop):
    with pytest.raises(GoodError, match="why"):
        loop.call(fail, GoodError("why"))


def test_exceptions_that_do_not_pickle_are_stood_for(loop):
    class Unpicklable(Exception):
        def __init__(self):
            self.lock = threading.Lock()
            super().__init__("holds a lock")

    def raise_it():
        raise Unpicklable()

    for function, name, message in (
        (lambda: fail(OddError(3, 4)), "OddError", "code 3"),
        (raise_it, "Unpicklable", "holds a lock"),
    ):
        with pytest.raises(RemoteError, match=message) as caught:
            loop.call(function)
        assert name in caught.value.type_name and name in str(caught.value)
        assert message in caught.value.__cause__.text
        assert pickle.loads(pickle.dumps(caught.value)).args == caught.value.args
    assert loop.call(same, 1) == 1


def test_an_exception_without_a_message_or_with_a_broken_one(loop):
    class Silent(Exception):
        def __str__(self):
            raise RuntimeError

    def raise_it():
        raise Silent

    with pytest.raises(Exception) as caught:
        loop.call(raise_it)
    assert type(caught.value).__name__ == "Silent"
    assert "Silent" in caught.value.__cause__.text


def test_exits_and_interrupts_fail_their_task_only(loop):
    for error in (SystemExit(3), KeyboardInterrupt(), GeneratorExit()):
        with pytest.raises(type(error)):
            loop.call(fail, error)


def test_a_result_that_cannot_be_read_here_is_an_error_of_its_task(loop):
    class Reads:
        def __reduce__(self):
            return int, ("no number",)

    class Exits:
        def __reduce__(self):
            return sys.exit, (1,)

    for kind in (Reads, Exits):
        with pytest.raises(RemoteError, match="could not be read"):
            loop.call(lambda kind=kind: kind())


# ---- In another process ------------------------------------------------------

WORKER = """
import base64, json, sys
from allcores._shipping import Receiver
blobs = {}
receiver = Receiver(lambda key: memoryview(blobs[key]))
out, sys.stdout = sys.stdout, sys.stderr
for line in sys.stdin:
    new, payload, buffers = json.loads(line)
    for key, blob in new:
        blobs[key] = base64.b64decode(blob)
    buffers = [memoryview(base64.b64decode(b)) for b in buffers]
    if payload[0] == "setup":
        receiver.run_setup(base64.b64decode(payload[1]), payload[2])
        answer = "done", []
    else:
        payload, buffers = receiver.run(base64.b64decode(payload[1]), buffers)
        answer = (base64.b64encode(payload).decode(),
                  [base64.b64encode(b).decode() for b in buffers])
    print(json.dumps(answer), file=out, flush=True)
"""

# What a parent runs; a test's script is added to it, without any guard.
PARENT = f"""
import base64, json, subprocess, sys
from allcores._shipping import Sender
from allcores._workers import CALL, MAP

class Worker:
    def __init__(self, setup=None):
        self.blobs = []
        self.sent = 0
        self.sender = Sender(self.store)
        fds = ()
        if setup:
            payload, fds = self.sender.pack_setup(*setup)
        self.process = subprocess.Popen(
            [sys.executable, "-c", {WORKER!r}], pass_fds=fds,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if setup:
            self.ask(("setup", base64.b64encode(payload).decode(), fds), [])

    def store(self, blob):
        self.blobs.append(base64.b64encode(blob).decode())
        return len(self.blobs)

    def ask(self, payload, buffers):
        new = list(enumerate(self.blobs, 1))[self.sent:]
        self.sent = len(self.blobs)
        print(json.dumps((new, payload, buffers)), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def __call__(self, function, *args, **kwargs):
        payload, buffers = self.sender.pack(CALL, function, (args, kwargs))
        payload, buffers = self.ask(
            ("task", base64.b64encode(payload).decode()),
            [base64.b64encode(b).decode() for b in buffers])
        ok, value, _, _ = self.sender.unpack_result(
            base64.b64decode(payload),
            [memoryview(base64.b64decode(b)) for b in buffers])
        if not ok:
            raise value
        return value
"""


@pytest.fixture
def run_parent(tmp_path):
    """Run a script as __main__, with a `Worker` class whose worker is a process."""
    (tmp_path / "harness_for_shipping.py").write_text(PARENT)

    def run(script, as_file=False):
        script = textwrap.dedent(script)
        script = "from harness_for_shipping import Worker\n" + script
        what = ["-c", script]
        if as_file:
            path = tmp_path / "script.py"
            path.write_text(script)
            what = [str(path)]
        path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
        done = subprocess.run(
            [sys.executable, *what],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_a_script_without_a_guard_is_never_run_again(run_parent):
    script = """
        import dataclasses, enum, os, pickle, sys
        print("script")
        state = {}
        level = 0

        @dataclasses.dataclass
        class P:
            x: int
            def up(self):
                return P(self.x + 1)

        class E(enum.Enum):
            A = 1

        def init(v):
            global level
            level = v
            state["v"] = v

        def task(p, e):
            assert __name__ == "__main__"
            assert sys.modules["__main__"].P is P
            assert pickle.loads(pickle.dumps(p)) == p
            return p.up(), e, level, state, os.getpid()

        worker = Worker((init, (5,)))
        for _ in range(3):
            p, e, a, b, pid = worker(task, P(1), E.A)
            assert p == P(2) and type(p) is P and e is E.A and pid != os.getpid()
            assert a == 5 and b == {"v": 5}
        assert worker(lambda: task(P(1), E.A)[0]) == P(2)
        assert worker(pickle.dumps, P(3)) == pickle.dumps(P(3))
        assert worker(pickle.loads, pickle.dumps(P(3))) == P(3)
        if __name__ == "__main__":
            print("guarded")
    """
    assert run_parent(script) == "script\nguarded\n"
    assert run_parent(script, as_file=True) == "script\nguarded\n"


def test_importable_functions_never_import_cloudpickle(run_parent):
    script = """
        import os.path, sys
        worker = Worker()
        assert worker(os.path.join, "a", "b") == "a/b"
        assert worker(lambda x: [x, len], 2) == [2, len]
        def loaded():
            import sys
            return "cloudpickle" in sys.modules
        assert worker(loaded) is False
        assert "cloudpickle" not in sys.modules
        class A: pass
        assert type(worker(A)) is A
        assert worker(loaded) is True
    """
    run_parent(script)


def test_notebook_cells_that_are_run_again_are_seen(run_parent):
    script = """
        worker = Worker()
        cells = [
            "def f(x): return x + k\\nk = 1",
            "class A:\\n  def get(self): return k",
            "k = 2",
            "def f(x): return x - k",
            "class A:\\n  def get(self): return 'new'",
        ]
        seen = []
        for cell in cells:
            exec(compile(cell, "<cell>", "exec"), globals())
            got = [worker(f, 10)]
            if "A" in globals():
                got.append(worker(lambda a: a.get(), A()))
                assert type(worker(A)) is A
            seen.append(got)
        assert seen == [[11], [11, 1], [12, 2], [8, 2], [8, "new"]], seen
    """
    run_parent(script)


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_multiprocessing_objects_travel_in_initargs(run_parent, method):
    script = f"""
        import multiprocessing, threading
        made = multiprocessing.get_context({method!r})
        lock, value, array = made.Lock(), made.Value("i", 3), made.Array("d", [1, 2])
        queue, event, simple = made.Queue(), made.Event(), made.SimpleQueue()
        semaphore, condition = made.BoundedSemaphore(2), made.Condition()
        receive, send = made.Pipe(duplex=False)
        a, b = made.Pipe()
        held = None

        def init(*args):
            global held
            held = args

        def task():
            lock, value, array, queue, event, simple, semaphore, condition, send, b = (
                held)
            was_free = lock.acquire(block=False)
            with value.get_lock():
                value.value += 1
            array[0] = 5
            queue.put("from worker")
            event.set()
            simple.put("simple")
            semaphore.acquire()
            send.send("sent")
            b.send(b.recv() + 1)
            with condition:
                condition.notify()
            return was_free

        worker = Worker((init, (
            lock, value, array, queue, event, simple, semaphore, condition, send, b)))
        lock.acquire()
        a.send(1)
        assert worker(task) is False
        lock.release()
        assert value.value == 4 and list(array) == [5, 2]
        assert queue.get(timeout=20) == "from worker"
        assert simple.get() == "simple" and receive.recv() == "sent"
        assert event.is_set() and a.recv() == 2
        assert semaphore.get_value() == 1
        a.send(1)
        assert worker(task) is True
        assert not lock.acquire(block=False)
        assert value.value == 5
        worker.process.stdin.close()
        worker.process.wait()
        second = Worker((init, (lock,)))
        assert second(lambda: held[0].acquire(block=False)) is False
        lock.release()
        assert second(lambda: held[0].acquire(block=False)) is True
    """
    run_parent(script)


def test_multiprocessing_objects_as_arguments_are_refused_with_advice(run_parent):
    script = """
        import multiprocessing, pickle
        worker = Worker()
        try:
            worker(len, {"lock": multiprocessing.Lock()})
        except pickle.PicklingError as error:
            assert str(error).startswith("argument 1['lock']: "), error
            assert "initargs" in str(error)
        else:
            raise AssertionError
        try:
            import threading
            worker.sender.pack_setup(len, (1, threading.Lock()))
        except pickle.PicklingError as error:
            assert str(error).startswith("initarg 2: "), error
        else:
            raise AssertionError
    """
    run_parent(script)


def test_a_lock_that_a_forked_process_has_is_refused(run_parent):
    script = """
        import multiprocessing, pickle
        made = multiprocessing.get_context("fork")
        lock, go = made.Lock(), made.Event()
        child = made.Process(target=go.wait)
        child.start()
        try:
            Worker((print, (lock,)))
        except pickle.PicklingError as error:
            assert "shared with process" in str(error), error
            assert "get_context('forkserver').Lock()" in str(error), error
        else:
            raise AssertionError
        finally:
            go.set()
            child.join()
    """
    run_parent(script)


def test_many_threads_may_pack_at_once(loop):
    errors = []

    def work(k):
        try:
            receiver = loop.new_receiver()
            for i in range(100):
                p = Point(i, k)
                ok, value, _, _ = loop.run(CALL, same, ((p,), {}), receiver)
                assert ok and value == p
                ok, value, _, _ = loop.run(CALL, lambda x: x + k, ((i,), {}), receiver)
                assert ok and value == i + k
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_base64_is_a_module_of_the_worker_too(loop):
    assert loop.call(lambda: base64.b64encode(b"x")) == b"eA=="


# ---- What tasks print ----------------------------------------------------------


@pytest.fixture
def capture(monkeypatch):
    """What makes a `Printed`; the streams are put back after the test."""
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    return _printed.Printed


def test_many_small_prints_are_joined_in_their_order(capture):
    printed = capture()
    for _ in range(200_000):
        sys.stdout.write("ab")
    sys.stderr.write("error")
    sys.stdout.write("end")
    payload, buffers = printed.add_to((b"result", []))
    out, err = io.StringIO(), io.StringIO()
    sys.stdout, sys.stderr = out, err
    assert bytes(_printed.show_printed(payload)) == b"result" and buffers == []
    assert out.getvalue() == "ab" * 200_000 + "end" and err.getvalue() == "error"
    assert len(payload) < 401_000
    assert printed.add_to((b"result", [])) == (b"result", [])


def test_what_is_printed_is_left_out_where_there_is_no_memory(capture, monkeypatch):
    printed = capture()

    def fail(pieces):
        raise MemoryError

    sys.stdout.write("text")
    monkeypatch.setattr(_printed.marshal, "dumps", fail)
    assert printed.add_to((b"result", [])) == (b"result", [])
    assert printed.pieces == []


def test_text_that_cannot_be_written_does_not_hide_the_result(capture):
    printed = capture()
    sys.stdout.write("a\u2713\ud800b")
    payload = printed.add_to((b"result", []))[0]
    raw = io.BytesIO()
    closed = io.StringIO()
    closed.close()
    for stream in (io.TextIOWrapper(raw, "ascii"), closed, None, object()):
        sys.stdout = stream
        assert bytes(_printed.show_printed(payload)) == b"result"
        if stream is not None and stream is not closed:
            shown = raw.getvalue()
            assert shown == b"a\\u2713\\ud800b"
