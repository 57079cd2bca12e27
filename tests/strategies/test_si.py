"""SI: the path integral against the loss that was really taken away, and what becomes of it at a boundary."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.strategies.conftest import make_policy
from vla_cl.data import WindowDataset
from vla_cl.errors import ConfigurationError
from vla_cl.policies import Policy
from vla_cl.strategies.si import SI
from vla_cl.tasks import Task
from vla_cl.training import TrainingOptions, fit

NOTHING: Any = None


def test_omega_of_a_quadratic_loss_is_its_decrease() -> None:
    """For L = sum h theta^2 / 2, -g (theta' - theta) is the decrease plus h (theta' - theta)^2 / 2, exactly."""
    strategy = SI(SI.Options(), 0)
    curvature = torch.tensor([1.0, 4.0, 0.0])
    weight = nn.Parameter(torch.tensor([2.0, -1.0, 3.0]))
    start, squares = weight.detach().clone(), torch.zeros(3)
    optimiser = torch.optim.SGD([weight], lr=0.01)
    for _ in range(100):
        optimiser.zero_grad()
        (0.5 * curvature * weight**2).sum().backward()
        strategy.gradients({"weight": weight})
        before = weight.detach().clone()
        optimiser.step()
        strategy.after_step({"weight": weight})
        squares += (weight.detach() - before) ** 2
    decrease = 0.5 * curvature * (start**2 - weight.detach() ** 2)
    torch.testing.assert_close(strategy.omega["weight"], decrease + 0.5 * curvature * squares)
    torch.testing.assert_close(strategy.omega["weight"].sum(), decrease.sum(), rtol=0.03, atol=0.0)
    assert strategy.omega["weight"][2] == 0.0, "what the loss does not depend on has gained nothing"


def test_omega_of_a_policy_adds_up_to_the_loss_that_training_took_away(
    tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    policy, batch = make_policy("regression"), datasets[0].batch(range(16))
    strategy = SI(SI.Options(), 0)
    strategy.begin_task(tasks[0], policy, datasets[0])
    parameters = dict(policy.named_parameters())
    optimiser = torch.optim.SGD(parameters.values(), lr=0.003)

    def loss() -> Tensor:
        return policy.loss(batch, torch.Generator()).mean()

    before = loss().item()
    for _ in range(30):
        optimiser.zero_grad()
        loss().backward()
        strategy.gradients(parameters)
        optimiser.step()
        strategy.after_step(parameters)
    decrease = before - loss().item()
    assert decrease > 0.01
    assert sum(float(each.sum()) for each in strategy.omega.values()) == pytest.approx(decrease, rel=0.03)


def test_the_penalty_has_no_part_in_the_path_integral(
    policy: Policy, tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    strategy = SI(SI.Options(strength=7.0), 0)
    strategy.begin_task(tasks[0], policy, datasets[0])
    strategy.consolidate({name: torch.ones_like(each) for name, each in strategy.parameters.items()})
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += 0.1
    strategy.loss(NOTHING, NOTHING).backward()  # type: ignore[union-attr]
    parameters = dict(policy.named_parameters())
    assert all(float(each.grad.abs().max()) > 1 for each in parameters.values() if each.grad is not None)
    strategy.gradients(parameters)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter -= 0.1
    strategy.after_step(parameters)
    assert max(float(each.abs().max()) for each in strategy.omega.values()) < 1e-6


def test_at_a_boundary_omega_is_divided_by_the_squared_way_and_added(
    policy: Policy, tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    strategy = SI(SI.Options(xi=0.1), 0)
    strategy.begin_task(tasks[0], policy, datasets[0])
    start = {name: each.detach().clone() for name, each in policy.named_parameters()}
    fit(policy, datasets[0], strategy, TrainingOptions(steps=4, batch_size=8, warmup_steps=1), seed=0, stage=0)
    strategy.omega = omega = {name: each - each.mean() for name, each in strategy.omega.items()}  # some are negative
    strategy.end_task(tasks[0], policy, datasets[0])
    for name, parameter in policy.named_parameters():
        if name in omega:
            way = parameter.detach() - start[name]
            torch.testing.assert_close(strategy.importance[name], (omega[name] / (way**2 + 0.1)).clamp(min=0))
    assert not strategy.omega and not strategy.start, "the next task counts anew"
    strategy.begin_task(tasks[1], policy, datasets[1])
    first = dict(strategy.importance)
    strategy.omega = {name: torch.ones_like(each) for name, each in first.items()}
    strategy.start = {name: strategy.parameters[name].detach() - 0.5 for name in first}
    strategy.end_task(tasks[1], policy, datasets[1])
    for name, value in strategy.importance.items():
        torch.testing.assert_close(value, first[name] + 1 / (0.25 + 0.1))


def test_averaging_the_weights_gains_nothing(policy: Policy, tasks: list[Task], datasets: list[WindowDataset]) -> None:
    omegas = []
    for ema in (0.0, 0.9):
        policy, strategy = make_policy(), SI(SI.Options(), 0)
        strategy.begin_task(tasks[0], policy, datasets[0])
        options = TrainingOptions(steps=4, batch_size=8, warmup_steps=1, ema=ema)
        fit(policy, datasets[0], strategy, options, seed=0, stage=0)
        omegas.append(strategy.omega)
    assert all(torch.equal(omegas[0][name], omegas[1][name]) for name in omegas[0])


@pytest.mark.parametrize("xi", [0.0, -1.0])
def test_unusable_options_are_named(xi: float) -> None:
    with pytest.raises(ConfigurationError, match=f"strategy.xi must be above 0, got {xi}"):
        SI(SI.Options(xi=xi), 0)
