"""T1 to T9: the thread team beside libgomp, oneTBB and serial code.

Each row says what it measures in bench/README.md.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from .build import Missing
from .players import Player, PlayerError, Side
from .stage import Stage, ratio_row
from .table import Row, time_text

PASSIVE = {"OMP_WAIT_POLICY": "passive"}
RESTING_S = 1e-6  # a gap, used by workers that should be asleep


# ---- T1, T2: regions ---------------------------------------------------------


def regions_back_to_back(stage: Stage) -> Iterator[Row]:
    """T1: a region of two threads, one after the other."""
    openmp = stage.player("regions_openmp")
    ours = Side(stage.player("regions_ac"), "each", 2000)
    loop = Side(openmp, "for", 2000)
    bare = Side(openmp, "parallel", 2000)
    match = stage.match([ours, loop, bare], rounds=41, warmups=3, answer=1)
    work = "region of two threads, back to back"
    yield ratio_row("T1", work, "libgomp parallel for", (ours, loop), match, 0.35)
    yield ratio_row("T1", work, "libgomp parallel", (ours, bare), match, None)


def regions_apart(stage: Stage) -> Iterator[Row]:
    """T2: the same, 1 ms apart."""
    regions, gap_ns = 60, 1_000_000
    ours = Side(stage.player("regions_ac"), "each-apart", regions, gap_ns)
    passive = Side(
        stage.player("regions_openmp", PASSIVE), "for-apart", regions, gap_ns
    )
    default = Side(stage.player("regions_openmp"), "for-apart", regions, gap_ns)
    match = stage.match([ours, passive, default], rounds=15, answer=1)
    work = "region of two threads, 1 ms apart"
    yield ratio_row("T2", work, "libgomp, passive", (ours, passive), match, 0.9)
    yield ratio_row("T2", work, "libgomp, default", (ours, default), match, None)
    for side, name in ((passive, "libgomp, passive"), (default, "libgomp, default")):
        is_judged = side is passive
        yield Row(
            id="T2",
            work="the worker's processor time, 0.5 ms after a region to the next",
            peer=name,
            ours_s=max(0.0, ours.extra),
            peer_s=max(0.0, side.extra),
            goal=f"0, ± {time_text(RESTING_S)}" if is_judged else "",
            holds=ours.extra <= RESTING_S if is_judged else None,
            others_cores=match.others_cores,
            is_disturbed=match.is_disturbed,
            note="from the region's end, so with falling asleep:"
            f" {time_text(max(0.0, ours.more))},"
            f" {time_text(max(0.0, side.more))}",
        )


# ---- T3: spawn and sync ------------------------------------------------------


def fib(stage: Stage) -> Iterator[Row]:
    """T3: fib(35), a task a call, no cut-off."""
    ours, openmp = stage.player("fib_ac"), stage.player("fib_openmp")
    try:
        tbb = stage.player("fib_tbb")
    except Missing as reason:
        tbb = None
        yield Row(id="T3", work="fib(35)", peer="oneTBB task_group", note=str(reason))
    for threads, openmp_limit in ((1, 0.2), (2, 0.05)):
        sides = [Side(p, "fib", 35, threads) for p in (ours, openmp, tbb) if p]
        match = stage.match(sides, rounds=5, answer=9227465)
        work = f"fib(35), a task a call, {threads} thread{'s' * (threads > 1)}"
        note = f"{1e9 * sides[0].seconds / 29_860_703:.2f} ns a call"
        if tbb:
            pair = (sides[0], sides[2])
            yield ratio_row(
                "T3", work, "oneTBB task_group", pair, match, 0.15, note=note
            )
        pair = (sides[0], sides[1])
        yield ratio_row(
            "T3", work, "libgomp tasks", pair, match, openmp_limit, note=note
        )


# ---- T4: never slower than serial --------------------------------------------

SUM_SIZES = [round(10 ** (step / 2)) for step in range(15)]


def _sum_row(stage: Stage, player: Player, kind: str, n: int) -> Row:
    ours = Side(player, kind, n)
    serial = Side(player, f"serial-{kind}", n)
    control = Side(player, f"serial-{kind}", n)
    match = stage.match([ours, serial, control], rounds=15, warmups=2)
    limit, slack_s = 1.05, 30e-9
    if (kind, n) == ("clean", 10**6):
        limit, slack_s = 0.55, 0.0
    if kind == "awake":
        limit, slack_s = 0.70, 0.0
    note = f"serial against serial {control.seconds / serial.seconds:.3f}"
    work = f"sum of {n:,} doubles, {kind.replace('awake', 'clean, workers awake')}"
    return ratio_row("T4", work, "serial", (ours, serial), match, limit, slack_s, note)


def sums(stage: Stage) -> Iterator[Row]:
    """T4: ac_sum against the same kernel run serially."""
    player = stage.player("sum_ac")
    player.play("serial-clean", max(SUM_SIZES))  # the memory, once for all
    for kind in ("clean", "dirty"):
        for n in SUM_SIZES:
            yield _sum_row(stage, player, kind, n)
    yield _sum_row(stage, player, "awake", 10_000)


# ---- T5: balance -------------------------------------------------------------


def balance(stage: Stage) -> Iterator[Row]:
    """T5: loops of unequal iterations against the ideal."""
    player = stage.player("balance_ac")
    loops = [("triangle", 0, "iteration i costs i", "total / 2")]
    for place, name in enumerate(("first", "in the middle", "last")):
        work = f"one iteration as long as all others, {name}"
        loops.append(("peak", place, work, "list scheduling"))
    for case, place, work, ideal in loops:
        ours = Side(player, case, 1000, place)
        best = Side(player, f"{case}-ideal", 1000, place)
        match = stage.match([ours, best], rounds=11)
        note = f"serial {time_text(best.extra)}"
        yield ratio_row("T5", work, ideal, (ours, best), match, 1.05, note=note)


# ---- T6: nested loops --------------------------------------------------------


def nested(stage: Stage) -> Iterator[Row]:
    """T6: a matrix product by nested loops."""
    n = 300
    player, openmp = stage.player("matmul_ac"), stage.player("matmul_openmp")
    three, two = Side(player, "three", n), Side(player, "two", n)
    grained = Side(player, "three", n, n)
    tiles = Side(player, "tiles", n)
    collapse = Side(openmp, "two", n)
    sides = [three, two, grained, tiles, collapse]
    try:
        tbb = stage.player("matmul_tbb")
        tbb_three, tbb_two = Side(tbb, "three", n), Side(tbb, "two", n)
        tbb_tiles = Side(tbb, "tiles", n)
        sides += [tbb_three, tbb_two, tbb_tiles]
    except Missing as reason:
        tbb = None
        yield Row(id="T6", work="matrix product", peer="oneTBB", note=str(reason))
    match = stage.match(sides, rounds=11)
    size = f"product of {n} × {n}"
    if tbb:
        work = f"{size}, three parallel levels"
        peer = "oneTBB for, for, reduce"
        yield ratio_row("T6", work, peer, (three, tbb_three), match, 1.0)
        work = f"{size}, three levels, the reduction's grain {n}"
        yield ratio_row("T6", work, peer, (grained, tbb_three), match, None)
        work = f"{size}, two parallel levels"
        yield ratio_row("T6", work, "oneTBB for, for", (two, tbb_two), match, 1.0)
    work = f"{size}, two parallel levels"
    yield ratio_row("T6", work, "libgomp collapse(2)", (two, collapse), match, 1.0)
    work = f"{size}, three against two levels"
    yield ratio_row("T6", work, "libgomp collapse(2)", (three, collapse), match, None)
    if tbb:
        work = f"{size}, tiles"
        pair = (tiles, tbb_tiles)
        yield ratio_row("T6", work, "oneTBB blocked_range2d", pair, match, None)


# ---- T8: idle ----------------------------------------------------------------


def idle(stage: Stage) -> Iterator[Row]:
    """T8: processor time of an idle team after 10 ms."""
    player = stage.player("idle_ac")
    for case in ("for", "each", "spawn", "group"):
        side = Side(player, case, 10_000_000, 1_000_000_000)
        match = stage.match([side], rounds=2, warmups=0, answer=1, attempts=1)
        worst_s = max(turn.seconds for turn in side.turns)
        yield Row(
            id="T8",
            work=f"processor time of workers in 1 s, 10 ms after {case}",
            ours_s=worst_s,
            goal="0",
            holds=worst_s == 0,
            others_cores=match.others_cores,
            note=f"workers: {side.extra:.0f}",
        )


# ---- T9: bits ----------------------------------------------------------------

BITS_WIDTHS = (1, 2, 3, 8, 64)


def _bits_of(program: Path, width: int) -> tuple[list[str], str]:
    """Return the reductions' lines, and what the program says of the team."""
    done = subprocess.run(
        [program, str(width)], stdout=subprocess.PIPE, text=True, timeout=300
    )
    lines = done.stdout.splitlines()
    about = [line for line in lines if line.startswith("#")]
    if done.returncode or len(about) != 1:
        raise PlayerError(f"{program.name} {width} failed: {' '.join(about)}")
    return [line for line in lines if not line.startswith("#")], about[0]


