"""Parallel: joblib's arguments and what they mean, and what goes beyond them."""

import functools
import gc
import inspect
import math
import multiprocessing
import operator
import os
import pickle
import random
import re
import sys
import threading
import time
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor

import allcores as ac
import numpy as np
import pytest
from allcores._backends import bytes_of
from allcores._workers import InitializerError, WorkerDiedError
from allcores.parallel import (
    Parallel,
    delayed,
    effective_n_jobs,
    parallel_backend,
    parallel_config,
    register_joblib,
    register_parallel_backend,
)

BACKENDS = ["threads", "processes"]
every_backend = pytest.mark.parametrize("backend", BACKENDS)
every_order = pytest.mark.parametrize("return_as", ["generator", "generator_unordered"])


def square(x, plus=0):
    return x * x + plus


def fail_at(x, place):
    if x == place:
        raise ValueError(f"it is {x}")
    return x


def nested_scope():
    from allcores._tasks import scope

    return scope.level, effective_n_jobs(3)


def nested(depth):
    inner = Parallel(n_jobs=2)
    here = [str(inner._backend)]
    if depth:
        here += inner([delayed(nested)(depth - 1)])[0]
    return here


def drawn():
    return random.random(), np.random.random()


def kill_self():
    os.kill(os.getpid(), 9)


def write_to(array):
    array[0] = 7
    return array.flags.writeable


# ---- Results ---------------------------------------------------------------


@every_backend
@pytest.mark.parametrize("n_jobs", [1, 2, 3, -1])
@pytest.mark.parametrize("batch_size", ["auto", 1, 7])
def test_results_come_in_the_order_of_the_tasks(backend, n_jobs, batch_size):
    parallel = Parallel(n_jobs=n_jobs, backend=backend, batch_size=batch_size)
    assert parallel(delayed(square)(i, plus=1) for i in range(100)) == [
        i * i + 1 for i in range(100)
    ]
    assert parallel([delayed(square)(i) for i in range(5)]) == [0, 1, 4, 9, 16]
    assert parallel([]) == []


@every_backend
@pytest.mark.parametrize("n_tasks", [2, 10, 517])
@pytest.mark.parametrize("pre_dispatch", ["all", "n_jobs", 1, "1.5 * n_jobs"])
def test_no_task_is_lost_or_run_twice(backend, n_tasks, pre_dispatch):
    parallel = Parallel(n_jobs=2, backend=backend, pre_dispatch=pre_dispatch)
    results = parallel(delayed(square)(i) for i in range(n_tasks))
    assert results == [i * i for i in range(n_tasks)]


@every_backend
def test_functions_of_several_kinds_mix_in_a_batch(backend):
    tasks = [
        delayed(square)(3),
        delayed(lambda x: x + 1)(1),
        delayed(math.sqrt)(16),
        delayed("{}-{}".format)(1, 2),
        delayed(sorted)([2, 1], reverse=True),
        delayed(functools.partial(square, plus=1))(2),
    ] * 4
    wanted = [9, 2, 4.0, "1-2", [2, 1], 5] * 4
    for batch_size in (1, 5, 24):
        assert Parallel(2, backend, batch_size=batch_size)(tasks) == wanted


def test_one_worker_runs_in_the_caller_task_by_task():
    log = []

    def produce():
        for i in range(4):
            log.append(f"produced {i}")
            yield delayed(log.append)(f"consumed {i}")

    Parallel(n_jobs=1)(produce())
    one_by_one = [f"{what} {i}" for i in range(4) for what in ("produced", "consumed")]
    assert log == one_by_one
    log.clear()
    Parallel(n_jobs=1, batch_size=2)(produce())
    assert log[:4] == ["produced 0", "produced 1", "consumed 0", "consumed 1"]


def test_threads_see_the_callers_objects():
    seen = []
    Parallel(n_jobs=2, require="sharedmem")(delayed(seen.append)(i) for i in range(9))
    assert sorted(seen) == list(range(9))


@pytest.mark.parametrize("n_jobs", [1, 2])
@pytest.mark.parametrize("task", [3, (square, 3), square, ("x", (1,), {})])
def test_what_delayed_did_not_make_is_refused_with_how_to_write_it(n_jobs, task):
    for more in ([], [delayed(square)(1)] * 3):
        with pytest.raises(TypeError, match=r"delayed\(f\)\(x\) for x in xs|callable"):
            Parallel(n_jobs, "threads", batch_size=4)([*more, task])


