"""The executor: on threads, on workers that do what a test says, on processes."""

import asyncio
import concurrent.futures
import gc
import itertools
import multiprocessing
import os
import pickle
import signal
import threading
import weakref
from concurrent.futures import CancelledError
from concurrent.futures.process import BrokenProcessPool

import pytest
from allcores import executor as module
from allcores._threads import ThreadWorkers
from allcores._workers import (
    CALL,
    MAP,
    STARMAP,
    InitializerError,
    TaskTimeoutError,
    Ticket,
    WorkerDiedError,
    Workers,
)
from allcores.executor import Executor, Future

try:
    import allcores._processes  # noqa: F401
except ImportError:
    HAS_PROCESSES = False
else:
    HAS_PROCESSES = True

needs_processes = pytest.mark.skipif(not HAS_PROCESSES, reason="not built")


class ThreadExecutor(Executor):
    def _make_workers(self, count, **options):
        return ThreadWorkers(
            count, initializer=options["initializer"], initargs=options["initargs"]
        )


class Played(Workers):
    """Workers of which a test says what becomes of each task."""

    def __init__(self, count, **options):
        super().__init__(count)
        self.options = options
        self.tasks = []  # (ticket, mode, function, data, timeout, retries)
        self.running = set()
        self.finished = []
        self.changed = threading.Condition()
        self.ended = threading.Event()
        self.is_closed = False

    def submit(
        self, mode, function, data, *, timeout=None, retries=0, on_done=None, tag=None
    ):
        ticket = Ticket(self, on_done, tag)
        self._outstanding += 1
        self.tasks.append((ticket, mode, function, data, timeout, retries))
        return ticket

    def finish(self, number, ok=True, value=None, cancelled=False):
        with self.changed:
            ticket = self.tasks[number][0]
            ticket.was_cancelled = cancelled
            self.finished.append((ticket, ok, value))
            self.changed.notify_all()

    def run(self, number):
        _, mode, function, data, _, _ = self.tasks[number]
        if mode == CALL:
            self.finish(number, True, function(*data[0], **data[1]))
        elif mode == MAP:
            self.finish(number, True, [function(item) for item in data])
        else:
            self.finish(number, True, [function(*item) for item in data])

    def poll(self):
        taken = 0
        while True:
            with self.changed:
                if not self.finished:
                    return taken
                ticket, ok, value = self.finished.pop(0)
            taken += 1
            if not ticket.done:
                self._end(ticket, ok, value)

    def _sleep(self, seconds):
        with self.changed:
            if not self.finished:
                self.changed.wait(seconds)

    def number(self, ticket):
        return next(i for i, task in enumerate(self.tasks) if task[0] is ticket)

    def is_running(self, ticket):
        return self.number(ticket) in self.running

    def cancel(self, ticket, kill=False):
        number = self.number(ticket)
        if number in self.running and not kill:
            return False
        self.finish(number, False, None, cancelled=True)
        return True

    def close(self):
        self.is_closed = True

    def terminate(self):
        self.is_closed = True
        for number, task in enumerate(self.tasks):
            if not task[0].done:
                self.finish(number, False, None, cancelled=True)
        self.poll()
        self.ended.set()

    def join(self, timeout=None):
        return self.wait_until(lambda: self._outstanding == 0, timeout)


class PlayedExecutor(Executor):
    def _make_workers(self, count, **options):
        self.played = Played(count, **options)
        return self.played


@pytest.fixture(params=["threads", pytest.param("processes", marks=needs_processes)])
def executor(request):
    make = ThreadExecutor if request.param == "threads" else Executor
    with make(2) as executor:
        yield executor


@pytest.fixture
def played():
    executor = PlayedExecutor(2)
    yield executor
    executor.terminate_workers()


def fail(error):
    raise error


def test_submit_gives_futures_with_results_and_exceptions(executor):
    futures = [executor.submit(pow, 2, i) for i in range(100)]
    assert all(isinstance(f, concurrent.futures.Future) for f in futures)
    assert [f.result() for f in futures] == [2**i for i in range(100)]
    assert executor.submit(int, "11", base=2).result(timeout=60) == 3
    future = executor.submit(fail, ValueError("why"))
    assert isinstance(future.exception(), ValueError)
    with pytest.raises(ValueError, match="why"):
        future.result()
    assert future.done() and not future.running() and not future.cancelled()


