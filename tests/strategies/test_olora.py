"""O-LoRA: the penalty in closed form, what it does to subspaces, what is frozen, and what acts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tests.strategies.low_rank import (
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
from vla_cl.policies.adapters import delta_weights, factors
from vla_cl.strategies.olora import overlap
from vla_cl.tasks import Task
from vla_cl.training import fit

NOTHING: Any = None


def test_the_penalty_sums_magnitudes_of_all_products_of_rows() -> None:
    present = torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, 0.0]])
    first, second = torch.tensor([[1.0, 1.0, 0.0]]), torch.tensor([[0.0, 0.0, -1.0], [3.0, 0.0, 0.0]])
    # first: 1, 1; second: -2, 0 and 3, 0
    assert float(overlap(present, [first, second])) == 1 + 1 + 2 + 3


def test_the_loss_is_that_penalty_over_all_layers_and_earlier_tasks(
    tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    policy, strategy = small_policy(), build("olora", strength=0.25)
    learn(strategy, policy, tasks[:1], datasets[:1])
    strategy.begin_task(tasks[1], policy, datasets[1])
    assert strategy.loss(NOTHING, NOTHING) == 0.0  # the first task has no adapter
    strategy.end_task(tasks[1], policy, datasets[1])
    strategy.begin_task(tasks[2], policy, datasets[2])
    expected = 0.0
    for layer, earlier in factors(policy, "task_1").items():
        present = factors(policy, "task_2")[layer]
        for row in earlier.down.detach().numpy():
            expected += sum(abs(float(np.dot(row, other))) for other in present.down.detach().numpy())
    assert float(strategy.loss(NOTHING, NOTHING).detach()) == pytest.approx(0.25 * expected, rel=1e-5)


def overlaps(policy: Policy, first: str, second: str) -> float:
    earlier = factors(policy, first)
    return float(
        torch.stack(
            [
                (factor.down @ earlier[layer].down.T).detach().abs().mean()
                for layer, factor in factors(policy, second).items()
            ]
        ).mean()
    )


def test_the_penalty_drives_the_products_to_zero(tasks: list[Task], datasets: list[WindowDataset]) -> None:
    policy, strategy = small_policy(), build("olora", strength=10.0, first_task="adapter")
    learn(strategy, policy, tasks[:1], datasets[:1])
    strategy.begin_task(tasks[1], policy, datasets[1])
    start = overlaps(policy, "task_0", "task_1")
    training = replace(TRAINING, steps=60, schedule="cosine", final_learning_rate=0.0, weight_decay=0.0)
    fit(policy, datasets[1], strategy, training, seed=0, stage=1)
    assert overlaps(policy, "task_0", "task_1") < 0.02 * start


def test_earlier_adapters_act_in_training_but_do_not_move(tasks: list[Task], datasets: list[WindowDataset]) -> None:
    policy, strategy = small_policy(), build("olora")
    learn(strategy, policy, tasks[:2], datasets[:2])
    base, first, before = weights(policy), adapter(policy, "task_1"), losses(policy, datasets[1])
    strategy.begin_task(tasks[2], policy, datasets[2])
    assert policy.active_adapters == ("task_1", "task_2")
    torch.testing.assert_close(losses(policy, datasets[1]), before, rtol=0, atol=0)  # B = 0
    fit(policy, datasets[2], strategy, TRAINING, seed=0, stage=2)
    assert not moved(base, weights(policy))
    assert not moved(first, adapter(policy, "task_1"))
    assert policy.active_adapters == ("task_1", "task_2")


def test_acting_sums_the_changes_of_all_adapters(tasks: list[Task], datasets: list[WindowDataset]) -> None:
    policy, strategy = small_policy(), build("olora")
    learn(strategy, policy, tasks, datasets)
    together = losses(policy, datasets[0])
    changes = [delta_weights(policy, name) for name in ("task_1", "task_2")]
    plain = small_policy()
    values = weights(policy)
    for layer in changes[0]:
        values[f"{layer}.weight"] += changes[0][layer].detach() + changes[1][layer].detach()
    plain.load_state_dict({**plain.state_dict(), **values})
    torch.testing.assert_close(losses(plain, datasets[0]), together, rtol=1e-4, atol=1e-5)


def test_unusable_options_are_named() -> None:
    with pytest.raises(ConfigurationError, match=r"strategy.strength must be at least 0, got -0.5"):
        build("olora", strength=-0.5)
