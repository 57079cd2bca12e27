"""L2 towards the last boundary: every weight counts alike, and only the last boundary does."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vla_cl.data import WindowDataset
from vla_cl.policies import Policy
from vla_cl.strategies.l2 import L2
from vla_cl.tasks import Task

NOTHING: Any = None


def test_the_penalty_is_the_squared_distance_from_the_last_boundary(
    policy: Policy, tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    strategy = L2(L2.Options(strength=3.0), 0)
    count = sum(each.numel() for each in policy.parameters())
    for stage in (0, 1):
        strategy.begin_task(tasks[stage], policy, datasets[stage])
        strategy.end_task(tasks[stage], policy, datasets[stage])
        assert float(strategy.loss(NOTHING, NOTHING)) == 0.0
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter += 0.01
        penalty: Any = strategy.loss(NOTHING, NOTHING)
        assert penalty.item() == pytest.approx(3.0 * count * 1e-4, rel=1e-3)
