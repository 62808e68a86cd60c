"""Worker processes: what they are set up with, how they end, what is left after."""

import gc
import math
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import allcores as ac
import pytest
from allcores._processes import ProcessWorkers
from allcores._workers import (
    CALL,
    CALLS,
    MAP,
    STARMAP,
    InitializerError,
    TaskTimeoutError,
    WorkerDiedError,
)

PATIENCE = 60


@pytest.fixture
def workers():
    """Two worker processes, ended after the test."""
    made = ProcessWorkers(2)
    yield made
    made.terminate()
    assert made.pids() == []


def call(workers, function, *args, **options):
    """Run a call on a worker; returns its ended ticket."""
    ticket = workers.submit(CALL, function, (args, {}), **options)
    assert ticket.wait(PATIENCE)
    return ticket


def result(ticket):
    if not ticket.ok:
        raise ticket.value
    return ticket.value


def is_alive(pid):
    """True if the process runs: a zombie does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_for(is_so, seconds=PATIENCE):
    until = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < until, "it did not come about"
        os.sched_yield()


# ---- Calls ---------------------------------------------------------------------


def test_the_four_modes_make_their_calls(workers):
    assert result(call(workers, math.sqrt, 9.0)) == 3.0
    for mode, function, data, expected in [
        (MAP, math.sqrt, [1.0, 4.0], [1.0, 2.0]),
        (STARMAP, pow, [(2, 3), (3, 2)], [8, 9]),
        (CALLS, None, [(pow, (2, 5), {}), (int, ("7",), {"base": 8})], [32, 7]),
    ]:
        ticket = workers.submit(mode, function, data)
        assert ticket.wait(PATIENCE)
        assert result(ticket) == expected


@pytest.mark.parametrize("start_method", ["forkserver", "fork", "spawn"])
def test_closures_and_lambdas_work_however_workers_start(start_method):
    workers = ProcessWorkers(1, start_method=start_method)
    offset = 10
    try:
        assert result(call(workers, lambda x: x + offset, 1)) == 11
        assert result(call(workers, os.getpid)) != os.getpid()
    finally:
        workers.terminate()


def test_thousands_of_tasks_more_than_there_are_slots_come_back(workers):
    tickets = [workers.submit(CALL, pow, ((i, 2), {})) for i in range(5000)]
    assert workers.wait_until(lambda: workers.outstanding == 0, PATIENCE)
    assert [result(ticket) for ticket in tickets] == [i * i for i in range(5000)]


def test_large_arrays_come_and_go_and_are_read_only_in_the_worker(workers):
    np = pytest.importorskip("numpy")
    x = np.arange(1 << 20, dtype=float)

    def look(array):
        return float(array.sum()), array.flags.writeable

    assert result(call(workers, look, x)) == (float(x.sum()), False)
    back = result(call(workers, lambda array: array * 2, x))
    assert np.array_equal(back, x * 2)
    back[0] = 1  # a result is the caller's own


def test_an_array_is_copied_once_for_the_tasks_that_share_it(workers):
    np = pytest.importorskip("numpy")
    x = np.ones(1 << 18)
    share = {}
    tickets = [workers.submit(CALL, np.sum, ((x,), {}), share=share) for _ in range(4)]
    assert workers.wait_until(lambda: workers.outstanding == 0, PATIENCE)
    assert len(share) == 1
    assert [float(result(ticket)) for ticket in tickets] == [float(x.size)] * 4


def test_an_array_that_a_worker_keeps_stays_as_it_was(workers):
    np = pytest.importorskip("numpy")
    script = textwrap.dedent(
        """
        kept = []
        def keep(array):
            kept.append(array)
        def total():
            return [float(array.sum()) for array in kept]
        """
    )
    space = {"__name__": "__main__"}
    exec(script, space)
    one = ProcessWorkers(1)
    try:
        for value in range(5):
            result(call(one, space["keep"], np.full(1 << 18, value, float)))
        for _ in range(20):
            result(call(one, np.sum, np.full(1 << 18, 9.0)))
        expected = [float(value << 18) for value in range(5)]
        assert result(call(one, space["total"])) == expected
    finally:
        one.terminate()


# ---- What a worker is set up with ----------------------------------------------


def test_a_worker_has_its_parents_folder_path_and_environment(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALLCORES_TEST", "seen")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    monkeypatch.setattr(sys, "argv", ["a", "b"])
    workers = ProcessWorkers(1)

    def look():
        return os.getcwd(), os.environ["ALLCORES_TEST"], sys.path[-1], sys.argv

    try:
        folder, value, path, argv = result(call(workers, look))
    finally:
        workers.terminate()
    assert folder == os.path.realpath(tmp_path)
    assert (value, path, argv) == ("seen", str(tmp_path), ["a", "b"])


def test_multiprocessing_says_who_a_worker_is(workers):
    def look():
        import multiprocessing

        process = multiprocessing.current_process()
        parent = multiprocessing.parent_process()
        return process.name, process.pid, process.daemon, parent.pid, os.getpid()

    name, pid, is_daemon, parent, own = result(call(workers, look))
    assert name.startswith("AllcoresWorker-") and is_daemon
    assert pid == own and parent == os.getpid()


def test_what_an_initializer_sets_is_seen_by_tasks():
    space = {"__name__": "__main__"}
    exec(
        "def set_up(x):\n    global given\n    given = x\n"
        "def look():\n    return given\n",
        space,
    )
    workers = ProcessWorkers(2, initializer=space["set_up"], initargs=(42,))
    try:
        assert result(call(workers, space["look"])) == 42
    finally:
        workers.terminate()


def test_multiprocessings_locks_and_queues_may_be_initargs():
    import multiprocessing

    context = multiprocessing.get_context("spawn")
    lock, queue, value = context.Lock(), context.Queue(), context.Value("i", 0)
    space = {"__name__": "__main__"}
    exec(
        "def set_up(*given):\n    global lock, queue, value\n"
        "    lock, queue, value = given\n"
        "def add(n):\n    with lock:\n        value.value += n\n    queue.put(n)\n",
        space,
    )
    workers = ProcessWorkers(
        2, initializer=space["set_up"], initargs=(lock, queue, value)
    )
    try:
        for n in range(5):
            result(call(workers, space["add"], n))
        assert value.value == 10
        assert sorted(queue.get(timeout=PATIENCE) for _ in range(5)) == [*range(5)]
    finally:
        workers.terminate()


def test_an_initializer_that_raises_says_so_and_does_not_start_workers_for_ever():
    def set_up():
        raise OSError("the licence server is down")

    workers = ProcessWorkers(2, initializer=set_up)
    try:
        with pytest.raises(InitializerError, match="the licence server is down"):
            while True:
                result(call(workers, math.sqrt, 1.0))
    finally:
        workers.terminate()


def test_workers_do_not_draw_the_same_random_numbers():
    workers = ProcessWorkers(2, max_tasks_per_child=1)

    def draw():
        import random

        return random.random()

    try:
        drawn = [result(call(workers, draw)) for _ in range(4)]
    finally:
        workers.terminate()
    assert len(set(drawn)) == 4


def test_prints_go_where_the_parents_go(run_python):
    printed = run_python(
        """
        import contextlib, io
        import allcores as ac
        text = io.StringIO()
        with contextlib.redirect_stdout(text):
            with ac.Pool(1) as pool:
                pool.map(print, ["one", "two"])
        with ac.Pool(1) as pool:
            pool.map(print, ["three"])
        print(text.getvalue().split())
        """
    )
    assert printed.splitlines() == ["three", "['one', 'two']"]


# ---- Deaths ---------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_a_killed_worker_fails_its_own_task_with_a_sentence(workers, number):
    ticket = call(workers, lambda: os.kill(os.getpid(), number))
    assert not ticket.ok
    with pytest.raises(WorkerDiedError, match=signal.Signals(number).name) as error:
        raise ticket.value
    assert error.value.exitcode == -number
    assert str(error.value.pid) in str(error.value)
    assert result(call(workers, math.sqrt, 4.0)) == 2.0


def test_a_worker_that_exits_fails_its_own_task(workers):
    ticket = call(workers, os._exit, 3)
    assert isinstance(ticket.value, WorkerDiedError) and ticket.value.exitcode == 3
    assert result(call(workers, math.sqrt, 4.0)) == 2.0


def test_a_task_is_begun_again_as_often_as_it_may_be(workers, tmp_path):
    marks = tmp_path / "marks"

    def die_twice():
        with open(marks, "a") as file:
            file.write(".")
        if len(marks.read_text()) < 3:
            os._exit(1)
        return "done"

    assert result(call(workers, die_twice, retries=2)) == "done"
    assert marks.read_text() == "..."


def test_a_task_past_its_time_is_ended_alone(workers):
    def forever():
        while True:
            pass

    slow = workers.submit(CALL, forever, ((), {}), timeout=0.05)
    assert result(call(workers, math.sqrt, 4.0)) == 2.0
    assert slow.wait(PATIENCE)
    assert isinstance(slow.value, TaskTimeoutError)
    assert result(call(workers, math.sqrt, 9.0)) == 3.0


def test_a_running_task_is_ended_on_request_and_a_waiting_one_left_out():
    workers = ProcessWorkers(1)

    def forever():
        while True:
            pass

    try:
        running = workers.submit(CALL, forever, ((), {}))
        waiting = workers.submit(CALL, math.sqrt, ((4.0,), {}))
        wait_for(running.is_running)
        assert waiting.cancel()
        assert not running.cancel()
        assert running.cancel(kill=True)
        assert workers.wait_until(lambda: workers.outstanding == 0, PATIENCE)
        assert running.was_cancelled and waiting.was_cancelled
        assert result(call(workers, math.sqrt, 9.0)) == 3.0
    finally:
        workers.terminate()


def test_many_deaths_leave_no_descriptor_behind(workers):
    result(call(workers, math.sqrt, 1.0))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(30):
        assert not call(workers, os._exit, 1).ok
    result(call(workers, math.sqrt, 1.0))
    wait_for(lambda: len(workers.pids()) == 2)
    assert len(os.listdir("/proc/self/fd")) <= before + 1


# ---- Ends -----------------------------------------------------------------------


def test_closed_workers_end_when_all_is_done():
    workers = ProcessWorkers(2)
    tickets = [workers.submit(CALL, math.sqrt, ((4.0,), {})) for _ in range(50)]
    workers.close()
    assert workers.join(PATIENCE)
    assert [result(ticket) for ticket in tickets] == [2.0] * 50
    assert workers.pids() == []
    with pytest.raises(RuntimeError, match="closed"):
        workers.submit(CALL, math.sqrt, ((4.0,), {}))


def test_terminated_workers_leave_no_process():
    workers = ProcessWorkers(2)
    result(call(workers, math.sqrt, 1.0))
    pids = workers.pids()
    workers.terminate()
    assert not any(map(is_alive, pids))
    workers.terminate()


def test_a_forked_child_gets_an_error_and_the_parents_workers_go_on(workers):
    result(call(workers, math.sqrt, 1.0))
    child = os.fork()
    if child == 0:
        try:
            workers.submit(CALL, math.sqrt, ((4.0,), {}))
        except RuntimeError:
            os._exit(7)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 7
    assert result(call(workers, math.sqrt, 4.0)) == 2.0


ORPHANS = """
import os, sys, time
import allcores as ac

