"""What Pool does that only worker processes can: dying, starting, sending, ending."""

import gc
import multiprocessing
import os
import pickle
import select
import subprocess
import sys
import threading
import time

import pytest
from allcores._workers import WorkerDiedError
from allcores.pools import Pool


@pytest.fixture
def processes():
    """Make Pools; they are ended after the test."""
    made = []

    def make(*args, **kwargs):
        made.append(Pool(*args, **kwargs))
        return made[-1]

    yield make
    for pool in made:
        pool.terminate()
        pool.join()


def square(x):
    return x * x


def print_nothing(value):
    pass


def pids_of(pool):
    pids = pool._workers.pids()
    assert pids
    return pids


def has_ended(pid):
    """Whether a process, which need not be a child, ends within 10 s."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], 10)[0])
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("method", ["forkserver", "fork", "spawn"])
def test_each_start_method_runs_calls(processes, method):
    pool = processes(2, context=method)
    assert pool.map(lambda x: x + 1, range(10)) == list(range(1, 11))
    assert os.getpid() not in pool.map(lambda _: os.getpid(), range(10), 1)


@pytest.mark.parametrize("end", [lambda: os._exit(3), lambda: os.kill(os.getpid(), 9)])
def test_a_worker_that_dies_fails_its_own_task_and_the_pool_goes_on(processes, end):
    pool, failed = processes(2), []
    others = pool.map_async(square, range(100), 1)
    result = pool.apply_async(end, error_callback=failed.append)
    with pytest.raises(WorkerDiedError, match="while it ran the task") as raised:
        result.get(30)
    assert failed == [raised.value]
    assert raised.value.exitcode in (3, -9)
    assert others.get(30) == [i * i for i in range(100)]
    with pytest.raises(WorkerDiedError):
        pool.map(lambda x: x or end(), [1, 0, 2], 1)
    results = pool.imap(lambda x: x or end(), [1, 0, 2])
    assert next(results) == 1
    with pytest.raises(WorkerDiedError):
        next(results)
    assert next(results) == 2
    assert pool.map(square, range(10)) == [i * i for i in range(10)]


def test_a_worker_is_replaced_after_so_many_tasks(processes):
    pool = processes(2, maxtasksperchild=3)
    pids = pool.map(lambda _: os.getpid(), range(30), 1)
    assert max(map(pids.count, pids)) <= 3 and len(set(pids)) >= 10
    results = [pool.apply_async(os.getpid) for _ in range(10)]
    pool.close()
    pool.join()
    assert len({result.get(0) for result in results}) >= 4


def test_what_an_initializer_sets_as_a_global_is_seen_by_the_tasks(processes):
    pool = processes(2, remember, (3, 4))
    assert pool.map(recall, range(10), 1) == [(i, 3, 4) for i in range(10)]


def test_the_initializer_runs_in_each_worker_even_if_no_call_comes(processes):
    runs = multiprocessing.get_context("spawn").Value("i", 0)

    def count(runs):
        with runs.get_lock():
            runs.value += 1

    for _ in range(20):
        pool = processes(2, count, (runs,))
        pool.close()
        pool.join()
    assert runs.value == 40


def remember(*given):
    global remembered
    remembered = given


def recall(x):
    return (x, *remembered)


@pytest.mark.parametrize("method", ["forkserver", "fork", "spawn"])
def test_initargs_may_hold_what_multiprocessing_shares(processes, method):
    context = multiprocessing.get_context("spawn")
    shared = (context.Lock(), context.Queue(), context.Value("i", 0), context.Event())

    def use(_):
        lock, items, value, event = remembered
        with lock:
            value.value += 1
        items.put(value.value)
        event.set()

    pool = processes(2, remember, shared, context=method)
    pool.map(use, range(20), 1)
    _, items, value, event = shared
    assert value.value == 20 and event.is_set()
    assert sum(items.get(timeout=30) > 0 for _ in range(20)) == 20
    items.close()
    items.join_thread()


def test_a_worker_knows_that_it_is_one(processes):
    def who():
        me, parent = multiprocessing.current_process(), multiprocessing.parent_process()
        return me.pid, me.name, parent.pid

    pid, name, parent = processes(1).apply(who)
    assert pid != os.getpid() == parent
    assert name != "MainProcess"


def test_an_exception_has_the_workers_traceback_as_its_cause(processes):
    from multiprocessing.pool import RemoteTraceback

    def fail_there():
        raise KeyError("key")

    with pytest.raises(KeyError) as raised:
        processes(1).apply(fail_there)
    assert type(raised.value.__cause__) is RemoteTraceback
    assert "in fail_there" in raised.value.__cause__.tb


class Unsent:
    """Pickling it raises what a test of the standard library's pool expects."""

    def __reduce__(self):
        raise LookupError("not this one")