# ---- delayed ---------------------------------------------------------------


def test_delayed_keeps_function_and_arguments():
    assert delayed(square)(1, plus=2) == (square, (1,), {"plus": 2})
    assert delayed(square)(self=1, function=2)[2] == {"self": 1, "function": 2}


def test_delayed_looks_like_its_function():
    late = delayed(square)
    assert late.__name__ == "square" and late.__wrapped__ is square
    assert inspect.signature(late) == inspect.signature(square)
    assert pickle.loads(pickle.dumps(late))(2) == (square, (2,), {})
    assert "square" in repr(late)
    assert delayed(functools.partial(square))(1)[1] == (1,)


def test_delayed_decorates_functions_and_methods():
    class Adder:
        @delayed
        def add(self, x):
            return x + 1

    adder = Adder()
    function, args, kwargs = adder.add(2)
    assert args == (adder, 2) and function(*args, **kwargs) == 3


# ---- n_jobs and backends ---------------------------------------------------


@pytest.mark.parametrize(
    "given, count", [(1, 1), (3, 3), ("2", 2), (2.7, 2), (500, 500)]
)
def test_a_positive_n_jobs_is_the_number_of_workers(given, count):
    assert Parallel(n_jobs=given).n_jobs == count
    assert effective_n_jobs(given) == count


def test_a_negative_n_jobs_leaves_cores_of_the_budget_free(budget):
    budget(4)
    assert [effective_n_jobs(n) for n in (-1, -2, -4, -5, -100)] == [4, 3, 1, 1, 1]


def test_no_n_jobs_is_one_worker_unless_configured():
    assert effective_n_jobs(None) == 1
    assert Parallel().n_jobs == Parallel(n_jobs=None).n_jobs == 1
    with parallel_config("threads", n_jobs=3):
        assert effective_n_jobs(None) == 3
        assert Parallel().n_jobs == Parallel(n_jobs=None).n_jobs == 3
        assert Parallel(n_jobs=2).n_jobs == 2


@pytest.mark.parametrize("n_jobs", [0, 0.5, -0.3, "0"])
def test_n_jobs_0_has_no_meaning(n_jobs):
    for call in (Parallel, effective_n_jobs):
        with pytest.raises(ValueError, match="n_jobs == 0 in Parallel has no meaning"):
            call(n_jobs=n_jobs)


@pytest.mark.parametrize("n_jobs", ["2.3", "many", [1], math.inf, math.nan, b"x"])
def test_n_jobs_that_is_no_number_is_refused(n_jobs):
    with pytest.raises(ValueError, match="n_jobs could not be converted to int"):
        Parallel(n_jobs=n_jobs)


@pytest.mark.parametrize(
    "name, kind",
    [
        (None, "processes"),
        ("loky", "processes"),
        ("multiprocessing", "processes"),
        ("processes", "processes"),
        ("threading", "threads"),
        ("threads", "threads"),
        ("sequential", "sequential"),
        (multiprocessing.get_context("spawn"), "processes"),
    ],
)
def test_joblibs_names_and_ours_mean_kinds_of_workers(name, kind):
    assert str(Parallel(n_jobs=2, backend=name)._backend) == kind


def test_a_context_of_multiprocessing_sets_the_start_method():
    backend = Parallel(2, multiprocessing.get_context("spawn"))._backend
    assert backend.parameters == {"start_method": "spawn"}


@pytest.mark.parametrize("call", [Parallel, parallel_config, parallel_backend])
def test_an_unknown_backend_is_refused_with_those_that_there_are(call):
    with pytest.raises(ValueError, match="Invalid backend: 'lokki'.*loky.*threads"):
        call(backend="lokki")
    with pytest.raises(TypeError, match="backend is a name.*not 3"):
        call(backend=3)


def test_prefer_and_require_choose_where_no_backend_is_given():
    def kind(**options):
        return str(Parallel(n_jobs=2, **options)._backend)

    assert kind(prefer="threads") == "threads"
    assert kind(prefer="processes") == "processes"
    assert kind(require="sharedmem") == "threads"
    assert kind(backend="loky", prefer="threads") == "processes"
    with parallel_config("loky", n_jobs=5):
        assert kind(prefer="threads") == "processes"
        assert kind(require="sharedmem") == "threads"
        assert Parallel(require="sharedmem").n_jobs == 1
        assert Parallel(prefer="threads").n_jobs == 5
    with parallel_config(prefer="threads", n_jobs=4):
        assert str(Parallel()._backend) == "threads" and Parallel().n_jobs == 4