def report(_):
    os.setsid()
    os.write(1, f"{os.getpid()} {os.getppid()}\\n".encode())
    time.sleep(1000)

ac.Pool(2).map(report, range(2), chunksize=1)
"""


def test_a_killed_parent_leaves_no_process_not_even_one_in_its_own_session():
    parent = subprocess.Popen(
        [sys.executable, "-c", ORPHANS], stdout=subprocess.PIPE, text=True
    )
    pids = set()
    for _ in range(2):
        pids.update(map(int, parent.stdout.readline().split()))
    assert len(pids) == 3 and all(map(is_alive, pids))
    parent.kill()
    parent.wait()
    wait_for(lambda: not any(map(is_alive, pids)), 1.0)
    parent.stdout.close()


INTERRUPTED = """
import os, signal, sys, time
import allcores as ac

pool = ac.Pool(2)
print(*pool.map(lambda _: os.getpid(), range(2), chunksize=1), flush=True)
try:
    print("ready", flush=True)
    pool.map(time.sleep, [1000, 1000], chunksize=1)
except KeyboardInterrupt:
    print("interrupted", flush=True)
pool.terminate()
with ac.Pool(2) as pool:
    print(pool.map(abs, [-1, -2]), flush=True)
"""


def test_ctrl_c_is_one_keyboard_interrupt_and_quick():
    program = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    program.stdout.readline()
    assert program.stdout.readline() == "ready\n"
    begun = time.monotonic()
    os.killpg(program.pid, signal.SIGINT)  # as a terminal does: to all processes
    assert program.stdout.readline() == "interrupted\n"
    assert time.monotonic() - begun < 1.0
    assert program.stdout.readline() == "[1, 2]\n"
    _, errors = program.communicate(timeout=PATIENCE)
    assert errors == "" and program.returncode == 0


INTERRUPTIONS = """
import math, signal
from allcores._processes import ProcessWorkers
from allcores._workers import CALL

