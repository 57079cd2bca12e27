"""The transformer denoiser of Diffusion Policy: one slot an action, which attends to the time and the context."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vla_cl.errors import ConfigurationError
from vla_cl.policies.base import Context, ContextShape
from vla_cl.policies.layers import Memory, TransformerLayer, causal_mask, time_embedding, token, zeroed


class DenoisingTransformer(nn.Module):
    """The time-series diffusion transformer of Chi et al., arXiv 2303.04137, section III-A, in the two halves that
    samplers want (see `networks`).

    Noisy actions are the slots of pre-norm decoder layers; time, a token of its own, and context are what these
    cross-attend to. As the context is the present's, every action sees all of it.

    Args:
        shape: Of the contexts.
        chunk: Actions.
        action_dim: A.
        width: Of the slots.
        layers: How many; the paper has 8 of width 256.
        heads: Of the attention, 4 in the paper.
        causal: Whether an action sees only itself and those before it, as in the paper.

    Raises:
        ConfigurationError: `width` is no multiple of `heads`, or odd.
    """

    def __init__(
        self, shape: ContextShape, chunk: int, action_dim: int, *, width: int, layers: int, heads: int, causal: bool
    ) -> None:
        super().__init__()
        if width % heads or width % 2:
            raise ConfigurationError(
                f"width {width} of an action head must be even and a multiple of its {heads} heads"
            )
        self.width, self.causal = width, causal
        self.context = nn.Linear(shape.width, width)
        self.time = nn.Linear(width, width)
        self.actions = nn.Linear(action_dim, width)
        self.slots = token(chunk, width)
        self.layers = nn.ModuleList(TransformerLayer(width, heads, width) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.output = zeroed(nn.Linear(width, action_dim))

    def prepare(self, context: Context) -> list[Memory]:
        """Each layer's keys and values of a context."""
        tokens = self.context(context.tokens)
        return [layer.cross.remember(tokens, context.mask) for layer in self.layers]  # type: ignore[union-attr, operator]

    def forward(self, prepared: list[Memory], actions: Tensor, times: Tensor) -> Tensor:
        """(B, draws, chunk, A) from noisy actions of that shape and times (B, draws) in [0, 1]."""
        draws = times.shape[1]
        embedded = time_embedding(times.flatten(), self.width, shortest=2 * math.pi / 100, longest=2 * math.pi * 100)
        time = self.time(embedded)[:, None]
        hidden = self.actions(actions.flatten(0, 1)) + self.slots
        mask = causal_mask(len(self.slots), hidden.device) if self.causal else None
        for layer, memory in zip(self.layers, prepared, strict=True):
            seen = _joined(layer.cross.remember(time), memory.repeat(draws))  # type: ignore[union-attr, operator]
            hidden = layer(hidden, seen, mask)
        output: Tensor = self.output(self.norm(hidden))
        return output.view_as(actions)


def _joined(first: Memory, second: Memory) -> Memory:
    """Both memories' tokens, of which the first are all real."""
    keys, values = torch.cat([first.keys, second.keys], dim=2), torch.cat([first.values, second.values], dim=2)
    if second.mask is None:
        return Memory(keys, values)
    real = second.mask.new_ones(*second.mask.shape[:-1], first.keys.shape[2])
    return Memory(keys, values, torch.cat([real, second.mask], dim=-1))