def test_contradictory_wishes_are_refused():
    for wishes in (
        {"prefer": "invalid"},
        {"require": "invalid"},
        {"prefer": "processes", "require": "sharedmem"},
        {"backend": "loky", "require": "sharedmem"},
    ):
        with pytest.raises(ValueError, match="prefer|require"):
            Parallel(**wishes)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"batch_size": 0}, "batch_size is 'auto' or an integer from 1, not 0"),
        ({"batch_size": 1.5}, "batch_size"),
        ({"batch_size": True}, "batch_size"),
        ({"return_as": "tuple"}, "return_as is 'list'"),
        ({"max_nbytes": "1X"}, "max_nbytes is a number of bytes"),
        ({"mmap_mode": "q"}, "mmap_mode is"),
        ({"retries": -1}, "retries is an integer from 0"),
        ({"on_death": "cry"}, "on_death is 'raise'"),
        ({"max_buffered": 2}, "max_buffered is for generators"),
        ({"max_buffered": 0, "return_as": "generator"}, "max_buffered is None or"),
        ({"seed": -1}, "seed is None or an integer from 0"),
        ({"seed": 1.5}, "seed"),
    ],
)
def test_an_argument_that_is_not_allowed_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Parallel(n_jobs=2, **options)


def test_an_unknown_argument_is_refused_by_name():
    with pytest.raises(TypeError, match="unknown argument 'njobs'"):
        Parallel(njobs=2)
    with pytest.raises(TypeError, match="unknown argument 'param'"):
        parallel_config("threads", param=1)
    with pytest.raises(ValueError, match="only supported when backend is not None"):
        parallel_config(param=1)


@pytest.mark.parametrize(
    "given, bytes_",
    [("1M", 1 << 20), ("1.5K", 1536), ("2G", 2 << 30), (7, 7), (None,) * 2],
)
def test_sizes_are_read_as_joblib_writes_them(given, bytes_):
    assert bytes_of(given) == bytes_


# ---- Configuration ---------------------------------------------------------


def test_what_is_configured_counts_in_its_block_and_adds_up():
    with parallel_config("threads", n_jobs=3, verbose=1) as outer:
        assert outer["n_jobs"] == 3
        with parallel_config(n_jobs=5):
            inner = Parallel()
            assert (inner.n_jobs, inner.verbose) == (5, 1)
            assert str(inner._backend) == "threads"
        assert Parallel().n_jobs == 3
    assert (Parallel().n_jobs, Parallel().verbose) == (1, 0)


def test_what_is_configured_counts_without_a_block_until_it_is_unregistered():
    config = parallel_config(n_jobs=7)
    try:
        assert Parallel().n_jobs == 7
    finally:
        config.unregister()
    assert Parallel().n_jobs == 1


def test_what_is_configured_counts_in_its_thread_alone():
    seen = []
    with parallel_config("threads", n_jobs=6):
        thread = threading.Thread(target=lambda: seen.append(Parallel().n_jobs))
        thread.start()
        thread.join()
    assert seen == [1]


def test_parallel_backend_takes_all_cores_unless_told():
    with parallel_backend("threads") as (backend, n_jobs):
        assert (str(backend), n_jobs) == ("threads", -1)
        assert Parallel().n_jobs == -1
    with parallel_backend("threads", 3):
        assert effective_n_jobs(None) == 3


def test_a_configured_initializer_runs_in_each_worker():
    ready = threading.local()

    def initializer(value):
        ready.value = value

    with parallel_config("threads", n_jobs=2, initializer=initializer, initargs=(5,)):
        assert Parallel()(delayed(lambda: ready.value)() for _ in range(8)) == [5] * 8


def begin_badly(what):
    raise OSError(f"no {what}")


@every_backend
@pytest.mark.parametrize("return_as", ["list", "generator"])
def test_an_initializer_that_raises_fails_the_call(backend, return_as):
    parallel = Parallel(
        2, backend, return_as, initializer=begin_badly, initargs=("device",)
    )
    for _ in range(2):
        with pytest.raises(InitializerError, match="no device"):
            list(parallel(delayed(square)(i) for i in range(9)))
    assert Parallel(2, backend)([delayed(square)(3)]) == [9]


