"""Pool and ThreadPool: multiprocessing's calls, and what goes beyond them."""

import gc
import itertools
import multiprocessing
import os
import pickle
import sys
import threading
import time
import timeit
import traceback
import warnings
import weakref

import pytest
from allcores._results import RUN
from allcores._workers import MAP, InitializerError
from allcores.pools import OUT_MAX, AsyncResult, Pool, ThreadPool

KINDS = {"threads": ThreadPool, "processes": Pool}


@pytest.fixture(params=KINDS)
def make(request):
    """Make pools of each kind; they are ended after the test."""
    yield from ended(KINDS[request.param])


@pytest.fixture
def threads():
    """Make ThreadPools; they are ended after the test."""
    yield from ended(ThreadPool)


def ended(kind):
    made = []

    def make(*args, **kwargs):
        made.append(kind(*args, **kwargs))
        return made[-1]

    yield make
    for pool in made:
        pool.terminate()
        pool.join()


@pytest.fixture
def pool(make):
    return make(2)


def square(x):
    return x * x


# ---- Calls -------------------------------------------------------------------


def test_apply_takes_arguments_and_keywords(pool):
    assert pool.apply(int, ("ff",), {"base": 16}) == 255
    assert pool.apply(int) == 0
    assert pool.apply(pow, [2, 5]) == 32
    assert pool.apply_async(int, ("ff",), {"base": 16}).get() == 255


def test_the_maps_give_what_the_builtin_ones_give(pool):
    squares = [i * i for i in range(100)]
    powers = [i**2 for i in range(100)]
    pairs = [(i, 2) for i in range(100)]
    for chunksize in (None, 1, 7, 100, 1000):
        assert pool.map(square, range(100), chunksize) == squares
        assert pool.map_async(square, range(100), chunksize).get() == squares
        assert pool.starmap(pow, pairs, chunksize) == powers
        assert pool.starmap_async(pow, pairs, chunksize).get() == powers
    for chunksize in (1, 7, 100, 1000):
        assert list(pool.imap(square, range(100), chunksize)) == squares
        assert sorted(pool.imap_unordered(square, range(100), chunksize)) == squares


def test_the_maps_take_every_iterable(pool):
    for iterable in ("102", ["1", "0", "2"], {"1": 0, "0": 0, "2": 0}, iter("102")):
        items = list(iterable) if iter(iterable) is iterable else iterable
        for given in (items, iter(items)):
            assert pool.map(int, given) == [1, 0, 2]
            assert list(pool.imap(int, given)) == ([1, 0, 2] if given is items else [])
    assert pool.map(int, (c for c in "102")) == [1, 0, 2]
    assert list(pool.imap(int, (c for c in "102"))) == [1, 0, 2]
    assert sorted(pool.imap_unordered(int, (c for c in "102"))) == [0, 1, 2]


def test_nothing_in_gives_nothing_out(pool):
    for empty in ([], iter(())):
        assert pool.map(square, empty) == []
        assert pool.starmap(square, empty) == []
        assert pool.map_async(square, empty, 3).get(30) == []
        assert list(pool.imap(square, empty)) == []
        assert list(pool.imap_unordered(square, empty, 3)) == []


def test_closures_and_lambdas_are_called(pool):
    n = 10
    assert pool.map(lambda x: x + n, [1, 2]) == [11, 12]
    assert pool.apply(lambda *a, **k: (a, k), (1,), {"b": 2}) == ((1,), {"b": 2})


