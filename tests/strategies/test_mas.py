"""MAS: importances against a closed form and against gradients taken one window at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.strategies.conftest import make_dataset, make_policy
from vla_cl.data import WindowDataset
from vla_cl.errors import ConfigurationError
from vla_cl.seeding import torch_generator
from vla_cl.strategies.mas import MAS
from vla_cl.strategies.quadratic_penalty import mean_of_gradients
from vla_cl.tasks import Task


def test_the_importance_of_a_linear_model_is_its_closed_form() -> None:
    """|W x|^2 has the gradient 2 (W x) x^T, so the importance is the mean of 2 |W x| |x|^T."""
    generator = torch.Generator().manual_seed(0)
    weight, x = nn.Parameter(torch.randn(2, 3, generator=generator)), torch.randn(50, 3, generator=generator)
    outputs = [lambda row=row: (weight @ row).square().sum() for row in x]  # type: ignore[misc]
    omega = mean_of_gradients(torch.abs, outputs, {"weight": weight})["weight"]
    y = x @ weight.detach().T
    torch.testing.assert_close(omega, (2 * y.abs()[:, :, None] * x.abs()[:, None, :]).mean(dim=0))


@pytest.mark.parametrize("head", ["flow", "gmm"])
def test_importances_are_mean_magnitudes_of_the_gradient_of_the_squared_prediction(
    head: str, tasks: list[Task], tmp_path: Path
) -> None:
    policy, data = make_policy(head), make_dataset(tmp_path, "short", episodes=1)
    for parameter in policy.head.parameters():
        nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(parameter.numel()))
    strategy = MAS(MAS.Options(samples=len(data)), 0)
    strategy.begin_task(tasks[0], policy, data)
    strategy.end_task(tasks[0], policy, data)
    expected = {name: torch.zeros_like(each) for name, each in policy.named_parameters()}
    for index in range(len(data)):
        window = data.batch([index])
        noise = policy.head.sample_noise(1, torch_generator(0, "mas", 0, index))
        actions = policy.normalise_actions(window.actions)
        policy.zero_grad()
        (policy.head.predict(policy.context(window.observation), actions, noise) ** 2).sum().backward()
        for name, parameter in policy.named_parameters():
            expected[name] += 0 if parameter.grad is None else parameter.grad.abs() / len(data)
    for name, value in expected.items():
        torch.testing.assert_close(strategy.importance[name], value, rtol=1e-4, atol=1e-6)
    assert sum(float(each.sum()) for each in expected.values()) > 0


def test_importances_add_up_over_tasks(tasks: list[Task], datasets: list[WindowDataset]) -> None:
    policy = make_policy("regression", seed=3)
    both, second = (MAS(MAS.Options(samples=5), 0) for _ in range(2))
    both.begin_task(tasks[0], policy, datasets[0])
    both.end_task(tasks[0], policy, datasets[0])
    first = dict(both.importance)
    both.begin_task(tasks[1], policy, datasets[1])
    both.end_task(tasks[1], policy, datasets[1])
    second.stage = 0
    second.begin_task(tasks[1], policy, datasets[1])
    second.end_task(tasks[1], policy, datasets[1])
    for name, value in both.importance.items():
        torch.testing.assert_close(value, first[name] + second.importance[name])


def test_unusable_options_are_named() -> None:
    options: Any = MAS.Options(samples=0)
    with pytest.raises(ConfigurationError, match=r"strategy.samples must be at least 1, got 0"):
        MAS(options, 0)
