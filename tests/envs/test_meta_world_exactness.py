"""Every one of Meta-World's fifty tasks: the seed fixes the start, and a saved state continues bit for bit."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from tests.envs.continuation import trajectory
from tests.envs.scenes import expert_actions, meta_world, random_actions
from vla_cl.envs.meta_world_task import task_names
from vla_cl.envs.process import WorkerProcess

COMPARED_WITH_META_WORLD = (
    "assembly-v3",
    "basketball-v3",
    "bin-picking-v3",
    "box-close-v3",
    "hammer-v3",
    "peg-unplug-side-v3",
    "push-v3",
    "stick-pull-v3",
    "sweep-v3",
    "window-close-v3",
)
"""Furniture moved by the reset; targets that are views of the simulator's memory; contacts; plain ones."""


@pytest.fixture(scope="module")
def other_process() -> Iterator[WorkerProcess]:
    process = WorkerProcess("tests.envs.continuation")
    process.wait_until_ready()
    yield process
    process.end()


@pytest.mark.parametrize("task", task_names())
def test_the_seed_fixes_the_start_and_a_state_continues_in_another_process(
    task: str, other_process: WorkerProcess
) -> None:
    env = meta_world(task, horizon=1000)
    env.restart(seed=7)
    start, seen = env.get_state(), env.environment_state()
    expert_actions(env, 25)
    middle = env.get_state()
    actions = random_actions(15)
    other_process.send("continue", (task, middle, actions))
    expected = trajectory(env, actions)

    error, continued = other_process.receive()
    assert error is None
    np.testing.assert_equal(continued, expected)

    env.restart(seed=99)
    assert not np.array_equal(env.get_state(), start)
    env.restart(seed=7)  # after other episodes and another seed
    np.testing.assert_array_equal(env.get_state(), start)
    np.testing.assert_array_equal(env.environment_state(), seen)


@pytest.mark.parametrize("task", COMPARED_WITH_META_WORLD)
def test_it_computes_what_meta_world_computes(task: str) -> None:
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    env = meta_world(task, horizon=1000)
    env.restart(seed=3)
    reference = ALL_V3_ENVIRONMENTS[task]()
    reference._partially_observable = False
    del reference.sawyer_observation_space
    reference._set_task_called = True
    reference._last_rand_vec = env.meta_world._last_rand_vec.copy()
    observation, _ = reference.reset()
    np.testing.assert_array_equal(env.environment_state(), observation)

    reference.max_path_length = 10_000
    twin = meta_world(task, horizon=1000)
    twin.restart(seed=3)
    for action in expert_actions(twin, 120):
        observation, reward, _, _, info = reference.step(action)
        advance = env.advance(action)
        np.testing.assert_array_equal(env.environment_state(), observation)
        assert advance.reward == reward
        assert advance.info["success"] == bool(info["success"])
        assert {name: advance.info[name] for name in info if name != "success"} == {
            name: value for name, value in info.items() if name != "success"
        }


@pytest.mark.parametrize("task", ["basketball-v3", "push-v3"])
def test_resets_change_nothing_in_the_model_but_what_the_state_holds(task: str) -> None:
    env = meta_world(task)
    names = [name for name in dir(env.model) if isinstance(getattr(env.model, name, None), np.ndarray)]
    before = {name: np.copy(getattr(env.model, name)) for name in names}
    moved = {name: np.zeros(len(before[name]), bool) for name in ("body_pos", "site_pos")}
    for seed in range(5):
        env.restart(seed=seed)
        for name in names:
            if name in moved:
                moved[name] |= (getattr(env.model, name) != before[name]).any(axis=1)
            else:
                np.testing.assert_array_equal(getattr(env.model, name), before[name], err_msg=name)
    for name, rows in moved.items():
        assert set(np.flatnonzero(rows)) <= set(env._moved_rows[name])


def test_the_random_vector_comes_from_the_seed() -> None:
    env = meta_world("window-close-v3")
    env.restart(seed=5)
    space = env.meta_world._random_reset_space
    expected = np.random.default_rng(5).uniform(space.low, space.high, size=space.low.size)
    np.testing.assert_array_equal(env.meta_world._last_rand_vec, expected)


def test_the_goal_is_among_the_39_numbers() -> None:
    env = meta_world("push-v3")
    env.restart(seed=0)
    assert env.environment_state().shape == (39,)
    np.testing.assert_array_equal(env.environment_state()[36:], env.meta_world._target_pos)
    assert np.abs(env.meta_world._target_pos).max() > 0.1


def test_meta_worlds_own_horizon_does_not_interfere() -> None:
    env = meta_world("reach-v3", horizon=700)
    env.restart(seed=0)
    away = np.array([0, -1, 1, 0], np.float32)
    steps = [env.advance(away) for _ in range(700)]
    assert [index for index, step in enumerate(steps) if step.truncated] == [699]
