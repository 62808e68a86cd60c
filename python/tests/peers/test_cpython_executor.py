"""CPython's own tests of ProcessPoolExecutor, with this package's Executor instead.

They come with the interpreter, in its package `test`, so each version of Python brings
its own. `NOT_FOR_US` lists those that ask for something other than an executor's
behaviour, or for a behaviour that is meant to be better here.

The executor is strict: like the standard library's it breaks when a worker dies.
"""

import importlib
import unittest
from concurrent import futures

import pytest
from allcores.executor import Executor

theirs = pytest.importorskip(
    "test.test_concurrent_futures",
    reason="this interpreter came without its package `test`",
    exc_type=ImportError,
)

PRIVATE = "reads the private dictionary _processes; test_executor.py has its like"
BY_NAME = (
    "its script names the standard library's executor; test_executor.py has its like"
)
OWN_TASK = "what does not unpickle fails its own task here, and breaks nothing"

# test, or class's ending and test -> why it is left out.
NOT_FOR_US = {
    "test_killed_child": PRIVATE,
    "test_saturation": PRIVATE,
    "test_idle_process_reuse_one": PRIVATE,
    "test_idle_process_reuse_multiple": PRIVATE,
    "test_max_tasks_per_child": PRIVATE,
    "test_processes_terminate": PRIVATE,
    "test_context_manager_shutdown": PRIVATE,
    "test_del_shutdown": PRIVATE,
    "test_shutdown_no_wait": PRIVATE,
    "test_cancel_futures": (
        "expects that some tasks can no longer be cancelled; here all that no worker "
        "has begun can be, and it takes workers a moment to start"
    ),
    "test_max_tasks_per_child_defaults_to_spawn_context": (
        "here it does not; every start method can replace its workers"
    ),
    "test_traceback": (
        "asks for the private type of the cause; test_shipping.py looks at its text"
    ),
    "test_interpreter_shutdown": BY_NAME,
    "test_submit_after_interpreter_shutdown": BY_NAME,
    "test_hang_gh83386": BY_NAME,
    "test_exit_at_task_unpickle": OWN_TASK,
    "test_error_at_task_unpickle": OWN_TASK,
    "test_error_during_result_unpickle_in_result_handler": OWN_TASK,
    "test_exit_during_result_unpickle_in_result_handler": OWN_TASK,
    "test_shutdown_deadlock_pickle": "joins the private _executor_manager_thread",
    "test_python_finalization_error": (
        "has the start of the second thread fail, which here is never started"
    ),
    "test_gh105829_should_not_deadlock_if_wakeup_pipe_full": (
        "replaces the private pipe that wakes the standard library's manager"
    ),
    ("FailingInitializerTest", "test_initializer"): (
        "asks for a line in the worker's log; here the exception says it"
    ),
    ("FailingInitializerResourcesTest", "test_spawn"): "runs the test just named",
    ("FailingInitializerResourcesTest", "test_forkserver"): "runs the test just named",
}

MODULES = (
    "test_process_pool",
    "test_init",
    "test_shutdown",
    "test_deadlock",
    "test_wait",
    "test_as_completed",
)


class StrictExecutor(Executor):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, strict=True, **kwargs)


def reason_to_leave_out(name, test):
    for what, reason in NOT_FOR_US.items():
        if what == test:
            return reason
        if isinstance(what, tuple) and name.endswith(what[0]) and what[1] == test:
            return reason
    return None


def their_classes():
    """Their test classes that make a ProcessPoolExecutor."""
    modules = [theirs]
    if hasattr(theirs, "__path__"):  # since Python 3.12 a package
        modules = [importlib.import_module(f"{theirs.__name__}.{m}") for m in MODULES]
    for module in modules:
        for name, cls in list(vars(module).items()):
            if isinstance(cls, type) and issubclass(cls, unittest.TestCase):
                kind = getattr(cls, "executor_type", None)
                if kind is futures.ProcessPoolExecutor and hasattr(cls, "ctx"):
                    yield name, cls


# In place, not in subclasses: their tasks are methods, of classes that workers import.
for _name, _class in their_classes():
    _class.executor_type = StrictExecutor
    for _test in dir(_class):
        if _reason := reason_to_leave_out(_name, _test):
            setattr(_class, _test, unittest.skip(_reason)(getattr(_class, _test)))
    globals()[_name] = _class
del _name, _class, _test, _reason


def test_the_table_names_only_tests_that_some_version_has():
    # Every version lacks some; a name that none of its classes has is fine if newer.
    known = {test for _, cls in their_classes() for test in dir(cls)}
    known |= {test for cls in ours() for test in dir(cls)}
    named = {what if isinstance(what, str) else what[1] for what in NOT_FOR_US}
    assert len(named & known) > len(named) / 2


def ours():
    return [
        thing
        for thing in globals().values()
        if isinstance(thing, type) and issubclass(thing, unittest.TestCase)
    ]