def test_submit_takes_only_the_function_by_position(executor):
    def keywords(**kwargs):
        return kwargs

    future = executor.submit(keywords, fn=1, self=2)
    assert future.result() == {"fn": 1, "self": 2}
    with pytest.raises(TypeError):
        executor.submit(fn=keywords)


def test_wait_as_completed_and_callbacks_see_futures_end(executor):
    futures = [executor.submit(pow, 2, i) for i in range(10)]
    done, not_done = concurrent.futures.wait(futures, timeout=60)
    assert done == set(futures) and not not_done
    futures = [executor.submit(pow, 2, i) for i in range(10)]
    found = {f.result() for f in concurrent.futures.as_completed(futures, timeout=60)}
    assert found == {2**i for i in range(10)}
    called = threading.Event()
    future = executor.submit(pow, 2, 2)
    future.add_done_callback(lambda f: f.result() == 4 and called.set())
    assert called.wait(60)


def test_nobody_has_to_ask_for_the_result(executor):
    seen = []
    all_seen = threading.Event()

    def see(future):
        seen.append(future.result())
        if len(seen) == 20:
            all_seen.set()

    for i in range(20):
        executor.submit(abs, -i).add_done_callback(see)
    assert all_seen.wait(60)
    assert sorted(seen) == list(range(20))


def test_a_loop_over_done_makes_progress(executor):
    future = executor.submit(pow, 2, 3)
    pause = threading.Event()
    while not future.done():
        pause.wait(0.001)
    assert future.result(timeout=0) == 8


def test_a_callback_may_use_the_executor_and_take_a_lock_that_an_asker_holds(executor):
    lock = threading.Lock()
    second = []
    ended = threading.Event()

    def callback(future):
        with lock:
            second.append(executor.submit(pow, future.result(), 2))
            ended.set()

    with lock:
        executor.submit(abs, -3).add_done_callback(callback)
        assert executor.submit(abs, -4).result(timeout=60) == 4
    assert ended.wait(60)
    assert second[0].result(60) == 9


def test_asyncio_runs_calls_in_it(executor):
    async def main():
        loop = asyncio.get_running_loop()
        calls = [loop.run_in_executor(executor, pow, 2, i) for i in range(10)]
        return await asyncio.gather(*calls)

    assert asyncio.run(main()) == [2**i for i in range(10)]


def test_asyncio_cancels_what_has_not_begun(played):
    async def main():
        loop = asyncio.get_running_loop()
        call = loop.run_in_executor(played, pow, 2, 3)
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    asyncio.run(main())
    ticket = played.played.tasks[0][0]
    played.played.wait_until(lambda: ticket.done, 60)
    assert ticket.was_cancelled


# ---- map ---------------------------------------------------------------------


@pytest.mark.parametrize("chunksize", [1, 3, 100])
def test_map_gives_what_map_gives(executor, chunksize):
    got = executor.map(pow, range(10), range(20), chunksize=chunksize)
    assert next(got) == 1
    assert list(got) == list(map(pow, range(1, 10), range(1, 20)))
    assert list(executor.map(abs, range(-5, 0), chunksize=chunksize)) == [5, 4, 3, 2, 1]
    assert list(executor.map(abs, [])) == []
    assert list(executor.map(pow)) == []


def test_map_raises_where_the_function_raised(executor):
    got = executor.map(divmod, [1, 1, 1, 1], [2, 3, 0, 5])
    assert [next(got), next(got)] == [(0, 1), (0, 1)]
    with pytest.raises(ZeroDivisionError):
        next(got)
    assert list(got) == []


def test_map_refuses_what_is_no_size(executor):
    for options in (
        {"chunksize": 0},
        {"chunksize": -1},
        {"buffersize": 0},
        {"buffersize": -2},
    ):
        with pytest.raises(ValueError, match=next(iter(options))):
            executor.map(abs, [1], **options)
    for options in ({"chunksize": "2"}, {"buffersize": 2.5}):
        with pytest.raises(TypeError, match=next(iter(options))):
            executor.map(abs, [1], **options)


def test_map_with_a_buffersize_reads_only_so_far_ahead(executor):
    read = []

    def items():
        for i in itertools.count():
            read.append(i)
            yield -i

    got = executor.map(abs, items(), buffersize=3)
    assert len(read) == 3
    assert [next(got) for _ in range(5)] == [0, 1, 2, 3, 4]
    assert len(read) == 8
    got.close()


