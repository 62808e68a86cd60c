"""Workers that are threads: what Pool, Parallel and Executor stand on."""

import gc
import os
import sys
import threading
import time
import traceback
import weakref

import pytest
from allcores._threads import ThreadWorkers
from allcores._workers import CALL, CALLS, MAP, STARMAP, InitializerError


@pytest.fixture
def threads():
    """Make ThreadWorkers; they are ended after the test."""
    made = []

    def make(*args, **kwargs):
        made.append(ThreadWorkers(*args, **kwargs))
        return made[-1]

    yield make
    for workers in made:
        workers.terminate()
        assert workers.join(30)


def call(workers, function, *args, **options):
    return workers.submit(CALL, function, (args, {}), **options)


def result(ticket):
    assert ticket.wait(30)
    if ticket.ok:
        return ticket.value
    raise ticket.value


def test_a_call_gets_its_arguments_and_gives_its_result(threads):
    ticket = threads(2).submit(CALL, int, (("12",), {"base": 16}))
    assert result(ticket) == 18
    assert ticket.done and ticket.ok and ticket.pid == 0 and ticket.failed_index == -1
    assert ticket.seconds >= 0


def test_a_batch_gives_a_list(threads):
    workers = threads(2)
    assert result(workers.submit(MAP, abs, [-1, 2])) == [1, 2]
    assert result(workers.submit(STARMAP, pow, [(2, 3), (3, 2)])) == [8, 9]
    calls = [(pow, (2, 3), {}), (int, ("11",), {"base": 2})]
    assert result(workers.submit(CALLS, None, calls)) == [8, 3]
    assert result(workers.submit(MAP, abs, [])) == []


@pytest.mark.parametrize(
    "mode, function, data",
    [
        (MAP, int, ["1", "2", "x", "y"]),
        (STARMAP, int, [("1",), ("2",), ("x",), ("y",)]),
        (CALLS, None, [(int, (text,), {}) for text in ("1", "2", "x", "y")]),
    ],
)
def test_a_batch_ends_with_the_first_call_that_raises(threads, mode, function, data):
    ticket = threads(1).submit(mode, function, data)
    with pytest.raises(ValueError, match="'x'"):
        result(ticket)
    assert ticket.failed_index == 2


def test_a_call_that_raises_stop_iteration_fails_its_batch(threads):
    ticket = threads(1).submit(MAP, next, [iter("ab"), iter(""), iter("c")])
    with pytest.raises(StopIteration):
        result(ticket)
    assert ticket.failed_index == 1


def test_an_exception_has_the_traceback_of_the_task_and_nothing_of_ours(threads):
    def inner():
        raise KeyError("here")

    def outer():
        inner()

    ticket = call(threads(1), outer)
    assert ticket.wait(30) and not ticket.ok
    frames = traceback.extract_tb(ticket.value.__traceback__)
    assert [frame.name for frame in frames] == ["outer", "inner"]


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_whatever_a_task_raises_fails_that_task_alone(threads, error):
    def fail():
        raise error

    workers = threads(1)
    with pytest.raises(type(error)):
        result(call(workers, fail))
    assert result(call(workers, abs, -1)) == 1


def test_twenty_tasks_that_wait_for_each_other_all_run_at_once(threads):
    workers = threads(20)
    barrier = threading.Barrier(20)
    tickets = [call(workers, barrier.wait, 30) for _ in range(20)]
    assert sorted(map(result, tickets)) == list(range(20))


def test_threads_are_started_as_tasks_come_and_not_more_than_asked_for(threads):
    before = threading.active_count()
    workers = threads(3)
    assert threading.active_count() == before
    for _ in range(10):
        result(call(workers, abs, -1))
    assert threading.active_count() == before + 1  # one was enough
    held, release = threading.Semaphore(0), threading.Event()

    def hold():
        held.release()
        release.wait(30)

    tickets = [call(workers, hold) for _ in range(10)]
    for _ in range(3):
        assert held.acquire(timeout=30)
    assert threading.active_count() == before + 3
    release.set()
    for ticket in tickets:
        assert ticket.wait(30)


def test_tasks_begin_in_the_order_in_which_they_were_submitted(threads):
    workers, seen = threads(1), []
    tickets = [call(workers, seen.append, i) for i in range(1000)]
    assert tickets[-1].wait(30)
    assert seen == list(range(1000))


