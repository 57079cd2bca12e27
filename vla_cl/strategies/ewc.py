"""Online elastic weight consolidation: a quadratic anchor, weighted by what earlier tasks need.

Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks", PNAS 2017 (arXiv 1612.00796), eq. 3; the
online form of Schwarz et al., "Progress & Compress", ICML 2018 (arXiv 1805.06370), eq. 8-9.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from vla_cl.data import Batch, WindowDataset
from vla_cl.errors import ConfigurationError
from vla_cl.policies import Policy
from vla_cl.seeding import torch_generator
from vla_cl.strategies.base import STRATEGIES
from vla_cl.strategies.quadratic_penalty import QuadraticPenalty, mean_of_gradients, sampled_windows
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
    return mean_of_gradients(torch.square, losses, parameters)


@STRATEGIES.decorator("ewc")
class EWC(QuadraticPenalty):
    """Online EWC: `loss + strength * sum_p F_p (theta_p - theta*_p)^2`, `F <- decay F + F_task` at each boundary."""

    @dataclass
    class Options:
        """Penalty.

        Args:
            strength: lambda, at least 0; 0 is sequential fine-tuning. LIBERO uses 5e4, at which small
                policies hardly learn new tasks; see docs/results.md.
            decay: gamma, what is kept of the earlier importances at a boundary, 0 to 1. LIBERO uses 0.9.
            samples: Windows on which the Fisher information is estimated.
        """

        strength: float = 50.0
        decay: float = 0.9
        samples: int = 256

    def __init__(self, options: Options, seed: int) -> None:
        super().__init__(options, seed)
        if not 0.0 <= options.decay <= 1.0:
            raise ConfigurationError(f"strategy.decay must be 0 to 1, got {options.decay}")
        if options.samples < 1:
            raise ConfigurationError(f"strategy.samples must be at least 1, got {options.samples}")

    @property
    def fisher(self) -> dict[str, Tensor]:
        """The importances: Fisher information, summed over tasks with decay."""
        return self.importance

    def end_task(self, task: Task, policy: Policy, data: WindowDataset) -> None:
        self.bind(policy)
        device = next(policy.parameters()).device

        def loss(window: Batch, noise: torch.Generator) -> Tensor:
            return policy.loss(window.to(device), noise).sum()

        def losses() -> Iterable[Callable[[], Tensor]]:
            for index, window in sampled_windows(data, self.options.samples, self.seed, "fisher", self.stage):
                noise = torch_generator(self.seed, "fisher", self.stage, index)
                yield partial(loss, window, noise)

        fisher = diagonal_fisher(losses(), self.parameters)
        decay = self.options.decay
        self.consolidate({name: decay * self.importance.get(name, 0.0) + value for name, value in fisher.items()})
