"""A strategy in one file: stay close to the weights that the last task ended with (L2-SP, arXiv 1802.01483)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vla_cl.data import Batch, WindowDataset
from vla_cl.policies import Policy, PolicyOutput
from vla_cl.strategies import STRATEGIES, Strategy
from vla_cl.tasks import Task


@STRATEGIES.decorator("weight_anchor")
class WeightAnchor(Strategy):
    """Add `strength * |theta - theta*|^2`, where theta* are the weights after the task before."""

    @dataclass
    class Options:
        """Keys of the configuration: `strategy.strength=0.1`."""

        strength: float = 0.01

    def __init__(self, options: Options, seed: int) -> None:
        super().__init__(options, seed)
        self.anchor: dict[str, Tensor] = {}

    def begin_task(self, task: Task, policy: Policy, data: WindowDataset) -> None:
        super().begin_task(task, policy, data)
        self.parameters = {name: each for name, each in policy.named_parameters() if each.requires_grad}

    def loss(self, batch: Batch, output: PolicyOutput) -> Tensor | float:
        if not self.anchor:
            return 0.0
        distances = [(self.parameters[name] - at.to(output.loss)).square().sum() for name, at in self.anchor.items()]
        return self.options.strength * torch.stack(distances).sum()

    def end_task(self, task: Task, policy: Policy, data: WindowDataset) -> None:
        self.anchor = {name: each.detach().clone() for name, each in self.parameters.items()}

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "anchor": self.anchor}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.anchor = dict(state["anchor"])
