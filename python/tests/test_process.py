"""The package within a process: import, signals, threads, forks, children."""

import dataclasses
import os
import signal
import statistics
import subprocess
import sys
import threading
import time

import allcores as ac
import numpy as np
import pytest

HEAVY = {"numpy", "multiprocessing", "ctypes", "asyncio", "cloudpickle", "tqdm"}


@pytest.mark.parametrize(
    "names, modules",
    [("ac.__all__", HEAVY), ("()", HEAVY | {"threading", "concurrent", "pickle"})],
    ids=["with every name", "alone"],
)
def test_importing_starts_no_thread_and_no_process_and_no_numpy(
    names, modules, run_python
):
    script = f"""
        import os, sys
        before = set(sys.modules)
        import allcores as ac
        for name in {names}:
            getattr(ac, name)
        ac.info(), ac.cpu_count(), ac.get_num_threads(), ac.counters()
        print(len(os.listdir("/proc/self/task")))
        print(open(f"/proc/self/task/{{os.getpid()}}/children").read().split())
        print({{m.split(".")[0] for m in set(sys.modules) - before}} & {modules})
    """
    assert run_python(script) == "1\n[]\nset()\n"


def test_importing_takes_20_ms_at_most(run_python):
    script = """
        import time
        begin = time.perf_counter()
        import allcores as ac
        ac.sum, ac.threads, ac.info, ac.__version__
        print(time.perf_counter() - begin)
    """
    taken = [float(run_python(script)) for _ in range(7)]
    assert statistics.median(taken) <= 0.020


LONG_SUM = """
import sys, time
import numpy as np
import allcores as ac
x = np.broadcast_to(np.float64(1), (10**11,))
print("ready", flush=True)
try:
    ac.sum(x)
    print("ended")
except KeyboardInterrupt:
    print(time.monotonic(), flush=True)
    sys.stdin.readline()
"""


@dataclasses.dataclass
class Interrupt:
    """How long a Ctrl-C took to end a sum, and on what a machine, in seconds."""

    taken: float
    waited: float  # of that, by the main thread, runnable, for a processor
    others: float  # share of the cores that other programs used meanwhile


def busy_s():
    """Processor time that the whole machine has used, stolen time included."""
    with open("/proc/stat") as file:
        user, nice, system, _, _, *interrupts = map(int, file.readline().split()[1:9])
    return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")


def waited_s(pid):
    """Time that a process's main thread was runnable and did not run."""
    try:
        with open(f"/proc/{pid}/task/{pid}/schedstat") as file:
            return 1e-9 * int(file.read().split()[1])
    except FileNotFoundError:  # the kernel keeps no such account
        return 0.0


def used_s():
    """Processor time of this process and of its children that have ended."""
    return sum(os.times()[:4])


def interrupt(script, cores):
    """Run a sum, send Ctrl-C 0.3 s into it, and see when it is told there."""
    begin, busy, used = time.monotonic(), busy_s(), used_s()
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "ALLCORES_NUM_THREADS": str(cores)},
    ) as child:
        try:
            assert child.stdout.readline() == "ready\n"
            time.sleep(0.3)  # into the sum; a signal before it is seen as well
            waited, sent = waited_s(child.pid), time.monotonic()
            child.send_signal(signal.SIGINT)
            taken = float(child.stdout.readline()) - sent
            waited = waited_s(child.pid) - waited
            child.stdin.close()
            assert child.wait(10) == 0
        finally:
            child.kill()
    elapsed = time.monotonic() - begin
    others = (busy_s() - busy) - (used_s() - used)
    return Interrupt(taken, waited, others / elapsed / os.cpu_count())


QUIET = 0.05  # share of the cores that others may use where a time is judged


@pytest.mark.parametrize("cores", [1, 2, 8])
def test_ctrl_c_ends_a_long_sum_within_100_ms(cores):
    seen = []
    for _ in range(8):
        seen.append(interrupt(LONG_SUM, cores))
        quiet = [one.taken for one in seen if one.others <= QUIET]
        if len(quiet) == 3:
            assert statistics.median(quiet) <= 0.1, seen
            return
    # Others kept the machine busy: what this thread waited for them is theirs.
    assert statistics.median(one.taken - one.waited for one in seen) <= 0.1, seen


def test_ctrl_c_beside_a_busy_python_thread_ends_a_long_sum():
    busy = """
import threading
def spin():
    while True:
        pass
threading.Thread(target=spin, daemon=True).start()
"""
    seen = interrupt(busy + LONG_SUM, 2)
    assert seen.taken - (seen.waited if seen.others > QUIET else 0) <= 1, seen