@every_backend
def test_calls_inside_tasks_use_threads_and_deeper_ones_the_caller(backend):
    levels = Parallel(2, backend)(delayed(nested)(2) for _ in range(3))
    assert levels == [["threads", "sequential", "sequential"]] * 3
    assert Parallel(2, backend)([delayed(nested_scope)()] * 4) == [(1, 3)] * 4
    assert nested_scope() == (0, 3)


def test_the_callers_loop_is_no_level_of_its_own():
    assert Parallel(n_jobs=1)([delayed(nested_scope)()]) == [(0, 3)]
    with parallel_config("threads", n_jobs=2):
        assert Parallel(n_jobs=1)([delayed(effective_n_jobs)(None)]) == [2]


# ---- Other tools' workers --------------------------------------------------


@pytest.fixture
def registered():
    from allcores import _backends

    yield register_parallel_backend
    _backends._registered.clear()
    _backends._default = None


def test_an_executor_is_a_backend(registered):
    with ThreadPoolExecutor(2) as executor:
        parallel = Parallel(2, executor, batch_size=3)
        assert parallel(delayed(square)(i) for i in range(10)) == [
            i * i for i in range(10)
        ]
        registered("mine", lambda: executor)
        with parallel_config("mine", n_jobs=-1):
            assert effective_n_jobs(-1) == 2
            assert Parallel()([delayed(nested_scope)()] * 3) == [(1, 3)] * 3
            with pytest.raises(ValueError, match="it is 3"):
                Parallel()(delayed(fail_at)(i, 3) for i in range(9))
            got = Parallel(return_as="generator_unordered")(
                delayed(square)(i) for i in range(200)
            )
            assert sorted(got) == [i * i for i in range(200)]


def test_a_registered_backend_can_be_the_default(registered):
    with ThreadPoolExecutor(2) as executor:
        registered("mine", lambda: executor, make_default=True)
        assert str(Parallel(n_jobs=2)._backend) == "ThreadPoolExecutor"
        assert str(Parallel(n_jobs=2, prefer="threads")._backend) == "threads"


def test_a_factory_gets_the_parameters_of_its_name(registered):
    got = []

    def factory(**parameters):
        got.append(parameters)
        return ThreadPoolExecutor(1)

    registered("mine", factory)
    with parallel_config("mine", param=42):
        pass
    assert got == [{"param": 42}]
    with pytest.raises(TypeError, match="a name and a callable"):
        registered("mine", 3)


def test_a_backend_for_joblib_is_a_backend():
    pytest.importorskip("joblib", reason="this test drives a backend of joblib's")
    from joblib._parallel_backends import ThreadingBackend

    steps = []

    class Noting(ThreadingBackend):
        def configure(self, n_jobs=1, parallel=None, **options):
            steps.append("configure")
            return super().configure(n_jobs, parallel)

        def terminate(self):
            steps.append("terminate")
            super().terminate()

    got = Parallel(2, Noting(nesting_level=0))(delayed(square)(i) for i in range(50))
    assert got == [i * i for i in range(50)]
    assert steps == ["configure", "terminate"]
    assert Parallel(1, Noting(nesting_level=0))([delayed(square)(2)]) == [4]
    with pytest.raises(ValueError, match="it is 3"):
        Parallel(2, Noting(nesting_level=0))(delayed(fail_at)(i, 3) for i in range(9))


# ---- Exceptions ------------------------------------------------------------


@every_backend
@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("return_as", ["list", "generator", "generator_unordered"])
def test_a_tasks_exception_is_raised_and_the_workers_go_on(
    backend, batch_size, return_as
):
    with Parallel(2, backend, return_as, batch_size=batch_size) as parallel:
        for _ in range(3):
            with pytest.raises(ValueError, match="it is 5"):
                list(parallel(delayed(fail_at)(i, 5) for i in range(30)))
            got = parallel(delayed(fail_at)(i, -1) for i in range(30))
            assert sorted(got) == list(range(30))


def test_threads_that_run_are_not_waited_for_after_an_exception():
    gate = threading.Event()
    try:
        with pytest.raises(ValueError, match="it is 1"):
            Parallel(2, "threads")([delayed(gate.wait)(60), delayed(fail_at)(1, 1)])
    finally:
        gate.set()


@every_backend
@pytest.mark.parametrize("place", [0, 5, 19])
@pytest.mark.parametrize("return_as", ["list", "generator"])
def test_the_iterators_own_exception_is_raised(backend, place, return_as):
    def tasks():
        for i in range(20):
            if i == place:
                raise KeyError("from the iterator")
            yield delayed(square)(i)

    with Parallel(2, backend, return_as) as parallel:
        with pytest.raises(KeyError, match="from the iterator"):
            list(parallel(tasks()))
        assert list(parallel([delayed(square)(2)])) == [4]


