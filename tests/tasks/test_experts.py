"""Scripted experts in the real simulator."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest

from vla_cl.envs import ManipulationEnv, ObservationOptions
from vla_cl.errors import ConfigurationError
from vla_cl.tasks import Expert, get_suite, make_expert
from vla_cl.tasks.meta_world import meta_world_task
from vla_cl.tasks.meta_world_experts import MetaWorldExpert, _packaged_policy

SAMPLE = ["assembly", "bin-picking", "button-press-topdown", "door-close", "hammer", "peg-unplug-side", "push", "sweep"]


def demonstrate(env: ManipulationEnv, expert: Expert, seed: int) -> tuple[bool, np.ndarray]:
    """One episode: whether it succeeded, and the actions (T, A)."""
    env.restart(seed=seed)
    expert.reset(env, np.random.default_rng(seed))
    actions = []
    while True:
        actions.append(expert.act(env))
        outcome = env.advance(actions[-1])
        if outcome.terminated or outcome.truncated:
            return outcome.terminated, np.array(actions)


def success_rate(name: str, expert: Expert, episodes: int) -> float:
    task = meta_world_task(name)
    with closing(task.environment(ObservationOptions(cameras=()))) as env:
        return float(np.mean([demonstrate(env, expert, seed)[0] for seed in task.seeds.selection[:episodes]]))


def test_all_fifty_experts_can_be_made():
    for task in get_suite("mw50").tasks:
        assert isinstance(make_expert(task), MetaWorldExpert)


@pytest.mark.parametrize("name", SAMPLE)
def test_an_expert_succeeds_within_the_tasks_horizon(name: str):
    assert success_rate(name, make_expert(meta_world_task(name)), episodes=3) == 1.0


@pytest.mark.parametrize(("name", "episodes"), [("push-back", 6), ("stick-pull", 10)])
def test_the_corrected_experts_beat_the_packages_own(name: str, episodes: int):
    class Packaged(MetaWorldExpert):
        def __init__(self, task: str) -> None:
            self._policy = _packaged_policy(task)

    ours = success_rate(name, make_expert(meta_world_task(name)), episodes)
    theirs = success_rate(name, Packaged(f"{name}-v3"), episodes)
    assert ours >= 0.9 and theirs < ours


def test_actions_are_bounded_float32_and_a_function_of_the_state():
    task = meta_world_task("door-close")  # the package's policy writes into what it reads
    with closing(task.environment(ObservationOptions(cameras=()))) as env:
        success, actions = demonstrate(env, make_expert(task), seed=1)
        again, repeated = demonstrate(env, make_expert(task), seed=1)
        before = env.environment_state().copy()
        make_expert(task).act(env)
        np.testing.assert_array_equal(env.environment_state(), before)
    assert success and again
    assert actions.dtype == np.float32 and actions.shape[1:] == (4,)
    assert np.abs(actions).max() <= 1.0
    np.testing.assert_array_equal(actions, repeated)


def test_an_expert_for_a_task_that_meta_world_lacks_is_an_error():
    with pytest.raises(ConfigurationError, match="no scripted policy for 'window-shut-v3'"):
        MetaWorldExpert("window-shut-v3")
