"""A layer of the action expert: a decoder layer whose tokens look at a language model's keys and values."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vla_cl.policies.base import LayersShape

Memory = tuple[Tensor, Tensor]
"""Keys and values (B, key_value_heads, M, head_dim) that queries look at."""

Rotation = tuple[Tensor, Tensor]
"""Cosines and sines (B, Q, head_dim) of Q positions."""

ACTIVATIONS = ("gelu_tanh", "silu")


class ExpertLayer(nn.Module):
    """A pre-norm layer of Gemma's and Llama's build: grouped-query attention with rotary positions, then a gated MLP,
    each behind an RMSNorm, no biases.

    Args:
        width: Of its hidden states.
        inner: Width inside the MLP.
        activation: Of the MLP's gate, "gelu_tanh" (Gemma) or "silu" (Llama).
        shape: The language model's; heads and their size are the same here.
        cross: Whether its tokens look at the language model alone, through own projections of its keys and values
            (SmolVLA), or at the language model's keys and values and their own (pi0).
    """

    def __init__(self, width: int, inner: int, activation: str, shape: LayersShape, *, cross: bool) -> None:
        super().__init__()
        queries, keys = shape.heads * shape.head_dim, shape.key_value_heads * shape.head_dim
        self.cross, self.head_dim, self.activation = cross, shape.head_dim, activation
        self.attention_norm = nn.RMSNorm(width, eps=1e-6)
        self.queries = nn.Linear(width, queries, bias=False)
        self.keys = nn.Linear(keys if cross else width, keys, bias=False)
        self.values = nn.Linear(keys if cross else width, keys, bias=False)
        self.output = nn.Linear(queries, width, bias=False)
        self.mlp_norm = nn.RMSNorm(width, eps=1e-6)
        self.gate = nn.Linear(width, inner, bias=False)
        self.up = nn.Linear(width, inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)

    def remember(self, keys: Tensor, values: Tensor) -> Memory:
        """What its tokens will look at, from the language model's keys and values in this layer."""
        if not self.cross:
            return keys, values
        return (
            self._split(self.keys(keys.transpose(1, 2).flatten(2))),
            self._split(self.values(values.transpose(1, 2).flatten(2))),
        )

    def forward(self, hidden: Tensor, memory: Memory, rotation: Rotation, visible: Tensor) -> tuple[Tensor, Memory]:
        """Hidden states (B, Q, width) of Q tokens, and the memory with them at its end (the same in a cross layer).

        Args:
            hidden: (B, Q, width), float32.
            memory: M tokens, from `remember` or with earlier tokens at its end.
            rotation: Of the tokens' positions.
            visible: What each token sees, see `grouped_attention`: the memory, then the new tokens unless `cross`.
        """
        normed = self.attention_norm(hidden)
        queries = rotate(self._split(self.queries(normed)), rotation)
        keys, values = (each.to(queries.dtype) for each in memory)
        if not self.cross:
            keys = torch.cat([keys, rotate(self._split(self.keys(normed)), rotation)], dim=2)
            values = torch.cat([values, self._split(self.values(normed))], dim=2)
        attended = grouped_attention(queries, keys, values, visible)
        hidden = hidden + self.output(attended.transpose(1, 2).flatten(2))
        normed = self.mlp_norm(hidden)
        gate = self.gate(normed)
        opened = F.silu(gate) if self.activation == "silu" else F.gelu(gate, approximate="tanh")
        return hidden + self.down(opened * self.up(normed)), (keys, values)

    def _split(self, tokens: Tensor) -> Tensor:
        """(B, Q, heads * head_dim) to (B, heads, Q, head_dim)."""
        return tokens.view(*tokens.shape[:2], -1, self.head_dim).transpose(1, 2)


def rotate(vectors: Tensor, rotation: Rotation) -> Tensor:
    """Rotary positions (Su et al., arXiv 2104.09864) of vectors (B, heads, Q, head_dim), number i of a vector turned
    together with number i + head_dim / 2, as in transformers' Llama and Gemma.
    """
    cosines, sines = (each[:, None] for each in rotation)
    first, second = vectors.chunk(2, dim=-1)
    return (vectors * cosines + torch.cat([-second, first], dim=-1) * sines).to(vectors.dtype)


def grouped_attention(queries: Tensor, keys: Tensor, values: Tensor, visible: Tensor) -> Tensor:
    """Attention of queries (B, heads, Q, head_dim) to keys and values (B, key_value_heads, M, head_dim), each of which
    serves as many heads in a row (Ainslie et al., arXiv 2305.13245).

    The heads that share keys are laid side by side as queries, so that no key is copied.

    Args:
        visible: Which of M tokens a query sees, (B, 1, heads / key_value_heads * Q, M) bool.
    """
    batch, heads, length, size = queries.shape
    attended = F.scaled_dot_product_attention(queries.reshape(batch, keys.shape[1], -1, size), keys, values, visible)
    return attended.reshape(batch, heads, length, size)
