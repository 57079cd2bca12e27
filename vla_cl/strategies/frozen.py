"""The policy as it is, never trained: what a pretrained one can do zero-shot. The other lower reference."""

from __future__ import annotations

from typing import ClassVar

from vla_cl.data import WindowDataset
from vla_cl.policies import Policy
from vla_cl.strategies.base import STRATEGIES, Strategy
from vla_cl.tasks import Task


@STRATEGIES.decorator("frozen")
class Frozen(Strategy):
    """Every weight is frozen."""

    task_free: ClassVar[bool] = True

    def begin_task(self, task: Task, policy: Policy, data: WindowDataset) -> None:
        super().begin_task(task, policy, data)
        policy.requires_grad_(False)