@pytest.mark.parametrize("n_jobs", [1, 2])
@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("return_as", ["list", "generator"])
@every_backend
def test_exceptions_are_results_on_request(n_jobs, batch_size, return_as, backend):
    parallel = Parallel(
        n_jobs, backend, return_as, batch_size=batch_size, return_exceptions=True
    )
    got = list(parallel(delayed(fail_at)(i, 3) for i in range(6)))
    assert got[:3] + got[4:] == [0, 1, 2, 4, 5]
    assert type(got[3]) is ValueError and str(got[3]) == "it is 3"


class UnlikeItsMessage(Exception):
    def __init__(self, a, b):
        super().__init__("only one")


def raise_unlike():
    raise UnlikeItsMessage(1, 2)


def test_an_exception_that_cannot_travel_is_a_result_that_says_so():
    (got,) = Parallel(2, "processes", return_exceptions=True)([delayed(raise_unlike)()])
    assert "UnlikeItsMessage" in str(got) and "only one" in str(got)
    assert "raise_unlike" in str(got.__cause__)


def test_a_workers_traceback_is_the_exceptions_cause():
    with pytest.raises(ValueError) as caught:
        Parallel(2, "processes")(delayed(fail_at)(i, 1) for i in range(4))
    assert "fail_at" in str(caught.value.__cause__)
    got = Parallel(2, "processes", return_exceptions=True)(
        delayed(fail_at)(i, 1) for i in range(4)
    )
    assert "fail_at" in str(got[1].__cause__)


class NoPickle:
    def __reduce__(self):
        raise RuntimeError("not this one")


def test_an_argument_that_cannot_be_sent_fails_its_own_task():
    tasks = [delayed(id)(1), delayed(id)(NoPickle()), delayed(square)(2)]
    with pytest.raises(pickle.PicklingError):
        Parallel(2, "processes")(tasks)
    for batch_size in (1, 3):
        got = Parallel(2, "processes", return_exceptions=True, batch_size=batch_size)(
            tasks
        )
        assert isinstance(got[1], pickle.PicklingError) and got[2] == 4


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_task_that_raised_is_tried_again_as_often_as_asked(n_jobs):
    left = {i: i for i in range(5)}

    def fails_as_often(i):
        if left[i]:
            left[i] -= 1
            raise OSError(i)
        return i

    tasks = [delayed(fails_as_often)(i) for i in range(4)]
    assert Parallel(n_jobs, "threads", retries=3)(tasks) == [0, 1, 2, 3]
    with pytest.raises(OSError, match="4"):
        Parallel(n_jobs, "threads", retries=3)([delayed(fails_as_often)(4)])


# ---- Timeouts --------------------------------------------------------------


@pytest.mark.parametrize("return_as", ["list", "generator", "generator_unordered"])
@every_backend
def test_a_result_that_does_not_come_in_time_ends_the_call(return_as, backend):
    gate = threading.Event()
    task = delayed(gate.wait)(60) if backend == "threads" else delayed(time.sleep)(60)
    try:
        for kind in (TimeoutError, multiprocessing.TimeoutError):
            with pytest.raises(kind, match="timeout=0.05"):
                list(Parallel(2, backend, return_as, timeout=0.05)([task] * 4))
    finally:
        gate.set()
    parallel = Parallel(2, backend, return_as, timeout=60)
    assert len(list(parallel([delayed(square)(2)] * 9))) == 9


def test_the_timeout_is_for_the_next_result_not_for_all():
    clock = threading.Event()
    parallel = Parallel(2, "threads", timeout=0.25, batch_size=1)
    assert parallel([delayed(clock.wait)(0.1)] * 8) == [False] * 8


def test_one_worker_warns_that_it_knows_no_timeout():
    with pytest.warns(UserWarning, match="timeout=1 in Parallel will not be used"):
        assert Parallel(n_jobs=1, timeout=1)([delayed(square)(2)]) == [4]


# ---- Generators ------------------------------------------------------------


@every_backend
@every_order
@pytest.mark.parametrize("n_jobs", [1, 2, 4])
def test_a_generator_gives_all_results(backend, return_as, n_jobs):
    got = Parallel(n_jobs, backend, return_as)(delayed(square)(i) for i in range(300))
    assert inspect.isgenerator(got)
    got = list(got)
    if return_as == "generator":
        assert got == [i * i for i in range(300)]
    assert sorted(got) == [i * i for i in range(300)]