def test_a_finished_task_is_taken_in_by_poll_and_by_nobody_else(threads):
    workers, ran, taken = threads(1), threading.Event(), []
    ticket = call(workers, ran.set, on_done=taken.append, tag="mine")
    assert ran.wait(30)
    assert not ticket.done and workers.outstanding == 1
    while not workers.poll():
        pass
    assert ticket.done and taken == [ticket] and ticket.tag == "mine"
    assert workers.outstanding == 0 and workers.poll() == 0


def test_watched_tickets_are_taken_in_by_themselves(threads):
    workers, taken = threads(2), threading.Semaphore(0)
    before = call(workers, abs, -1, on_done=lambda ticket: taken.release())
    workers.watch()
    after = [
        call(workers, abs, -1, on_done=lambda ticket: taken.release())
        for _ in range(100)
    ]
    for _ in range(101):
        assert taken.acquire(timeout=30)
    assert before.done and all(ticket.done for ticket in after)


def test_a_watched_ticket_that_is_cancelled_ends_by_itself(threads):
    workers, release, ended = threads(1), threading.Event(), threading.Event()
    workers.watch()
    running = call(workers, release.wait, 30)
    waiting = call(workers, abs, -1, on_done=lambda ticket: ended.set())
    assert waiting.cancel()
    assert ended.wait(30) and waiting.was_cancelled
    release.set()
    assert result(running)


def test_many_threads_wait_for_each_others_tickets(threads):
    workers = threads(3)
    tickets = [call(workers, pow, i, 2) for i in range(500)]
    found = []

    def wait():
        found.append([result(ticket) for ticket in tickets])

    waiting = [threading.Thread(target=wait) for _ in range(8)]
    for thread in waiting:
        thread.start()
    for thread in waiting:
        thread.join()
    assert found == [[i * i for i in range(500)]] * 8


def test_a_wait_that_another_thread_ends_does_not_sleep_on(threads):
    # The last ticket is taken in by the other thread in nearly every round; a missed
    # wake would cost a slice of 100 ms each.
    workers, begin = threads(1), time.monotonic()
    rounds = threading.Barrier(2)
    tickets = []

    def wait():
        for _ in range(200):
            rounds.wait(30)
            assert tickets[-1].wait(30)
            rounds.wait(30)

    other = threading.Thread(target=wait)
    other.start()
    for _ in range(200):
        tickets.append(call(workers, abs, -1))
        rounds.wait(30)
        assert tickets[-1].wait(30)
        rounds.wait(30)
    other.join()
    assert time.monotonic() - begin < 10


def test_a_wait_may_have_a_limit(threads):
    workers, release = threads(1), threading.Event()
    ticket = call(workers, release.wait, 30)
    begin = time.monotonic()
    assert not ticket.wait(0.05)
    assert not ticket.wait(0)
    assert 0.05 <= time.monotonic() - begin < 20
    release.set()
    assert ticket.wait(30)


def test_is_running_says_whether_a_task_has_begun(threads):
    workers, begun, release = threads(1), threading.Event(), threading.Event()

    def hold():
        begun.set()
        release.wait(30)

    running, waiting = call(workers, hold), call(workers, abs, -1)
    assert begun.wait(30)
    assert running.is_running() and not waiting.is_running()
    release.set()
    assert waiting.wait(30) and not running.is_running() and not waiting.is_running()


def test_a_task_that_has_not_begun_can_be_cancelled_and_one_that_runs_cannot(threads):
    workers, begun, release = threads(1), threading.Event(), threading.Event()
    ran = []

    def hold():
        begun.set()
        release.wait(30)
        return "held"

    running, waiting = call(workers, hold), call(workers, ran.append, 1)
    assert begun.wait(30)
    assert not running.cancel() and not running.cancel(kill=True)
    assert waiting.cancel() and waiting.cancel()
    assert waiting.wait(30)
    assert waiting.was_cancelled and waiting.ok is False and waiting.value is None
    assert not waiting.is_running() and not waiting.cancel()
    release.set()
    assert result(running) == "held"
    assert not running.cancel() and not running.was_cancelled
    assert result(call(workers, abs, -1)) == 1 and ran == []


def test_a_time_limit_is_refused_with_the_way_out(threads):
    workers = threads(1)
    with pytest.raises(ValueError, match=r"timeout=2: .* use worker processes"):
        call(workers, abs, -1, timeout=2)
    assert workers.outstanding == 0


