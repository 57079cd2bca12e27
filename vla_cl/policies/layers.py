"""The few network parts that backbones and heads share. None behaves differently in training and evaluation."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ResidualMLP(nn.Module):
    """Pre-norm residual blocks on vectors (B, width): x + W2 gelu(W1 norm(x)), then a final norm.

    Args:
        width: Of input, hidden layers and output.
        blocks: How many.
    """

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
            for _ in range(blocks)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, hidden: Tensor) -> Tensor:
        for block in self.blocks:
            hidden = hidden + block(hidden)
        output: Tensor = self.norm(hidden)
        return output


@dataclass(frozen=True)
class Memory:
    """What queries attend to, computed once when it is asked many times.

    Args:
        keys: (B, heads, M, width / heads).
        values: Of the same shape.
        mask: (B, 1, 1, M) bool, False where nothing may be looked at; None where all may.
    """

    keys: Tensor
    values: Tensor
    mask: Tensor | None = None

    def repeat(self, draws: int) -> Memory:
        """Every row `draws` times in a row."""
        if draws == 1:
            return self
        keys, values = (each.repeat_interleave(draws, dim=0) for each in (self.keys, self.values))
        return Memory(keys, values, None if self.mask is None else self.mask.repeat_interleave(draws, dim=0))

    def behind(self, keys: Tensor, values: Tensor) -> Memory:
        """One without mask, behind further keys and values (B, heads, P, width / heads)."""
        return Memory(
            torch.cat([keys.to(self.keys.dtype), self.keys], dim=2),
            torch.cat([values.to(self.values.dtype), self.values], dim=2),
        )


class Attention(nn.Module):
    """Multi-head attention of queries (B, Q, width) over themselves, or over a memory of width `memory_width`."""

    def __init__(self, width: int, heads: int, memory_width: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.queries = nn.Linear(width, width)
        self.memory = nn.Linear(memory_width or width, 2 * width)
        self.output = nn.Linear(width, width)

    def remember(self, tokens: Tensor, mask: Tensor | None = None) -> Memory:
        """The memory of tokens (B, M, memory_width), of which `mask` (B, M) bool is False for padding."""
        keys, values = self.memory(tokens).chunk(2, dim=-1)
        return Memory(self.split(keys), self.split(values), None if mask is None else mask[:, None, None])

    def forward(self, hidden: Tensor, memory: Memory | None = None, mask: Tensor | None = None) -> Tensor:
        """(B, Q, width); `mask` (Q, Q) bool says which tokens (columns) a query (row) sees without a memory."""
        if memory is None:
            memory = replace(self.remember(hidden), mask=mask)
        queries = self.split(self.queries(hidden))
        attended = F.scaled_dot_product_attention(queries, memory.keys, memory.values, memory.mask)
        output: Tensor = self.output(attended.transpose(1, 2).flatten(2))
        return output

    def split(self, tokens: Tensor) -> Tensor:
        """(B, heads, length, width / heads) of tokens (B, length, width)."""
        batch, length, width = tokens.shape
        return tokens.view(batch, length, self.heads, width // self.heads).transpose(1, 2)


class TransformerLayer(nn.Module):
    """A pre-norm transformer layer: self-attention, cross-attention when it has a memory, MLP of ratio 2."""

    def __init__(self, width: int, heads: int, memory_width: int | None = None) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.attention_norm = nn.LayerNorm(width)
        self.cross = Attention(width, heads, memory_width) if memory_width else None
        self.cross_norm = nn.LayerNorm(width) if memory_width else None
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, hidden: Tensor, memory: Memory | None = None, mask: Tensor | None = None) -> Tensor:
        """(B, Q, width); `mask` (Q, Q) is that of the self-attention, e.g. `causal_mask(Q)`."""
        return self._onward(hidden + self.attention(self.attention_norm(hidden), mask=mask), memory)

    def prefixed(self, hidden: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """`forward` without memory and mask, where every token also sees keys and values (B, P, width) that belong to
        no token: a prefix (Li and Liang, arXiv 2101.00190).
        """
        normed = self.attention_norm(hidden)
        seen = self.attention.remember(normed).behind(self.attention.split(keys), self.attention.split(values))
        return self._onward(hidden + self.attention(normed, seen), None)

    def step(self, hidden: Tensor, past: Memory | None, memory: Memory | None = None) -> tuple[Tensor, Memory]:
        """One more token (B, 1, width) under a causal mask, after those whose keys and values `past` holds; it, and the
        past with it.
        """
        normed = self.attention_norm(hidden)
        seen = self.attention.remember(normed)
        if past is not None:
            seen = seen.behind(past.keys, past.values)
        return self._onward(hidden + self.attention(normed, seen), memory), seen

    def _onward(self, hidden: Tensor, memory: Memory | None) -> Tensor:
        """From behind the self-attention on."""
        if self.cross is not None and self.cross_norm is not None:
            hidden = hidden + self.cross(self.cross_norm(hidden), memory)
        output: Tensor = hidden + self.mlp(hidden)
        return output


def causal_mask(length: int, device: torch.device | None = None) -> Tensor:
    """(length, length) bool: each token sees those before it, and itself."""
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()


def time_embedding(times: Tensor, width: int, shortest: float = 4e-3, longest: float = 4.0) -> Tensor:
    """Sines and cosines (B, width) of times (B,) in [0, 1], periods spaced geometrically, as in pi0."""
    exponents = torch.linspace(0.0, 1.0, width // 2, device=times.device, dtype=torch.float32)
    periods = shortest * (longest / shortest) ** exponents
    angles = times.float()[:, None] * (2 * math.pi / periods)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def token(count: int, width: int) -> nn.Parameter:
    """Learned vectors (count, width): positions, kinds of token, queries."""
    return nn.Parameter(torch.randn(count, width) * 0.02)


def token_mlp(inputs: int, width: int) -> nn.Sequential:
    """Two layers that make a token (..., width) of a vector (..., inputs), such as proprioception."""
    return nn.Sequential(nn.Linear(inputs, width), nn.GELU(), nn.Linear(width, width))


def zeroed(layer: nn.Linear) -> nn.Linear:
    """A linear layer that starts as the zero function."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
