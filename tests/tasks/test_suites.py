"""Suites: their published orders, named and seeded orders, and how a task is found by name."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_cl.errors import ConfigurationError, UnknownNameError
from vla_cl.tasks import SUITES, TaskSuite, find_task, get_suite, register_suite
from vla_cl.tasks.meta_world import meta_world_task

CONTINUAL_WORLD = [
    "hammer",
    "push-wall",
    "faucet-close",
    "push-back",
    "stick-pull",
    "handle-press-side",
    "push",
    "shelf-place",
    "window-close",
    "peg-unplug-side",
]


def names(tasks) -> list[str]:
    return [task.name for task in tasks]


def test_the_built_in_suites_are_registered():
    assert {"cw10", "cw20", "mw3", "mw5", "mw50"} <= set(SUITES)


def test_cw10_is_continual_worlds_published_order():
    assert names(get_suite("cw10").tasks) == CONTINUAL_WORLD


def test_cw20_is_cw10_twice():
    suite = get_suite("cw20")
    assert names(suite.tasks) == CONTINUAL_WORLD * 2
    assert names(suite.unique_tasks) == CONTINUAL_WORLD
    assert names(suite.sequence("paired"))[:4] == ["hammer", "hammer", "push-wall", "push-wall"]


def test_continual_worlds_tasks_last_200_steps():
    assert {task.horizon for task in get_suite("cw10").tasks} == {200}


def test_mw5_has_its_five_tasks():
    assert names(get_suite("mw5").tasks) == [
        "window-close",
        "faucet-close",
        "handle-press-side",
        "peg-unplug-side",
        "push",
    ]


@pytest.mark.parametrize("name", ["cw10", "cw20", "mw3", "mw5", "mw50"])
def test_every_suite_names_its_source_and_can_be_learned_backwards(name: str):
    suite = get_suite(name)
    assert "et al., 20" in suite.description
    assert suite.sequence("reversed") == suite.tasks[::-1]
    assert suite.sequence() == suite.tasks


@given(seed=st.integers(0, 2**31))
def test_a_seeded_order_is_a_permutation_and_a_function_of_the_seed(seed: int):
    suite = get_suite("cw20")
    order = suite.sequence(seed)
    assert Counter(names(order)) == Counter(names(suite.tasks))
    assert suite.sequence(seed) == suite.sequence(str(seed)) == order


def test_seeded_orders_do_not_change_between_versions():
    assert names(get_suite("mw5").sequence(0)) == [
        "faucet-close",
        "window-close",
        "handle-press-side",
        "push",
        "peg-unplug-side",
    ]


def test_different_seeds_give_different_orders():
    suite = get_suite("cw10")
    assert len({tuple(names(suite.sequence(seed))) for seed in range(20)}) > 15


def test_a_sequence_can_be_cut():
    suite = get_suite("cw10")
    assert suite.sequence(length=3) == suite.tasks[:3]
    for length in (0, 11):
        with pytest.raises(ConfigurationError, match="1 to 10"):
            suite.sequence(length=length)


def test_unknown_names_are_errors_that_name_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean 'cw10'"):
        get_suite("cw1O")
    with pytest.raises(UnknownNameError, match="did you mean 'reversed'"):
        get_suite("cw10").sequence("reverse")
    with pytest.raises(UnknownNameError, match="did you mean 'window-close'"):
        get_suite("mw5").task("window-clse")
    with pytest.raises(UnknownNameError, match="did you mean 'mw5'"):
        find_task("mw55/window-close")
    with pytest.raises(UnknownNameError, match=r"did you mean 'window-close'.*vla-cl tasks mw5 lists all"):
        find_task("mw5/window-closed")
    with pytest.raises(UnknownNameError, match=r"did you mean 'door-lock'.*vla-cl tasks lists all"):
        find_task("doorlock")


def test_a_task_is_found_by_its_name_alone_or_with_its_suite():
    assert find_task("window-close") == find_task("mw5/window-close") == find_task("cw10/window-close")
    assert find_task("assembly").instruction == "put the ring onto the peg"


def test_every_built_in_task_is_found_by_its_name_alone():
    for task in get_suite("mw50").tasks:
        assert find_task(task.name) == task


def test_a_name_that_suites_use_differently_needs_its_suite(add_suite):
    longer = replace(meta_world_task("push"), horizon=500)
    add_suite(TaskSuite("patient", (longer,)))
    with pytest.raises(ConfigurationError, match=r"'push' is ambiguous; say 'cw10/push' or 'patient/push'"):
        find_task("push")
    assert find_task("patient/push").horizon == 500


def test_a_suite_must_be_registered_under_its_own_name(add_suite):
    suite = TaskSuite("mine", (meta_world_task("push"),))
    add_suite(suite)
    assert get_suite("mine") is suite
    register_suite("yours")(lambda: suite)
    with pytest.raises(ConfigurationError, match="calls itself 'mine'"):
        get_suite("yours")


def test_two_suites_cannot_share_a_name(add_suite):
    with pytest.raises(ConfigurationError, match="already registered"):
        register_suite("cw10")(lambda: TaskSuite("cw10", (meta_world_task("push"),)))


def test_a_suite_without_tasks_or_with_an_order_that_is_no_permutation_is_refused():
    push, reach = meta_world_task("push"), meta_world_task("reach")
    with pytest.raises(ConfigurationError, match="has no tasks"):
        TaskSuite("empty", ())
    with pytest.raises(ConfigurationError, match="not a permutation"):
        TaskSuite("odd", (push, reach), orders={"twice": ("push", "push")})
