"""The suite `robosuite10`: its words, its ranges, and experts that solve it."""

from __future__ import annotations

import itertools
from contextlib import closing

import numpy as np
import pytest

from vla_cl.envs import ObservationOptions
from vla_cl.errors import UnknownNameError
from vla_cl.tasks import EXPERTS, Task, get_suite, make_expert
from vla_cl.tasks.robosuite_tasks import RANGES, robosuite_task

TASKS = get_suite("robosuite10").tasks


def test_it_holds_robosuites_ten_tasks_in_two_orders():
    assert [task.arguments["environment"] for task in TASKS] == [
        *("Lift", "Stack", "PickPlaceCan", "PickPlaceMilk", "PickPlaceBread", "PickPlaceCereal"),
        *("NutAssemblySquare", "NutAssemblyRound", "Door", "Wipe"),
    ]
    assert get_suite("robosuite10").sequence("reversed") == TASKS[::-1]
    assert all(task.expert in EXPERTS for task in TASKS)


def test_every_task_has_enough_sentences_and_none_is_used_twice():
    sentences = []
    for task in TASKS:
        assert len(task.paraphrases) >= 4 and len(task.held_out_paraphrases) >= 2
        sentences += [*task.instructions("paraphrased"), *task.instructions("held_out")]
    assert len(sentences) == len(set(sentences))
    for sentence in sentences:
        assert sentence.isascii() and sentence == sentence.strip().lower() and sentence[-1].isalnum()


@pytest.mark.parametrize("alike", [*itertools.combinations(["can", "milk", "bread", "cereal"], 2), ("square", "round")])
def test_tasks_that_look_alike_are_told_apart_by_every_sentence(alike: tuple[str, str]):
    prefix = "nut-assembly" if "square" in alike else "pick-place"
    first, second = (robosuite_task(f"{prefix}-{name}") for name in alike)
    for kind in ("paraphrased", "held_out"):
        for one, other in itertools.product(first.instructions(kind), second.instructions(kind)):
            assert set(one.split()) ^ set(other.split())


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_an_expert_succeeds_well_within_the_horizon_and_stays_in_the_declared_ranges(task: Task):
    expert = make_expert(task)
    ranges = {name: (np.array(low) - 1e-6, np.array(high) + 1e-6) for name, (low, high) in RANGES.items()}
    with closing(task.environment(ObservationOptions(cameras=(), privileged=True))) as env:
        for seed in task.seeds.selection[:2]:
            env.restart(seed=seed)
            expert.reset(env, np.random.default_rng(seed))
            outcome = None
            while outcome is None or not (outcome.terminated or outcome.truncated):
                action = expert.act(env)
                outcome = env.advance(action)
                seen = {"action": action, "agent_pos": env.agent_pos(), "environment_state": env.environment_state()}
                for name, (low, high) in ranges.items():
                    inside = (low <= seen[name]) & (seen[name] <= high)
                    assert (inside | (seen[name] == 0.0)).all(), (name, env.elapsed_steps, seen[name])
            assert outcome.terminated
            assert env.elapsed_steps < 0.9 * task.horizon


def test_a_task_that_is_not_there_is_an_error_that_names_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean 'pick-place-milk'"):
        robosuite_task("pick-place-milch")
