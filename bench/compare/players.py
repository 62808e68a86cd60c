"""Players, and the turns that they take.

A player is a process, with those that it starts, that plays one side
(bench/micro/player.h tells how they talk). Players take turns: while one plays, the
others wait, and a turn begins only when the threads of all of them have come to rest,
so that nobody's spinning workers are in anybody's way. What the waiting ones used
nevertheless, and what other programs used, is measured and handed back with the
times.

Knows nothing of: goals, what is played.
"""

from __future__ import annotations

import os
import select
import signal
import statistics
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from . import machine

PAUSE_S = 0.012  # between turns: idle workers must be asleep after 10 ms
REST_LIMIT_S = 1.0
TURN_LIMIT_S = 60.0
OTHERS_LIMIT = 0.05  # of the cores
QUIET_LIMIT_S = 5.0  # longest wait for others to end, after a disturbed match
FOREIGN_SETTINGS = ("OMP_", "GOMP_", "KMP_", "TBB_", "ALLCORES_", "OPENBLAS_")
FOREIGN_SETTINGS += ("MKL_", "NUMBA_", "JOBLIB_", "LOKY_", "MPIRE_", "PYTHON")


class PlayerError(Exception):
    """A player died, hung, failed or gave a wrong answer."""


@dataclass
class Turn:
    """One turn's time of a unit in seconds, its answer, and what else it says."""

    seconds: float
    answer: int
    extra: float
    more: float


class Player:
    """A process that plays cases, a turn at a time.

    Parameters
    ----------
    name : str
    command : list
        See bench/micro/player.h.
    settings : dict of str to str
        Environment variables for it, instead of any that configure a runtime.
    is_group : bool
        It starts processes. All are in its process group.
    is_fair : bool
        It shares its cores with others even if the benchmark runs with a real-time
        priority: then it has the normal policy, and the highest of its priorities.
    """

    def __init__(
        self,
        name: str,
        command: list[object],
        settings: dict[str, str],
        is_group: bool = False,
        is_fair: bool = False,
    ) -> None:
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(FOREIGN_SETTINGS)
        }
        self.name = name
        self.is_group = is_group
        self._process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=environment | settings,
            preexec_fn=partial(_set_up, is_fair) if is_group else None,
        )
        self.pid = self._process.pid

    def pids(self) -> list[int]:
        """Return its processes."""
        return machine.members(self.pid) if self.is_group else [self.pid]

    def cpu_ns(self) -> int:
        """Return the processor time of its living threads, to the ns."""
        return sum(map(machine.threads_cpu_ns, self.pids()))

    def play(self, case: str, a: int = 0, b: int = 0) -> Turn:
        """Play one turn; raise PlayerError if that fails or takes a minute."""
        try:
            self._process.stdin.write(f"{case} {a} {b}\n".encode())
            answer = self._read_line().split()
        except OSError as error:
            raise PlayerError(f"{self.name} {case} {a} {b}: {error}") from error
        if len(answer) != 4 or answer[0] == "error":
            reason = " ".join(answer) or "it died"
            raise PlayerError(f"{self.name} {case} {a} {b}: {reason}")
        seconds, extra, more = (float(answer[i]) for i in (0, 2, 3))
        return Turn(seconds, int(answer[1], 16), extra, more)

    def _read_line(self) -> str:
        line, until = b"", time.monotonic() + TURN_LIMIT_S
        pipe = self._process.stdout
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([pipe], [], [], until - time.monotonic())
            if not ready:
                raise OSError(f"no answer within {TURN_LIMIT_S:.0f} s")
            part = pipe.read(4096)
            if not part:
                raise OSError("it died")
            line += part
        return line.decode()

    def stop(self) -> None:
        """End the process, and those that it has started."""
        self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pid in self.pids() if self.is_group else ():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.stdout.close()


def _set_up(is_fair: bool) -> None:
    """What a player that starts processes does first."""
    os.setpgrp()
    if is_fair and os.sched_getscheduler(0) in (os.SCHED_FIFO, os.SCHED_RR):
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        os.setpriority(os.PRIO_PROCESS, 0, -20)