def bits(stage: Stage) -> Iterator[Row]:
    """T9: the bits of reductions, whatever the threads and the compiler."""
    compilers = [c for c in ("gcc", "clang") if shutil.which(c)]
    marches = ["native"]
    if platform.machine() == "x86_64":
        marches = ["x86-64"]
        if "avx2" in Path("/proc/cpuinfo").read_text():
            marches.append("x86-64-v3")
    wanted: list[str] = []
    is_equal, shared = True, []
    for compiler in compilers:
        for march in marches:
            program = stage.workshop.whole_program("bits_ac", compiler, march)
            for width in BITS_WIDTHS:
                lines, about = _bits_of(program, width)
                wanted = wanted or lines
                is_equal = is_equal and lines == wanted
                facts = dict(word.split("=") for word in about.split()[1:])
                if width > 1:
                    shared.append(int(facts["shared"]))
    is_whole = len(compilers) == 2 and marches != ["x86-64"]
    yield Row(
        id="T9",
        work=f"bits of {len(wanted)} reductions on {BITS_WIDTHS} threads",
        peer=f"{', '.join(compilers)}; {', '.join(marches)}",
        goal="equal",
        holds=(is_equal and min(shared) > 0) if is_whole or not is_equal else None,
        note=f"regions shared by several threads, at least: {min(shared)}",
    )


GROUPS: dict[str, Callable[[Stage], Iterator[Row]]] = {
    "T1": regions_back_to_back,
    "T2": regions_apart,
    "T3": fib,
    "T4": sums,
    "T5": balance,
    "T6": nested,
    "T8": idle,
    "T9": bits,
}
