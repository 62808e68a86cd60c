"""joblib's own tests of its Parallel, and scikit-learn, with allcores as backend.

joblib's ``test_parallel.py`` runs from where joblib is installed, in an interpreter of
its own, in which allcores' backend has taken loky's place: its name and its class. What
fails must be in `DOES_NOT_APPLY`, and what is there must fail: no test is left out
unseen.
"""

import json
import multiprocessing
import os
import subprocess
import sys
import time
from fnmatch import fnmatchcase

import pytest
from allcores._workers import WorkerDiedError
from allcores.parallel import register_joblib

joblib = pytest.importorskip("joblib", reason="these are joblib's tests")
pytest.importorskip("joblib.test.test_parallel", reason="joblib came without tests")

# Names of joblib's tests, or patterns for several, to why they fail.
DOES_NOT_APPLY = {
    "test_nested_parallel_warnings[loky-loky-False]": (
        "inside a worker the name is loky's own again, and loky warns in processes "
        "that are daemons, as ours are, like multiprocessing.Pool's"
    ),
    "test_nested_parallel_warnings[threading-loky-True]": (
        "wants a warning that processes cannot be started below threads; ours can"
    ),
    "test_multiple_generator_call_separated_gc[*-loky-True]": (
        "wants the second call to fail when the first one's generator is let go of; "
        "here that cancels the first call's tasks alone"
    ),
    "test_auto_memmap_on_arrays_from_generator[loky]": (
        "wants numpy.memmap; here large arrays are read-only views of shared memory"
    ),
    "test_memmapping_leaks[loky]": (
        "wants numpy.memmap and looks for its file; no files are used here"
    ),
    "test_threadpool_limitation_in_child_loky[*]": (
        "wants cpu_count // n_jobs threads for each worker's libraries; here workers "
        "share the cores as they come free, by the ledger"
    ),
    "test_threadpool_limitation_in_child_context[*-None]": (
        "the same; with inner_max_num_threads given, it passes"
    ),
}

# joblib's other process backends are not ours to test.
LEFT_OUT = "not multiprocessing and not spawn and not backend11"

RUN = """
import json, sys
import pytest
from allcores._joblib import AllcoresBackend
import joblib._parallel_backends, joblib.parallel

AllcoresBackend.__name__ = "LokyBackend"  # a test asks for it
joblib._parallel_backends.LokyBackend = AllcoresBackend
joblib.parallel.BACKENDS["loky"] = AllcoresBackend
del joblib.parallel.BACKENDS["allcores"]  # once is enough

class Recorder:
    def __init__(self):
        self.outcomes = {}

    def pytest_runtest_logreport(self, report):
        name = report.nodeid.rpartition("::")[2]
        if report.outcome == "failed" or report.when == "call":
            text = "xfailed" if hasattr(report, "wasxfail") else report.outcome
            why = str(report.longrepr)[-1500:] if text == "failed" else ""
            if self.outcomes.get(name, ("",))[0] != "failed":
                self.outcomes[name] = (text, why)

recorder = Recorder()
import joblib.test.test_parallel as tests
tests.LokyBackend = AllcoresBackend
code = pytest.main(
    ["-q", "-p", "no:cacheprovider", "--rootdir", sys.argv[2], "-k", sys.argv[3],
     tests.__file__, *sys.argv[4:]],
    plugins=[recorder],
)
with open(sys.argv[1], "w") as file:
    json.dump(recorder.outcomes, file)
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What came of each of joblib's tests: (outcome, how it failed)."""
    folder = tmp_path_factory.mktemp("joblib")
    command = [sys.executable, "-c", RUN, "outcomes.json", str(folder), LEFT_OUT]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=900
    )
    file = folder / "outcomes.json"
    assert file.exists(), done.stdout + done.stderr
    return json.loads(file.read_text())


def reason(name):
    for pattern, why in DOES_NOT_APPLY.items():
        if fnmatchcase(name, pattern.replace("[", "[[]")):
            return why
    return None


def test_joblibs_own_tests_pass_on_the_backend_or_are_listed(outcomes):
    failed = {name: why for name, (what, why) in outcomes.items() if what == "failed"}
    unlisted = {name: why for name, why in failed.items() if not reason(name)}
    assert not unlisted, "\n\n".join(f"{n}:\n{why}" for n, why in unlisted.items())
    assert sum(what == "passed" for what, _ in outcomes.values()) > 400
    passed = [n for n, (what, _) in outcomes.items() if what == "passed" and reason(n)]
    stale = [
        pattern
        for pattern in DOES_NOT_APPLY
        if not any(reason(n) == DOES_NOT_APPLY[pattern] for n in failed)
    ]
    assert not stale, f"listed, but it passes: {stale}, {passed}"


