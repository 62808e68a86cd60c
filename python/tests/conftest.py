"""What the tests of the package share."""

import subprocess
import sys
import textwrap

import allcores as ac
import pytest


@pytest.fixture
def run_python():
    """Run a script in a fresh interpreter; gives what it printed."""

    def run(script, *, timeout=60, **options):
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script)],
            capture_output=True,
            text=True,
            timeout=timeout,
            **options,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture
def budget():
    """Set the budget within a test; it is what the machine grants afterwards."""
    yield ac.set_budget
    ac.set_budget(None)