def test_map_submits_at_once_and_closing_it_cancels(played):
    got = played.map(abs, [-1, -2, -3])
    assert len(played.played.tasks) == 3
    played.played.run(0)
    assert next(got) == 1
    got.close()
    played.played.wait_until(lambda: played.played.outstanding == 0, 60)
    assert [task[0].was_cancelled for task in played.played.tasks] == [
        False,
        True,
        True,
    ]


def test_map_gives_up_in_time(played):
    got = played.map(abs, [-1, -2], timeout=0.05)
    played.played.run(0)
    assert next(got) == 1
    with pytest.raises(concurrent.futures.TimeoutError):
        next(got)


def test_map_keeps_no_result(executor):
    for thing in executor.map(lambda _: {1, 2}, range(10), chunksize=2):
        ref = weakref.ref(thing)
        del thing
        gc.collect()
        assert ref() is None


# ---- Cancelling, stopping ----------------------------------------------------


def test_cancel_takes_out_what_has_not_begun(played):
    future = played.submit(abs, -1)
    assert not future.running()
    assert future.cancel() and future.cancelled() and future.done()
    assert future.cancel()
    with pytest.raises(CancelledError):
        future.result()
    done, _ = concurrent.futures.wait([future], timeout=60)
    assert done == {future}


def test_cancel_leaves_what_runs_and_stop_does_not(played):
    future = played.submit(abs, -1)
    played.played.running.add(0)
    assert future.running() and not future.cancel() and not future.cancelled()
    assert future.stop() and future.cancelled()
    with pytest.raises(CancelledError):
        future.result()


def test_what_is_done_cannot_be_cancelled_or_stopped(played):
    future = played.submit(abs, -1)
    played.played.run(0)
    assert future.result() == 1
    assert not future.cancel() and not future.stop()
    assert not future.cancelled()


def test_a_result_that_is_not_there_in_time_is_a_timeout_error(played):
    future = played.submit(abs, -1)
    for ask in (future.result, future.exception):
        with pytest.raises(concurrent.futures.TimeoutError):
            ask(timeout=0.01)
        with pytest.raises(concurrent.futures.TimeoutError):
            ask(0)
    future.add_done_callback(lambda f: None)
    with pytest.raises(concurrent.futures.TimeoutError):
        future.result(timeout=0.01)
    played.played.run(0)
    assert future.result(60) == 1


def test_options_are_handed_on(played):
    timed = played.with_options(timeout=1.5, retries=2)
    assert isinstance(timed, concurrent.futures.Executor)
    future = timed.submit(abs, -1)
    timed.map(abs, [1])
    played.submit(abs, -1)
    options = [task[4:] for task in played.played.tasks]
    assert options == [(1.5, 2), (1.5, 2), (None, 0)]
    played.played.finish(0, False, TaskTimeoutError("too long"))
    with pytest.raises(TimeoutError, match="too long"):
        future.result()
    for bad in ({"timeout": 0}, {"timeout": -1}, {"retries": -1}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            played.with_options(**bad)


def test_threads_refuse_a_timeout():
    with ThreadExecutor(1) as executor:
        with pytest.raises(ValueError, match="timeout"):
            executor.with_options(timeout=1).submit(abs, 1)
        assert executor.submit(abs, -1).result() == 1


# ---- Deaths ------------------------------------------------------------------


def died():
    return WorkerDiedError("worker process 7 was killed", 7, -9, 1)


def test_a_death_fails_its_own_task_and_is_a_broken_process_pool_too(played):
    first, second = played.submit(abs, -1), played.submit(abs, -2)
    played.played.finish(0, False, died())
    played.played.run(1)
    with pytest.raises(BrokenProcessPool) as caught:
        first.result()
    assert isinstance(caught.value, WorkerDiedError)
    assert isinstance(caught.value, module.TaskLostError)
    assert (caught.value.pid, caught.value.exitcode) == (7, -9)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.pid, again.args) == (7, caught.value.args)
    assert second.result() == 2
    third = played.submit(abs, -3)
    played.played.run(2)
    assert third.result() == 3


def test_a_death_under_strict_breaks_everything():
    executor = PlayedExecutor(2, strict=True)
    futures = [executor.submit(abs, -i) for i in range(3)]
    executor.played.running.add(0)
    executor.played.finish(0, False, died())
    for future in futures:
        with pytest.raises(BrokenProcessPool, match="strict"):
            future.result(60)
    with pytest.raises(BrokenProcessPool):
        executor.submit(abs, 1)
    with pytest.raises(BrokenProcessPool):
        list(executor.map(abs, [1]))
    assert executor.played.ended.wait(60)
    executor.shutdown()


