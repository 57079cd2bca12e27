"""KeepLoRA: its subspaces against singular value decompositions, what is frozen, and what merging changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.strategies.low_rank import RANK, TRAINING, adapter, build, learn, losses, moved, small_policy, weights
from vla_cl.data import WindowDataset
from vla_cl.errors import ConfigurationError
from vla_cl.policies.adapters import delta_weights, factors
from vla_cl.strategies.layer_statistics import input_moments, mean_weight_gradients
from vla_cl.tasks import Task
from vla_cl.training import fit

LAYER = "backbone.layers.1.mlp.1"


def principal(weight: Tensor, energy: float) -> Tensor:
    """The projector (D, D) on the fewest top right singular vectors of a weight that hold a share of its energy."""
    _, values, rows = torch.linalg.svd(weight.double(), full_matrices=False)
    shares = (values**2).cumsum(0) / (values**2).sum()
    count = int((shares < energy).sum()) + 1
    return rows[:count].T @ rows[:count]


def occupied(strategy: Any) -> Tensor:
    """The projector on what is protected in a layer."""
    free = strategy.memory.layers[LAYER].complement()
    return torch.eye(len(free), dtype=torch.float64) - free @ free.T


def test_at_first_the_principal_subspace_of_the_pretrained_weights_is_protected(
    tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    policy, strategy = small_policy(), build("keeplora", first_task="adapter", weight_energy=0.7)
    weight = policy.get_submodule(LAYER).weight.detach().clone()
    strategy.begin_task(tasks[0], policy, datasets[0])
    torch.testing.assert_close(occupied(strategy), principal(weight, 0.7), rtol=0, atol=1e-5)
    down = factors(policy, "task_0")[LAYER].down.detach().double()
    torch.testing.assert_close(down @ principal(weight, 0.7), torch.zeros_like(down), rtol=0, atol=1e-5)


def test_directions_are_the_gradients_outside_of_what_is_protected(
    tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    policy, strategy = small_policy(), build("keeplora", weight_energy=0.5, input_energy=0.8)
    learn(strategy, policy, tasks[:1], datasets[:1])
    kept = occupied(strategy)
    gradient = mean_weight_gradients(policy, datasets[1], [LAYER], 256, 0, "gradient", 1)[LAYER].double()
    strategy.begin_task(tasks[1], policy, datasets[1])
    rows = torch.linalg.svd(gradient - gradient @ kept)[2][:RANK]
    found = factors(policy, "task_1")[LAYER].down.detach().double()
    torch.testing.assert_close(found.T @ found, rows.T @ rows, rtol=0, atol=1e-3)
    torch.testing.assert_close(found @ found.T, torch.eye(RANK, dtype=torch.float64), rtol=0, atol=1e-5)
    torch.testing.assert_close(found @ kept, torch.zeros_like(found), rtol=0, atol=1e-5)


def test_the_lower_factor_and_the_base_are_frozen_while_the_task_trains(
    tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    policy, strategy = small_policy(), build("keeplora", weight_energy=0.5, input_energy=0.9)
    learn(strategy, policy, tasks[:1], datasets[:1])
    strategy.begin_task(tasks[1], policy, datasets[1])
    base, start = weights(policy), adapter(policy, "task_1")
    fit(policy, datasets[1], strategy, TRAINING, seed=0, stage=1)
    assert not moved(base, weights(policy))
    upper = {name for name in start if ".lora_B." in name}
    idle = {name for name in upper if not start[name.replace("lora_B", "lora_A")].any()}
    assert moved(start, adapter(policy, "task_1")) == upper - idle
    assert len(idle) < len(upper) / 4
    assert not any(start[name].any() for name in upper)


def test_the_task_is_merged_without_changing_an_output(tasks: list[Task], datasets: list[WindowDataset]) -> None:
    policy, strategy = small_policy(), build("keeplora", weight_energy=0.5, input_energy=0.9)
    learn(strategy, policy, tasks[:1], datasets[:1])
    strategy.begin_task(tasks[1], policy, datasets[1])
    fit(policy, datasets[1], strategy, TRAINING, seed=0, stage=1)
    unmerged, before = losses(policy, datasets[0]), weights(policy)
    change = {module: delta.detach() for module, delta in delta_weights(policy, "task_1").items()}
    strategy.end_task(tasks[1], policy, datasets[1])
    assert not policy.adapters
    torch.testing.assert_close(losses(policy, datasets[0]), unmerged, rtol=1e-4, atol=1e-5)
    for module, delta in change.items():
        torch.testing.assert_close(weights(policy)[f"{module}.weight"], before[f"{module}.weight"] + delta)


def test_what_is_merged_leaves_the_kept_part_of_earlier_inputs_alone(
    tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    policy, strategy = small_policy(), build("keeplora", weight_energy=0.3, input_energy=0.95)
    learn(strategy, policy, tasks[:1], datasets[:1])
    layers = strategy.adapted_layers(policy)
    moments = input_moments(policy, datasets[0], layers, 256, 0, "inputs", 0)
    before = weights(policy)
    learn(strategy, policy, tasks[1:], datasets[1:], first=1)
    after = weights(policy)
    for layer in layers:
        change = (after[f"{layer}.weight"] - before[f"{layer}.weight"]).double()
        felt = float((change @ moments[layer] @ change.T).trace())  # |change X|^2
        assert felt <= 0.05 * float(change.norm() ** 2 * moments[layer].trace()) + 1e-6
    assert any(not torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("options", [{"weight_energy": 1.5}, {"input_energy": -0.5}, {"samples": 0}])
def test_unusable_options_are_named(options: dict[str, Any]) -> None:
    (key, value), *_ = options.items()
    with pytest.raises(ConfigurationError, match=f"strategy.{key} .*got {value}"):
        build("keeplora", **options)
