"""Synaptic intelligence: a weight is important if moving it made the loss fall.

Zenke, Poole and Ganguli, "Continual Learning Through Synaptic Intelligence", ICML 2017 (arXiv 1703.04200), eq. 3-5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vla_cl.data import WindowDataset
from vla_cl.errors import ConfigurationError
from vla_cl.policies import Policy
from vla_cl.strategies.base import STRATEGIES
from vla_cl.strategies.quadratic_penalty import QuadraticPenalty
from vla_cl.strategies.weights import policy_weights
from vla_cl.tasks import Task


@STRATEGIES.decorator("si")
class SI(QuadraticPenalty):
    """`loss + strength * sum_p Omega_p (theta_p - theta*_p)^2`.

    In each step `omega_p <- omega_p - g_p (theta_p after - theta_p before)`, so that the sum over p is the loss that
    the steps have taken away. At a boundary `Omega_p <- max(0, Omega_p + omega_p / (Delta_p^2 + xi))`, Delta_p being
    how far the task has moved the weight; then omega starts from 0.

    As in the authors' program, g is the gradient without the penalty's part, and Omega does not fall below 0. Of
    strategies that run together, the others' parts of the gradient count.
    """

    @dataclass
    class Options:
        """Penalty.

        Args:
            strength: c, at least 0; 0 is sequential fine-tuning. The paper uses 0.1 to 1.
            xi: Damping, above 0, which bounds the importance of weights that hardly moved. The paper uses 1e-3 to 0.1.
        """

        strength: float = 1.0
        xi: float = 1e-3

    def __init__(self, options: Options, seed: int) -> None:
        super().__init__(options, seed)
        if not options.xi > 0:
            raise ConfigurationError(f"strategy.xi must be above 0, got {options.xi}")
        self.omega: dict[str, Tensor] = {}
        self.start: dict[str, Tensor] = {}
        self.before: dict[str, tuple[Tensor, Tensor]] = {}

    def gradients(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Note, of each weight, where it is and what the task's gradient says there."""
        for name, parameter in policy_weights(parameters).items():
            if parameter.grad is None:
                continue
            here = parameter.detach().clone()
            self.start.setdefault(name, here)
            self.before[name] = (here, parameter.grad - self.penalty_gradient(name))

    def after_step(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Add what the step has gained. What follows without a gradient, such as averaging, has gained nothing."""
        for name, parameter in policy_weights(parameters).items():
            if name in self.before:
                here, gradient = self.before.pop(name)
                gained = -gradient.float() * (parameter.detach() - here)
                self.omega[name] = self.omega[name] + gained if name in self.omega else gained

    def end_task(self, task: Task, policy: Policy, data: WindowDataset) -> None:
        self.bind(policy)
        importance = {}
        for name in [name for name in self.omega if name in self.parameters]:
            moved = self.parameters[name].detach() - self.start[name]
            new = self.omega[name] / (moved.float() ** 2 + self.options.xi)
            importance[name] = torch.relu(self.importance.get(name, 0.0) + new)
        self.consolidate(importance)
        self.omega, self.start = {}, {}

    def bind(self, policy: Policy) -> None:
        super().bind(policy)
        device = next(policy.parameters()).device
        self.omega = {name: each.to(device) for name, each in self.omega.items()}
        self.start = {name: each.to(device) for name, each in self.start.items()}

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "omega": self.omega, "start": self.start}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.omega, self.start = dict(state["omega"]), dict(state["start"])
        super().load_state_dict(state)