@dataclass
class Side:
    """A player with the case that it plays; the first side is ours."""

    player: Player
    case: str
    a: int = 0
    b: int = 0
    turns: list[Turn] = field(default_factory=list)

    def play(self) -> Turn:
        """Play one turn."""
        return self.player.play(self.case, self.a, self.b)

    @property
    def seconds(self) -> float:
        """Median time of a unit."""
        return statistics.median(turn.seconds for turn in self.turns)

    @property
    def extra(self) -> float:
        """Median of what else the turns say."""
        return statistics.median(turn.extra for turn in self.turns)

    @property
    def more(self) -> float:
        """Median of what else the turns say, the second figure."""
        return statistics.median(turn.more for turn in self.turns)


@dataclass
class Match:
    """What came of a match; the times are in its sides."""

    others_cores: float
    waiting_cores: float

    @property
    def is_disturbed(self) -> bool:
        """Whether others used more of the cores than they may."""
        return self.others_cores > others_limit()


def others_limit() -> float:
    """Return how many cores others may use."""
    return OTHERS_LIMIT * machine.cores()


def rest(players: list[Player]) -> None:
    """Wait until the players' threads have used no processor time for 2 ms."""
    until = time.monotonic() + REST_LIMIT_S
    time.sleep(PAUSE_S)
    used = [player.cpu_ns() for player in players]
    while time.monotonic() < until:
        time.sleep(0.002)
        before = used
        used = [player.cpu_ns() for player in players]
        if used == before:
            return


def _play_rounds(sides: list[Side], rounds: int) -> float:
    """Play; return the share of a core that waiting players used in turns."""
    players = list({id(side.player): side.player for side in sides}.values())
    waiting_s = playing_s = 0.0
    for number in range(rounds):
        first = number % len(sides)
        for side in sides[first:] + sides[:first]:
            rest(players)
            waiting = [p for p in players if p is not side.player]
            before = sum(p.cpu_ns() for p in waiting)
            start = time.monotonic()
            side.turns.append(side.play())
            playing_s += time.monotonic() - start
            used = sum(p.cpu_ns() for p in waiting) - before
            waiting_s += 1e-9 * max(0, used)  # a process may have ended meanwhile
    return waiting_s / playing_s if playing_s else 0.0


def _check(sides: list[Side], answer: int | None) -> None:
    wanted = sides[0].turns[0].answer if answer is None else answer
    for side in sides:
        for turn in side.turns:
            if turn.answer != wanted:
                raise PlayerError(
                    f"{side.player.name} {side.case} {side.a} {side.b}: the answer"
                    f" is {turn.answer:#x}, not {wanted:#x}"
                )


def play_match(
    sides: list[Side],
    rounds: int,
    warmups: int,
    answer: int | None,
    attempts: int,
    beside: tuple[Player, ...] = (),
) -> Match:
    """Let the sides alternate, several times if the machine is not quiet.

    Parameters
    ----------
    sides : list of Side
        Their turns are replaced by those of the quietest attempt.
    rounds : int
        Turns of each side; who begins changes from round to round.
    warmups : int
        Rounds before those, which do not count (but are checked).
    answer : int or None
        What every turn must answer; None = what the first one did.
    attempts : int
        Most matches until one is not disturbed by others.
    beside : tuple of Player
        Who runs beside them on purpose: neither a side nor "others".

    Returns
    -------
    Match

    Raises
    ------
    PlayerError
        If a player fails or an answer is wrong.
    """
    quietest: tuple[Match, list[list[Turn]]] | None = None
    ours = {id(player): player for player in (*(s.player for s in sides), *beside)}
    for attempt in range(attempts):
        if attempt:
            machine.wait_until_quiet(others_limit(), QUIET_LIMIT_S, ours.values())
        for side in sides:
            side.turns = []
        _play_rounds(sides, warmups)
        others = machine.Others(ours.values())
        waiting_cores = _play_rounds(sides, rounds)
        match = Match(others.cores(), waiting_cores)
        _check(sides, answer)
        turns = [side.turns[warmups:] for side in sides]
        if quietest is None or match.others_cores < quietest[0].others_cores:
            quietest = match, turns
        if not match.is_disturbed:
            break
    for side, turns in zip(sides, quietest[1]):
        side.turns = turns
    return quietest[0]
