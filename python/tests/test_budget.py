"""The budget: what it accepts, and what it is within nested and crossing blocks."""

import contextvars
import copy
import json
import os
import threading

import allcores as ac
import numpy as np
import pytest

ALLOWED = "an integer from 1 to 1024"


def test_info_gives_a_reason_and_counts_that_fit_together():
    read = ac.info()
    assert isinstance(read, ac.Info)
    assert 1 <= read.affinity <= read.online
    assert 1 <= read.granted <= read.affinity
    assert 1 <= read.physical <= read.affinity
    assert read.limit in ("online", "affinity", "quota", "user")
    assert read.affinity == len(os.sched_getaffinity(0))
    assert read.reason
    assert (read.quota is None) == (read.quota_path is None)


def test_infos_repr_has_a_field_a_line():
    lines = repr(ac.info()).splitlines()
    assert lines[0] == "Info(" and lines[-1] == ")"
    assert lines[1:-1] == [f"    {k}={v!r}," for k, v in ac.info()._asdict().items()]


def test_cpu_count_is_what_the_machine_grants(budget):
    granted = ac.info().granted
    assert ac.cpu_count() == granted
    budget(granted + 5)
    assert ac.cpu_count() == granted
    assert 1 <= ac.cpu_count(only_physical_cores=True) <= ac.cpu_count()


def test_the_budget_is_what_was_set(budget):
    for cores in (1, 3, 1024, np.int64(2)):
        budget(cores)
        assert ac.get_num_threads() == int(cores)
        assert ac.info().cores == int(cores)
        assert ac.info().limit == "user"
    budget(None)
    assert ac.get_num_threads() == ac.info().granted


@pytest.mark.parametrize("n", [0, -1, 1025, 10**9, 10**30, -(10**30)])
def test_a_number_out_of_range_is_refused_and_changes_nothing(n, budget):
    budget(3)
    for call in (ac.set_budget, ac.threads):
        with pytest.raises(ValueError, match=rf"{ALLOWED}.*not {n}$"):
            call(n)
    assert ac.get_num_threads() == 3


@pytest.mark.parametrize("n", ["2", 2.5, True, False, [1], b"1", 1 + 0j])
def test_what_is_no_integer_is_refused_and_changes_nothing(n, budget):
    budget(3)
    for call in (ac.set_budget, ac.threads):
        with pytest.raises(TypeError, match=ALLOWED) as caught:
            call(n)
        assert str(caught.value).endswith(f"not {n!r}")
    assert ac.get_num_threads() == 3


def test_only_the_budget_may_be_none():
    with pytest.raises(TypeError, match=ALLOWED + ", not None"):
        ac.threads(None)


def test_blocks_narrow_nest_and_end(budget):
    budget(8)
    with ac.threads(4):
        assert ac.get_num_threads() == 4
        with ac.threads(2):
            assert ac.get_num_threads() == 2
            with ac.threads(6):
                assert ac.get_num_threads() == 2
        assert ac.get_num_threads() == 4
    assert ac.get_num_threads() == 8


def test_a_block_that_ends_by_an_exception_ends(budget):
    budget(8)
    with pytest.raises(KeyError), ac.threads(2):
        raise KeyError
    assert ac.get_num_threads() == 8


def test_blocks_may_end_in_any_order(budget):
    budget(8)
    narrow, wide = ac.threads(2), ac.threads(5)
    narrow.__enter__()
    wide.__enter__()
    narrow.__exit__(None, None, None)
    assert ac.get_num_threads() == 5
    wide.__exit__(None, None, None)
    assert ac.get_num_threads() == 8


def test_one_block_may_be_entered_again_while_it_is_open(budget):
    budget(8)
    block = ac.threads(2)
    with block, block:
        assert ac.get_num_threads() == 2
    assert ac.get_num_threads() == 8
    with pytest.raises(RuntimeError, match="left more often"):
        block.__exit__(None, None, None)


def test_a_block_in_another_thread_counts_here(budget):
    budget(8)
    entered, leave = threading.Event(), threading.Event()

    def hold():
        with ac.threads(3):
            entered.set()
            leave.wait()

    other = threading.Thread(target=hold)
    other.start()
    entered.wait()
    with ac.threads(5):
        assert ac.get_num_threads() == 3
    leave.set()
    other.join()
    assert ac.get_num_threads() == 8


def test_a_budget_set_within_a_block_counts_after_it(budget):
    budget(8)
    with ac.threads(4):
        budget(6)
        assert ac.get_num_threads() == 4
    assert ac.get_num_threads() == 6


def test_threads_decorates(budget):
    budget(8)

    @ac.threads(2)
    def depth(n):
        """Say it."""
        assert ac.get_num_threads() == 2
        return depth(n - 1) + 1 if n else 0

    assert depth(3) == 3
    assert depth.__name__ == "depth" and depth.__doc__ == "Say it."
    assert ac.get_num_threads() == 8


def test_threads_refuses_what_would_run_outside_the_block():
    def generator():
        yield

    async def coroutine():
        pass

    async def asynchronous_generator():
        yield

    for function in (generator, coroutine, asynchronous_generator, 3):
        with pytest.raises(TypeError, match="inside it"):
            ac.threads(1)(function)


def test_a_forgotten_limit_is_released(budget):
    budget(8)
    block = ac.threads(2)
    block.__enter__()
    del block
    assert ac.get_num_threads() == 8


def test_a_sum_within_a_narrow_block_starts_no_thread(run_python):
    script = """
        import os, allcores as ac
        with ac.threads(1):
            for _ in range(50):
                ac.sum(bytes(1_000_000))
        print(len(os.listdir("/proc/self/task")))
    """
    assert run_python(script) == "1\n"


def test_the_environment_sets_the_budget(run_python):
    script = "import allcores as ac; print(ac.get_num_threads(), ac.info().limit)"
    env = {**os.environ, "ALLCORES_NUM_THREADS": "3"}
    assert run_python(script, env=env) == "3 user\n"


def test_counters_are_named_and_count(budget):
    budget(2)
    before = ac.counters()
    ac.sum(bytes(1_000_000))
    after = ac.counters()
    assert list(before) == list(after)
    assert after["regions"] == before["regions"] + 1
    json.dumps(after)


def test_an_object_that_is_an_index_is_a_number(budget):
    class Two:
        def __index__(self):
            return 2

    budget(Two())
    assert ac.get_num_threads() == 2
    with ac.threads(Two()):
        pass


def test_a_copy_of_a_context_leaves_the_budget_alone(budget):
    budget(4)
    with ac.threads(2):
        inside = contextvars.copy_context().run(ac.get_num_threads)
    assert inside == 2
    assert copy.copy(ac.info()).cores == 4