@every_order
def test_the_work_of_a_generator_begins_at_the_call_and_goes_on(return_as):
    all_ran = threading.Event()
    ran = []

    def note(i):
        ran.append(i)
        if len(ran) == 40:
            all_ran.set()

    got = Parallel(2, "threads", return_as)(delayed(note)(i) for i in range(40))
    assert all_ran.wait(60)  # nobody has read yet
    assert len(list(got)) == 40


def test_results_come_in_the_order_of_their_end_if_asked():
    gate = threading.Event()
    tasks = [delayed(gate.wait)(60)] + [delayed(square)(i) for i in range(9)]
    got = Parallel(2, "threads", "generator_unordered")(tasks)
    assert [next(got) for _ in range(9)] == [i * i for i in range(9)]
    gate.set()
    assert list(got) == [True]


@every_order
@pytest.mark.parametrize("n_jobs", [1, 2])
@pytest.mark.parametrize("managed", [False, True])
def test_a_second_call_while_one_runs_is_refused(return_as, n_jobs, managed):
    parallel = Parallel(n_jobs, "threads", return_as)
    if managed:
        parallel.__enter__()
    first = parallel(delayed(square)(i) for i in range(10))
    with pytest.raises(RuntimeError, match="This Parallel instance is already running"):
        parallel([delayed(square)(1)])
    del first
    gc.collect()
    assert list(parallel([delayed(square)(3)])) == [9]
    if managed:
        parallel.__exit__(None, None, None)


@every_backend
@every_order
def test_a_generator_that_is_let_go_of_cancels_the_rest(backend, return_as):
    taken = []

    def tasks():
        for i in range(10**9):
            taken.append(i)
            yield delayed(square)(i)

    got = Parallel(2, backend, return_as)(tasks())
    assert next(got) == 0 or return_as == "generator_unordered"
    gone = weakref.ref(got)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del got
    assert gone() is None
    for thread in threading.enumerate():
        if thread.name == "allcores-parallel":
            thread.join(60)
            assert not thread.is_alive()
    count = len(taken)
    assert Parallel(2, backend)([delayed(square)(2)]) == [4]
    assert len(taken) == count


@every_order
@pytest.mark.parametrize("batch_size", ["auto", 1, 3])
@pytest.mark.parametrize("most", [1, 2, 7])
def test_a_generators_unread_results_are_no_more_than_asked(
    return_as, batch_size, most
):
    begun = []
    read = 0
    ahead = []

    def note(i):
        begun.append(i)
        ahead.append(len(begun) - read)
        return i

    parallel = Parallel(
        2, "threads", return_as, batch_size=batch_size, max_buffered=most
    )
    got = []
    for value in parallel(delayed(note)(i) for i in range(100)):
        got.append(value)
        read += 1
    assert sorted(got) == list(range(100))
    # One result more than was counted may have been handed out just then.
    assert max(ahead) <= most + 1


def test_two_generators_at_once_share_the_workers():
    first = Parallel(2, "processes", "generator")(delayed(square)(i) for i in range(50))
    second = Parallel(2, "processes", "generator")(
        delayed(square)(i) for i in range(50)
    )
    assert list(zip(first, second)) == [(i * i, i * i) for i in range(50)]


# ---- Keeping workers -------------------------------------------------------


@every_backend
def test_a_block_keeps_its_workers_for_several_calls(backend):
    with Parallel(2, backend) as parallel:
        workers = parallel._held.workers
        for _ in range(3):
            assert parallel([delayed(square)(3)] * 4) == [9] * 4
            assert parallel._held.workers is workers
    assert parallel._held is None
    assert parallel([delayed(square)(3)] * 4) == [9] * 4


def test_worker_processes_are_warm_for_the_next_call():
    first = set(Parallel(2, "processes")(delayed(os.getpid)() for _ in range(20)))
    second = set(Parallel(2, "processes")(delayed(os.getpid)() for _ in range(20)))
    assert len(first | second) <= 2 and os.getpid() not in first


