"""Contexts that follow a preference: what a hypernetwork makes of it scales and shifts them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from vla_cl.errors import ConfigurationError
from vla_cl.policies import Context, Policy


class Hypernetwork(nn.Module):
    """A preference to a scale and a shift of each of a context's channels (FiLM, Perez et al., arXiv 1709.07871).

    Of its tokens, and, where the head reads the layers of the decoder that made them, of each layer's values. It begins
    with changing nothing.

    Args:
        policy: Whose contexts.
        width: Of the hidden layer.
    """

    def __init__(self, policy: Policy, width: int) -> None:
        super().__init__()
        shape = policy.history.shape
        layers = shape.layers if policy.head.needs_layers else None
        self.tokens = shape.width
        self.layers = (layers.count, layers.key_value_heads, layers.head_dim) if layers else (0, 0, 0)
        channels = self.tokens + self.layers[0] * self.layers[1] * self.layers[2]
        self.hidden = nn.Sequential(nn.Linear(2, width), nn.GELU(), nn.Linear(width, width), nn.GELU())
        self.out = nn.Linear(width, 2 * channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, context: Context, preferences: Tensor) -> Context:
        """The context of B observations as preferences (B, 2), or one for all (1, 2), want it."""
        if len(preferences) not in (1, len(context)):
            raise ConfigurationError(f"there are preferences for {len(preferences)} rows, got {len(context)}")
        device = context.tokens.device
        with torch.autocast(device.type, enabled=False):
            scale, shift = self.out(self.hidden(preferences.to(device, torch.float32))).chunk(2, dim=1)
        tokens = _moved(context.tokens, scale[:, None, : self.tokens], shift[:, None, : self.tokens])
        if not self.layers[0]:
            return replace(context, tokens=tokens)
        count, heads, size = self.layers
        scales, shifts = (
            each[:, self.tokens :].view(-1, count, heads, 1, size).unbind(dim=1) for each in (scale, shift)
        )
        moved = [_moved(values, *each) for (_, values), *each in zip(context.layers, scales, shifts, strict=True)]
        layers = tuple((keys, values) for (keys, _), values in zip(context.layers, moved, strict=True))
        return replace(context, tokens=tokens, layers=layers)


@contextmanager
def conditioned(policy: Policy, hypernetwork: Hypernetwork, preferences: Tensor) -> Iterator[None]:
    """Let every context that the policy makes follow preferences: (1, 2), or one for each observation (B, 2)."""

    def follow(module: nn.Module, inputs: tuple[Context], context: Context) -> Context:
        return hypernetwork(context, preferences)  # type: ignore[no-any-return]

    handle = policy.history.register_forward_hook(follow)
    try:
        yield
    finally:
        handle.remove()


def _moved(values: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return (values * (1 + scale) + shift).to(values.dtype)
