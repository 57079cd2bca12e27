"""Weight merging: the exact formula, from the second task on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.strategies.conftest import make_policy
from vla_cl.data import WindowDataset
from vla_cl.errors import ConfigurationError
from vla_cl.policies import Policy
from vla_cl.policies.adapters import add_adapter
from vla_cl.strategies.weight_merging import WeightMerging
from vla_cl.tasks import Task
from vla_cl.training import TrainingOptions, fit

FEW_STEPS = TrainingOptions(steps=3, batch_size=8, warmup_steps=1)


def weights(policy: Policy) -> dict[str, Tensor]:
    return {name: each.detach().clone() for name, each in policy.named_parameters()}


@pytest.mark.parametrize("share", [0.8, 0.0, 1.0])
def test_after_each_task_but_the_first_weights_are_between_old_and_new(
    share: float, policy: Policy, tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    strategy = WeightMerging(WeightMerging.Options(share=share), 0)
    for stage in range(3):
        old = weights(policy)
        strategy.begin_task(tasks[stage], policy, datasets[stage])
        fit(policy, datasets[stage], strategy, FEW_STEPS, seed=0, stage=stage)
        new = weights(policy)
        strategy.end_task(tasks[stage], policy, datasets[stage])
        for name, merged in weights(policy).items():
            expected = new[name] if stage == 0 else (1 - share) * old[name] + share * new[name]
            torch.testing.assert_close(merged, expected, rtol=0, atol=0 if share == 1.0 else 1e-7)
    assert any(not new[name].equal(old[name]) for name in new)
    assert strategy.state_dict() == {"stage": 2}


def test_an_adapter_that_came_with_the_task_is_left_alone(tasks: list[Task], datasets: list[WindowDataset]) -> None:
    policy = make_policy(backbone="lowdim_transformer", width=32, layers=1, heads=2)
    strategy = WeightMerging(WeightMerging.Options(share=0.5), 0)
    strategy.stage = 0
    strategy.begin_task(tasks[1], policy, datasets[1])
    old = weights(policy)
    add_adapter(policy, "task")
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += 1.0
    new = weights(policy)
    strategy.end_task(tasks[1], policy, datasets[1])
    for name, merged in weights(policy).items():
        before = old.get(name.replace(".base_layer.", "."), new[name])
        torch.testing.assert_close(merged, 0.5 * (before + new[name]))


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_unusable_options_are_named(share: float) -> None:
    with pytest.raises(ConfigurationError, match=f"strategy.share must be 0 to 1, got {share}"):
        WeightMerging(WeightMerging.Options(share=share), 0)
