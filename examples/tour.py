#!/usr/bin/env python3
"""The tour: what allcores does today, on real work, beside the usual tools.

    make run                        builds, then runs this
    python examples/tour.py [--small] [--only WORD]

Each row of STEPS is a section: a title and a function. A new capability is a new
row. A step that finds a wrong answer raises Trouble, and the tour goes on and ends
with status 1. Pictures go to out/. The C programs are those of examples/c, built by
`make build`.
"""

import argparse
import os
import re
import resource
import subprocess
import sys
from pathlib import Path
from time import perf_counter

import allcores as ac

ROOT = Path(__file__).resolve().parents[1]
BUILD = Path(os.environ.get("ALLCORES_BUILD_DIR") or ROOT / "build" / "release")
SMALL = {"rows": 200, "numbers": 1_000_000, "fib": 15, "primes": 20_000}
SMALL["sleep"] = 0.05
USUAL = {"rows": 4000, "numbers": 100_000_000, "fib": 30, "primes": 200_000}
USUAL["sleep"] = 0.3

# What is planned and not there; each becomes a step when it works.
NOT_YET = (
    ("set_threads(), threadpool_limits()", "threads of BLAS, numexpr and OpenMP"),
    ("jit(), prange()", "Numba's compiled loops"),
    ("vectorize(), guvectorize()", "ufuncs; the Mandelbrot set from Python"),
    ("evaluate()", "numexpr's array expressions"),
    ("%%allcores", "Cython's cells, compiled ahead of time"),
    ("cumsum(), sort(), argsort()", "and scan and sort in C"),
    ("trace()", "what every core did, as a picture"),
)


class Trouble(Exception):
    """A step went wrong: a sentence."""


class Tour:
    """What the steps share: sizes, the folder for pictures, what was found."""

    def __init__(self, sizes, out):
        self.sizes = sizes
        self.out = out
        self.found = {}

    def run(self, *command):
        """Run a program, show its output as it comes, and return it.

        What it writes to standard error goes where the tour's goes: a bar that
        moves does so in a terminal only.
        """
        lines = []
        with subprocess.Popen(
            [str(part) for part in command], stdout=subprocess.PIPE, text=True
        ) as running:
            for line in running.stdout:
                lines.append(line)
                print(f"  {line}", end="", flush=True)
        if running.returncode != 0:
            raise Trouble(f"{Path(command[0]).name} ended with {running.returncode}")
        return "".join(lines)

    def run_c(self, name, *arguments):
        program = BUILD / "examples" / f"example_{name}"
        if not program.exists():
            raise Trouble(f"there is no {program}: run `make build`")
        return self.run(program, *arguments)

    def run_python(self, name, *arguments):
        script = ROOT / "examples" / "python" / name
        return self.run(sys.executable, script, *arguments)


def number_in(output, name):
    """Return the number that follows `name` and a colon in a program's output."""
    found = re.search(rf"^{name}: (\d+)$", output, re.MULTILINE)
    if not found:
        raise Trouble(f"no {name!r} in the output")
    return int(found.group(1))


# ---- The steps ---------------------------------------------------------------


def show_machine(tour):
    read = ac.info()
    print(f"  cores used: {read.cores}")
    print(f"  because: {read.reason}")
    quota = "none" if read.quota is None else f"{read.quota:g} processors"
    print(f"  processors online {read.online}, allowed by affinity {read.affinity}")
    print(f"  quota {quota}, physical cores {read.physical}, NUMA nodes {read.nodes}")
    if read.cores == 1:
        print("  On one core nothing can be faster than serial; it must not be slower.")


def show_mandelbrot(tour):
    image = tour.out / "mandelbrot.pgm"
    output = tour.run_c("mandelbrot", tour.sizes["rows"], image)
    tour.found["pixels"] = number_in(output, "sum of the pixels")


def show_image(tour):
    image = tour.out / "mandelbrot.pgm"
    output = tour.run_python("mandelbrot.py", image)
    if number_in(output, "sum of the pixels") != tour.found.get("pixels"):
        raise Trouble("C and Python find other sums of the pixels")


def show_sum_c(tour):
    tour.run_c("sum", tour.sizes["numbers"])


def show_sum_python(tour):
    tour.run_python("sum.py", tour.sizes["numbers"])


def show_tasks(tour):
    tour.run_c("fib", tour.sizes["fib"])
    tour.run_c("group", tour.sizes["primes"])
    tour.run_c("hello", 4)


def show_parallel(tour):
    tour.run_python("parallel.py", tour.sizes["sleep"])


def show_pool(tour):
    tour.run_python("pool.py", tour.sizes["sleep"])


