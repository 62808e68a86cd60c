"""What the benchmark runs on, and who else uses it meanwhile.

Knows nothing of: players, rows, goals.
"""

from __future__ import annotations

import glob
import os
import platform
import re
import time
from collections.abc import Iterable
from pathlib import Path

TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def cores() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0))


def describe() -> dict[str, object]:
    """Return the machine's processor, cores, memory and kernel."""
    text = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*:\s*(.*)$", text, re.MULTILINE)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": model.group(1) if model else platform.processor(),
        "architecture": platform.machine(),
        "cores": cores(),
        "memory_gb": round(memory / 2**30, 1),
        "virtual": bool(re.search(r"^flags.*\bhypervisor\b", text, re.MULTILINE)),
        "kernel": platform.release(),
    }


def _busy_s() -> float:
    """Processor time that everybody used since boot, stolen time included."""
    with open("/proc/stat") as stat:
        user, nice, system, _, _, irq, softirq, steal = map(
            int, stat.readline().split()[1:9]
        )
    return TICK_S * (user + nice + system + irq + softirq + steal)


def members(group: int) -> list[int]:
    """Return the processes of a process group."""
    found = []
    for path in glob.iglob("/proc/[0-9]*/stat"):
        try:
            with open(path) as stat:
                words = stat.read().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if int(words[2]) == group and words[0] != "Z":
            found.append(int(path.split("/")[2]))
    return found


def process_cpu_s(pid: int) -> float:
    """Return the processor time of a process, with the threads and the children of
    it that have ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0.0
    return TICK_S * sum(map(int, stat.rpartition(")")[2].split()[11:15]))


def threads_cpu_ns(pid: int) -> int:
    """Return the processor time of a process's living threads, to the ns."""
    total = 0
    for thread in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        try:
            total += int(thread.read_text().split()[0])
        except (OSError, IndexError):  # the thread has just ended
            pass
    return total


def _other_threads_ns(pids: set[int]) -> dict[str, int]:
    """Processor time of every living thread of other processes, to the ns."""
    used = {}
    for path in glob.iglob("/proc/[0-9]*/task/[0-9]*/schedstat"):
        if int(path.split("/")[2]) not in pids:
            try:
                with open(path) as schedstat:
                    used[path] = int(schedstat.read().split()[0])
            except (OSError, IndexError):  # the thread has just ended
                pass
    return used


class Others:
    """What programs other than ours use of the cores, from now on.

    Two accounts are kept and the larger counts. The threads that live are summed
    to the ns. Those that come and go in between show in the busy time of the
    whole machine less our own; the kernel samples that, so it is coarse.

    Parameters
    ----------
    players : iterable
        What has pids(); their processes and this one are not "others".
    """

    def __init__(self, players: Iterable = ()) -> None:
        self._players = list(players)
        self._start = self._read()
        self._threads = _other_threads_ns(self._own_pids())

    def _own_pids(self) -> set[int]:
        return {pid for player in self._players for pid in player.pids()} | {
            os.getpid()
        }

    def _read(self) -> tuple[float, float, float]:
        own = sum(os.times()[:4])
        own += sum(map(process_cpu_s, self._own_pids() - {os.getpid()}))
        return time.monotonic(), _busy_s(), own

    def cores(self) -> float:
        """Return how many cores the others have used, on average."""
        threads = _other_threads_ns(self._own_pids())
        living_s = 1e-9 * sum(
            ns - self._threads.get(path, 0) for path, ns in threads.items()
        )
        wall_s, busy_s, own_s = (b - a for a, b in zip(self._start, self._read()))
        return max(0.0, busy_s - own_s, living_s) / wall_s


def wait_until_quiet(
    limit_cores: float, timeout_s: float, players: Iterable = ()
) -> None:
    """Wait until others use less than so much of the cores for 0.3 s."""
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        others = Others(players)
        time.sleep(0.3)
        if others.cores() <= limit_cores:
            return
