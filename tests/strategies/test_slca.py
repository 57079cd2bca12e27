"""SLCA's learning rates, as they show in how far the optimiser's first step goes."""

from __future__ import annotations

import pytest
import torch

from tests.strategies.conftest import make_policy
from vla_cl.data import WindowDataset
from vla_cl.errors import ConfigurationError
from vla_cl.strategies import Strategy
from vla_cl.strategies.slca import SLCA
from vla_cl.tasks import Task
from vla_cl.training import TrainingOptions, fit

ONE_STEP = TrainingOptions(steps=1, batch_size=8, warmup_steps=0, learning_rate=1e-3, weight_decay=0.01)


def step_sizes(strategy: Strategy, tasks: list[Task], datasets: list[WindowDataset]) -> dict[str, float]:
    """Largest change of any weight of backbone and head in one step. Adam's first step is the learning rate's size."""
    policy = make_policy()
    for parameter in policy.head.parameters():
        torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(parameter.numel()))
    before = {name: each.detach().clone() for name, each in policy.named_parameters()}
    strategy.begin_task(tasks[0], policy, datasets[0])
    fit(policy, datasets[0], strategy, ONE_STEP, seed=0, stage=0)
    return {
        part: max(
            float((each.detach() - before[name]).abs().max())
            for name, each in policy.named_parameters()
            if name.startswith(part)
        )
        for part in ("backbone.", "head.")
    }


@pytest.mark.parametrize("slow", [0.01, 0.1])
def test_the_backbone_steps_as_much_less_far_as_it_is_slow(
    slow: float, tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    plain = step_sizes(Strategy(None, 0), tasks, datasets)
    sizes = step_sizes(SLCA(SLCA.Options(slow=slow, pretrained=True), 0), tasks, datasets)
    assert sizes["head."] == plain["head."] == pytest.approx(1e-3, rel=0.05)
    assert sizes["backbone."] / plain["backbone."] == pytest.approx(slow, rel=0.02)


def test_slow_0_trains_the_head_alone(tasks: list[Task], datasets: list[WindowDataset]) -> None:
    sizes = step_sizes(SLCA(SLCA.Options(slow=0.0, pretrained=True), 0), tasks, datasets)
    assert sizes["backbone."] == 0.0 < sizes["head."]


def test_a_policy_from_scratch_learns_its_first_task_at_the_full_rate(
    tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    first, second = (SLCA(SLCA.Options(slow=0.01), 0) for _ in range(2))
    second.stage = 0
    plain = step_sizes(Strategy(None, 0), tasks, datasets)
    assert step_sizes(first, tasks, datasets) == plain
    assert step_sizes(second, tasks, datasets)["backbone."] < 0.02 * plain["backbone."]


@pytest.mark.parametrize("slow", [-0.1, 1.1])
def test_unusable_options_are_named(slow: float) -> None:
    with pytest.raises(ConfigurationError, match=f"strategy.slow must be 0 to 1, got {slow}"):
        SLCA(SLCA.Options(slow=slow), 0)
