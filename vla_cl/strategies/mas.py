"""Memory aware synapses: a weight is important if what the policy predicts is sensitive to it.

Aljundi et al., "Memory Aware Synapses: Learning what (not) to forget", ECCV 2018 (arXiv 1711.09601), eq. 2-4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from vla_cl.data import Batch, WindowDataset
from vla_cl.errors import ConfigurationError
from vla_cl.policies import Policy
from vla_cl.seeding import torch_generator
from vla_cl.strategies.base import STRATEGIES
from vla_cl.strategies.quadratic_penalty import QuadraticPenalty, mean_of_gradients, sampled_windows
from vla_cl.tasks import Task


def squared_output(policy: Policy, window: Batch, noise: Tensor) -> Tensor:
    """|F(x)|^2 (): the squared L2 norm of the head's prediction on one window."""
    actions = policy.normalise_actions(window.actions)
    return policy.head.predict(policy.context(window.observation), actions, noise).square().sum()


@STRATEGIES.decorator("mas")
class MAS(QuadraticPenalty):
    """`loss + strength * sum_p Omega_p (theta_p - theta*_p)^2`, where at each boundary
    `Omega_p <- Omega_p + 1/N sum_n |d |F(x_n)|^2 / d theta_p|`.

    F is what the head predicts at given actions and noise (`ActionHead.predict`): a velocity, an action, scores of
    tokens, parameters of a mixture. Which of them a policy has is ours, as is the noise; no action is learned from.
    """

    @dataclass
    class Options:
        """Penalty.

        Args:
            strength: lambda, at least 0; 0 is sequential fine-tuning. The paper uses 1, for
                classifiers.
            samples: N, windows on which the sensitivity is measured.
        """

        strength: float = 0.1
        samples: int = 256

    def __init__(self, options: Options, seed: int) -> None:
        super().__init__(options, seed)
        if options.samples < 1:
            raise ConfigurationError(f"strategy.samples must be at least 1, got {options.samples}")

    def end_task(self, task: Task, policy: Policy, data: WindowDataset) -> None:
        self.bind(policy)
        device = next(policy.parameters()).device

        def outputs() -> Iterable[Callable[[], Tensor]]:
            for index, window in sampled_windows(data, self.options.samples, self.seed, "mas", self.stage):
                noise = policy.head.sample_noise(1, torch_generator(self.seed, "mas", self.stage, index))
                yield partial(squared_output, policy, window.to(device), noise.to(device))

        omega = mean_of_gradients(torch.abs, outputs(), self.parameters)
        self.consolidate({name: self.importance.get(name, 0.0) + value for name, value in omega.items()})
