"""Single-task training: forget everything at each boundary. What a task alone can reach, for plasticity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vla_cl.data import WindowDataset
from vla_cl.policies import Policy
from vla_cl.strategies.base import STRATEGIES, Strategy
from vla_cl.tasks import Task


@STRATEGIES.decorator("single_task")
class SingleTask(Strategy):
    """Every task starts from the weights that the first one started from."""

    def __init__(self, options: Any, seed: int) -> None:
        super().__init__(options, seed)
        self.initial: dict[str, Tensor] = {}

    def begin_task(self, task: Task, policy: Policy, data: WindowDataset) -> None:
        super().begin_task(task, policy, data)
        parameters = dict(policy.named_parameters())
        if not self.initial:
            self.initial = {name: parameter.detach().cpu().clone() for name, parameter in parameters.items()}
            return
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(self.initial[name])

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "initial": self.initial}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.initial = dict(state["initial"])
