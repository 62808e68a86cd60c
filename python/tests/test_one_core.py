"""Where one core is granted, by a mask or by a real quota: one thread, all works."""

import errno
import json
import os
import pathlib
import subprocess
import sys

import pytest

# Narrows itself, then says what it sees; {narrow} is put in.
SCRIPT = """
import json, os, subprocess, sys
try:
    {narrow}
except OSError as error:
    sys.exit(f"not narrowed: {{error}}")
import allcores as ac

def threads():
    return len(os.listdir("/proc/self/task"))

before = threads()
data = bytes([1]) * 20_000_000
sums = [ac.sum(data) for _ in range(20)]
command = [sys.executable, "-m", "allcores", "info", "--json"]
told = subprocess.run(command, capture_output=True, check=True, text=True)
seen = dict(
    sums=sorted(set(sums)),
    info=json.loads(told.stdout),
    cpu_count=ac.cpu_count(),
    get_num_threads=ac.get_num_threads(),
    threads_started=ac.counters()["threads_started"],
    threads_more=threads() - before,
)
ac.set_budget(2)  # asked for by number, it is given
seen["asked"] = ac.get_num_threads(), ac.sum(data)
ac.set_budget(None)
seen["after"] = ac.get_num_threads(), ac.sum(data)
print(json.dumps(seen))
"""


def check_narrowed(narrow, limit):
    """Run SCRIPT with that statement; skip if it cannot be done."""
    mine = {"ALLCORES_NUM_THREADS", "ALLCORES_LEDGER"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(narrow=narrow)],
        capture_output=True,
        text=True,
        timeout=60,
        env={name: text for name, text in os.environ.items() if name not in mine},
    )
    if done.stderr.startswith("not narrowed: "):
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["info"]["granted"] == seen["info"]["cores"] == 1
    assert seen["info"]["limit"] == limit
    assert seen["cpu_count"] == seen["get_num_threads"] == 1
    assert seen["sums"] == [20_000_000]
    assert seen["threads_started"] == seen["threads_more"] == 0
    assert seen["asked"] == [2, 20_000_000]
    assert seen["after"] == [1, 20_000_000]
    return seen


@pytest.mark.skipif(
    len(os.sched_getaffinity(0)) < 2, reason="one processor is allowed anyway"
)
class TestOneCore:
    def test_an_affinity_mask_of_one_processor_gives_one_thread(self):
        cpu = min(os.sched_getaffinity(0))
        seen = check_narrowed(f"os.sched_setaffinity(0, [{cpu}])", "affinity")
        assert seen["info"]["affinity"] == 1

    def test_a_real_quota_of_one_processor_gives_one_thread(self):
        for name in ("cpu", "cpu,cpuacct"):
            parent = pathlib.Path("/sys/fs/cgroup", name)
            if (parent / "cpu.cfs_quota_us").exists():
                break
        else:
            pytest.skip("no cgroup hierarchy of version 1 is where it usually is")
        folder = parent / f"allcores-python-{os.getpid()}"
        try:
            folder.mkdir()
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            pytest.skip(f"no cgroup can be made: {error}")
        try:
            (folder / "cpu.cfs_period_us").write_text("100000")
            (folder / "cpu.cfs_quota_us").write_text("100000")
            join = f"open({str(folder / 'cgroup.procs')!r}, 'w').write('0')"
            seen = check_narrowed(join, "quota")
            assert seen["info"]["quota"] == 1
            assert seen["info"]["quota_path"] == str(folder)
        finally:
            folder.rmdir()