def test_after_ctrl_c_sums_go_on(run_python):
    script = """
        import _thread, signal
        import numpy as np, allcores as ac
        x = np.broadcast_to(np.float64(1), (10**11,))
        for _ in range(3):
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            def stop(number, frame):
                assert ac.sum(np.ones(100_000)) == 100_000
                raise LookupError("from the handler")
            signal.signal(signal.SIGALRM, stop)
            try:
                ac.sum(x)
            except LookupError as error:
                print(error)
            assert ac.sum(np.arange(1e6)) == 499999500000
    """
    assert run_python(script) == "from the handler\n" * 3


def test_a_handler_that_returns_lets_the_sum_go_on(run_python):
    script = """
        import signal
        import numpy as np, allcores as ac
        seen = []
        signal.signal(signal.SIGALRM, lambda *_: seen.append(ac.sum(np.ones(70_000))))
        signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
        total = ac.sum(np.broadcast_to(np.int8(1), (2 * 10**9,)))
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(total, set(seen))
    """
    assert run_python(script) == "2000000000 {70000.0}\n"


def test_the_gil_is_released_during_a_long_sum():
    x = np.broadcast_to(np.float64(1), (3 * 10**8,))
    ended = threading.Event()
    ticks = []

    def work():
        ac.sum(x)
        ended.set()

    worker = threading.Thread(target=work)
    worker.start()
    while not ended.is_set():
        ticks.append(time.perf_counter())
    worker.join()
    assert len(ticks) > 100


def test_many_threads_sum_at_once():
    x = np.arange(200_000.0)
    wanted, found = ac.sum(x), []

    def work():
        for _ in range(20):
            found.append(ac.sum(x))

    workers = [threading.Thread(target=work) for _ in range(16)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert set(found) == {wanted} and len(found) == 320


def test_a_script_needs_no_main_guard(tmp_path):
    script = tmp_path / "plain.py"
    script.write_text(
        "import allcores as ac\n"
        "print(ac.sum(bytes([1]) * 3_000_000))\n"
        "with ac.threads(2):\n"
        "    print(ac.sum(bytes([1]) * 3_000_000))\n"
    )
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "3000000\n3000000\n"


def test_a_forked_child_sums(run_python):
    script = """
        import os
        import allcores as ac
        x = bytes([1]) * 5_000_000
        for _ in range(20):
            assert ac.sum(x) == len(x)
        for _ in range(5):
            pid = os.fork()
            if pid == 0:
                good = all(ac.sum(x) == len(x) for _ in range(20))
                os._exit(0 if good else 1)
            assert os.waitpid(pid, 0)[1] == 0
            assert ac.sum(x) == len(x)
        print("done")
    """
    assert run_python(script) == "done\n"


def test_programs_started_after_the_first_sum_share_the_ledger(run_python):
    script = """
        import os, subprocess, sys
        import allcores as ac
        assert "ALLCORES_LEDGER" not in os.environ
        ac.info(), ac.sum(bytes(100))
        assert "ALLCORES_LEDGER" not in os.environ
        ac.sum(bytes(100_000))
        mine = os.environ["ALLCORES_LEDGER"]
        assert mine == ac.budget._core.ledger_export()
        child = "import os, allcores as ac; ac.sum(bytes(2000)); "
        child += "print(os.environ['ALLCORES_LEDGER'])"
        done = subprocess.run([sys.executable, "-c", child], text=True,
                              capture_output=True)
        print(done.returncode, bool(done.stdout.strip()), done.stderr)
    """
    env = {k: v for k, v in os.environ.items() if k != "ALLCORES_LEDGER"}
    assert run_python(script, env=env) == "0 True \n"


def test_a_forked_child_tells_its_own_programs_of_the_ledger(run_python):
    script = """
        import os
        import allcores as ac
        ac.sum(bytes(100_000))
        text = os.environ["ALLCORES_LEDGER"]
        pid = os.fork()
        if pid == 0:
            ac.sum(bytes(100_000))
            mine = os.environ["ALLCORES_LEDGER"]
            good = mine != text and mine == ac.budget._core.ledger_export()
            os._exit(0 if good else 1)
        print(os.waitpid(pid, 0)[1], os.environ["ALLCORES_LEDGER"] == text)
    """
    assert run_python(script) == "0 True\n"


def test_the_end_of_the_interpreter_is_quiet(run_python):
    script = """
        import atexit, allcores as ac, threading
        keep = ac.threads(1)
        keep.__enter__()
        atexit.register(lambda: print(ac.sum(bytes([1]) * 100_000)))
    """
    assert run_python(script) == "100000\n"
