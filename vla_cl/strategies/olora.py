"""O-LoRA: every task learns in a subspace that a penalty makes orthogonal to those of earlier tasks.

Wang et al., "Orthogonal Subspace Learning for Language Model Continual Learning", Findings of EMNLP 2023
(arXiv 2310.14152), eq. 6-8.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vla_cl.data import Batch, WindowDataset
from vla_cl.errors import ConfigurationError
from vla_cl.policies import Policy, PolicyOutput
from vla_cl.policies.adapters import factors, set_active
from vla_cl.strategies.base import STRATEGIES
from vla_cl.strategies.low_rank import LowRankStrategy
from vla_cl.tasks import Task


def overlap(present: Tensor, earlier: Sequence[Tensor]) -> Tensor:
    """sum_i sum_jk |A_i A_t^T|_jk: 0 where the rows of `present` (r, D) are orthogonal to those of each of `earlier`
    (r_i, D).
    """
    return (torch.cat(list(earlier)) @ present.T).abs().sum()


@STRATEGIES.decorator("olora")
class OLoRA(LowRankStrategy):
    """`loss + strength * sum_(i < t) sum |A_i A_t^T|`, over all adapted layers; A_i and B_i of earlier tasks are frozen
    and, like all of them when acting, active while task t trains: `h = W x + sum_(i <= t) alpha / rank B_i A_i x`.

    A first task that trains the base weights (`first_task`, ours) has no A, so nothing keeps the second off it.
    """

    @dataclass
    class Options(LowRankStrategy.Options):
        """Those of every low-rank strategy, and one.

        Args:
            strength: lambda, at least 0. The paper uses 0.5.
        """

        strength: float = 0.5

    options: Options

    def __init__(self, options: Options, seed: int) -> None:
        super().__init__(options, seed)
        if options.strength < 0:
            raise ConfigurationError(f"strategy.strength must be at least 0, got {options.strength}")
        self.overlapping: list[tuple[Tensor, list[Tensor]]] = []

    def begin_task(self, task: Task, policy: Policy, data: WindowDataset) -> None:
        super().begin_task(task, policy, data)
        set_active(policy, self.adapters)
        present = self.owners[task.name]
        earlier = [factors(policy, name) for name in self.adapters if name != present]
        self.overlapping = []
        if present is not None and earlier:
            for layer, factor in factors(policy, present).items():
                frozen = [each[layer].down.detach().flatten(1) for each in earlier]
                self.overlapping.append((factor.down.flatten(1), frozen))

    def loss(self, batch: Batch, output: PolicyOutput) -> Tensor | float:
        if not self.overlapping:
            return 0.0
        penalty: Tensor = torch.stack([overlap(present, earlier) for present, earlier in self.overlapping]).sum()
        return self.options.strength * penalty
