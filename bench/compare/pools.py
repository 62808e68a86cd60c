"""P1 to P9: Parallel, Pool and Executor beside joblib, multiprocessing,
concurrent.futures and mpire.

Each row says what it measures in bench/README.md.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator

from . import machine
from .players import Match, Player, PlayerError, Side, others_limit
from .stage import Stage, ratio_row
from .table import Row, time_text

POOLS = ("pools", "executors")
TINY = 10_000  # tasks
ON_THREADS = 2_000


def _sum_of_next(count: int) -> int:
    """What tasks.next_of() gives for 0, 1, … together."""
    return count * (count + 1) // 2


def _with_end(pair: tuple[Side, Side]) -> str:
    """What a pool's end takes, for a note."""
    return "ending one: " + ", ".join(time_text(side.extra) for side in pair)


# ---- P1, P2: a new process ---------------------------------------------------


def imports(stage: Stage) -> Iterator[Row]:
    """P1: import, in a new interpreter each time."""
    ours = stage.python("fresh", is_ours=True)
    theirs = stage.python("fresh")
    package = Side(ours, "allcores-import")
    names = Side(ours, "allcores-names")
    joblib, joblib_names = Side(theirs, "joblib-import"), Side(theirs, "joblib-names")
    numba = Side(theirs, "numba-import")
    sides = [package, names, joblib, joblib_names, numba]
    match = stage.match(sides, rounds=11, answer=0)
    work = "import of the package"
    yield ratio_row("P1", work, "joblib", (package, joblib), match, 0.15)
    yield ratio_row("P1", work, "numba", (package, numba), match, 0.03)
    work = "import of Parallel and delayed"
    yield ratio_row("P1", work, "joblib", (names, joblib_names), match, 0.15)


def first_calls(stage: Stage) -> Iterator[Row]:
    """P2: the first Parallel(2) of a process, two tasks."""
    ours = stage.python("fresh", is_ours=True, is_fair=True)
    theirs = stage.python("fresh", is_fair=True)
    kinds = (
        ("function", "an importable function", 0.08, 13),
        ("closure", "a closure", 0.18, 13),
        ("numpy", "a function of a module that imports NumPy", 0.4, 85),
        ("caller", "an importable function, scikit-learn imported", 0.3, 13),
        ("estimator", "a function that uses scikit-learn", None, 11),
    )
    for kind, what, limit, answer in kinds:
        pair = Side(ours, f"allcores-{kind}", 10), Side(theirs, f"joblib-{kind}", 10)
        match = stage.match(list(pair), rounds=9, answer=answer)
        work = f"first Parallel(2): {what}"
        yield ratio_row("P2", work, "joblib loky", pair, match, limit)


# ---- P3: another pool --------------------------------------------------------


def second_pools(stage: Stage) -> Iterator[Row]:
    """P3: a pool in a process that has had one, two tasks."""
    count = 5
    player = stage.python("allcores", is_ours=True)
    pool, executor = (Side(player, f"new-{what}", count) for what in POOLS)
    forked = Side(stage.python("multiprocessing"), "new-pools", count)
    futures = Side(stage.python("futures"), "new-executors", count)
    sides = [pool, forked, executor, futures]
    match = stage.match(sides, rounds=11, answer=5 * count)
    pair, note = (pool, forked), _with_end((pool, forked))
    work, peer = "second Pool(2), two tasks", "multiprocessing.Pool, fork"
    yield ratio_row("P3", work, peer, pair, match, 0.5, note=note)
    pair, note = (executor, futures), _with_end((executor, futures))
    work, peer = "second Executor(2), two tasks", "ProcessPoolExecutor"
    yield ratio_row("P3", work, peer, pair, match, None, note=note)

    pair = pool, Side(stage.python("mpire"), "new-pools", count)
    match = stage.match(list(pair), rounds=5, answer=5 * count)
    work = "second Pool(2), two tasks"
    yield ratio_row("P3", work, "mpire WorkerPool", pair, match, None)


# ---- P4: the round trip ------------------------------------------------------


def round_trips(stage: Stage) -> Iterator[Row]:
    """P4: one call and its result, again and again."""
    with stage.inner() as alone:
        yield from _round_trips(alone, "back to back", 0.06)
    with stage.inner() as beside:
        busy = beside.python("busy", is_fair=True)
        busy.play("begin")
        yield from _round_trips(beside, "beside a busy core", 0.12, busy)


