"""OpenVLA-OFT's parallel decoding: a language model fills empty action slots, all at once (arXiv 2502.19645)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vla_cl.errors import ConfigurationError
from vla_cl.policies.base import Context, LayersShape
from vla_cl.policies.layers import token, zeroed

SLOTS = ("dimension", "step")


class ParallelDecoding(nn.Module):
    """Slots behind the context that see it and each other in both directions, then an MLP on their hidden states
    (Kim et al., arXiv 2502.19645, section IV).

    Slots differ in nothing but their positions, unless their embeddings are learned. The MLP is the paper's: LayerNorm,
    Linear, ReLU, residual blocks of LayerNorm, Linear and ReLU, LayerNorm, Linear.

    Args:
        shape: The language model's.
        chunk: Actions.
        action_dim: A.
        width: Of the MLP's hidden layers; the language model's in the paper.
        blocks: Residual blocks; 2 in the paper.
        slots: "dimension", one for each number of each action, whose hidden states are joined for an action (the
            paper), or "step", one for each action: as many tokens fewer.
        learned: Whether the slots' embeddings are learned; else they are zeros (the paper).
    """

    def __init__(
        self,
        shape: LayersShape,
        chunk: int,
        action_dim: int,
        *,
        width: int,
        blocks: int,
        slots: str,
        learned: bool,
    ) -> None:
        super().__init__()
        self.chunk, self.language_width = chunk, shape.width
        each = action_dim if slots == "dimension" else 1
        self.count = chunk * each
        self.embeddings = token(self.count, shape.width) if learned else None
        self.input = nn.Sequential(nn.LayerNorm(each * shape.width), nn.Linear(each * shape.width, width), nn.ReLU())
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU()) for _ in range(blocks)
        )
        self.norm = nn.LayerNorm(width)
        self.output = zeroed(nn.Linear(width, action_dim))

    def prepare(self, context: Context) -> Tensor:
        """The slots' hidden states (B, chunk, width of an action's slots)."""
        decoder = context.decoder
        if decoder is None or not context.layers:
            raise ConfigurationError("parallel decoding needs contexts with the keys and values of their decoder")
        empty = torch.zeros(self.count, self.language_width, device=context.tokens.device)
        slots = empty if self.embeddings is None else self.embeddings
        hidden, _ = decoder.extend(context, slots.expand(len(context), -1, -1), causal=False)
        return hidden.reshape(len(context), self.chunk, -1)

    def forward(self, prepared: Tensor) -> Tensor:
        """(B, 1, chunk, A) from `prepare`."""
        hidden = self.input(prepared)
        for block in self.blocks:
            hidden = hidden + block(hidden)
        output: Tensor = self.output(self.norm(hidden))
        return output[:, None]