@every_backend
def test_several_threads_at_once_each_get_their_own_results(backend):
    wrong = []

    def call_often(seed):
        draw = random.Random(seed)
        for _ in range(15):
            count = draw.choice([3, 50, 500])
            bad = draw.choice([-1, draw.randrange(count)])
            return_as = draw.choice(["list", "generator", "generator_unordered"])
            batch_size = draw.choice([1, 7, "auto"])
            parallel = Parallel(
                2, backend, return_as, batch_size=batch_size, return_exceptions=True
            )
            got = list(parallel(delayed(fail_at)(i, bad) for i in range(count)))
            failed = [value for value in got if isinstance(value, ValueError)]
            good = sorted(value for value in got if not isinstance(value, ValueError))
            if len(failed) != (bad >= 0) or good != [
                i for i in range(count) if i != bad
            ]:
                wrong.append((seed, count, bad, return_as, batch_size, got))

    threads = [threading.Thread(target=call_often, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# ---- Death -----------------------------------------------------------------


def test_a_worker_that_dies_fails_the_call_with_a_sentence():
    with pytest.raises(WorkerDiedError):
        Parallel(2, "processes")([delayed(kill_self)()] + [delayed(square)(1)] * 5)
    assert Parallel(2, "processes")([delayed(square)(3)] * 4) == [9] * 4


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize(
    "options", [{"on_death": "return"}, {"return_exceptions": True}]
)
def test_a_death_is_a_result_on_request_and_its_batch_runs_again(batch_size, options):
    tasks = [delayed(square)(i) for i in range(8)]
    tasks[2] = delayed(kill_self)()
    got = Parallel(2, "processes", batch_size=batch_size, **options)(tasks)
    assert isinstance(got.pop(2), WorkerDiedError)
    assert got == [i * i for i in range(8) if i != 2]


def die_once(path):
    if not os.path.exists(path):
        open(path, "x").close()
        kill_self()
    return "alive"


def test_a_task_whose_worker_died_is_begun_again_on_request(tmp_path):
    for i, options in enumerate(({"on_death": "retry"}, {"retries": 1})):
        task = delayed(die_once)(str(tmp_path / str(i)))
        assert Parallel(2, "processes", **options)([task]) == ["alive"]


# ---- Seeds -----------------------------------------------------------------


def test_a_seed_gives_each_task_the_same_numbers_for_any_workers_and_batches():
    tasks = [delayed(drawn)() for _ in range(12)]
    wanted = Parallel(n_jobs=1, seed=5)(tasks)
    assert len(set(wanted)) == 12
    for n_jobs, batch_size in ((2, 1), (2, 5), (3, "auto")):
        got = Parallel(n_jobs, "processes", seed=5, batch_size=batch_size)(tasks)
        assert got == wanted
    assert Parallel(n_jobs=1, seed=6)(tasks)[0] != wanted[0]


def test_a_seed_leaves_the_callers_generators_alone():
    random.seed(1)
    np.random.seed(1)
    wanted = drawn()
    random.seed(1)
    np.random.seed(1)
    Parallel(n_jobs=1, seed=5)([delayed(drawn)()] * 3)
    assert drawn() == wanted


def test_a_seed_is_refused_on_threads():
    with pytest.raises(ValueError, match="seed cannot be used with threads"):
        Parallel(2, "threads", seed=1)([delayed(drawn)()])
    with pytest.raises(ValueError, match="seed cannot be used with threads"):
        Parallel(2, "threads", seed=1)([delayed(drawn)()])


# ---- Arrays ----------------------------------------------------------------


def test_large_arrays_are_read_only_in_workers_unless_copies_are_asked_for():
    array = np.zeros(1 << 18)
    with pytest.raises(ValueError, match="read-only"):
        Parallel(2, "processes")([delayed(write_to)(array)])
    for options in (
        {"max_nbytes": None},
        {"max_nbytes": "4M"},
        {"mmap_mode": None},
        {"mmap_mode": "c"},
    ):
        assert Parallel(2, "processes", **options)([delayed(write_to)(array)]) == [True]
    assert array[0] == 0


# ---- What is told ----------------------------------------------------------


def lines(text):
    return re.sub(r"\d+\.\ds", "T", text).splitlines()


@pytest.mark.parametrize("n_jobs", [1, 2])
@pytest.mark.parametrize("sized", [False, True])
@pytest.mark.parametrize("verbose", [1, 5, 10, 11, 49])
def test_lines_about_the_progress_are_joblibs(n_jobs, sized, verbose, capsys):
    joblib = pytest.importorskip("joblib", reason="this test compares with joblib")
    told = []
    for module, name in ((joblib, "threading"), (ac.parallel, "threads")):
        turn = threading.Lock()  # one task at a time, so both tools see one order

        def task(turn=turn):
            with turn:
                time.sleep(0.002)

        tasks = (module.delayed(task)() for _ in range(20))
        module.Parallel(n_jobs, name, verbose=verbose, batch_size=1)(
            list(tasks) if sized else tasks
        )
        output = capsys.readouterr()
        assert output.out == ""
        told.append(lines(output.err.replace("ThreadingBackend", "threads")))
    if n_jobs == 1:
        assert told[0] == told[1]
    else:  # when the second task ends, the first may not have been counted yet
        assert told[0][0] == told[1][0] and told[0][-1] == told[1][-1]
        shape = [{re.sub(r"\d+", "N", line) for line in some} for some in told]
        assert shape[0] == shape[1]


def test_from_50_on_lines_go_to_standard_output(capsys):
    Parallel(2, "threads", verbose=50)([delayed(square)(i) for i in range(3)])
    told = capsys.readouterr()
    assert told.err == ""
    assert "[Parallel(n_jobs=2)]: Done   3 out of   3 | elapsed:" in told.out.replace(
        "Done 3 out of 3", "Done   3 out of   3"
    )
    assert told.out.rstrip().endswith("finished")


def test_a_subclass_may_watch_the_progress_as_recipes_for_joblib_do():
    class Watching(Parallel):
        seen = ()

        def print_progress(self):
            self.seen += ((self.n_completed_tasks, self.n_dispatched_tasks),)

    for n_jobs in (1, 2):
        parallel = Watching(n_jobs, "threads", batch_size=1)
        parallel(delayed(square)(i) for i in range(10))
        assert parallel.seen[-1] == (10, 10)
        assert [done for done, _ in parallel.seen][:10] == list(range(1, 11))


@pytest.mark.parametrize("n_jobs", [1, 2])
@pytest.mark.parametrize("return_as", ["list", "generator"])
def test_a_bar_shows_the_progress(n_jobs, return_as, capsys):
    pytest.importorskip("tqdm", reason="the bar is tqdm's")
    parallel = Parallel(n_jobs, "threads", return_as, progress={"desc": "squares"})
    assert len(list(parallel([delayed(square)(i) for i in range(30)]))) == 30
    told = capsys.readouterr().err
    assert "squares: 100%" in told and "30/30" in told


def test_a_bar_without_tqdm_is_refused_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    parallel = Parallel(2, "threads", progress=True)
    with pytest.raises(ImportError, match="pip install tqdm"):
        parallel([delayed(square)(1)])
    parallel.progress = False
    assert parallel([delayed(square)(1)]) == [1]


def test_its_repr_is_joblibs():
    assert repr(Parallel(n_jobs=3)) == "Parallel(n_jobs=3)"


# ---- Costs and Ctrl-C ------------------------------------------------------


def test_importing_it_imports_nothing_heavy(run_python):
    loaded = run_python(
        """
        import sys
        import allcores.parallel
        print(*sys.modules)
        """
    ).split()
    heavy = {"numpy", "multiprocessing", "tqdm", "cloudpickle", "joblib", "ast"}
    assert not heavy & set(loaded)
    assert not {"pickle", "random", "traceback", "queue", "logging"} & set(loaded)


@every_backend
def test_an_interrupt_ends_the_call_and_the_workers_work_on(backend, run_python):
    printed = run_python(
        f"""
        import os, signal, threading, time
        from allcores.parallel import Parallel, delayed

        with Parallel(2, {backend!r}) as parallel:
            parallel([delayed(abs)(1)] * 4)
            for return_as in ("list", "generator"):
                parallel.return_as = return_as
                parallel.return_generator = return_as != "list"
                gate = threading.Event()
                wait = gate.wait if {backend!r} == "threads" else time.sleep
                threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
                begin = time.monotonic()
                try:
                    list(parallel(delayed(wait)(20) for _ in range(9)))
                except KeyboardInterrupt:
                    print("interrupted", time.monotonic() - begin < 2)
                gate.set()
                print(sum(parallel(delayed(abs)(-1) for _ in range(9))))
        """
    )
    assert printed.split() == ["interrupted", "True", "9"] * 2


def test_register_joblib_without_joblib_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "joblib", None)
    with pytest.raises(ImportError, match="pip install joblib"):
        register_joblib()


def test_attributes_of_functions_are_reached_through_operator():
    tasks = (delayed(operator.mul)(i, 2) for i in range(4))
    assert Parallel(2, "threads")(tasks) == [0, 2, 4, 6]
