"""CPython's own tests of multiprocessing.Pool, with this package's pools in its place.

They come with the interpreter, in its package `test`, so each version of Python brings
its own. `NOT_FOR_US` lists those that ask for something other than a pool's behaviour.
"""

import functools
import sys
import unittest
from unittest import mock

import pytest
from allcores.pools import Pool, ThreadPool

theirs = pytest.importorskip(
    "test._test_multiprocessing",
    reason="this interpreter came without its package `test`",
    exc_type=ImportError,
)

# (class, test) -> why it is left out; a third item limits that to processes or threads.
NOT_FOR_US = {
    ("_TestPool", "test_make_pool"): (
        "counts the private list _pool; test_pools.py has what it says of errors"
    ),
    ("_TestPool", "test_map_unplicklable", "threads"): (
        "threads pickle nothing; CPython skips it as well"
    ),
    ("_TestPoolWorkerErrors", "test_unpickleable_result"): (
        "its result, a lambda, does travel here; test_pools.py has one that does not"
    ),
    ("_TestPoolWorkerLifetime", "test_pool_worker_lifetime"): (
        "reads the private list _pool and calls _repopulate_pool; test_pools.py looks "
        "at the processes themselves"
    ),
    ("TestPoolNotLeakOnFailure", "test_release_unused_processes"): (
        "has the context's Process fail, and these pools start none through it"
    ),
}

# The classes, and which of their tests make a pool; None = all.
CLASSES = {
    "processes": {
        "_TestPool": None,
        "_TestPoolWorkerErrors": None,
        "_TestPoolWorkerLifetime": None,
        "TestInitializers": ("test_pool_initializer",),
        "TestPoolNotLeakOnFailure": None,
        "TestStdinBadfiledescriptor": ("test_pool_in_process",),
        "MiscTestCase": ("test_large_pool",),
    },
    "threads": {"_TestPool": None},
}
# The third kind of _TestPool, "manager", is about a manager's process, in which a pool
# of multiprocessing's own is made.

POOLS = {"processes": Pool, "threads": ThreadPool}


class OurPools:
    """Comes before a class of theirs."""

    def setUp(self):
        patches = [
            mock.patch.object(theirs.multiprocessing, "Pool", Pool),
            mock.patch.object(
                theirs.test.support.script_helper,
                "assert_python_ok",
                functools.partial(with_our_pool, script_helper.assert_python_ok),
            ),
        ]
        if self.TYPE == "threads":
            # Threads cannot be stopped, so join() waits for what has begun; newer
            # versions of the test know.
            patches.append(mock.patch.object(theirs.support, "LONG_TIMEOUT", 1))
        for patch in patches:
            patch.start()
            self.addCleanup(patch.stop)
        super().setUp()


script_helper = theirs.test.support.script_helper


def with_our_pool(run, *args):
    """Their assert_python_ok, for a script or a file that imports Pool."""
    *options, script = args
    if not options:
        with open(script) as file:
            text = file.read()
        with open(script, "w") as file:
            file.write(importing_ours(text))
        return run(script)
    return run(*options, importing_ours(script))


def importing_ours(script):
    before = f"import sys; sys.path[:] = {sys.path!r}; "
    changed = script.replace(
        "from multiprocessing import Pool", before + "from allcores.pools import Pool"
    ).replace(
        "import multiprocessing\n",
        before + "import allcores.pools as multiprocessing\n",
    )
    assert changed != script
    return changed


def left_out(name, test, kind):
    return NOT_FOR_US.get((name, test)) or NOT_FOR_US.get((name, test, kind))


def ours(name, kind, taken):
    """Their class of tests with our pools."""
    base = getattr(theirs, name)
    body = {"TYPE": kind, "Pool": POOLS[kind], "__module__": __name__}
    for test in dir(base):
        if reason := left_out(name, test, kind):
            body[test] = unittest.skip(reason)(getattr(base, test))
        elif test.startswith("_test_"):
            body[test] = getattr(base, test)  # a task, of a class workers can import
        elif test.startswith("test_") and taken and test not in taken:
            body[test] = None
    bases = (OurPools, base)
    if not issubclass(base, unittest.TestCase):
        bases += (unittest.TestCase,)
    return type(f"With{kind.capitalize()}{name.lstrip('_')}", bases, body)


for _kind, _names in CLASSES.items():
    for _name, _taken in _names.items():
        _made = ours(_name, _kind, _taken)
        globals()[_made.__name__] = _made
del _kind, _names, _name, _taken, _made


def test_the_table_names_only_tests_that_there_are():
    for name, test, *_ in NOT_FOR_US:
        assert hasattr(getattr(theirs, name), test), (name, test)
