"""The `regression` head: actions by L1, as in OpenVLA-OFT (Kim et al., arXiv 2502.19645)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vla_cl.policies.base import HEADS, ActionHead, Context, ContextShape, masked_mean
from vla_cl.policies.networks import NETWORKS, chunk_network, language_layers
from vla_cl.policies.options import check_at_least, check_choice
from vla_cl.policies.parallel_decoding import SLOTS, ParallelDecoding

KIND = "head 'regression'"


@dataclass(frozen=True)
class RegressionOptions:
    """Network.

    Args:
        network: "mlp" (on the pooled context, fast), "transformer" (one slot an action, attending to context tokens) or
            "decoder" (a language model fills empty slots, as in OpenVLA-OFT; `ParallelDecoding`).
        width: Of its hidden layers.
        layers: Residual blocks (2 in OpenVLA-OFT), or transformer layers.
        heads: Of the transformer's attention.
        slots: Of "decoder": one for each "dimension" of an action (OpenVLA-OFT), or one for each "step".
        learned_slots: Of "decoder": whether their embeddings are learned; zeros if not (OpenVLA-OFT).
    """

    network: str = "mlp"
    width: int = 256
    layers: int = 3
    heads: int = 4
    slots: str = "dimension"
    learned_slots: bool = False

    def __post_init__(self) -> None:
        check_choice(KIND, "network", self.network, (*NETWORKS, "decoder"))
        check_choice(KIND, "slots", self.slots, SLOTS)
        check_at_least(KIND, self, {"width": 2, "layers": 1, "heads": 1})


@HEADS.decorator("regression")
class RegressionHead(ActionHead):
    """One answer a context: the conditional median of each action. Deterministic, so its noise is empty."""

    Options = RegressionOptions

    def __init__(self, options: RegressionOptions, shape: ContextShape, chunk: int, action_dim: int) -> None:
        super().__init__()
        self.needs_layers = options.network == "decoder"
        self.network: Any = _network(options, shape, chunk, action_dim)

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


def _network(options: RegressionOptions, shape: ContextShape, chunk: int, action_dim: int) -> nn.Module:
    if options.network != "decoder":
        network: nn.Module = chunk_network(options, shape, chunk, action_dim)
        return network
    return ParallelDecoding(
        language_layers(KIND, options.network, shape),
        chunk,
        action_dim,
        width=options.width,
        blocks=options.layers,
        slots=options.slots,
        learned=options.learned_slots,
    )
