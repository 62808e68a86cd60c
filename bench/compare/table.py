"""The rows of the table, as text and as JSON.

Knows nothing of: where the figures come from.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass
class Row:
    """One figure beside its goal.

    Parameters
    ----------
    ours_s, peer_s : float or None
        Medians, in seconds; the peer may also be an ideal. None = there is none.
    goal : str
        As in "≤ 0.35"; "" = reported, not judged.
    holds : bool or None
        None = not judged.
    others_cores : float or None
        What other programs used of the cores meanwhile.
    is_disturbed : bool
        Others used too much for the figure to count.
    note : str
        What else there is to know.
    """

    id: str
    work: str
    peer: str = ""
    ours_s: float | None = None
    peer_s: float | None = None
    goal: str = ""
    holds: bool | None = None
    others_cores: float | None = None
    is_disturbed: bool = False
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Ours over the peer's."""
        if self.ours_s is None or not self.peer_s:
            return None
        return self.ours_s / self.peer_s

    def to_json(self) -> dict[str, object]:
        """Return the row as plain values."""
        values = asdict(self)
        values["ratio"] = self.ratio
        return values


def time_text(seconds: float | None) -> str:
    """Return a time with three digits and its unit."""
    if seconds is None:
        return ""
    if seconds == 0:
        return "0"
    for unit, scale in (("s", 1), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def _verdict(row: Row) -> str:
    words = {True: "holds", False: "SHORT", None: "–"}[row.holds]
    return words + (", disturbed" if row.is_disturbed else "")


def _cells(row: Row) -> list[str]:
    return [
        row.id,
        row.work,
        row.peer,
        time_text(row.ours_s),
        time_text(row.peer_s),
        "" if row.ratio is None else f"{row.ratio:.3f}",
        row.goal,
        _verdict(row),
        "" if row.others_cores is None else f"{row.others_cores:.2f}",
        row.note,
    ]


HEADS = ["", "work", "peer", "ours", "peer's", "ratio", "goal", "", "others", "note"]


def to_text(rows: list[Row]) -> str:
    """Return the rows as a table for people."""
    lines = [HEADS, *map(_cells, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip()
        for line in lines
    )