def _round_trips(
    stage: Stage, how: str, limit: float, *beside: Player
) -> Iterator[Row]:
    count = 500
    answer = _sum_of_next(count)

    def side(name: str, case: str) -> Side:
        is_ours = name == "allcores"
        player = stage.python(name, is_ours, is_fair=bool(beside))
        return Side(player, case, count)

    apply = side("allcores", "apply")
    submit = Side(apply.player, "submit", count)
    pool, futures = side("multiprocessing", "apply"), side("futures", "submit")
    sides = [apply, pool, submit, futures]
    match = stage.match(sides, rounds=15, answer=answer, beside=beside)
    pair, work = (apply, pool), f"Pool.apply, {how}"
    yield ratio_row("P4", work, "multiprocessing.Pool", pair, match, limit)
    pair, work = (submit, futures), f"Executor.submit().result(), {how}"
    yield ratio_row("P4", work, "ProcessPoolExecutor", pair, match, None)

    pair, work = (apply, side("mpire", "apply")), f"Pool.apply, {how}"
    match = stage.match(list(pair), rounds=7, answer=answer, beside=beside)
    yield ratio_row("P4", work, "mpire WorkerPool.apply", pair, match, None)


# ---- P5, P6: tiny tasks ------------------------------------------------------


def single_tasks(stage: Stage) -> Iterator[Row]:
    """P5: tiny tasks, each on its own. Times are of one task."""
    player, joblib = stage.python("allcores", is_ours=True), stage.python("joblib")
    parallel = Side(player, "parallel-single", TINY)
    loky = Side(joblib, "parallel-single", TINY)
    at_once = Side(joblib, "parallel-single-all", TINY)
    sides = [parallel, loky, at_once]
    match = stage.match(sides, rounds=5, answer=_sum_of_next(TINY))
    work = f"{TINY:,} tiny tasks, Parallel(batch_size=1), each"
    yield ratio_row("P5", work, "joblib loky", (parallel, loky), match, 0.02)
    peer = "joblib loky, pre_dispatch='all'"
    yield ratio_row("P5", work, peer, (parallel, at_once), match, None)

    ours = Side(player, "pool-map", TINY, 1)
    executor = Side(player, "executor-map", TINY, 1)
    pool = Side(stage.python("multiprocessing"), "pool-map", TINY, 1)
    futures = Side(stage.python("futures"), "executor-map", TINY, 1)
    sides = [ours, pool, executor, futures]
    match = stage.match(sides, rounds=7, answer=_sum_of_next(TINY))
    work = f"{TINY:,} tiny tasks, Pool.map(chunksize=1), each"
    yield ratio_row("P5", work, "multiprocessing.Pool", (ours, pool), match, 0.15)
    work = f"{TINY:,} tiny tasks, Executor.map(), each"
    pair = executor, futures
    yield ratio_row("P5", work, "ProcessPoolExecutor", pair, match, None)
    yield from _mpire_map(stage, "P5", ours)


def batched_tasks(stage: Stage) -> Iterator[Row]:
    """P6: tiny tasks in batches of the tool's own choice. Times are of one task."""
    player, joblib = stage.python("allcores", is_ours=True), stage.python("joblib")
    for case, how in (
        ("parallel-auto", "Parallel()"),
        ("parallel-held", "Parallel() in a with block"),
    ):
        pair = Side(player, case, TINY), Side(joblib, case, TINY)
        match = stage.match(list(pair), rounds=21, answer=_sum_of_next(TINY))
        work = f"{TINY:,} tiny tasks, {how}, each"
        yield ratio_row("P6", work, "joblib loky", pair, match, 0.2)

    ours = Side(player, "pool-map", TINY)
    pool = Side(stage.python("multiprocessing"), "pool-map", TINY)
    match = stage.match([ours, pool], rounds=31, answer=_sum_of_next(TINY))
    work = f"{TINY:,} tiny tasks, Pool.map(), each"
    yield ratio_row("P6", work, "multiprocessing.Pool", (ours, pool), match, 1.0)
    yield from _mpire_map(stage, "P6", ours)


def _mpire_map(stage: Stage, id: str, ours: Side) -> Iterator[Row]:
    """The same map by mpire."""
    pair = ours, Side(stage.python("mpire"), ours.case, ours.a, ours.b)
    match = stage.match(list(pair), rounds=3, answer=_sum_of_next(TINY))
    chunks = "chunksize=1" if ours.b else ""
    work = f"{TINY:,} tiny tasks, Pool.map({chunks}), each"
    yield ratio_row(id, work, "mpire WorkerPool", pair, match, None)


# ---- P7: large arrays --------------------------------------------------------

SUM_OF_LARGE = 8_000_000 * 7_999_999 // 2
SUM_OF_RESULTS = sum(2 * i + 64_000_000 for i in range(4))


