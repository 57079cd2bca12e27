"""M2Distill: keep every modality's embeddings, and the distribution of actions, where the previous policy had them.

After Roy et al., "M2Distill: Multi-Modal Distillation for Lifelong Imitation Learning", 2024 (arXiv 2410.00064).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from vla_cl.data import Batch
from vla_cl.errors import ConfigurationError
from vla_cl.policies import Context, PolicyOutput
from vla_cl.strategies.base import STRATEGIES
from vla_cl.strategies.distillation import Distillation, context_of, divergence_from


def token_distance(context: Context, reference: Context) -> Tensor:
    """The mean squared distance (B,) of the context tokens of one policy from those of another at the same places,
    over dimensions and the tokens that are not padding.
    """
    errors = (context.tokens.float() - reference.tokens.float()).square().mean(dim=-1)
    if context.mask is None:
        return errors.mean(dim=1)
    kept = context.mask.to(errors.dtype)
    return (errors * kept).sum(dim=1) / kept.sum(dim=1).clamp(min=1)


@STRATEGIES.decorator("m2distill")
class M2Distill(Distillation):
    """`loss + embedding * mean |z_old - z_new|^2 + policy * D(old | new)`, old being the policy at the last boundary.

    The paper distils the squared distance of the embeddings that each modality's own encoder makes (two cameras, text,
    joints, gripper), and the Kullback-Leibler divergence of two mixtures of Gaussians, estimated by Monte Carlo.

    Ours: the embeddings are the tokens of the context, so that this works on any backbone: instruction, proprioception,
    and images or the simulator's state, each token in its place. So a modality counts by how many tokens it has, and
    tokens have attended to each other. The divergence is the head's own (`ActionHead.divergence`), Monte Carlo over the
    noise that the batch was drawn with; for a mixture it is the paper's. Distances are means over dimensions, not sums.
    The paper's memory of earlier demonstrations is not part of it: run `replay+m2distill`.
    """

    @dataclass
    class Options:
        """Distillation.

        Args:
            embedding: Weight of the embeddings' distance, at least 0.
            policy: Weight of the divergence of what is predicted, at least 0; both 0 are sequential fine-tuning.
        """

        embedding: float = 0.1
        policy: float = 0.1

    def __init__(self, options: Options, seed: int) -> None:
        super().__init__(options, seed)
        for name in ("embedding", "policy"):
            if not getattr(options, name) >= 0:
                raise ConfigurationError(f"strategy.{name} must be at least 0, got {getattr(options, name)}")

    def loss(self, batch: Batch, output: PolicyOutput) -> Tensor | float:
        options = self.options
        if self.teacher is None or not (options.embedding or options.policy):
            return 0.0
        teachers = context_of(self.teacher, batch.observation)
        loss: Tensor = options.embedding * token_distance(output.context, teachers).mean()
        if options.policy:
            divergence = divergence_from(self.teacher, self.policy, batch, output.noise, output.context, teachers)
            loss = loss + options.policy * divergence.mean()
        return loss
