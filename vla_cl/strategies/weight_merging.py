"""Weight merging: at each boundary, go back a part of the way to the weights before the task.

The interpolation of fine-tuned weights of Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022 (arXiv
2109.01903), section 3, applied task by task.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vla_cl.data import WindowDataset
from vla_cl.errors import ConfigurationError
from vla_cl.policies import Policy
from vla_cl.strategies.base import STRATEGIES, Strategy
from vla_cl.strategies.weights import snapshot, trained_weights
from vla_cl.tasks import Task


@STRATEGIES.decorator("weight_merging")
class WeightMerging(Strategy):
    """After each task but the first, `theta <- (1 - share) theta_old + share theta_new`.

    theta_old are the weights when the task began. What has come into the policy since, such as an adapter, is left
    alone. The state holds no weights: training that was killed inside a task goes on with `begin_task` on the policy of
    the last boundary.
    """

    @dataclass
    class Options:
        """Merging.

        Args:
            share: a, what the new weights count, 0 to 1; 1 is sequential fine-tuning.
        """

        share: float = 0.8

    def __init__(self, options: Options, seed: int) -> None:
        super().__init__(options, seed)
        if not 0.0 <= options.share <= 1.0:
            raise ConfigurationError(f"strategy.share must be 0 to 1, got {options.share}")
        self.old: dict[str, Tensor] = {}

    def begin_task(self, task: Task, policy: Policy, data: WindowDataset) -> None:
        super().begin_task(task, policy, data)
        self.old = snapshot(trained_weights(policy)) if self.stage > 0 and self.options.share < 1 else {}

    @torch.no_grad()
    def end_task(self, task: Task, policy: Policy, data: WindowDataset) -> None:
        for name, new in trained_weights(policy).items():
            if name in self.old:
                new.copy_((1 - self.options.share) * self.old[name] + self.options.share * new)
        self.old = {}
