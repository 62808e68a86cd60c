"""A busy core: a process spins on one from the turn `begin` until the player ends."""

import atexit
import os
import subprocess
import sys

from player import Turn

SPIN = "import os; os.sched_setaffinity(0, {%d})\nwhile True: pass"


def begin(a, b):
    core = max(os.sched_getaffinity(0))
    spinner = subprocess.Popen([sys.executable, "-c", SPIN % core])
    atexit.register(spinner.kill)
    return Turn(0.0, 0)


CASES = {"begin": begin}
