"""SEFE: which elements are left alone, the penalty in closed form and its effect, and the rewritten instructions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.strategies.low_rank import RANK, TRAINING, begin, build, learn, losses, moved, small_policy, weights
from vla_cl.data import WindowDataset
from vla_cl.errors import ConfigurationError
from vla_cl.policies.adapters import LowRank, delta_weights
from vla_cl.strategies.sefe import KeyChange, key_elements
from vla_cl.tasks import Task
from vla_cl.training import fit

NOTHING: Any = None


def test_key_elements_are_those_that_changed_most() -> None:
    change = torch.tensor([[0.1, -3.0, 0.2, 0.0], [2.0, 0.3, -0.4, 1.0]])
    assert key_elements(change, 0.25).tolist() == [1, 4]
    assert key_elements(change, 0.5).tolist() == [1, 4, 6, 7]
    assert key_elements(change, 0.0).tolist() == []
    assert key_elements(torch.zeros(100, 50), 0.02).shape == (100,)


def test_the_penalty_is_the_mean_magnitude_of_the_change_there() -> None:
    factor = LowRank(nn.Parameter(torch.tensor([[1.0, 2.0]])), nn.Parameter(torch.tensor([[3.0], [-1.0]])), 0.5)
    # 0.5 B A = [[1.5, 3.0], [-0.5, -1.0]]

    def penalty(**elements: list[int]) -> float:
        known = {layer: torch.tensor(each, dtype=torch.int32) for layer, each in elements.items()}
        return float(torch.as_tensor(KeyChange({"one": factor, "two": factor, "none": factor}, known)()).detach())

    assert penalty(one=[0, 3]) == (1.5 + 1.0) / 2
    assert penalty(two=[2]) == 0.5
    assert penalty(one=[0, 3], two=[2], none=[]) == (1.5 + 1.0) / 2 + 0.5
    assert penalty() == 0.0


def top(change: torch.Tensor) -> set[int]:
    flat = change.detach().abs().flatten().numpy()
    return set(np.argsort(-flat, kind="stable")[: int(0.02 * len(flat))].tolist())


@pytest.mark.parametrize("first_task", ["adapter", "full"])
def test_tasks_unite_the_elements_that_they_changed_most(
    first_task: str, tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    policy, strategy = small_policy(), build("sefe", first_task=first_task)
    expected: dict[str, set[int]] = {}
    for stage in range(3):
        before = weights(policy)
        learn(strategy, policy, tasks[stage : stage + 1], datasets[stage : stage + 1], first=stage)
        after = weights(policy)
        for layer in strategy.adapted_layers(policy):
            change = after[f"{layer}.weight"] - before[f"{layer}.weight"]
            expected[layer] = expected.get(layer, set()) | top(change)
    assert strategy.elements.keys() == expected.keys()
    for layer, elements in strategy.elements.items():
        found = elements.tolist()
        assert found == sorted(set(found))
        assert len(set(found) ^ expected[layer]) <= 0.02 * len(found)  # merging rounds: near ties may change places


def test_the_loss_sums_over_layers_and_holds_back_what_earlier_tasks_changed(
    tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    found = {}
    for strength in (0.0, 30.0):
        policy, strategy = small_policy(), build("sefe", strength=strength, share=0.1)
        learn(strategy, policy, tasks[:1], datasets[:1])
        strategy.begin_task(tasks[1], policy, datasets[1])
        assert float(strategy.loss(NOTHING, NOTHING).detach()) == 0.0  # B = 0
        fit(policy, datasets[1], strategy, replace(TRAINING, steps=20), seed=0, stage=1)
        changes = {layer: change.detach() for layer, change in delta_weights(policy, "task_1").items()}
        key = [changes[layer].flatten()[elements.long()].abs().mean() for layer, elements in strategy.elements.items()]
        assert float(strategy.loss(NOTHING, NOTHING).detach()) == pytest.approx(strength * float(sum(key)), rel=1e-4)
        other = [change.abs().mean() for change in changes.values()]
        found[strength] = float(sum(key)) / float(sum(other))
    assert found[30.0] < 0.8 * found[0.0]


def test_the_task_is_merged_and_the_base_moves_by_its_adapter_alone(
    tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    policy, strategy = small_policy(), build("sefe")
    learn(strategy, policy, tasks[:1], datasets[:1])
    base = weights(policy)
    begin(strategy, policy, 1, tasks[1], datasets[1])
    assert not moved(base, weights(policy))
    unmerged = losses(policy, datasets[1])
    change = {layer: delta.detach() for layer, delta in delta_weights(policy, "task_1").items()}
    strategy.end_task(tasks[1], policy, datasets[1])
    assert not policy.adapters
    torch.testing.assert_close(losses(policy, datasets[1]), unmerged, rtol=1e-4, atol=1e-5)
    for layer, delta in change.items():
        torch.testing.assert_close(weights(policy)[f"{layer}.weight"], base[f"{layer}.weight"] + delta)
        assert int(torch.linalg.matrix_rank(delta)) <= RANK


@pytest.mark.parametrize(("share", "rewritten"), [(0.0, 0), (0.25, 4), (1.0, 16)])
def test_a_share_of_the_instructions_is_said_in_other_words(
    share: float, rewritten: int, tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    policy, strategy = small_policy(), build("sefe", rewritten=share)
    strategy.begin_task(tasks[0], policy, datasets[0])
    batch = datasets[0].batch(range(16))
    changed = strategy.batch(batch)
    told = changed.observation.instruction
    assert sum(text != "do task-0" for text in told) == rewritten
    assert set(told) <= {"do task-0", *tasks[0].paraphrases}
    assert changed.actions.equal(batch.actions)
    assert changed.observation.agent_pos.equal(batch.observation.agent_pos)
    if rewritten:
        assert any(strategy.batch(batch).observation.instruction != told for _ in range(3))  # new draws


def test_what_is_replayed_is_said_in_its_own_tasks_words(tasks: list[Task], datasets: list[WindowDataset]) -> None:
    policy, strategy = small_policy(), build("sefe", rewritten=1.0)
    for task, data in zip(tasks[:2], datasets, strict=False):
        strategy.begin_task(task, policy, data)
    other = build("sefe", rewritten=1.0)
    other.load_state_dict(strategy.state_dict())
    for learner in (strategy, other):
        assert set(learner.batch(datasets[0].batch(range(8))).observation.instruction) <= set(tasks[0].paraphrases)
        assert set(learner.batch(datasets[1].batch(range(8))).observation.instruction) <= set(tasks[1].paraphrases)
        unknown = learner.batch(datasets[2].batch(range(8))).observation.instruction
        assert set(unknown) == {"do task-2"}


@pytest.mark.parametrize("options", [{"strength": -1.0}, {"share": 2.0}, {"rewritten": -0.5}])
def test_unusable_options_are_named(options: dict[str, Any]) -> None:
    (key, value), *_ = options.items()
    with pytest.raises(ConfigurationError, match=f"strategy.{key} .*got {value}"):
        build("sefe", **options)