def show_not_yet(tour):
    for name, what in NOT_YET:
        print(f"  {name:<35} {what}")


STEPS = (
    ("What this machine grants, and why", show_machine),
    ("The Mandelbrot set in C: ac_for", show_mandelbrot),
    ("The same picture from Python: allcores.sum", show_image),
    ("Sums in C: ac_sum, ac_reduce", show_sum_c),
    ("Sums in Python: allcores.sum", show_sum_python),
    ("Tasks in C: ac_spawn, ac_group, ac_team_each", show_tasks),
    ("Loops on worker processes: Parallel beside joblib", show_parallel),
    ("A pool of worker processes: Pool beside multiprocessing", show_pool),
    ("Planned, and not there yet", show_not_yet),
)
UNTIMED = {show_machine, show_not_yet}

# ---- What other programs use ---------------------------------------------------

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
DISTURBED = 0.05  # of the cores


def machine_busy_s():
    """Return the processor time that the machine has used, stolen time included;
    None if the system does not tell.
    """
    try:
        first = Path("/proc/stat").read_text().splitlines()[0]
        user, nice, system, _, _, irq, softirq, steal = map(int, first.split()[1:9])
    except (OSError, ValueError, IndexError):
        return None
    return (user + nice + system + irq + softirq + steal) * TICK_S


def own_busy_s():
    """Return the processor time that the tour and its programs have used."""
    uses = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(use.ru_utime + use.ru_stime for use in uses)


class Others:
    """Cores that other programs use, from now on."""

    def __init__(self):
        self.begun = perf_counter()
        self.machine_s = machine_busy_s()
        self.own_s = own_busy_s()

    def warn(self):
        """Say so if others used so much that the figures prove little."""
        machine_s = machine_busy_s()
        if machine_s is None or self.machine_s is None:
            return
        others_s = machine_s - self.machine_s - (own_busy_s() - self.own_s)
        cores = others_s / max(perf_counter() - self.begun, TICK_S)
        if cores > DISTURBED * os.cpu_count():
            print(f"  disturbed: other programs used {cores:.2f} cores meanwhile")


# ---- Sizes --------------------------------------------------------------------


def number_of(path):
    """Return the number that a file of /sys holds; None if there is none."""
    try:
        return int(Path(path).read_text())
    except (OSError, ValueError):
        return None


def available_bytes():
    """Return the memory that may be taken: free in the machine and the cgroups."""
    found = []
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            found.append(int(line.split()[1]) * 1024)
    top = Path("/sys/fs/cgroup")
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        number, kinds, path = line.split(":", 2)
        kind = "memory" if "memory" in kinds.split(",") else ""
        if number != "0" and not kind:
            continue
        names = ("memory.max", "memory.current")
        if kind:
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
        folder = top / kind / path.lstrip("/")
        for place in (folder, *folder.parents):
            limit, used = (number_of(place / name) for name in names)
            if limit is not None and used is not None:
                found.append(limit - used)
            if place == top / kind:
                break
    return min(found, default=1 << 30)


def fitting(sizes):
    """Return the sizes, the numbers so few that they fit in half the free memory."""
    most = max(1_000_000, available_bytes() // 2 // 16)  # sum.py holds two copies
    if sizes["numbers"] > most:
        print(f"Memory is short: {most:,} numbers instead of {sizes['numbers']:,}.")
    return sizes | {"numbers": min(sizes["numbers"], most)}


def main(arguments):
    parser = argparse.ArgumentParser(description="What allcores does today.")
    parser.add_argument("--small", action="store_true", help="sizes for a quick test")
    parser.add_argument("--only", metavar="WORD", default="", help="steps with WORD")
    parser.add_argument("--out", metavar="FOLDER", default=str(ROOT / "out"))
    options = parser.parse_args(arguments)
    tour = Tour(fitting(SMALL if options.small else USUAL), Path(options.out))
    tour.out.mkdir(parents=True, exist_ok=True)
    troubles = []
    begun = perf_counter()
    print(
        f"allcores {ac.__version__}: times are the least of a few rounds (with worker"
    )
    print("processes: of one); every line's answers were checked against each other")
    for title, step in STEPS:
        if options.only not in title:
            continue
        print(f"\n{title}", flush=True)
        others = Others()
        try:
            step(tour)
            if step not in UNTIMED:
                others.warn()
        except Trouble as trouble:
            troubles.append(f"{title}: {trouble}")
            print(f"  {trouble}")
    print(f"\nThe tour took {perf_counter() - begun:.0f} s.")
    for trouble in troubles:
        print(f"FAILED: {trouble}")
    return bool(troubles)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
