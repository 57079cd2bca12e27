"""Contexts for tests of heads, without a backbone."""

from __future__ import annotations

from torch import Tensor, zeros

from vla_cl.policies import Context, ContextShape

STATE = 3


def shape_of(width: int, tokens: int | None = None) -> ContextShape:
    """Of contexts whose tokens are so wide."""
    return ContextShape(width, STATE, tokens)


def context_of(tokens: Tensor, mask: Tensor | None = None) -> Context:
    """The context of these tokens (B, N, D)."""
    return Context(tokens, zeros(len(tokens), STATE), mask)
