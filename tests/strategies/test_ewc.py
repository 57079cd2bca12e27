"""Online EWC on a real policy: the penalty, its gradient, its decay, and what a restart restores."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vla_cl.data import WindowDataset
from vla_cl.errors import ConfigurationError
from vla_cl.policies import Policy, PolicyOutput
from vla_cl.seeding import torch_generator
from vla_cl.strategies import build_strategy
from vla_cl.tasks import Task

NO_OUTPUT: Any = None


def consolidated(policy: Policy, task: Task, data: WindowDataset, **options: float) -> Any:
    strategy = build_strategy("ewc", {"samples": 8, **options}, 0)
    strategy.begin_task(task, policy, data)
    strategy.end_task(task, policy, data)
    return strategy


def shift(policy: Policy, by: float) -> None:
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter += by


def test_the_fisher_is_the_mean_of_squared_per_sample_gradients(
    policy: Policy, tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    data = datasets[0]
    strategy = consolidated(policy, tasks[0], data, samples=len(data))
    expected = {name: torch.zeros_like(each) for name, each in strategy.parameters.items()}
    for index in range(len(data)):
        policy.zero_grad()
        policy.loss(data.batch([index]), torch_generator(0, "fisher", 0, index)).sum().backward()
        for name, parameter in strategy.parameters.items():
            if parameter.grad is not None:
                expected[name] += parameter.grad**2 / len(data)
    for name, value in expected.items():
        torch.testing.assert_close(strategy.fisher[name], value)
    assert sum(float(value.sum()) for value in expected.values()) > 0


def test_the_penalty_is_zero_at_the_anchor_and_quadratic_around_it(
    policy: Policy, tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    strategy = consolidated(policy, tasks[0], datasets[0], strength=10.0)
    batch = datasets[0].batch(range(4))
    assert float(strategy.loss(batch, NO_OUTPUT)) == 0.0
    total = sum(float(fisher.sum()) for fisher in strategy.fisher.values())
    shift(policy, 0.01)
    assert float(strategy.loss(batch, NO_OUTPUT)) == pytest.approx(10.0 * total * 1e-4, rel=1e-3)
    shift(policy, 0.01)
    assert float(strategy.loss(batch, NO_OUTPUT)) == pytest.approx(10.0 * total * 4e-4, rel=1e-3)


def test_importances_of_earlier_tasks_decay(policy: Policy, tasks: list[Task], datasets: list[WindowDataset]) -> None:
    kept = consolidated(policy, tasks[0], datasets[0], decay=0.5)
    first = {name: fisher.clone() for name, fisher in kept.fisher.items()}
    kept.begin_task(tasks[1], policy, datasets[1])
    kept.end_task(tasks[1], policy, datasets[1])
    dropped = consolidated(policy, tasks[0], datasets[0], decay=0.0)
    dropped.begin_task(tasks[1], policy, datasets[1])
    dropped.end_task(tasks[1], policy, datasets[1])
    for name in first:
        torch.testing.assert_close(kept.fisher[name], 0.5 * first[name] + dropped.fisher[name])


def test_before_the_first_boundary_there_is_no_penalty(
    policy: Policy, tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    strategy = build_strategy("ewc", {}, 0)
    strategy.begin_task(tasks[0], policy, datasets[0])
    output: PolicyOutput = policy(datasets[0].batch(range(4)), torch_generator(0))
    assert strategy.loss(datasets[0].batch(range(4)), output) == 0.0


def test_state_survives_a_restart(policy: Policy, tasks: list[Task], datasets: list[WindowDataset]) -> None:
    strategy = consolidated(policy, tasks[0], datasets[0])
    other: Any = build_strategy("ewc", {"samples": 8}, 0)
    other.begin_task(tasks[1], policy, datasets[1])
    other.load_state_dict(strategy.state_dict())
    shift(policy, 0.1)
    batch = datasets[1].batch(range(4))
    assert float(other.loss(batch, NO_OUTPUT)) == float(strategy.loss(batch, NO_OUTPUT)) > 0
    assert other.stage == strategy.stage


@pytest.mark.parametrize("options", [{"strength": -1.0}, {"decay": 1.5}, {"samples": 0}])
def test_unusable_options_are_named(options: dict[str, Any]) -> None:
    (key, value), *_ = options.items()
    with pytest.raises(ConfigurationError, match=f"strategy.{key} .*got {value}"):
        build_strategy("ewc", options, 0)
