"""A chunk of actions: what k steps do, with one observation at the end."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.envs.scenes import expert_actions, meta_world, random_actions
from vla_cl.envs import ActionChunk, MetaWorldEnv, advance_chunk
from vla_cl.errors import ConfigurationError


@pytest.fixture(scope="module")
def env() -> MetaWorldEnv:
    return meta_world("reach-v3", horizon=40)


@settings(max_examples=15, deadline=None)
@given(chunk=st.integers(1, 50), seed=st.integers(0, 100))
def test_a_chunk_is_its_steps(env: MetaWorldEnv, chunk: int, seed: int) -> None:
    actions = random_actions(chunk, seed)
    env.restart(seed=seed)
    rewards = []
    for action in actions:
        step = env.advance(action)
        rewards.append(step.reward)
        if step.terminated or step.truncated:
            break
    one_by_one = env.get_state()

    env.restart(seed=seed)
    advance, steps = advance_chunk(env, actions)
    assert steps == len(rewards)
    assert advance.reward == sum(rewards)
    assert advance[1:] == step[1:]
    np.testing.assert_array_equal(env.get_state(), one_by_one)


def test_it_stops_at_success(env: MetaWorldEnv) -> None:
    env = meta_world("reach-v3", horizon=300)
    env.restart(seed=0)
    actions = expert_actions(env, 100, noise=0.0)
    env.restart(seed=0)
    advance, steps = advance_chunk(env, actions)
    assert advance.terminated
    assert steps == env.elapsed_steps < 100


def test_the_wrapper_observes_once_a_chunk(env: MetaWorldEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []
    observe = env.observe
    monkeypatch.setattr(env, "observe", lambda: looked.append(env.elapsed_steps) or observe())
    chunked = ActionChunk(env, 16)
    assert chunked.action_space == gymnasium.spaces.Box(-1, 1, (16, 4), np.float32)
    chunked.reset(seed=0)
    results = [chunked.step(np.zeros((16, 4), np.float32)) for _ in range(3)]
    assert looked == [0, 16, 32, 40]
    assert [result[4]["steps"] for result in results] == [16, 16, 8]
    assert [result[3] for result in results] == [False, False, True]
    assert results[-1][4]["failure"] == "horizon"


def test_after_step_is_called_after_each(env: MetaWorldEnv) -> None:
    env.restart(seed=0)
    seen: list[int] = []
    advance_chunk(env, np.zeros((5, 4), np.float32), after_step=lambda: seen.append(env.elapsed_steps))
    assert seen == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("shape", [(4,), (0, 4), (2, 3, 4)])
def test_what_is_no_chunk_is_refused(env: MetaWorldEnv, shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigurationError, match="chunk of actions must have shape"):
        advance_chunk(env, np.zeros(shape, np.float32))


def test_the_wrapper_refuses_other_lengths_and_other_environments(env: MetaWorldEnv) -> None:
    with pytest.raises(ConfigurationError, match=r"a chunk must have shape \(8, 4\), got \(7, 4\)"):
        ActionChunk(env, 8).step(np.zeros((7, 4), np.float32))
    with pytest.raises(ConfigurationError, match="chunk must be at least 1"):
        ActionChunk(env, 0)
    with pytest.raises(ConfigurationError, match="needs a ManipulationEnv, got CartPoleEnv"):
        ActionChunk(gymnasium.make("CartPole-v1"), 8)
