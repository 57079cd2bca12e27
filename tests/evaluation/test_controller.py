"""A policy as a controller, on the real simulator."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from vla_cl.data import ObservationBatch, Statistics
from vla_cl.envs import EnvironmentPool, ObservationOptions
from vla_cl.errors import ConfigurationError
from vla_cl.evaluation import EvaluationOptions, PolicyController, rollout
from vla_cl.policies import Policy, PolicyConfig, PolicyFeatures, build_policy
from vla_cl.strategies import Strategy
from vla_cl.tasks import Task, get_suite


@pytest.fixture(scope="module")
def policy() -> Policy:
    """An untrained policy on the simulator's own state: what it does is arbitrary, and a function of what it sees."""
    config = PolicyConfig(
        name="lowdim",
        backbone="lowdim",
        backbone_options={"width": 64, "instruction_encoder": "learned"},
        head_options={"width": 64, "steps": 4},
        execute=4,
        pixels=False,
        privileged=True,
    )
    features = PolicyFeatures(action_dim=4, agent_pos_dim=4, environment_state_dim=39)
    policy = build_policy(config, features, seed=0)
    policy.set_statistics(Statistics.from_ranges(get_suite("mw5").ranges))
    return policy


def observations(count: int) -> ObservationBatch:
    generator = np.random.default_rng(0)
    return ObservationBatch(
        instruction=("close the window",) * count,
        agent_pos=torch.from_numpy(generator.uniform(0, 1, (count, 4)).astype(np.float32)),
        pixels={},
        environment_state=torch.from_numpy(generator.uniform(0, 1, (count, 39)).astype(np.float32)),
    )


def test_a_policy_acts_in_chunks_without_gradients_and_in_evaluation_mode(policy: Policy) -> None:
    policy.train()
    controller = PolicyController(policy)
    actions = controller.act(observations(3), [1, 2, 3])
    assert isinstance(actions, np.ndarray)
    assert actions.dtype == np.float32
    assert actions.shape == (3, 8, 4)
    assert np.abs(actions).max() <= 1
    assert not policy.training
    assert controller.execute == 4


def test_actions_of_a_row_follow_its_seed_and_not_its_company(policy: Policy) -> None:
    controller = PolicyController(policy)
    together = controller.act(observations(3), [1, 2, 3])
    alone = controller.act(observations(3)[[1]], [2])
    np.testing.assert_allclose(together[1:2], alone, atol=1e-5)
    assert np.abs(controller.act(observations(3), [1, 9, 3])[1] - together[1]).max() > 0.01


def test_the_strategy_chooses_adapters_from_the_observation_alone(policy: Policy) -> None:
    routed: list[ObservationBatch] = []

    class Routing(Strategy):
        def route(self, observation: ObservationBatch) -> None:
            routed.append(observation)

    PolicyController(policy, Routing(None, 0)).act(observations(2), [0, 1])
    assert len(routed) == 1
    assert len(routed[0]) == 2


@pytest.mark.parametrize("execute", [0, 9])
def test_more_actions_than_the_chunk_holds_cannot_be_executed(policy: Policy, execute: int) -> None:
    with pytest.raises(ConfigurationError, match=f"1 to the policy's chunk of 8, got {execute}"):
        PolicyController(policy, execute=execute)


def test_a_policys_actions_are_the_same_bit_for_bit_whatever_serves_the_rollout(
    policy: Policy, window_close: Task, pool: EnvironmentPool
) -> None:
    """Processes, and their deaths, change neither batches nor, through rounding in another batch, any action."""
    task = replace(window_close, horizon=60)

    def evaluate(serving: EnvironmentPool, deaths: Sequence[int] = ()) -> tuple[Any, list[NDArray[np.float32]]]:
        acted: list[NDArray[np.float32]] = []

        class Watched(PolicyController):
            def act(self, observation: ObservationBatch, seeds: Sequence[int]) -> NDArray[np.float32]:
                acted.append(super().act(observation, seeds))
                if len(acted) in deaths:
                    os.kill(serving.process_ids()[0], signal.SIGKILL)
                return acted[-1]

        rows = rollout(
            Watched(policy),
            task,
            stage=0,
            options=EvaluationOptions(episodes=7, slots=4),
            observation=ObservationOptions(cameras=(), privileged=True),
            pool=serving,
            seed=3,
        )
        return rows, acted

    rows, actions = evaluate(pool)
    with EnvironmentPool(1) as single:
        others = [evaluate(single), evaluate(pool, deaths=(9,))]
    for other_rows, other_actions in others:
        assert other_rows == rows
        for mine, theirs in zip(actions, other_actions, strict=True):
            np.testing.assert_array_equal(mine, theirs)
