"""TAIL: one adapter a task, what a new one starts from, and which one acts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.strategies.low_rank import adapter, begin, build, learn, moved, small_policy, weights
from vla_cl.data import WindowDataset
from vla_cl.errors import ConfigurationError
from vla_cl.evaluation import PolicyController
from vla_cl.policies import Policy
from vla_cl.tasks import Task


def acted(policy: Policy, strategy: Any, data: WindowDataset, task: str) -> NDArray[np.float32]:
    observation = replace(data.observations(range(4)), task=(task,) * 4)
    return PolicyController(policy, strategy).act(observation, [0, 1, 2, 3])


def test_learning_more_tasks_changes_nothing_of_what_earlier_ones_do(
    tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    policy, strategy = small_policy(), build("tail")
    did: dict[int, NDArray[np.float32]] = {}
    for stage in range(3):
        learn(strategy, policy, tasks[stage : stage + 1], datasets[stage : stage + 1], first=stage)
        did[stage] = acted(policy, strategy, datasets[0], tasks[stage].name)
        for earlier, actions in did.items():
            np.testing.assert_array_equal(acted(policy, strategy, datasets[0], tasks[earlier].name), actions)
    assert not np.array_equal(did[0], did[1])
    assert not np.array_equal(did[1], did[2])
    assert strategy.owners == dict(zip([task.name for task in tasks], [None, "task_1", "task_2"], strict=True))


def test_a_task_that_was_never_learned_is_met_with_the_newest_adapter(
    tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    policy, strategy = small_policy(), build("tail", first_task="adapter")
    learn(strategy, policy, tasks[:2], datasets[:2])
    known, unknown = (acted(policy, strategy, datasets[0], name) for name in (tasks[1].name, tasks[2].name))
    np.testing.assert_array_equal(unknown, known)


@pytest.mark.parametrize("noise", [0.0, 1e-3])
def test_a_new_adapter_starts_from_the_one_before_plus_noise(
    noise: float, tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    policy, strategy = small_policy(), build("tail", noise=noise, first_task="adapter")
    learn(strategy, policy, tasks[:1], datasets[:1])
    learned = adapter(policy, "task_0")
    strategy.begin_task(tasks[1], policy, datasets[1])
    differences = torch.cat(
        [
            (adapter(policy, "task_1")[name.replace("task_0", "task_1")] - value).flatten()
            for name, value in learned.items()
        ]
    )
    assert float(differences.std()) == pytest.approx(noise, rel=0.05)
    assert float(differences.mean()) == pytest.approx(0.0, abs=noise / 10)
    assert max(float(value.abs().max()) for value in learned.values()) > 0.01


def test_frozen_adapters_and_base_stay_bit_for_bit(tasks: list[Task], datasets: list[WindowDataset]) -> None:
    policy, strategy = small_policy(), build("tail")
    learn(strategy, policy, tasks[:2], datasets[:2])
    base, first = weights(policy), adapter(policy, "task_1")
    begin(strategy, policy, 2, tasks[2], datasets[2])
    assert not moved(base, weights(policy))
    assert not moved(first, adapter(policy, "task_1"))


def test_a_task_that_comes_again_goes_on_with_its_adapter(tasks: list[Task], datasets: list[WindowDataset]) -> None:
    policy, strategy = small_policy(), build("tail")
    learn(strategy, policy, tasks, datasets)
    before, other = adapter(policy, "task_1"), adapter(policy, "task_2")
    strategy.begin_task(tasks[1], policy, datasets[1])
    assert not moved(before, adapter(policy, "task_1"))
    learn(strategy, policy, tasks[1:2], datasets[1:2], first=4)
    assert moved(before, adapter(policy, "task_1")) == set(before)
    assert not moved(other, adapter(policy, "task_2"))


def test_unusable_options_are_named() -> None:
    with pytest.raises(ConfigurationError, match=r"strategy.noise must be at least 0, got -1.0"):
        build("tail", noise=-1.0)