@pytest.mark.parametrize(
    "count, workers, chunksize", [(1, 2, 1), (8, 2, 1), (9, 2, 2), (1000, 3, 84)]
)
def test_map_makes_four_chunks_a_worker(threads, count, workers, chunksize):
    pool, sent = threads(workers), []
    submit = pool._workers.submit

    def note(mode, function, data, **options):
        assert mode == MAP
        sent.append(len(data))
        return submit(mode, function, data, **options)

    pool._workers.submit = note
    pool.map(square, range(count))
    assert max(sent) == sent[0] == chunksize and sum(sent) == count
    assert len(sent) == -(-count // chunksize)
    sent.clear()
    list(pool.imap(square, range(count)))
    assert sent == [1] * count


def test_map_reads_its_iterable_before_it_returns(pool):
    items = [1, 2, 3]
    result = pool.map_async(square, items)
    items.clear()
    assert result.get() == [1, 4, 9]


# ---- Exceptions --------------------------------------------------------------


def test_an_exception_comes_out_of_get_with_its_traceback(pool):
    def fail_in_a_worker():
        raise KeyError("key", 3)

    with pytest.raises(KeyError) as raised:
        pool.apply(fail_in_a_worker)
    assert raised.value.args == ("key", 3)
    text = "".join(traceback.format_exception(raised.value))
    assert "in fail_in_a_worker" in text
    result = pool.apply_async(fail_in_a_worker)
    for _ in range(2):
        with pytest.raises(KeyError):
            result.get()
    assert result.successful() is False


def test_a_map_fails_with_what_came_first_once_all_calls_have_ended(threads):
    pool, seen = threads(1), []

    def call(x):
        seen.append(x)
        if x % 3 == 1:
            raise ValueError(x)

    with pytest.raises(ValueError, match="^1$"):
        pool.map(call, range(9), 1)
    assert seen == list(range(9))
    seen.clear()
    with pytest.raises(ValueError, match="^1$"):
        pool.map(call, range(9), 3)
    assert seen == [0, 1, 3, 4, 6, 7]  # a chunk ends with the call that raises


def test_a_failed_item_of_an_imap_raises_and_the_next_ones_follow(pool):
    results = pool.imap(int, ["1", "x", "3"])
    assert next(results) == 1
    with pytest.raises(ValueError, match="'x'"):
        next(results)
    assert next(results) == 3
    for _ in range(2):
        with pytest.raises(StopIteration):
            next(results)


class Broken(Exception):
    pass


def broken_after(count):
    yield from range(count)
    raise Broken


class BrokenWithLength:
    def __len__(self):
        return 3

    def __iter__(self):
        return broken_after(1)


def test_what_an_iterable_raises_comes_out(pool):
    with pytest.raises(Broken):
        pool.map(square, broken_after(3))
    with pytest.raises(Broken):
        pool.map_async(square, broken_after(3))
    failed = []
    result = pool.map_async(square, BrokenWithLength(), error_callback=failed.append)
    with pytest.raises(Broken):
        result.get()
    assert [type(error) for error in failed] == [Broken]
    results = pool.imap(square, broken_after(3))
    assert [next(results) for _ in range(3)] == [0, 1, 4]
    with pytest.raises(Broken):
        next(results)
    with pytest.raises(StopIteration):
        next(results)
    found = []
    with pytest.raises(Broken):
        for value in pool.imap_unordered(square, broken_after(3), 2):
            found.append(value)
    assert set(found) <= {0, 1}  # a chunk that was not complete is not sent


def test_an_exception_keeps_nothing_alive(threads):
    class Thing:
        pass

    def fail(thing):
        raise ValueError

    pool, thing = threads(1), Thing()
    reference = weakref.ref(thing)
    gc.disable()
    try:
        for call in (
            lambda x: pool.apply(fail, (x,)),
            lambda x: pool.apply_async(fail, (x,)).get(),
            lambda x: pool.map(fail, [x]),
            lambda x: next(pool.imap(fail, [x])),
        ):
            try:
                call(thing)
            except ValueError:
                pass
        pool.apply(abs, (1,))  # the thread has come round
        del thing
        assert reference() is None
    finally:
        gc.enable()


def test_an_initializer_that_raises_fails_the_calls_and_says_why(make):
    def begin():
        raise LookupError("no licence")

    pool = make(2, begin)
    with pytest.raises(InitializerError, match="no licence"):
        pool.map(square, range(10))
    with pytest.raises(InitializerError, match="no licence"):
        pool.apply(square, (1,))
    failed = []
    result = pool.apply_async(square, (1,), error_callback=failed.append)
    with pytest.raises(InitializerError, match="no licence"):
        result.get(30)
    assert isinstance(failed[0], InitializerError)


# ---- Results to come ---------------------------------------------------------


def test_ready_over_and_over_makes_progress_without_sleeping(pool):
    result = pool.map_async(square, range(10))
    while not result.ready():
        pass
    assert result.successful() and result.get(0) == [i * i for i in range(10)]


def test_ready_takes_less_than_a_microsecond_when_nothing_changed(threads):
    pool, release = threads(1), threading.Event()
    for result in (
        pool.apply_async(release.wait, (30,)),
        pool.map_async(release.wait, [30] * 100, 1),
    ):
        taken = min(timeit.repeat(result.ready, number=2000, repeat=20)) / 2000
        assert not result.ready()
        assert taken < 1e-6
    release.set()


def test_successful_before_the_result_raises(threads):
    pool, release = threads(1), threading.Event()
    result = pool.apply_async(release.wait, (30,))
    with pytest.raises(ValueError, match="not ready"):
        result.successful()
    release.set()
    result.wait()
    assert result.successful() is True


def test_a_result_that_does_not_come_in_time_raises_both_timeout_errors(threads):
    pool, release = threads(1), threading.Event()
    for result in (
        pool.apply_async(release.wait, (30,)),
        pool.map_async(release.wait, [30] * 2),
        pool.apply_async(release.wait, (30,), callback=print_nothing),
    ):
        for seconds in (0, 0.01, -1):
            with pytest.raises(multiprocessing.TimeoutError):
                result.get(seconds)
            with pytest.raises(TimeoutError, match="no result within"):
                result.get(seconds)
            result.wait(seconds)
            assert not result.ready()
    for results in (
        pool.imap(release.wait, [30]),
        pool.imap_unordered(release.wait, [30]),
        pool.imap(release.wait, iter([30]), 2),
    ):
        with pytest.raises(multiprocessing.TimeoutError):
            results.next(0.01)
        with pytest.raises(TimeoutError):
            results.next(timeout=0)
    release.set()
    assert result.get(30) is True and results.next(30) is True


def print_nothing(value):
    pass


def test_a_result_keeps_its_pool_until_it_is_ready():
    release, reference = threading.Event(), []

    def begin():
        pool = ThreadPool(1)
        reference.append(weakref.ref(pool))
        return pool.apply_async(release.wait, (30,))

    result = begin()
    gc.collect()
    assert reference[0]() is not None
    release.set()
    with pytest.warns(ResourceWarning, match="unclosed running multiprocessing pool"):
        assert result.get() is True
        gc.collect()
    assert reference[0]() is None
    assert result.get() is True


def test_many_threads_use_one_pool(pool):
    found = []

    def work(k):
        result = pool.map_async(square, range(k, k + 50), 7)
        parts = [pool.apply(square, (k,)), *pool.imap(square, iter(range(k, k + 9)))]
        found.append((k, parts, result.get()))

    working = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for thread in working:
        thread.start()
    for thread in working:
        thread.join()
    assert sorted(found) == [
        (
            k,
            [k * k, *(i * i for i in range(k, k + 9))],
            [i * i for i in range(k, k + 50)],
        )
        for k in range(8)
    ]


def test_many_threads_ask_for_the_same_results(pool):
    for _ in range(20):
        results = [
            pool.map_async(square, range(50), 1),
            pool.apply_async(square, (7,)),
            pool.apply_async(int, ("x",)),
            pool.map_async(square, range(5), callback=print_nothing),
        ]
        found = []

        def ask(results=results, found=found):
            for result in results:
                try:
                    found.append(str(result.get(30)))
                except ValueError as error:
                    found.append(str(error))

        asking = [threading.Thread(target=ask) for _ in range(6)]
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join()
        assert len(found) == 24 and len(set(found)) == 4


def test_many_threads_share_an_iterator(pool):
    for kind in (pool.imap, pool.imap_unordered):
        results, found = kind(square, iter(range(200)), 3), []

        def take(results=results, found=found):
            for value in results:
                found.append(value)

        taking = [threading.Thread(target=take) for _ in range(4)]
        for thread in taking:
            thread.start()
        for thread in taking:
            thread.join()
        assert sorted(found) == [i * i for i in range(200)]


def test_tasks_may_use_the_pool_that_runs_them(threads):
    pool = threads(1)

    def task(x):
        assert pool.apply(square, (x,)) == x * x
        assert pool.map(square, range(3), 1) == [0, 1, 4]
        assert pool.apply_async(square, (x,), callback=print_nothing).get() == x * x
        assert list(pool.imap(square, iter(range(3)))) == [0, 1, 4]
        return sorted(pool.imap_unordered(square, [x, 1, 2]))

    assert pool.map_async(task, [5, 6]).get(30) == [[1, 4, 25], [1, 4, 36]]


def test_generic_aliases_are_made_of_results():
    assert AsyncResult[int].__origin__ is AsyncResult


# ---- Callbacks ---------------------------------------------------------------


def test_a_callback_has_returned_before_its_result_is_ready(pool):
    got, failed = [], []
    for i in range(50):
        result = pool.apply_async(square, (i,), {}, got.append, failed.append)
        assert result.get(30) == got[-1] == i * i
    assert pool.map_async(square, [1, 2, 3], 1, got.append, failed.append).get() == [
        1,
        4,
        9,
    ]
    assert got[-1] == [1, 4, 9]
    assert pool.starmap_async(pow, [(2, 3)], callback=got.append).get() == got[-1]
    assert failed == []
    for call in (
        lambda: pool.apply_async(int, ("x",), {}, got.append, failed.append),
        lambda: pool.map_async(int, ["1", "x"], 1, got.append, failed.append),
    ):
        with pytest.raises(ValueError) as raised:
            call().get(30)
        assert failed[-1] is raised.value
    assert len(got) == 52 and len(failed) == 2


def test_a_callback_comes_by_itself_and_also_for_nothing_in(pool):
    called = threading.Event()
    pool.map_async(square, range(10), callback=lambda values: called.set())
    assert called.wait(30)
    got = []
    assert pool.map_async(square, [], callback=got.append).get(30) == []
    assert got == [[]]


def test_a_result_with_a_callback_gets_ready_by_itself(pool):
    result = pool.apply_async(square, (3,), callback=print_nothing)
    while not result.ready():
        pass
    assert result.successful() and result.get() == 9
    result = pool.apply_async(square, (3,), error_callback=print_nothing)
    result.wait()
    assert result.ready() and result.get() == 9


def test_a_callback_that_raises_is_reported_and_the_pool_goes_on(pool, monkeypatch):
    reported = []
    monkeypatch.setattr(threading, "excepthook", reported.append)

    def fail(value):
        raise LookupError(value)

    assert pool.apply_async(square, (3,), callback=fail).get(30) == 9
    assert [(seen.exc_type, str(seen.exc_value)) for seen in reported] == [
        (LookupError, "9")
    ]
    assert pool.apply_async(square, (4,), callback=print_nothing).get(30) == 16


def test_a_callback_may_use_the_pool_and_wait(pool):
    got = []
    late = pool.apply_async(square, (5,), callback=got.append)

    def call(value):
        got.append(pool.apply(square, (value,)))
        got.append(pool.map(square, [1, 2]))
        got.append(list(pool.imap(square, iter([2, 3]))))
        got.append(late.get(30))
        inner = pool.apply_async(square, (6,), callback=got.append)
        got.append(inner.get(30))
        got.append(result.get(30))  # its own
        got.append(inner.get(30))

    result = pool.apply_async(square, (3,), callback=call)
    assert result.get(30) == 9
    wanted = [81, [1, 4], [4, 9], 25, 36, 36, 9, 36]
    assert got.count(25) == 2
    got.remove(25)
    assert got == wanted


def test_a_callback_that_waits_for_one_that_is_due_later_has_it_called(threads):
    pool, release, got = threads(1), threading.Event(), []

    def wait_for_the_second(value):
        got.append(("first", second.get(30)))

    first = pool.apply_async(release.wait, (30,), callback=wait_for_the_second)
    second = pool.apply_async(
        square, (3,), callback=lambda value: got.append(("second", value))
    )
    release.set()
    assert first.get(30) is True
    assert got == [("second", 9), ("first", 9)]


def test_join_waits_for_the_callbacks_and_may_be_called_by_one(pool):
    got = []

    def end(value):
        pool.close()
        pool.join()
        got.append(value)

    results = [pool.apply_async(square, (i,), callback=got.append) for i in range(20)]
    pool.apply_async(square, (50,), callback=end)
    while pool._state == RUN:
        pass
    pool.join()
    assert sorted(got) == sorted([*(i * i for i in range(20)), 2500])
    assert all(result.ready() for result in results)


def test_callbacks_that_are_no_callables_are_refused(pool):
    for name in ("callback", "error_callback"):
        with pytest.raises(TypeError, match=f"^{name}= takes a callable or None, not"):
            pool.apply_async(square, (1,), **{name: 3})


# ---- Iterators ---------------------------------------------------------------


def test_imap_returns_at_once_and_reads_in_another_thread(pool):
    release = threading.Event()

    def items():
        yield 1
        assert release.wait(30)
        yield 2

    for kind in (pool.imap, pool.imap_unordered):
        release.clear()
        results = kind(square, items())
        assert next(results) == 1
        release.set()
        assert next(results) == 4
        assert list(results) == []


def test_an_endless_iterable_is_read_only_so_far(threads):
    pool, release, read = threads(1), threading.Event(), []

    def items():
        for i in itertools.count():
            read.append(i)
            yield i

    def hold(x):
        release.wait(30)
        return x

    results = pool.imap(hold, items())
    while len(read) < OUT_MAX:
        time.sleep(0.001)
    assert len(read) <= OUT_MAX + 2
    release.set()
    assert [next(results) for _ in range(3 * OUT_MAX)] == list(range(3 * OUT_MAX))
    pool.terminate()
    with pytest.raises(RuntimeError, match="terminated"):
        for _ in results:
            pass


def test_an_iterator_that_nobody_reads_is_worked_off_before_join_returns(make):
    pool = make(2)
    first = pool.imap(square, iter(range(100)))
    second = pool.imap_unordered(square, iter(range(100)), 7)
    pool.close()
    pool.join()
    assert list(first) == sorted(second) == [i * i for i in range(100)]


def test_terminate_ends_iterators_whose_iterable_blocks(threads):
    pool, release = threads(1), threading.Event()

    def items():
        yield 1
        release.wait(30)

    results = pool.imap(square, items())
    assert next(results) == 1
    ending = threading.Timer(0.05, pool.terminate)
    ending.start()
    with pytest.raises(RuntimeError, match="terminated"):
        next(results)
    ending.join()
    release.set()


def test_unordered_results_come_as_calls_end(threads):
    pool, release = threads(2), threading.Event()

    def call(x):
        assert x or release.wait(30)
        return x

    results = pool.imap_unordered(call, [0, 1, 2, 3])
    assert [next(results) for _ in range(3)] == [1, 2, 3]
    release.set()
    assert list(results) == [0]


# ---- Its end -----------------------------------------------------------------


def test_after_its_end_a_pool_refuses_calls_and_gives_what_it_has(make):
    pool = make(2)
    result = pool.map_async(square, range(20))
    pool.close()
    for call in (
        lambda: pool.apply(square, (1,)),
        lambda: pool.apply_async(square, (1,)),
        lambda: pool.map(square, [1]),
        lambda: pool.map_async(square, [1]),
        lambda: pool.starmap(square, [(1,)]),
        lambda: pool.imap(square, [1]),
        lambda: pool.imap_unordered(square, iter([1])),
        lambda: pool.__enter__(),
    ):
        with pytest.raises(ValueError, match="^Pool not running"):
            call()
    pool.close()
    pool.join()
    pool.join()
    assert result.get() == [i * i for i in range(20)]


def test_join_before_close_raises(pool):
    with pytest.raises(ValueError, match="still running: call close"):
        pool.join()


def test_leaving_the_block_terminates(make):
    with make(2) as pool:
        assert pool.map(square, [2]) == [4]
    with pytest.raises(ValueError, match="not running"):
        pool.map(square, [2])
    pool.join()


def test_what_a_terminated_pool_had_not_done_raises_and_calls_nothing_back(threads):
    pool, release, called = threads(1), threading.Event(), []
    begun = threading.Event()

    def hold(_):
        begun.set()
        return release.wait(30)

    results = [
        pool.apply_async(hold, (0,)),
        pool.map_async(hold, range(5), 1),
        pool.apply_async(hold, (0,), {}, called.append, called.append),
        pool.map_async(hold, range(5), 1, called.append, called.append),
    ]
    items = pool.imap(hold, [0])
    assert begun.wait(30)
    pool.terminate()
    for result in results:
        with pytest.raises(RuntimeError, match="terminated before the task was done"):
            result.get(30)
    with pytest.raises(RuntimeError, match="terminated before the task was done"):
        next(items)
    release.set()
    pool.join()
    assert called == []


def test_a_pool_that_is_dropped_running_warns_and_ends():
    before = set(threading.enumerate())
    pool = ThreadPool(1)
    assert pool.apply_async(square, (3,), callback=print_nothing).get(30) == 9
    started = set(threading.enumerate()) - before
    assert started
    with pytest.warns(ResourceWarning, match="unclosed running multiprocessing pool"):
        del pool
        gc.collect()
    for thread in started:
        thread.join(30)
        assert not thread.is_alive()


def test_a_pool_that_was_ended_leaves_no_thread_and_does_not_warn():
    before = set(threading.enumerate())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with ThreadPool(2) as pool:
            pool.map_async(square, range(9), callback=print_nothing).get()
            list(pool.imap(square, iter(range(9))))
        pool.join()
        assert set(threading.enumerate()) <= before
        del pool
        gc.collect()


def test_a_pool_says_what_it_is_and_does_not_travel(make):
    pool = make(3)
    name = f"allcores.pools.{type(pool).__name__}"
    assert repr(pool) == f"<{name} state=RUN pool_size=3>"
    pool.close()
    assert repr(pool) == f"<{name} state=CLOSE pool_size=3>"
    pool.terminate()
    assert repr(pool) == f"<{name} state=TERMINATE pool_size=3>"
    with pytest.raises(NotImplementedError, match="cannot be passed between processes"):
        pickle.dumps(pool)


@pytest.mark.parametrize("kind", KINDS.values())
@pytest.mark.parametrize(
    "arguments, error, says",
    [
        ({"processes": 0}, ValueError, "processes= an integer from 1 on.*not 0"),
        ({"processes": -3}, ValueError, "processes= .*not -3"),
        ({"processes": 2.5}, TypeError, "processes= .*not 2.5"),
        ({"processes": "2"}, TypeError, "processes= .*not '2'"),
        ({"processes": True}, TypeError, "processes= .*not True"),
        ({"processes": 1, "initializer": 3}, TypeError, "initializer= a callable"),
        ({"processes": 1, "initargs": 3}, TypeError, "not iterable"),
    ],
)
def test_bad_arguments_are_refused_in_plain_words(kind, arguments, error, says):
    with pytest.raises(error, match=says):
        kind(**arguments)


@pytest.mark.parametrize("given", [0, -1, 0.5, "12", True])
def test_a_bad_maxtasksperchild_is_refused(given):
    with pytest.raises(ValueError, match="maxtasksperchild= an integer from 1 on"):
        Pool(1, maxtasksperchild=given)


@pytest.mark.parametrize(
    "given, error", [("thread", ValueError), (3, TypeError), (object(), TypeError)]
)
def test_a_bad_context_is_refused(given, error):
    with pytest.raises(error, match="'forkserver', 'fork' or 'spawn'"):
        Pool(1, context=given)


@pytest.mark.parametrize("method", ["forkserver", "fork", "spawn"])
def test_a_context_names_the_start_method(method, monkeypatch):
    seen = []

    def note(pool, count, initializer, initargs, max_tasks, start_method):
        seen.append((count, initargs, max_tasks, start_method))
        return ThreadPool._make_workers(pool, count, initializer, initargs)

    monkeypatch.setattr(Pool, "_make_workers", note)
    for context in (method, multiprocessing.get_context(method)):
        with Pool(3, print, [1, 2], 5, context) as pool:
            pass
        pool.join()
    with Pool(3) as pool:
        pass
    pool.join()
    same = (3, (1, 2), 5, method)
    assert seen == [same, same, (3, (), None, "forkserver")]


def test_by_default_there_is_a_worker_for_each_core_of_the_budget(budget):
    budget(3)
    with ThreadPool() as pool:
        assert pool._processes == 3
    pool.join()


@pytest.mark.parametrize(
    "chunksize, error", [(0, ValueError), (-1, ValueError), (1.5, TypeError)]
)
def test_a_bad_chunksize_is_refused(pool, chunksize, error):
    for call in (pool.map, pool.map_async, pool.starmap, pool.imap):
        with pytest.raises(error, match=r"chunksize= takes an integer from 1 on, not"):
            call(square, [1, 2], chunksize=chunksize)


def test_ctrl_c_ends_a_map_with_one_exception(run_python):
    script = """
        import signal, threading
        from allcores.pools import ThreadPool
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        release = threading.Event()
        pool = ThreadPool(2)
        for call in (
            lambda: pool.map(release.wait, [30] * 5, 1),
            lambda: pool.apply(release.wait, (30,)),
            lambda: list(pool.imap(release.wait, iter([30]))),
            lambda: pool.apply_async(release.wait, (30,), callback=print).get(),
        ):
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            try:
                call()
            except KeyboardInterrupt:
                print("interrupted")
        pool.terminate()
        release.set()
        pool.join()
    """
    assert run_python(script) == "interrupted\n" * 4


def test_a_script_ends_with_a_pool_that_runs(run_python):
    script = """
        import time
        from allcores.pools import ThreadPool
        pool = ThreadPool(2)
        result = pool.map_async(time.sleep, [60] * 4, 1, callback=print)
        items = pool.imap(time.sleep, iter([60] * 4))
        print("end")
    """
    assert run_python(script, timeout=30) == "end\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork()")