def test_a_task_may_wait_for_tasks_on_the_only_thread(threads):
    workers = threads(1)

    def tree(depth):
        if depth == 0:
            return 1
        tickets = [call(workers, tree, depth - 1) for _ in range(3)]
        return sum(map(result_without_limit, tickets))

    assert result(call(workers, tree, 5)) == 3**5


def result_without_limit(ticket):
    assert ticket.wait()
    return ticket.value


def test_the_initializer_runs_once_in_each_thread_before_its_tasks(threads):
    local, barrier, runs = threading.local(), threading.Barrier(3), []

    def begin(a, b):
        runs.append(threading.get_ident())
        local.value = a + b

    workers = threads(3, initializer=begin, initargs=(1, 2))

    def task():
        barrier.wait(30)
        return local.value

    for _ in range(3):
        assert list(map(result, [call(workers, task) for _ in range(3)])) == [3, 3, 3]
    assert len(runs) == len(set(runs)) == 3


def test_an_initializer_that_raises_fails_all_tasks_and_says_why(threads):
    def begin():
        raise LookupError("no licence")

    workers = threads(2, initializer=begin)
    tickets = []
    with pytest.raises(InitializerError):  # if not from these, then from the next
        tickets += [call(workers, abs, -1) for _ in range(5)]
        for ticket in tickets:
            result(ticket)
    for ticket in tickets:
        with pytest.raises(InitializerError, match="begin.*LookupError: no licence"):
            result(ticket)
        assert isinstance(ticket.value.__cause__, LookupError)
    with pytest.raises(InitializerError, match="no licence"):
        call(workers, abs, -1)


def test_after_close_tasks_are_refused_and_those_submitted_are_done(threads):
    workers = threads(2)
    tickets = [call(workers, pow, i, 2) for i in range(100)]
    workers.close()
    workers.close()
    with pytest.raises(RuntimeError, match="closed"):
        call(workers, abs, -1)
    assert workers.join(30)
    assert [ticket.value for ticket in tickets] == [i * i for i in range(100)]
    assert not any(thread.is_alive() for thread in workers._threads)


def test_join_needs_close_and_a_caller_from_outside(threads):
    workers = threads(1)
    with pytest.raises(RuntimeError, match="before close"):
        workers.join()

    def join():
        workers.close()
        workers.join()

    with pytest.raises(RuntimeError, match="a task of the same threads"):
        result(call(workers, join))


def test_join_may_have_a_limit(threads):
    workers, release = threads(1), threading.Event()
    call(workers, release.wait, 30)
    workers.close()
    assert workers.join(0.01) is False
    release.set()
    assert workers.join(30) is True


def test_terminate_cancels_all_tasks_at_once_and_join_waits_for_those_that_run(
    threads,
):
    workers, begun, release = threads(1), threading.Event(), threading.Event()
    ended, taken = [], []

    def hold():
        begun.set()
        release.wait(30)
        ended.append(1)

    tickets = [call(workers, hold, on_done=taken.append) for _ in range(50)]
    assert begun.wait(30)
    workers.terminate()
    workers.terminate()
    assert all(ticket.done and ticket.was_cancelled for ticket in tickets)
    assert taken == tickets and workers.outstanding == 0
    assert not workers.join(0.01)
    release.set()
    assert workers.join(30)
    assert ended == [1]
    workers.poll()
    assert taken == tickets  # the one that ran ended once


def test_submitting_while_closing_either_runs_or_raises(threads):
    for _ in range(50):
        workers = threads(2)
        tickets, begun = [], threading.Event()

        def submit(workers=workers, tickets=tickets, begun=begun):
            try:
                while True:
                    tickets.append(call(workers, abs, -1))
                    begun.set()
            except RuntimeError:
                pass

        submitting = [threading.Thread(target=submit) for _ in range(2)]
        for thread in submitting:
            thread.start()
        assert begun.wait(30)
        workers.close()
        for thread in submitting:
            thread.join()
        assert workers.join(30)
        assert all(ticket.done and ticket.value == 1 for ticket in tickets)


