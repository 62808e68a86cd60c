"""What the rows of every group need: a stage with players, and rows of ratios.

Knows nothing of: what is played, goals.
"""

from __future__ import annotations

from contextlib import ExitStack

from .build import POOLS, Workshop
from .players import Match, Player, Side, play_match
from .table import Row, time_text

WAITING_LIMIT = 0.01  # of a core, used by those whose turn it is not


class Stage:
    """Starts players for the rows of one group, and ends them with it.

    Parameters
    ----------
    workshop : Workshop
        Builds their programs.
    rounds : int or None
        Replaces every row's own number of rounds, for trying things out; disturbed
        matches are then not played again.
    """

    def __init__(self, workshop: Workshop, rounds: int | None) -> None:
        self.workshop = workshop
        self._rounds = rounds
        self._ended = ExitStack()

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.close()

    def player(self, name: str, settings: dict[str, str] | None = None) -> Player:
        """Build bench/micro/<name> and start it."""
        return self._start(Player(name, [self.workshop.program(name)], settings or {}))

    def python(self, side: str, is_ours: bool = False, is_fair: bool = False) -> Player:
        """Start bench/pools/side_<side>.py; only ours can import the package."""
        command = [self.workshop.peer_python(), POOLS / "player.py", side]
        settings = {"PYTHONPATH": str(self.workshop.package())} if is_ours else {}
        return self._start(Player(side, command, settings, True, is_fair))

    def inner(self) -> Stage:
        """Return a stage whose players end before those of this one."""
        return Stage(self.workshop, self._rounds)

    def _start(self, player: Player) -> Player:
        self._ended.callback(player.stop)
        return player

    def match(
        self,
        sides: list[Side],
        rounds: int,
        warmups: int = 1,
        answer: int | None = None,
        attempts: int = 3,
        beside: tuple[Player, ...] = (),
    ) -> Match:
        """Play a match; see play_match()."""
        if self._rounds:
            rounds, attempts = self._rounds, 1
        return play_match(sides, rounds, warmups, answer, attempts, beside)


def ratio_row(
    id: str,
    work: str,
    peer: str,
    sides: tuple[Side, Side],
    match: Match,
    limit: float | None,
    slack_s: float = 0.0,
    note: str = "",
) -> Row:
    """Make the row of a ratio; `limit` None = reported, not judged."""
    ours, theirs = (side.seconds for side in sides)
    if match.waiting_cores > WAITING_LIMIT:
        used = f"those waiting used {match.waiting_cores:.3f} of a core"
        note = f"{note}; {used}" if note else used
    return Row(
        id=id,
        work=work,
        peer=peer,
        ours_s=ours,
        peer_s=theirs,
        goal="" if limit is None else _goal_text(limit, slack_s),
        holds=None if limit is None else ours <= limit * theirs + slack_s,
        others_cores=match.others_cores,
        is_disturbed=match.is_disturbed,
        note=note,
    )


def _goal_text(limit: float, slack_s: float) -> str:
    text = f"≤ {limit:g}"
    return f"{text}, + {time_text(slack_s)}" if slack_s else text
