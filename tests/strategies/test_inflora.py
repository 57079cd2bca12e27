"""InfLoRA: its input directions against a singular value decomposition, and what stays as it was."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.strategies.conftest import make_policy
from tests.strategies.low_rank import (
    RANK,
    TRAINING,
    adapter,
    build,
    learn,
    losses,
    moved,
    small_policy,
    weights,
)
from vla_cl.data import WindowDataset
from vla_cl.errors import ConfigurationError
from vla_cl.policies import Policy
from vla_cl.policies.adapters import factors
from vla_cl.strategies.layer_statistics import input_moments
from vla_cl.tasks import Task
from vla_cl.training import fit

MORE = replace(TRAINING, steps=20)


def directions(policy: Policy, name: str) -> dict[str, Tensor]:
    """A of each layer, float64."""
    return {layer: factor.down.detach().double() for layer, factor in factors(policy, name).items()}


def test_the_first_directions_are_those_of_largest_input_and_scaled(
    tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    policy, strategy = small_policy(), build("inflora", first_task="adapter", samples=1000)
    layer = "backbone.layers.1.mlp.1"
    seen: list[Tensor] = []
    hook = policy.get_submodule("backbone.layers.1.mlp.0").register_forward_hook(
        lambda *each: seen.append(each[2].detach())
    )
    policy.context(datasets[0].batch(range(len(datasets[0]))).observation)
    hook.remove()
    strategy.begin_task(tasks[0], policy, datasets[0])
    expected = torch.linalg.svd(seen[0].flatten(0, 1).double().T, full_matrices=False)[0][:, :RANK]
    found = directions(policy, "task_0")[layer]
    torch.testing.assert_close(3 * found.T @ found, expected @ expected.T, rtol=0, atol=1e-5)
    torch.testing.assert_close(found @ found.T, torch.eye(RANK, dtype=torch.float64) / 3, rtol=0, atol=1e-6)


@pytest.mark.parametrize("first_task", ["adapter", "full"])
def test_directions_are_orthogonal_to_what_earlier_tasks_put_in(
    first_task: str, tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    policy, strategy = small_policy(), build("inflora", first_task=first_task, first_energy=0.9, last_energy=0.9)
    learn(strategy, policy, tasks[:2], datasets[:2], MORE)
    layers = strategy.adapted_layers(policy)
    moments = input_moments(policy, datasets[1], layers, 256, 0, "after", 1)
    strategy.begin_task(tasks[2], policy, datasets[2])
    for layer, down in directions(policy, "task_2").items():
        left = down @ moments[layer] @ down.T * 3
        assert float(left.trace()) < 0.1 * float(moments[layer].trace()) + 1e-9
        occupied = strategy.memory.layers[layer]
        free = occupied.complement()
        assert 0 < occupied.dimension < len(free)
        torch.testing.assert_close(down @ free @ free.T, down, rtol=0, atol=1e-5)  # A M = 0


def few(data: WindowDataset) -> WindowDataset:
    """A task of one short episode: what it puts into a layer spans a part of it only."""
    return WindowDataset(data.path, data.chunk, privileged=True, episodes=[0])


def test_outputs_of_earlier_tasks_stay_where_their_inputs_are_wholly_known(
    tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    policy = make_policy(backbone="lowdim_transformer", width=128, layers=2, heads=2)
    strategy = build("inflora", first_energy=1.0, head=False)
    data = few(datasets[0])
    learn(strategy, policy, tasks[:1], [data], MORE)
    occupied = [subspace.dimension for subspace in strategy.memory.layers.values()]
    assert max(occupied) < 128  # so that there is room
    before = policy.context(data.batch(range(len(data))).observation).tokens.detach()
    learn(strategy, policy, tasks[1:], [few(each) for each in datasets[1:]], MORE, first=1)
    after = policy.context(data.batch(range(len(data))).observation).tokens.detach()
    disturbed = float((after - before).abs().max())
    other = datasets[1].batch(range(8)).observation
    with torch.no_grad():
        learned = policy.context(other).tokens
        for name in strategy.adapters:
            for factor in factors(policy, name).values():
                factor.up.zero_()
        moved_elsewhere = float((learned - policy.context(other).tokens).abs().max())
    assert disturbed < 2e-5
    assert moved_elsewhere > 1e-2


def test_only_the_upper_factor_of_the_present_adapter_moves(tasks: list[Task], datasets: list[WindowDataset]) -> None:
    policy, strategy = small_policy(), build("inflora")
    learn(strategy, policy, tasks[:2], datasets[:2])
    base, first = weights(policy), adapter(policy, "task_1")
    strategy.begin_task(tasks[2], policy, datasets[2])
    assert policy.active_adapters == ("task_1", "task_2")
    start = adapter(policy, "task_2")
    fit(policy, datasets[2], strategy, TRAINING, seed=0, stage=2)
    assert not moved(base, weights(policy))
    assert not moved(first, adapter(policy, "task_1"))
    learned = {
        name for name in start if ".lora_B." in name and float(start[name.replace("lora_B", "lora_A")].abs().max()) > 0
    }
    assert moved(start, adapter(policy, "task_2")) == learned
    # noise fills all of the space in which actions enter the head, so that nothing is free there
    assert {name for name in start if ".lora_B." in name} - learned == {"head.network.actions.lora_B.task_2.weight"}


def test_acting_sums_all_adapters(tasks: list[Task], datasets: list[WindowDataset]) -> None:
    policy, strategy = small_policy(), build("inflora")
    learn(strategy, policy, tasks, datasets)
    together = losses(policy, datasets[0])
    for name in list(strategy.adapters):
        strategy.fold_adapter(policy, name)
    torch.testing.assert_close(losses(policy, datasets[0]), together, rtol=1e-4, atol=1e-5)


def test_the_energy_that_is_kept_rises_to_its_end() -> None:
    strategy: Any = build("inflora", first_energy=0.9, last_energy=1.0, tasks=4)
    energies = []
    for strategy.stage in range(6):
        energies.append(strategy.energy)
    assert energies == pytest.approx([0.9, 0.925, 0.95, 0.975, 1.0, 1.0])
    assert math.isclose(build("inflora").options.first_energy, 0.98)


@pytest.mark.parametrize(
    "options", [{"first_energy": 1.5}, {"last_energy": 0.5}, {"tasks": 0}, {"samples": 0}, {"first_energy": -0.1}]
)
def test_unusable_options_are_named(options: dict[str, Any]) -> None:
    (key, value), *_ = options.items()
    with pytest.raises(ConfigurationError, match=f"strategy.{key} .*got {value}"):
        build("inflora", **options)
