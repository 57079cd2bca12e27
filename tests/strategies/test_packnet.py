"""PackNet: who owns which weight, what never moves again, and that a task acts for ever as it did."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tests.strategies.conftest import make_dataset
from tests.strategies.low_rank import TRAINING, equal, learn, learn_killed_inside, moved, small_policy, weights
from vla_cl.data import WindowDataset
from vla_cl.errors import ConfigurationError
from vla_cl.evaluation import PolicyController
from vla_cl.policies import Policy
from vla_cl.strategies import build_strategy
from vla_cl.strategies.packnet import FREE, prunable_weights, prune
from vla_cl.tasks import Task, find_task
from vla_cl.training import fit

AVERAGED = replace(TRAINING, steps=6, ema=0.9)


def build(**options: Any) -> Any:
    return build_strategy("packnet", options, 0)


def acted(policy: Policy, strategy: Any, data: WindowDataset, task: str) -> NDArray[np.float32]:
    observation = replace(data.observations(range(4)), task=(task,) * 4)
    return PolicyController(policy, strategy).act(observation, [0, 1, 2, 3])


def test_pruning_keeps_the_largest_free_elements_and_touches_no_other() -> None:
    weight = torch.tensor([[5.0, -0.1, 0.2, -4.0], [0.3, 9.0, -2.0, 1.0]])
    owner = torch.tensor([[1, 0, 0, 0], [0, 1, 0, 0]], dtype=torch.uint8)
    prune(weight, owner, 2, keep=0.5)
    assert owner.tolist() == [[1, 0, 0, 2], [0, 1, 2, 2]]
    assert weight.tolist() == [[5.0, 0.0, 0.0, -4.0], [0.0, 9.0, -2.0, 1.0]]


def test_weights_of_layers_are_shared_out_and_nothing_else() -> None:
    policy = small_policy()
    found = prunable_weights(policy)
    linear = {f"{name}.weight" for name, module in policy.named_modules() if isinstance(module, nn.Linear)}
    assert found.keys() == linear
    tied = nn.Embedding(3, 32)
    policy.head.embedding = tied
    policy.head.tied = nn.Linear(32, 3)
    policy.head.tied.weight = tied.weight
    assert prunable_weights(policy).keys() == linear


@pytest.fixture
def five(tmp_path: Path) -> tuple[list[Task], list[WindowDataset]]:
    names = ("window-close", "faucet-close", "push", "door-close", "peg-unplug-side")
    data = [make_dataset(tmp_path, f"task-{index}", episodes=3, seed=index) for index in range(5)]
    return [find_task(f"{name}") for name in names], data


@pytest.mark.parametrize("options", [{}, {"tasks": 5}])
def test_a_task_acts_bit_for_bit_as_it_did_whatever_comes_after(
    options: dict[str, Any], five: tuple[list[Task], list[WindowDataset]]
) -> None:
    tasks, data = five
    policy, strategy = small_policy(), build(**options)
    did: dict[int, NDArray[np.float32]] = {}
    for stage in range(5):
        learn(strategy, policy, tasks[stage : stage + 1], data[stage : stage + 1], AVERAGED, first=stage)
        did[stage] = acted(policy, strategy, data[0], tasks[stage].name)
        before = weights(policy)
        for earlier, actions in did.items():
            np.testing.assert_array_equal(acted(policy, strategy, data[0], tasks[earlier].name), actions)
        assert not moved(before, weights(policy))  # acting leaves no trace
    assert all(not np.array_equal(did[stage], did[stage + 1]) for stage in range(4))


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_weights_that_a_task_owns_never_move_again(
    ema: float, tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    policy, strategy = small_policy(), build()
    training = replace(AVERAGED, ema=ema)
    learn(strategy, policy, tasks[:1], datasets[:1], training)
    first, owned = weights(policy), {name: owner == 1 for name, owner in strategy.owners.items()}
    for name, mine in owned.items():
        assert int(mine.sum()) == round(0.25 * mine.numel())
        assert not first[name][~mine].any()
    learn(strategy, policy, tasks[1:], datasets[1:], training, first=1)
    after = weights(policy)
    assert moved(first, after) == set(strategy.owners)  # biases, norms, embeddings and tokens are frozen
    for name, mine in owned.items():
        assert torch.equal(after[name][mine], first[name][mine])
        counts = torch.bincount(strategy.owners[name].flatten().int(), minlength=4)
        left = mine.numel()
        for label in (1, 2, 3):
            assert int(counts[label]) == round(0.25 * left)
            left -= int(counts[label])
        assert not after[name][strategy.owners[name] == FREE].any()


def test_equal_shares_use_everything_up(five: tuple[list[Task], list[WindowDataset]]) -> None:
    tasks, data = five
    policy, strategy = small_policy(), build(tasks=4)
    learn(strategy, policy, tasks[:4], data[:4], replace(TRAINING, steps=2))
    for owner in strategy.owners.values():
        counts = torch.bincount(owner.flatten().int(), minlength=5)[1:]
        assert int(counts.sum()) == owner.numel()
        assert int(counts.max() - counts.min()) <= 2
    with pytest.raises(ConfigurationError, match=r"own all weights.*raise strategy.tasks \(now 4\)"):
        strategy.begin_task(tasks[4], policy, data[4])


def test_free_weights_train_then_are_pruned_then_the_kept_ones_train_on(
    tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    policy, strategy = small_policy(), build(prune_at=0.5)
    learn(strategy, policy, tasks[:1], datasets[:1])
    seen: list[dict[str, Tensor]] = []
    strategy.begin_task(tasks[1], policy, datasets[1])
    fit(
        policy,
        datasets[1],
        strategy,
        replace(TRAINING, steps=8),
        seed=0,
        stage=1,
        on_step=lambda step: seen.append(weights(policy)),
    )
    name = "backbone.layers.0.mlp.1.weight"
    owner = strategy.owners[name]
    zeros = [int((each[name] == 0).sum()) for each in seen]
    assert zeros[:3] == [0, 0, 0]  # all that was free trains
    assert zeros[3:] == [int((owner == FREE).sum())] * 5
    pruned, later = seen[3][name], seen[7][name]
    assert torch.equal(pruned[owner == 1], later[owner == 1])
    assert not torch.isclose(pruned[owner == 2], later[owner == 2], rtol=0, atol=1e-7).any()
    # at the cut the kept ones were the largest of the free
    assert seen[3][name][owner == 2].abs().min() > 0


def test_a_task_that_comes_again_gets_weights_anew(tasks: list[Task], datasets: list[WindowDataset]) -> None:
    policy, strategy = small_policy(), build()
    learn(strategy, policy, tasks[:2], datasets[:2])
    other = acted(policy, strategy, datasets[0], tasks[1].name)
    learn(strategy, policy, tasks[:1], datasets[:1], first=2)
    assert strategy.labels == {tasks[0].name: 3, tasks[1].name: 2}
    np.testing.assert_array_equal(acted(policy, strategy, datasets[0], tasks[1].name), other)


def test_a_strategy_that_was_told_no_number_of_steps_prunes_at_the_end(
    tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    policy, strategy = small_policy(), build()
    strategy.begin_task(tasks[0], policy, datasets[0])
    strategy.end_task(tasks[0], policy, datasets[0])
    assert all(bool((owner == FREE).any()) and bool((owner == 1).any()) for owner in strategy.owners.values())


@pytest.mark.parametrize("prune_at", [0.5, 1.0])
def test_a_kill_inside_the_first_task_changes_nothing(
    prune_at: float, tasks: list[Task], datasets: list[WindowDataset], tmp_path: Path
) -> None:
    whole, strategy = small_policy(), build(prune_at=prune_at)
    learn(strategy, whole, tasks[:1], datasets[:1])
    policy, other = learn_killed_inside(
        lambda: (small_policy(), build(prune_at=prune_at)), tasks[0], datasets[0], tmp_path / "interval"
    )
    assert equal(policy.state_dict(), whole.state_dict())
    assert equal(other.state_dict(), strategy.state_dict())


@pytest.mark.parametrize(
    "options", [{"prune": 0.0}, {"prune": 1.0}, {"tasks": 0}, {"prune_at": 0.0}, {"prune_at": 1.5}]
)
def test_unusable_options_are_named(options: dict[str, Any]) -> None:
    (key, value), *_ = options.items()
    with pytest.raises(ConfigurationError, match=f"strategy.{key} .*got {value}"):
        build(**options)


def test_the_weight_of_a_convolution_may_lie_channels_last() -> None:
    weight = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    plain, owner = weight.clone(), torch.zeros(4, 3, 3, 3, dtype=torch.int16)
    last = weight.clone().to(memory_format=torch.channels_last)
    owner_of_last = torch.zeros_like(last, dtype=torch.int16)
    prune(plain, owner, 1, 0.5)
    prune(last, owner_of_last, 1, 0.5)
    assert torch.equal(plain, last) and torch.equal(owner, owner_of_last)
    assert int((owner == 1).sum()) == 54