def test_a_failing_initializer_breaks_the_executor():
    with ThreadExecutor(2, initializer=fail, initargs=(ValueError("no"),)) as executor:
        with pytest.raises(BrokenProcessPool, match="no") as caught:
            executor.submit(abs, -1).result(60)
        assert isinstance(caught.value.__cause__, InitializerError)
        with pytest.raises(BrokenProcessPool):
            executor.submit(abs, -1)
        assert executor._broken


def test_what_cannot_be_sent_is_the_futures_exception():
    class Refuses(Played):
        def submit(self, *args, **kwargs):
            raise pickle.PicklingError("argument 1: a lock object")

    class RefusesExecutor(Executor):
        def _make_workers(self, count, **options):
            return Refuses(count)

    with RefusesExecutor(1) as executor:
        future = executor.submit(abs, threading.Lock())
        with pytest.raises(pickle.PicklingError, match="argument 1"):
            future.result()


# ---- The end -----------------------------------------------------------------


def test_shutdown_waits_for_all_tasks(executor):
    futures = [executor.submit(pow, 2, i) for i in range(50)]
    executor.shutdown()
    assert [f.result(timeout=0) for f in futures] == [2**i for i in range(50)]
    for submit in (executor.submit, executor.map):
        with pytest.raises(RuntimeError, match="after shutdown"):
            submit(abs, [1])
    executor.shutdown()


def test_shutdown_without_waiting_lets_tasks_end(executor):
    futures = [executor.submit(pow, 2, i) for i in range(50)]
    executor.shutdown(wait=False)
    done, _ = concurrent.futures.wait(futures, timeout=60)
    assert len(done) == 50


def test_shutdown_may_cancel_what_has_not_begun(played):
    futures = [played.submit(abs, -i) for i in range(5)]
    played.played.running.add(0)
    played.shutdown(wait=False, cancel_futures=True)
    played.played.run(0)
    assert futures[0].result(60) == 0
    done, _ = concurrent.futures.wait(futures, timeout=60)
    assert [f.cancelled() for f in futures] == [False] + [True] * 4
    assert played.played.is_closed


@pytest.mark.parametrize("name", ["terminate_workers", "kill_workers"])
def test_ending_the_workers_cancels_or_breaks_every_future(name):
    executor = PlayedExecutor(2)
    futures = [executor.submit(abs, -i) for i in range(4)]
    executor.played.running.add(0)
    getattr(executor, name)()
    concurrent.futures.wait(futures, timeout=60)
    assert [f.cancelled() for f in futures] == [False, True, True, True]
    with pytest.raises(BrokenProcessPool, match="on request"):
        futures[0].result()
    with pytest.raises(RuntimeError):
        executor.submit(abs, 1)
    executor.shutdown()


def test_an_executor_that_is_dropped_closes_its_workers():
    executor = PlayedExecutor(2)
    workers = executor.played
    future = executor.submit(abs, -1)
    del executor
    gc.collect()
    assert workers.is_closed
    workers.run(0)
    assert future.result(60) == 1


def test_futures_and_tickets_leave_no_cycle():
    executor = PlayedExecutor(1)
    gc.collect()
    gc.disable()
    try:
        future = executor.submit(abs, -1)
        executor.played.run(0)
        assert future.result() == 1
        ref = weakref.ref(future)
        executor.played.tasks.clear()
        del future
        assert ref() is None
    finally:
        gc.enable()
        executor.terminate_workers()


def test_tasks_are_done_before_the_interpreter_ends(run_python):
    script = """
        import threading
        from allcores._threads import ThreadWorkers
        from allcores.executor import Executor

        class ThreadExecutor(Executor):
            def _make_workers(self, count, **options):
                return ThreadWorkers(count)

        started = threading.Event()
        def work(i):
            started.wait()
            print(f"done {i}\\n", end="", flush=True)

        executor = ThreadExecutor(2)
        for i in range(4):
            executor.submit(work, i)
        started.set()
        print("end of script\\n", end="", flush=True)
    """
    lines = run_python(script).splitlines()
    assert sorted(lines) == ["done 0", "done 1", "done 2", "done 3", "end of script"]