def interrupt(*_):
    raise KeyboardInterrupt

signal.signal(signal.SIGALRM, interrupt)
workers = ProcessWorkers(2)
workers.submit(CALL, math.sqrt, ((4.0,), {})).wait()
tickets = []
for i in range(200):
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0005 + 0.0002 * (i * 7 % 11))
        while True:
            tickets.append(workers.submit(CALL, math.sqrt, ((4.0,), {})))
            if len(tickets) % 20 == 0:
                workers.poll()
    except KeyboardInterrupt:
        pass
workers.wait_until(lambda: workers.outstanding == 0, 60)
print(workers.outstanding, sum(ticket.value != 2.0 for ticket in tickets))
workers.close()
print(workers.join(60))
"""


def test_two_hundred_interrupts_lose_no_task_and_no_result(run_python):
    assert run_python(INTERRUPTIONS) == "0 0\nTrue\n"


# ---- From everywhere -------------------------------------------------------------

SLEEPERS = """
import time
import allcores as ac
seconds = 0.05

def sleep(i):
    time.sleep(seconds)
    return i

def run():
    print(ac.Parallel(n_jobs=10)(ac.delayed(sleep)(i) for i in range(10)))

{start}
"""

STARTS = {
    "a plain script without a guard": "run()",
    "a background thread": (
        "import threading\nthread = threading.Thread(target=run)\n"
        "thread.start()\nthread.join()"
    ),
    "a process that uses BLAS": (
        "import numpy\nx = numpy.ones((300, 300))\nx @ x\nrun()\nx @ x"
    ),
}


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
def test_sleepers_with_a_closure_run_from(start, run_python, tmp_path):
    if "numpy" in start:
        pytest.importorskip("numpy")
    script = tmp_path / "script.py"
    script.write_text(SLEEPERS.format(start=start))
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.stdout == "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]\n", done.stderr
    assert done.stderr == ""


CELLS = [
    "import time, allcores as ac\nseconds = 0.05",
    "def sleep(i):\n    print('task', i)\n    time.sleep(seconds)\n    return i",
    "sum(ac.Parallel(n_jobs=10)(ac.delayed(sleep)(i) for i in range(10)))",
    "def sleep(i):\n    return -i",
    "sum(ac.Parallel(n_jobs=10)(ac.delayed(sleep)(i) for i in range(10)))",
]


def test_sleepers_with_a_closure_run_in_a_notebook_and_their_prints_are_seen():
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS]
    )
    nbclient.NotebookClient(notebook, timeout=PATIENCE, kernel_name="python3").execute()
    outputs = notebook.cells[2].outputs
    printed = "".join(out.text for out in outputs if out.output_type == "stream")
    assert sorted(printed.splitlines()) == [f"task {i}" for i in range(10)]
    assert outputs[-1].data["text/plain"] == "45"
    assert notebook.cells[4].outputs[-1].data["text/plain"] == "-45"


def test_many_threads_may_submit_and_wait_at_once(workers):
    failures = []

    def run(k):
        for i in range(50):
            ticket = workers.submit(CALL, pow, ((k, i), {}))
            if not ticket.wait(PATIENCE) or ticket.value != k**i:
                failures.append((k, i))

    threads = [threading.Thread(target=run, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


# ---- Shared arrays ----------------------------------------------------------------


def test_a_shared_array_is_written_by_workers_in_place(workers):
    np = pytest.importorskip("numpy")
    shared = ac.shared_array((4, 3), "int32")

    def write(rows, value):
        rows[:] = value

    for i in range(4):
        result(call(workers, write, shared[i], i))
    assert np.array_equal(shared, np.arange(4).reshape(4, 1).repeat(3, 1))
    assert type(shared + 1) is np.ndarray


def test_a_shared_array_comes_back_as_itself(workers):
    np = pytest.importorskip("numpy")
    shared = ac.shared_array(10)
    back = result(call(workers, lambda array: array[2:5], shared))
    back[:] = 7
    assert np.shares_memory(back, shared) and shared[2] == 7


def test_a_shared_array_too_large_is_a_memory_error_that_says_how_much_there_is():
    pytest.importorskip("numpy")
    with pytest.raises(MemoryError, match="can be had"):
        ac.shared_array(1 << 58)
    with pytest.raises(TypeError, match="holds Python objects"):
        ac.shared_array(3, object)
    with pytest.raises(ValueError, match="lengths of 0 or more"):
        ac.shared_array(-1)


def test_a_shared_array_that_cannot_be_mapped_closes_its_descriptor_once(monkeypatch):
    pytest.importorskip("numpy")
    from allcores import shared

    closed = []
    close = os.close

    def refuse(fd, size):
        raise OSError("refused")

    with monkeypatch.context() as patch:
        patch.setattr(shared.mmap, "mmap", refuse)
        patch.setattr(os, "close", lambda fd: (closed.append(fd), close(fd)))
        with pytest.raises(MemoryError, match="refused"):
            ac.shared_array(10)
        gc.collect()
    assert len(closed) == 1


# ---- Watching, and what workers are set up with -----------------------------------


def until(is_so):
    end = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_watch_goes_on_after_an_error_and_begins_anew(workers, monkeypatch):
    seen, told = [], []
    monkeypatch.setattr(threading, "excepthook", lambda args: told.append(args))

    def fail(ticket):
        raise ValueError

    for on_done in (fail, seen.append, fail):
        workers.submit(CALL, abs, ((-1,), {}), on_done=on_done)
    workers.watch()
    until(lambda: seen and len(told) == 2)
    until(lambda: workers._watcher is None)
    workers.submit(CALL, abs, ((-1,), {}), on_done=seen.append)
    workers.watch()
    until(lambda: len(seen) == 2)


def test_watch_begins_anew_after_poll_has_failed_for_good(workers, monkeypatch):
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    monkeypatch.setattr("allcores._workers.SLICE_SECONDS", 0.001)
    seen = []
    with monkeypatch.context() as patch:
        patch.setattr(workers, "poll", lambda: 1 // 0)
        workers.submit(CALL, abs, ((-1,), {}), on_done=seen.append)
        workers.watch()
        until(lambda: workers._watcher is None)
    workers.watch()
    until(lambda: seen)


def test_calls_in_sequence_are_watched_by_one_thread(workers):
    threads = set()
    for _ in range(20):
        done = []
        workers.submit(CALL, abs, ((-1,), {}), on_done=done.append)
        workers.watch()
        threads.add(workers._watcher)
        until(lambda done=done: done)
    assert len(threads) < 10
    until(lambda: workers._watcher is None)
    workers.terminate()
    assert workers.pids() == []


def test_workers_have_the_mask_and_the_processors_of_their_making():
    def see():
        mask = os.umask(0)
        os.umask(mask)
        return mask, os.sched_getaffinity(0)

    processors = os.sched_getaffinity(0)
    mask = os.umask(0o027)
    try:
        os.sched_setaffinity(0, {min(processors)})
        made = ProcessWorkers(1)
    finally:
        os.umask(mask)
        os.sched_setaffinity(0, processors)
    assert result(call(made, see)) == (0o027, {min(processors)})
    made.terminate()


def test_a_spawned_workers_descriptors_are_not_for_what_its_tasks_start():
    def pool_descriptors():
        for fd in os.listdir("/proc/self/fd"):
            try:
                if "allcores" in os.readlink(f"/proc/self/fd/{fd}"):
                    yield os.get_inheritable(int(fd))
            except OSError:
                pass  # the listing's own

    made = ProcessWorkers(1, start_method="spawn")
    assert set(result(call(made, lambda: list(pool_descriptors())))) == {False}
    made.terminate()


def test_an_initializers_error_need_not_be_proper_text():
    def fail():
        raise ValueError("bad \ud800 text")

    made = ProcessWorkers(1, initializer=fail)
    ticket = made.submit(CALL, abs, ((-1,), {}))
    assert ticket.wait(PATIENCE)
    assert type(ticket.value) is InitializerError
    assert "bad \\ud800 text" in str(ticket.value.__cause__)
    made.terminate()
