"""A program that plays one side of P1 to P9, a turn at a time.

    python player.py SIDE

What bench/micro/player.h is for C: turns come as lines through pipes, and are played
by the module side_SIDE.py of this folder. Its `CASES` holds, for each case, a function
of two integers that returns a `Turn`.

Knows nothing of: ratios, goals.
"""

import importlib
import sys
from time import perf_counter
from typing import NamedTuple


class Turn(NamedTuple):
    """What a case returns.

    Parameters
    ----------
    seconds : float
        Time of one unit of the case.
    answer : int
        From 0 on; equal on all sides.
    extra, more : float
        What the case says.
    """

    seconds: float
    answer: int
    extra: float = 0.0
    more: float = 0.0


def timed(count, call):
    """Return the Turn of a call that runs `count` units and gives their results."""
    begun = perf_counter()
    values = call()
    return Turn((perf_counter() - begun) / count, sum(values))


def main(side):
    cases = importlib.import_module(f"side_{side}").CASES
    turns, answers = sys.stdin, sys.stdout
    sys.stdout = sys.stderr  # whatever a library prints is no answer
    for line in turns:
        case, a, b = line.split()
        try:
            turn = cases[case](int(a), int(b))
            text = f"{turn.seconds!r} {turn.answer:x} {turn.extra!r} {turn.more!r}"
        except Exception as error:
            text = f"error {type(error).__name__}: {error}".replace("\n", " ")
        print(text, file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
