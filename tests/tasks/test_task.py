"""Tasks and their initial states: splits that never meet, in their seeds and in the simulator."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_cl.errors import ConfigurationError, UnknownNameError
from vla_cl.tasks import SeedSplit, make, make_expert
from vla_cl.tasks.meta_world import meta_world_task

SPLITS = ("train", "selection", "test")


def test_the_default_splits_are_disjoint():
    split = SeedSplit()
    assert set(split.selection).isdisjoint(split.test)
    for seed in (*split.selection, *split.test):
        assert seed not in split.train


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 30)), min_size=3, max_size=3))
def test_a_split_is_accepted_only_if_its_ranges_are_disjoint(bounds: list[tuple[int, int]]):
    train, selection, test = (range(start, start + length) for start, length in bounds)
    disjoint = len({*train, *selection, *test}) == len(train) + len(selection) + len(test)
    if disjoint:
        split = SeedSplit(train, selection, test)
        assert [split[name] for name in SPLITS] == [train, selection, test]
    else:
        with pytest.raises(ConfigurationError, match="overlap"):
            SeedSplit(train, selection, test)


@pytest.mark.parametrize("seeds", [range(0), range(10, 0, -1), range(-5, 5)])
def test_a_split_of_no_descending_or_negative_seeds_is_refused(seeds: range):
    with pytest.raises(ConfigurationError, match="ascending, non-empty"):
        SeedSplit(train=seeds)


def test_an_unknown_split_is_an_error():
    with pytest.raises(ConfigurationError, match="use train, selection or test"):
        SeedSplit()["validation"]


@pytest.mark.parametrize("task", ["push", "door-open"])
def test_initial_states_of_different_splits_differ_in_the_simulator(task: str):
    seeds = meta_world_task(task).seeds
    states = {}
    with make(task, cameras=()) as env:
        for name in SPLITS:
            for seed in seeds[name][:5]:
                env.restart(seed=seed)
                states[name, seed] = env.unwrapped.get_state().tobytes()
    assert len(set(states.values())) == len(states)


def test_the_stored_initial_states_are_those_of_the_test_split():
    task = meta_world_task("push")
    stored = task.environment_spec().init_state_seeds
    assert stored == tuple(task.seeds.test[:50])
    with make("push", cameras=(), privileged=True) as env:
        by_index, _ = env.reset(options={"init_state": 7})
        by_seed, _ = env.reset(seed=task.seeds.test[7])
    np.testing.assert_array_equal(by_index["environment_state"], by_seed["environment_state"])


def say_where(arguments):
    return f"go to {arguments['task']}"


def test_instructions_come_in_four_kinds():
    task = meta_world_task("push")
    assert task.instructions() == (task.instruction,)
    assert task.instructions("paraphrased") == (task.instruction, *task.paraphrases)
    assert task.instructions("held_out") == task.held_out_paraphrases
    assert replace(task, declared_language=say_where).instructions("declared") == ("go to push-v3",)
    with pytest.raises(ConfigurationError, match="canonical, paraphrased, held_out or declared"):
        task.instructions("french")
    with pytest.raises(ConfigurationError, match="no files that tell it"):
        task.instructions("declared")
    with pytest.raises(ConfigurationError, match="no held-out paraphrases"):
        replace(task, held_out_paraphrases=()).instructions("held_out")


@pytest.mark.parametrize("name", ["", "../push", "two words", "a/b", "-push"])
def test_a_name_that_cannot_be_a_file_or_an_identifier_is_refused(name: str):
    with pytest.raises(ConfigurationError, match="task name"):
        replace(meta_world_task("push"), name=name)


def test_a_task_whose_expert_is_missing_says_so():
    task = meta_world_task("push")
    with pytest.raises(ConfigurationError, match="names no expert"):
        make_expert(replace(task, expert=""))
    with pytest.raises(UnknownNameError, match="did you mean 'meta_world/push'"):
        make_expert(replace(task, expert="meta_world/pusj"))
