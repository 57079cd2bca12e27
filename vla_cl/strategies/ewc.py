"""Online elastic weight consolidation: a quadratic anchor, weighted by what earlier tasks need.

Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks", PNAS 2017 (arXiv 1612.00796), eq. 3; the
online form of Schwarz et al., "Progress & Compress", ICML 2018 (arXiv 1805.06370), eq. 8-9.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vla_cl.data import Batch, WindowDataset
from vla_cl.errors import ConfigurationError
from vla_cl.policies import Policy, PolicyOutput
from vla_cl.seeding import numpy_generator, torch_generator
from vla_cl.strategies.base import STRATEGIES, Strategy
from vla_cl.tasks import Task


def diagonal_fisher(
    losses: Iterable[Callable[[], Tensor]], parameters: Mapping[str, nn.Parameter]
) -> dict[str, Tensor]:
    """The diagonal of the empirical Fisher information: the mean of per-sample squared gradients.

    Squaring comes before averaging. The square of a batch's mean gradient, which published code often takes, shrinks
    with the batch size and vanishes at an optimum.

    Args:
        losses: One function a sample, which returns that sample's scalar loss (a negative log-likelihood).
        parameters: What to differentiate by.

    Returns:
        One non-negative tensor for each parameter, of its shape.
    """
    total = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    count = 0
    for loss in losses:
        gradients = torch.autograd.grad(loss(), list(parameters.values()), allow_unused=True)
        for name, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                total[name] += gradient.detach() ** 2
        count += 1
    return {name: value / max(count, 1) for name, value in total.items()}


@STRATEGIES.decorator("ewc")
class EWC(Strategy):
    """Online EWC: `loss + strength * sum_p F_p (theta_p - theta*_p)^2`, `F <- decay F + F_task` at each boundary."""

    @dataclass
    class Options:
        """Penalty.

        Args:
            strength: lambda, at least 0; 0 is sequential fine-tuning. LIBERO uses 5e4.
            decay: gamma, what is kept of the earlier importances at a boundary, 0 to 1. LIBERO uses 0.9.
            samples: Windows on which the Fisher information is estimated.
        """

        strength: float = 5e4
        decay: float = 0.9
        samples: int = 256

    def __init__(self, options: Options, seed: int) -> None:
        super().__init__(options, seed)
        if options.strength < 0:
            raise ConfigurationError(f"strategy.strength must be at least 0, got {options.strength}")
        if not 0.0 <= options.decay <= 1.0:
            raise ConfigurationError(f"strategy.decay must be 0 to 1, got {options.decay}")
        if options.samples < 1:
            raise ConfigurationError(f"strategy.samples must be at least 1, got {options.samples}")
        self.fisher: dict[str, Tensor] = {}
        self.anchor: dict[str, Tensor] = {}
        self.parameters: dict[str, nn.Parameter] = {}

    def begin_task(self, task: Task, policy: Policy, data: WindowDataset) -> None:
        super().begin_task(task, policy, data)
        self._bind(policy)

    def loss(self, batch: Batch, output: PolicyOutput) -> Tensor | float:
        if not self.fisher:
            return 0.0
        penalties = [
            (self.fisher[name] * (parameter - self.anchor[name]) ** 2).sum()
            for name, parameter in self.parameters.items()
        ]
        penalty: Tensor = self.options.strength * torch.stack(penalties).sum()
        return penalty

    def end_task(self, task: Task, policy: Policy, data: WindowDataset) -> None:
        self._bind(policy)
        generator = numpy_generator(self.seed, "fisher", self.stage)
        windows = generator.choice(len(data), size=min(self.options.samples, len(data)), replace=False)
        device = next(policy.parameters()).device

        def sample_loss(index: int) -> Callable[[], Tensor]:
            noise = torch_generator(self.seed, "fisher", self.stage, index)
            return lambda: policy.loss(data.batch([index]).to(device), noise).sum()

        fisher = diagonal_fisher((sample_loss(int(index)) for index in sorted(windows)), self.parameters)
        for name, parameter in self.parameters.items():
            earlier = self.fisher.get(name, torch.zeros_like(parameter))
            self.fisher[name] = self.options.decay * earlier + fisher[name]
            self.anchor[name] = parameter.detach().clone()

    def _bind(self, policy: Policy) -> None:
        """Follow the policy's parameters, and keep importances on its device."""
        self.parameters = {name: each for name, each in policy.named_parameters() if each.requires_grad}
        for name, parameter in self.parameters.items():
            if name in self.fisher:
                self.fisher[name] = self.fisher[name].to(parameter.device)
                self.anchor[name] = self.anchor[name].to(parameter.device)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "fisher": self.fisher, "anchor": self.anchor}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.fisher = dict(state["fisher"])
        self.anchor = dict(state["anchor"])