def large_arrays(stage: Stage) -> Iterator[Row]:
    """P7: 64 MB to the workers, and back."""
    argument = "one array of 64 MB to eight tasks"
    results = "four results of 64 MB"
    for case, work, answer in (
        ("argument", argument, SUM_OF_LARGE),
        ("results", results, SUM_OF_RESULTS),
    ):
        pair, match = _first_turns(stage, case, answer)
        yield ratio_row("P7", f"{work}, first call", "joblib loky", pair, match, None)
    ours, theirs = stage.python("allcores", is_ours=True), stage.python("joblib")
    for case, work, limit, answer in (
        ("argument", argument, 0.5, SUM_OF_LARGE),
        ("argument-held", f"{argument}, unchanged, with block", None, SUM_OF_LARGE),
        ("results", results, 0.1, SUM_OF_RESULTS),
        ("results-held", f"{results}, with block", 0.1, SUM_OF_RESULTS),
    ):
        pair = Side(ours, case), Side(theirs, case)
        match = stage.match(list(pair), rounds=9, answer=answer)
        yield ratio_row("P7", work, "joblib loky", pair, match, limit)


def _first_turns(
    stage: Stage, case: str, answer: int
) -> tuple[tuple[Side, Side], Match]:
    """Play three first turns of each side, each by a player of its own."""
    sides, shares = [], []
    for _ in range(3):
        for side in ("allcores", "joblib"):
            with stage.inner() as inner:
                player = inner.python(side, is_ours=side == "allcores")
                sides.append(Side(player, case))
                others = machine.Others([player])
                sides[-1].turns.append(sides[-1].play())
                shares.append(others.cores())
    if any(side.turns[0].answer != answer for side in sides):
        raise PlayerError(f"{case}: a first call's answer is not {answer:#x}")
    for side in sides[2:]:
        sides[sides.index(side) % 2].turns += side.turns
    return (sides[0], sides[1]), Match(statistics.median(shares), 0.0)


# ---- P8: threads -------------------------------------------------------------


def threads(stage: Stage) -> Iterator[Row]:
    """P8: tiny tasks on threads."""
    player = stage.python("allcores", is_ours=True)
    parallel = Side(player, "parallel-threads", ON_THREADS)
    pool = Side(player, "thread-pool-map", ON_THREADS, 1)
    joblib = Side(stage.python("joblib"), "parallel-threads", ON_THREADS)
    futures = Side(stage.python("futures"), "thread-map", ON_THREADS)
    sides = [parallel, joblib, pool, futures]
    match = stage.match(sides, rounds=21, answer=_sum_of_next(ON_THREADS))
    work = f"{ON_THREADS:,} tiny tasks on threads, Parallel, each"
    yield ratio_row("P8", work, "joblib threading", (parallel, joblib), match, 0.1)
    yield ratio_row("P8", work, "ThreadPoolExecutor", (parallel, futures), match, 0.5)
    work = f"{ON_THREADS:,} tiny tasks, ThreadPool.map(chunksize=1), each"
    yield ratio_row("P8", work, "ThreadPoolExecutor", (pool, futures), match, 0.5)


# ---- P9: balance -------------------------------------------------------------


def mixed_tasks(stage: Stage) -> Iterator[Row]:
    """P9: tasks of 1 to 30 ms against half of what they take together."""
    count = 1000

    def side(name: str, chunksize: int = 0) -> Side:
        player = stage.python(name, is_ours=name == "allcores", is_fair=True)
        return Side(player, "mixed", count, chunksize)

    ours, joblib, pool = side("allcores"), side("joblib"), side("multiprocessing", 1)
    match = stage.match([ours, joblib, pool], rounds=3)
    ideal_s = ours.extra / 2
    for side, name in (
        (ours, "Parallel(2)"),
        (joblib, "joblib loky"),
        (pool, "multiprocessing.Pool.map(chunksize=1)"),
    ):
        is_judged = side is ours
        yield Row(
            id="P9",
            work=f"{count:,} tasks of 1 to 30 ms: {name}",
            peer="ideal: total / 2",
            ours_s=side.seconds,
            peer_s=ideal_s,
            goal="≤ 1.05" if is_judged else "",
            holds=side.seconds <= 1.05 * ideal_s if is_judged else None,
            others_cores=match.others_cores,
            is_disturbed=match.others_cores > others_limit(),
        )


GROUPS: dict[str, Callable[[Stage], Iterator[Row]]] = {
    "P1": imports,
    "P2": first_calls,
    "P3": second_pools,
    "P4": round_trips,
    "P5": single_tasks,
    "P6": batched_tasks,
    "P7": large_arrays,
    "P8": threads,
    "P9": mixed_tasks,
}
