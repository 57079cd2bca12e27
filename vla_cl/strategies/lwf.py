"""Learning without forgetting: on the present task's data, stay close to what the previous policy would predict.

Li and Hoiem, "Learning without Forgetting", ECCV 2016 (arXiv 1606.09282), eq. 1 and figure 3.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from vla_cl.data import Batch
from vla_cl.errors import ConfigurationError
from vla_cl.policies import PolicyOutput
from vla_cl.strategies.base import STRATEGIES
from vla_cl.strategies.distillation import Distillation, context_of, divergence_from


@STRATEGIES.decorator("lwf")
class LwF(Distillation):
    """`loss + strength * mean_b D(old(x_b) | new(x_b))`, old being the policy at the last boundary.

    D is the head's own divergence at the same actions and noise: for tokens the paper's distillation at a temperature,
    for mixtures a Kullback-Leibler divergence, for flow and diffusion the squared error of the two predictions. That is
    ours, as is that old and new task share one head, where the paper adds outputs to a classifier. Its warm-up of those
    outputs has no counterpart.
    """

    @dataclass
    class Options:
        """Distillation.

        Args:
            strength: lambda, at least 0; 0 is sequential fine-tuning. The paper uses 1.
        """

        strength: float = 1.0

    def __init__(self, options: Options, seed: int) -> None:
        super().__init__(options, seed)
        if not options.strength >= 0:
            raise ConfigurationError(f"strategy.strength must be at least 0, got {options.strength}")

    def loss(self, batch: Batch, output: PolicyOutput) -> Tensor | float:
        if self.teacher is None or not self.options.strength:
            return 0.0
        teachers = context_of(self.teacher, batch.observation)
        divergence = divergence_from(self.teacher, self.policy, batch, output.noise, output.context, teachers)
        loss: Tensor = self.options.strength * divergence.mean()
        return loss
