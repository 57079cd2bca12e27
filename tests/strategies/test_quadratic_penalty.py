"""What L2, EWC, SI and MAS share: the penalty, its gradient, weights that come and go, what a restart restores."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.strategies.conftest import make_policy
from vla_cl.data import WindowDataset
from vla_cl.errors import ConfigurationError
from vla_cl.policies import Policy
from vla_cl.policies.adapters import add_adapter, fold, remove_adapter
from vla_cl.strategies import Strategy
from vla_cl.strategies.ewc import EWC
from vla_cl.strategies.l2 import L2
from vla_cl.strategies.mas import MAS
from vla_cl.strategies.quadratic_penalty import QuadraticPenalty, SquaredDistance, mean_of_gradients
from vla_cl.strategies.si import SI
from vla_cl.tasks import Task
from vla_cl.training import TrainingOptions, fit

NOTHING: Any = None
EVERY: list[type[QuadraticPenalty]] = [L2, EWC, SI, MAS]
FEW_STEPS = TrainingOptions(steps=3, batch_size=8, warmup_steps=1, log_every=3)


def small(kind: type[QuadraticPenalty], **options: Any) -> QuadraticPenalty:
    few = {"samples": 4} if hasattr(kind.Options, "samples") else {}
    return kind(kind.Options(**few, **options), 0)


def learn(strategy: Strategy, policy: Policy, task: Task, data: WindowDataset, stage: int) -> None:
    strategy.begin_task(task, policy, data)
    fit(policy, data, strategy, FEW_STEPS, seed=0, stage=stage)
    strategy.end_task(task, policy, data)


def shift(policy: Policy, by: float) -> None:
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += by


@pytest.mark.parametrize("importance", [torch.rand(3, 4), torch.tensor(0.7)])
def test_value_and_gradient_are_those_of_the_sum_of_squares(importance: torch.Tensor) -> None:
    weights = [torch.randn(3, 4, requires_grad=True), torch.randn(5, requires_grad=True)]
    anchors, importances = [torch.randn(3, 4), torch.randn(5)], [importance, torch.rand(5)]
    total: Any = SquaredDistance.apply(anchors, importances, *weights)
    parts = zip(weights, anchors, importances, strict=True)
    expected = sum((each * (weight - anchor) ** 2).sum() for weight, anchor, each in parts)
    torch.testing.assert_close(total, expected)
    got, wanted = torch.autograd.grad(3.0 * total, weights), torch.autograd.grad(3.0 * expected, weights)  # type: ignore[operator, arg-type]
    for first, second in zip(got, wanted, strict=True):
        torch.testing.assert_close(first, second)


def test_what_is_differentiated_is_each_sample_on_its_own() -> None:
    weight, unused = torch.nn.Parameter(torch.tensor([2.0])), torch.nn.Parameter(torch.ones(3))
    outputs = [lambda factor=factor: factor * weight.sum() for factor in (-1.0, 1.0, 3.0)]  # type: ignore[misc]
    means = mean_of_gradients(torch.abs, outputs, {"weight": weight, "unused": unused})
    assert means["weight"].tolist() == pytest.approx([5 / 3])
    assert means["unused"].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("kind", EVERY)
def test_strength_0_is_sequential_fine_tuning(
    kind: type[QuadraticPenalty], tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    policies = [make_policy(), make_policy()]
    for policy, strategy in zip(policies, (small(kind, strength=0.0), Strategy(None, 0)), strict=True):
        for stage in (0, 1):
            learn(strategy, policy, tasks[stage], datasets[stage], stage)
    for first, second in zip(policies[0].parameters(), policies[1].parameters(), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("kind", EVERY)
def test_weights_are_held_to_where_the_last_task_left_them(
    kind: type[QuadraticPenalty], tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    policy = make_policy("regression")
    free, held = small(kind, strength=0.0), small(kind, strength=1e4)
    moved = []
    for strategy in (free, held):
        policy = make_policy("regression")
        learn(strategy, policy, tasks[0], datasets[0], 0)
        learned = {name: each.detach().clone() for name, each in policy.named_parameters()}
        importance = {name: each.clone() for name, each in strategy.importance.items()}
        learn(strategy, policy, tasks[1], datasets[1], 1)
        moved.append(
            sum(
                float((importance[name] * (each.detach() - learned[name]) ** 2).sum())
                for name, each in policy.named_parameters()
                if name in importance
            )
        )
    assert 0 < moved[1] < moved[0]


@pytest.mark.parametrize("kind", EVERY)
def test_a_state_inside_a_task_restores_the_penalty(
    kind: type[QuadraticPenalty], policy: Policy, tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    strategy, other = small(kind), small(kind)
    learn(strategy, policy, tasks[0], datasets[0], 0)
    strategy.begin_task(tasks[1], policy, datasets[1])
    other.begin_task(tasks[0], policy, datasets[0])
    other.load_state_dict(strategy.state_dict())
    shift(policy, 0.1)
    penalties = [float(torch.as_tensor(each.loss(NOTHING, NOTHING)).detach()) for each in (strategy, other)]
    assert penalties[0] == penalties[1] > 0
    assert other.stage == strategy.stage == 1


@pytest.mark.parametrize("kind", EVERY)
def test_an_adapter_is_free_in_its_first_task_and_held_from_then_on(
    kind: type[QuadraticPenalty], tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    policy = make_policy(backbone="lowdim_transformer", width=32, layers=1, heads=2)
    strategy = small(kind)
    learn(strategy, policy, tasks[0], datasets[0], 0)
    plain = set(strategy.importance)
    add_adapter(policy, "grown")
    strategy.begin_task(tasks[1], policy, datasets[1])
    assert set(strategy.importance) == plain <= set(strategy.parameters), "what it wraps keeps its importance"
    shift(policy, 0.1)
    before = float(torch.as_tensor(strategy.loss(NOTHING, NOTHING)).detach())
    held = [(strategy.importance[name], strategy.parameters[name].detach(), strategy.anchor[name]) for name in plain]
    expected = strategy.options.strength * sum(float((each * (now - then) ** 2).sum()) for each, now, then in held)
    assert before == pytest.approx(expected, rel=1e-5)
    fit(policy, datasets[1], strategy, FEW_STEPS, seed=0, stage=1)
    strategy.end_task(tasks[1], policy, datasets[1])
    grown = set(strategy.importance) - plain
    assert grown and all(".lora_" in name for name in grown)

    remove_adapter(policy, "grown")
    add_adapter(policy, "grown")
    strategy.begin_task(tasks[2], policy, datasets[2])
    assert set(strategy.parameters) > plain, "the new adapter is trained"


def test_an_adapter_that_was_folded_is_forgotten(tasks: list[Task], datasets: list[WindowDataset]) -> None:
    policy = make_policy(backbone="lowdim_transformer", width=32, layers=1, heads=2)
    strategy = L2(L2.Options(strength=1.0), 0)
    strategy.begin_task(tasks[0], policy, datasets[0])
    add_adapter(policy, "task")  # as a strategy that is listed later does it
    strategy.end_task(tasks[0], policy, datasets[0])
    assert any(".lora_" in name for name in strategy.importance)
    fold(policy, "task")
    strategy.begin_task(tasks[1], policy, datasets[1])
    assert not any(".lora_" in name for name in strategy.importance)
    add_adapter(policy, "task")
    shift(policy, 0.1)
    count = sum(each.numel() for name, each in policy.named_parameters() if ".lora_" not in name)
    # the folded weights differ from the anchor by the fold, too, which B = 0 makes nothing of
    assert float(torch.as_tensor(strategy.loss(NOTHING, NOTHING)).detach()) == pytest.approx(0.01 * count, rel=1e-3)


def test_what_is_frozen_is_not_held(policy: Policy, tasks: list[Task], datasets: list[WindowDataset]) -> None:
    strategy = small(L2)
    learn(strategy, policy, tasks[0], datasets[0], 0)
    policy.requires_grad_(False)
    strategy.begin_task(tasks[1], policy, datasets[1])
    shift(policy, 0.1)
    assert strategy.loss(NOTHING, NOTHING) == 0.0
    assert strategy.importance, "it may be trained again"


@pytest.mark.parametrize("kind", EVERY)
def test_a_negative_strength_is_refused(kind: type[QuadraticPenalty]) -> None:
    with pytest.raises(ConfigurationError, match=r"strategy.strength must be at least 0, got -1"):
        small(kind, strength=-1.0)