def test_ctrl_c_ends_a_wait_and_the_workers_go_on(run_python):
    script = """
        import signal, threading
        from allcores._threads import ThreadWorkers
        from allcores._workers import CALL
        workers, release = ThreadWorkers(1), threading.Event()
        ticket = workers.submit(CALL, release.wait, ((30,), {}))
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        try:
            ticket.wait()
        except KeyboardInterrupt:
            print("interrupted")
        release.set()
        print(ticket.wait(30), ticket.value)
    """
    assert run_python(script) == "interrupted\nTrue True\n"


def test_a_script_ends_while_tasks_run_and_wait(run_python):
    script = """
        import time
        from allcores._threads import ThreadWorkers
        from allcores._workers import CALL
        workers = ThreadWorkers(2)
        tickets = [workers.submit(CALL, time.sleep, ((60,), {})) for _ in range(10)]
        print("end")
    """
    assert run_python(script, timeout=30) == "end\n"


def test_workers_that_nobody_holds_end_their_threads():
    workers = ThreadWorkers(2)
    tickets = [call(workers, abs, -1) for _ in range(10)]
    assert [result(ticket) for ticket in tickets] == [1] * 10
    ended = list(workers._threads)
    reference = weakref.ref(workers)
    del workers, tickets
    gc.collect()
    assert reference() is None
    for thread in ended:
        thread.join(30)
        assert not thread.is_alive()


def test_arguments_and_results_are_let_go(threads):
    class Thing:
        pass

    workers, thing = threads(1), Thing()
    reference = weakref.ref(thing)
    ticket = call(workers, lambda x: x, thing)
    assert result(ticket) is thing
    result(call(workers, abs, -1))  # the thread has come round
    del ticket, thing
    assert reference() is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork()")
def test_in_a_forked_child_tasks_fail_and_say_why(run_python):
    script = """
        import os, sys, threading
        from allcores._threads import ThreadWorkers
        from allcores._workers import CALL
        workers, release = ThreadWorkers(2), threading.Event()
        ticket = workers.submit(CALL, release.wait, ((30,), {}))
        if (child := os.fork()) == 0:
            assert ticket.wait(10)
            print(type(ticket.value).__name__, "parent process" in str(ticket.value))
            try:
                workers.submit(CALL, abs, ((1,), {}))
            except RuntimeError as error:
                print("parent process" in str(error))
            workers.close(), workers.terminate(), print(workers.join(1), flush=True)
            os._exit(0)
        os.waitpid(child, 0)
        release.set()
        print(ticket.wait(30), ticket.value)
    """
    assert run_python(script) == "RuntimeError True\nTrue\nTrue\nTrue True\n"


def test_where_no_thread_can_be_started_the_task_is_refused(threads, monkeypatch):
    workers = threads(2)

    def refuse(thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="use fewer, or raise the limit"):
            call(workers, abs, -1)
        assert workers.outstanding == 0
    assert result(call(workers, abs, -1)) == 1
    release = threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        tickets = [call(workers, release.wait, 30), call(workers, abs, -2)]
    release.set()
    assert result(tickets[0]) and result(tickets[1]) == 2


def test_a_tiny_task_costs_at_most_half_of_a_thread_pool_executor():
    from concurrent.futures import ThreadPoolExecutor

    def theirs():
        with ThreadPoolExecutor(2) as pool:
            begin = time.perf_counter()
            futures = [pool.submit(abs, -1) for _ in range(2000)]
            assert sum(future.result() for future in futures) == 2000
            return time.perf_counter() - begin

    def ours():
        workers = ThreadWorkers(2)
        begin = time.perf_counter()
        tickets = [call(workers, abs, -1) for _ in range(2000)]
        workers.wait_until(lambda: workers.outstanding == 0)
        assert sum(ticket.value for ticket in tickets) == 2000
        taken = time.perf_counter() - begin
        workers.close()
        workers.join()
        return taken

    ratios = sorted(ours() / theirs() for _ in range(9))
    assert ratios[4] <= 0.5, ratios


def test_submitting_from_many_threads_loses_nothing(threads):
    workers, found = threads(4), []
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:

        def submit(base):
            tickets = [call(workers, abs, -base - i) for i in range(300)]
            found.append([result(ticket) for ticket in tickets])

        submitting = [threading.Thread(target=submit, args=(k,)) for k in range(8)]
        for thread in submitting:
            thread.start()
        for thread in submitting:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert sorted(found) == [list(range(k, k + 300)) for k in range(8)]
    assert workers.outstanding == 0