def test_in_a_forked_child_a_pool_raises_and_the_parents_lives_on(run_python):
    script = """
        import os, threading, warnings
        from allcores.pools import ThreadPool
        warnings.simplefilter("error")
        pool, release = ThreadPool(1), threading.Event()
        plain = pool.apply_async(release.wait, (30,))
        called = pool.apply_async(release.wait, (30,), callback=id)
        done = pool.imap(release.wait, [30])
        fed = pool.imap(release.wait, (release.wait(30) for _ in "a"))
        if (child := os.fork()) == 0:
            for call in (
                lambda: pool.apply(abs, (1,)),
                lambda: pool.apply_async(abs, (1,)).get(),
                plain.get, called.get, done.next, fed.next,
                lambda: (pool.close(), pool.join()),
            ):
                try:
                    print(call())
                except RuntimeError as error:
                    print(type(error).__name__, "parent process" in str(error))
            pool.terminate()
            del pool, plain, called, done, fed, call
            print(end="", flush=True)
            os._exit(0)
        os.waitpid(child, 0)
        release.set()
        print(plain.get(30), called.get(30), fed.next(30))
        pool.close(), pool.join()
    """
    assert run_python(script).splitlines() == ["RuntimeError True"] * 7 + [
        "True True True"
    ]


def test_results_are_let_go_after_they_were_given(threads):
    class Thing:
        pass

    pool = threads(2)
    things = [Thing() for _ in range(10)]
    references = [weakref.ref(thing) for thing in things]
    assert pool.map(lambda thing: thing, things, 1) == things
    for value in pool.imap(lambda thing: thing, iter(things)):
        assert value in things
    for value in pool.imap_unordered(lambda thing: thing, iter(things)):
        assert value in things
    pool.map(square, range(10), 1)  # the threads have come round
    del things, value
    assert [reference() for reference in references].count(None) >= 9
    pool.close()
    pool.join()
    assert [reference() for reference in references] == [None] * 10


def test_calls_and_ends_in_every_order_end(threads):
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for round in range(60):
            pool = threads(2)
            results, calling = [], threading.Event()

            def call(pool=pool, results=results, calling=calling):
                try:
                    while True:
                        results.append(pool.map_async(square, range(4), 1))
                        results.append(
                            pool.apply_async(square, (2,), callback=print_nothing)
                        )
                        calling.set()
                except ValueError:
                    pass

            caller = threading.Thread(target=call)
            caller.start()
            assert calling.wait(30)
            (pool.close, pool.terminate)[round % 2]()
            caller.join(30)
            pool.join()
            for result in results:
                try:
                    assert result.get(30) in ([0, 1, 4, 9], 4)
                except RuntimeError as error:
                    assert "terminated" in str(error) or "closed" in str(error)
    finally:
        sys.setswitchinterval(interval)