# ---- By its own name ---------------------------------------------------------


@pytest.fixture
def on_allcores():
    """Within the test joblib uses the backend, with two workers."""
    register_joblib()
    with joblib.parallel_config("allcores", n_jobs=2) as config:
        yield config["backend"]


def nested_pids():
    backend = joblib.parallel.get_active_backend()[0]
    pids = joblib.Parallel(n_jobs=2)(joblib.delayed(os.getpid)() for _ in range(4))
    return type(backend).__name__, backend.nesting_level, len(set(pids))


def one_inside():
    with joblib.parallel_config("allcores", n_jobs=2):
        return joblib.Parallel()(joblib.delayed(pow)(i, 2) for i in range(5))


def fill(array):
    array[:] = 1
    return float(array.sum())


@pytest.mark.parametrize("return_as", ["list", "generator", "generator_unordered"])
@pytest.mark.parametrize("batch_size", ["auto", 1, 7])
def test_tasks_run_in_worker_processes(on_allcores, return_as, batch_size):
    parallel = joblib.Parallel(return_as=return_as, batch_size=batch_size)
    got = parallel(joblib.delayed(pow)(i, 2) for i in range(500))
    assert sorted(got) == [i * i for i in range(500)]
    pids = joblib.Parallel()(joblib.delayed(os.getpid)() for _ in range(20))
    assert os.getpid() not in pids and len(set(pids)) <= 2


def test_calls_inside_tasks_run_on_threads(on_allcores):
    got = joblib.Parallel()(joblib.delayed(nested_pids)() for _ in range(3))
    assert got == [("ThreadingBackend", 1, 1)] * 3


def test_the_name_is_known_inside_tasks_too(on_allcores):
    got = joblib.Parallel()(joblib.delayed(one_inside)() for _ in range(2))
    assert got == [[0, 1, 4, 9, 16]] * 2


def test_an_exception_leaves_workers_that_can_be_used(on_allcores):
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            joblib.Parallel()(joblib.delayed(divmod)(1, i) for i in (1, 0, 1))
        assert joblib.Parallel()([joblib.delayed(divmod)(7, 2)]) == [(3, 1)]


def test_a_timeout_is_joblibs(on_allcores):
    with pytest.raises(multiprocessing.TimeoutError):
        joblib.Parallel(timeout=0.1)(joblib.delayed(time.sleep)(60) for _ in range(3))
    assert joblib.Parallel()([joblib.delayed(divmod)(7, 2)]) == [(3, 1)]


def test_a_worker_that_dies_raises_an_error(on_allcores):
    with pytest.raises(WorkerDiedError):
        joblib.Parallel()([joblib.delayed(os._exit)(3)])
    assert joblib.Parallel()([joblib.delayed(divmod)(7, 2)]) == [(3, 1)]


def test_large_arrays_can_be_written_to_if_memory_maps_are_off(on_allcores):
    numpy = pytest.importorskip("numpy", reason="this test sends its arrays")
    array = numpy.zeros(1 << 18)
    got = joblib.Parallel(max_nbytes=None)([joblib.delayed(fill)(array)])
    assert got == [1 << 18] and array[0] == 0


# ---- scikit-learn ------------------------------------------------------------


def test_a_grid_search_finds_what_it_finds_alone(on_allcores):
    pytest.importorskip("sklearn", reason="this test runs scikit-learn")
    from sklearn.datasets import make_classification
    from sklearn.model_selection import GridSearchCV
    from sklearn.svm import SVC

    x, y = make_classification(200, random_state=0)
    grid = {"C": [0.1, 1, 10], "gamma": [0.01, 0.1]}
    alone = GridSearchCV(SVC(), grid, n_jobs=1).fit(x, y)
    ours = GridSearchCV(SVC(), grid, n_jobs=2).fit(x, y)
    assert ours.best_params_ == alone.best_params_
    scores = "mean_test_score"
    assert list(ours.cv_results_[scores]) == list(alone.cv_results_[scores])


def test_a_random_forest_is_the_one_that_grows_alone(on_allcores):
    numpy = pytest.importorskip("numpy", reason="this test runs scikit-learn")
    pytest.importorskip("sklearn", reason="this test runs scikit-learn")
    from sklearn.datasets import make_classification
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import cross_val_score

    x, y = make_classification(300, random_state=0)
    alone = RandomForestClassifier(20, random_state=1, n_jobs=1).fit(x, y)
    ours = RandomForestClassifier(20, random_state=1, n_jobs=2).fit(x, y)
    numpy.testing.assert_array_equal(ours.predict_proba(x), alone.predict_proba(x))
    numpy.testing.assert_array_equal(
        cross_val_score(ours, x, y, n_jobs=2), cross_val_score(alone, x, y, n_jobs=1)
    )