def test_importing_it_imports_no_multiprocessing(run_python):
    run_python(
        """
        import sys
        import allcores.executor
        assert "multiprocessing" not in sys.modules
        """
    )


# ---- Arguments ---------------------------------------------------------------


def test_arguments_are_checked_and_handed_on():
    for bad in (0, -1):
        with pytest.raises(ValueError, match="max_workers must be greater than 0"):
            PlayedExecutor(bad)
    with pytest.raises(TypeError, match="max_workers"):
        PlayedExecutor("2")
    with pytest.raises(TypeError, match="initializer must be a callable"):
        PlayedExecutor(1, initializer=3)
    with pytest.raises(TypeError, match="max_tasks_per_child"):
        PlayedExecutor(1, max_tasks_per_child=1.5)
    with pytest.raises(ValueError, match="max_tasks_per_child"):
        PlayedExecutor(1, max_tasks_per_child=0)
    with pytest.raises(ValueError, match="mp_context"):
        PlayedExecutor(1, mp_context="thread")
    with pytest.raises(TypeError, match="mp_context"):
        PlayedExecutor(1, mp_context=1)
    context = multiprocessing.get_context("spawn")
    executor = PlayedExecutor(3, context, abs, [1], max_tasks_per_child=2)
    assert executor.played.count == 3
    assert executor.played.options == {
        "start_method": "spawn",
        "initializer": abs,
        "initargs": (1,),
        "max_tasks_per_child": 2,
    }
    assert PlayedExecutor(1).played.options["start_method"] == "forkserver"
    assert PlayedExecutor(1, "fork").played.options["start_method"] == "fork"


def test_the_default_is_the_budget(budget):
    budget(3)
    assert PlayedExecutor().played.count == 3


def test_modes_are_the_cheapest_that_do(played):
    played.map(abs, [1, 2], chunksize=2)
    played.map(pow, [1], [2])
    played.submit(abs, 1)
    modes = [(task[1], task[3]) for task in played.played.tasks]
    assert modes == [(MAP, [1, 2]), (STARMAP, [(1, 2)]), (CALL, ((1,), {}))]
    assert isinstance(played.submit(abs, 1), Future)


# ---- Processes ---------------------------------------------------------------


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def wait_for_ever():
    signal.pause()


@needs_processes
def test_a_killed_worker_fails_its_task_alone():
    with Executor(2) as executor:
        lost = executor.submit(die)
        others = [executor.submit(abs, -i) for i in range(20)]
        with pytest.raises(BrokenProcessPool, match="SIGKILL") as caught:
            lost.result(60)
        assert caught.value.exitcode == -signal.SIGKILL
        assert [f.result(60) for f in others] == list(range(20))
        again = executor.with_options(retries=2).submit(die)
        with pytest.raises(WorkerDiedError) as caught:
            again.result(60)
        assert caught.value.attempts == 3


@needs_processes
def test_a_killed_worker_breaks_a_strict_executor():
    with Executor(2, strict=True) as executor:
        with pytest.raises(BrokenProcessPool):
            executor.submit(die).result(60)
        with pytest.raises(BrokenProcessPool):
            executor.submit(abs, 1)


@needs_processes
def test_a_running_task_can_be_stopped_or_timed_out():
    with Executor(1) as executor:
        future = executor.submit(wait_for_ever)
        pause = threading.Event()
        while not future.running():
            pause.wait(0.001)
        assert not future.cancel()
        assert future.stop()
        assert executor.submit(abs, -1).result(60) == 1
        with pytest.raises(TaskTimeoutError):
            executor.with_options(timeout=0.1).submit(wait_for_ever).result(60)
        assert executor.submit(abs, -2).result(60) == 2


@needs_processes
@pytest.mark.parametrize("method", ["forkserver", "fork", "spawn"])
def test_executors_follow_one_another_under_every_start_method(method):
    executors = []
    for _ in range(3):
        executors.append(Executor(2, method))
        futures = [executors[-1].submit(abs, -i) for i in range(20)]
        executors[-1].shutdown()
        assert [f.result(0) for f in futures] == list(range(20))


@needs_processes
def test_a_lambda_and_its_refusal_travel():
    with Executor(1) as executor:
        assert list(executor.map(lambda x: x * x, range(5))) == [0, 1, 4, 9, 16]
        with pytest.raises(pickle.PicklingError, match="argument 1"):
            executor.submit(abs, threading.Lock()).result()
