"""The frozen baseline: after any number of tasks the policy is what it was."""

from __future__ import annotations

import torch

from vla_cl.data import WindowDataset
from vla_cl.policies import Policy
from vla_cl.strategies import trained_parameters
from vla_cl.strategies.frozen import Frozen
from vla_cl.tasks import Task
from vla_cl.training import TrainingOptions, fit


def test_no_bit_of_the_policy_changes(policy: Policy, tasks: list[Task], datasets: list[WindowDataset]) -> None:
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    strategy, counted = Frozen(None, 0), []
    options = TrainingOptions(steps=3, batch_size=8, weight_decay=0.1, ema=0.9)
    for stage in (0, 1):
        strategy.begin_task(tasks[stage], policy, datasets[stage])
        assert trained_parameters(policy, strategy) == {}
        fit(policy, datasets[stage], strategy, options, seed=0, stage=stage, on_step=counted.append)
        strategy.end_task(tasks[stage], policy, datasets[stage])
    assert all(torch.equal(value, before[name]) for name, value in policy.state_dict().items())
    assert counted == [1, 2, 3, 1, 2, 3]