def test_an_argument_that_cannot_be_sent_fails_its_task_and_names_it(processes):
    pool, failed, bad = processes(2), [], [1, {"deep": Unsent()}]
    says = r"\[1\]\['deep'\].*Unsent.*LookupError: not this one"
    for call in (
        lambda: pool.apply(id, (bad,)),
        lambda: pool.apply_async(id, (bad,)).get(30),
        lambda: pool.apply_async(id, (bad,), {}, print, failed.append).get(30),
        lambda: pool.map(id, [1, bad], 1),
        lambda: pool.starmap_async(id, [(1,), (bad,)], 1, print, failed.append).get(30),
        lambda: next(pool.imap(id, [bad])),
        lambda: next(pool.imap_unordered(id, iter([bad]))),
    ):
        with pytest.raises(pickle.PicklingError, match=says) as raised:
            call()
        assert isinstance(raised.value, LookupError)
        assert type(raised.value.__cause__) is LookupError
        again = pickle.loads(pickle.dumps(raised.value))
        assert type(again) is pickle.PicklingError and str(again) == str(raised.value)
    assert len(failed) == 2
    assert pool.map(square, range(10)) == [i * i for i in range(10)]


def test_a_result_that_cannot_be_sent_fails_its_task_and_names_it(processes):
    from multiprocessing.pool import MaybeEncodingError

    pool = processes(2)
    for call in (
        lambda: pool.apply(lambda: [threading.Lock()]),
        lambda: pool.map(lambda _: threading.Lock(), [1]),
        lambda: next(pool.imap(lambda _: threading.Lock(), [1])),
    ):
        with pytest.raises(MaybeEncodingError, match=r"the result\[0\]: ") as raised:
            call()
        assert isinstance(raised.value, pickle.PicklingError)
        assert raised.value.value == "the result[0]" and "lock" in raised.value.exc
    assert pool.map(square, range(10)) == [i * i for i in range(10)]


class NeedsTwo(Exception):
    """Unpickling it raises: with the standard library's pool its task hangs."""

    def __init__(self, a, b):
        super().__init__(a)


def test_an_exception_that_cannot_be_made_again_comes_as_another(processes):
    def fail(_):
        raise NeedsTwo("a", "b")

    pool = processes(1)
    for call in (lambda: pool.apply(fail, (1,)), lambda: pool.map(fail, [1, 2])):
        with pytest.raises(RuntimeError, match="NeedsTwo: a"):
            call()


def test_no_process_is_left_however_a_pool_ends(processes):
    def closed(pool):
        pool.close()
        pool.join()

    def terminated(pool):
        pool.apply_async(time.sleep, (60,))
        pool.terminate()

    def left(pool):
        with pool:
            pool.imap(time.sleep, iter([60] * 9))

    for end in (closed, terminated, left):
        pool = processes(2)
        pool.map(square, range(9), 1)
        pids = pids_of(pool)
        end(pool)
        assert all(map(has_ended, pids))
    pool = Pool(2)
    pool.map_async(square, range(9), 1, print_nothing).get()
    pids = pids_of(pool)
    with pytest.warns(ResourceWarning, match="unclosed running multiprocessing pool"):
        del pool
        gc.collect()
    assert all(map(has_ended, pids))


def test_a_script_needs_no_guard_and_leaves_no_process(tmp_path):
    script = tmp_path / "plain.py"
    script.write_text(
        "import os, time\n"
        "from allcores.pools import Pool\n"
        "pool = Pool(2)\n"
        "def pid(x):\n"
        "    return os.getpid() + 0 * N\n"
        "N = 3\n"
        "print(*pool.map(pid, range(8), 1))\n"
        "waiting = pool.map_async(time.sleep, [60] * 4, 1, print)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", script],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    pids = set(map(int, done.stdout.split()))
    assert 1 <= len(pids) <= 2 and all(map(has_ended, pids))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork()")
def test_in_a_forked_child_a_pool_of_processes_raises_and_takes_nothing(run_python):
    script = """
        import os, threading, warnings
        from allcores.pools import Pool
        warnings.simplefilter("error")
        pool, held = Pool(1), threading.Event()
        results = [pool.apply_async(abs, (-i,)) for i in range(5)]
        called = pool.apply_async(abs, (-5,), callback=lambda value: held.wait(30))
        items = pool.imap(abs, [-6])
        if (child := os.fork()) == 0:
            for call in (
                lambda: pool.apply(abs, (1,)), pool.apply_async(abs, (1,)).get,
                results[0].get, called.get, items.next,
                lambda: (pool.close(), pool.join()),
            ):
                try:
                    print(call())
                except RuntimeError as error:
                    print(type(error).__name__, "parent" in str(error))
            pool.terminate()
            del pool, results, called, items, call
            print(end="", flush=True)
            os._exit(0)
        os.waitpid(child, 0)
        held.set()
        print([result.get(30) for result in results], called.get(30), items.next(30))
        pool.close(), pool.join()
    """
    assert run_python(script).splitlines() == ["RuntimeError True"] * 6 + [
        "[0, 1, 2, 3, 4] 5 6"
    ]


def test_ctrl_c_ends_a_map_and_the_pool_goes_on(run_python):
    script = """
        import signal, time
        from allcores.pools import Pool
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        with Pool(2) as pool:
            pool.map(abs, [1])
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            begin = time.monotonic()
            try:
                pool.map(time.sleep, [1.5], 1)
            except KeyboardInterrupt:
                print("interrupted", time.monotonic() - begin < 1)
            print(pool.map(abs, [-1, -2]))
        pool.join()
    """
    assert run_python(script) == "interrupted True\n[1, 2]\n"
