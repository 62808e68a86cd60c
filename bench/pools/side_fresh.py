"""The side of P1 and P2: a new interpreter for each turn, for whichever library.

A turn ends when all processes that it left behind have ended too, so that they use
nothing of the next one. For that this process adopts them.
"""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

from player import Turn

PR_SET_CHILD_SUBREAPER = 36
SCRIPT = Path(__file__).with_name("first.py")

ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def play(library, kind):
    """Return a case."""

    def case(a, b):
        done = subprocess.run(
            [sys.executable, SCRIPT, library, kind],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        await_orphans()
        seconds, answer = done.stdout.split()
        return Turn(float(seconds), int(answer))

    return case


def await_orphans():
    """Wait until no process is left of those that the turn has started."""
    try:
        while True:
            os.waitpid(-1, 0)
    except ChildProcessError:
        pass


KINDS = ("import", "names", "function", "closure", "numpy", "caller", "estimator")
CASES = {
    f"{library}-{kind}": play(library, kind)
    for library in ("allcores", "joblib", "numba")
    for kind in KINDS
}
