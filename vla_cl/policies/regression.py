"""The `regression` head: actions by L1, as in OpenVLA-OFT (Kim et al., arXiv 2502.19645)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vla_cl.policies.base import HEADS, ActionHead, Context, ContextShape, masked_mean
from vla_cl.policies.networks import NETWORKS
from vla_cl.policies.options import check_at_least, check_choice


@dataclass(frozen=True)
class RegressionOptions:
    """Network.

    Args:
        network: "mlp" (on the pooled context, fast) or "transformer" (one slot an action, attending to context tokens).
        width: Of its hidden layers.
        layers: Residual blocks, or transformer layers.
        heads: Of the transformer's attention.
    """

    network: str = "mlp"
    width: int = 256
    layers: int = 3
    heads: int = 4

    def __post_init__(self) -> None:
        kind = "head 'regression'"
        check_choice(kind, "network", self.network, tuple(NETWORKS))
        check_at_least(kind, self, {"width": 2, "layers": 1, "heads": 1})


@HEADS.decorator("regression")
class RegressionHead(ActionHead):
    """One answer a context: the conditional median of each action. Deterministic, so its noise is empty."""

    Options = RegressionOptions

    def __init__(self, options: RegressionOptions, shape: ContextShape, chunk: int, action_dim: int) -> None:
        super().__init__()
        self.network = NETWORKS[options.network](
            shape.width,
            chunk,
            action_dim,
            width=options.width,
            layers=options.layers,
            heads=options.heads,
            timed=False,
        )

    def sample_noise(self, batch_size: int, generator: torch.Generator) -> Tensor:
        """(B, 0)."""
        return torch.empty(batch_size, 0)

    def target(self, actions: Tensor, noise: Tensor) -> Tensor:
        """The actions themselves (B, chunk, A)."""
        return actions

    def predict(self, context: Context, actions: Tensor, noise: Tensor) -> Tensor:
        """Actions (B, chunk, A), float32, from the context alone."""
        predicted: Tensor = self.network(self.network.prepare(context))[:, 0].float()
        return predicted

    def loss(self, context: Context, actions: Tensor, padding: Tensor, noise: Tensor) -> Tensor:
        """Mean absolute error (B,) over dimensions and actions that are not padding."""
        errors = (self.predict(context, actions, noise) - actions).abs().mean(dim=-1)
        return masked_mean(errors, padding)

    def sample(self, context: Context, initial_noise: Tensor) -> Tensor:
        """What `predict` says; the noise is not used."""
        return self.predict(context, initial_noise, initial_noise)
