"""L2 regularisation towards the weights after the previous task: every weight is equally important.

The baseline of Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks", PNAS 2017 (arXiv
1612.00796), figure 2, and of Continual World (Wolczyk et al., arXiv 2105.10919).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vla_cl.data import WindowDataset
from vla_cl.policies import Policy
from vla_cl.strategies.base import STRATEGIES
from vla_cl.strategies.quadratic_penalty import QuadraticPenalty
from vla_cl.tasks import Task


@STRATEGIES.decorator("l2")
class L2(QuadraticPenalty):
    """`loss + strength * sum_p (theta_p - theta*_p)^2`, theta* the weights at the last boundary."""

    @dataclass
    class Options:
        """Penalty.

        Args:
            strength: lambda, at least 0; 0 is sequential fine-tuning.
        """

        strength: float = 0.01

    def end_task(self, task: Task, policy: Policy, data: WindowDataset) -> None:
        self.bind(policy)
        self.consolidate({name: torch.ones((), device=each.device) for name, each in self.parameters.items()})
