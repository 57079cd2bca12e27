"""What action heads are made of: networks from context and per-action features to per-action outputs.

Both have two halves, so that a sampler pays for the context once: `prepare` digests the context, `forward` answers for
given actions and times.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vla_cl.errors import ConfigurationError
from vla_cl.policies.base import Context, ContextShape, LayersShape
from vla_cl.policies.layers import Memory, ResidualMLP, TransformerLayer, time_embedding, token, zeroed


class ChunkMLP(nn.Module):
    """The chunk as one flat vector, beside the pooled context. The faster network.

    Args:
        context_dim: D.
        chunk: Actions.
        action_dim: A.
        width: Of the hidden layers.
        layers: Residual blocks.
        heads: Not used.
        timed: Whether it is given noisy actions and times; else it answers from the context alone.
    """

    def __init__(
        self, context_dim: int, chunk: int, action_dim: int, *, width: int, layers: int, heads: int, timed: bool
    ) -> None:
        super().__init__()
        self.chunk, self.action_dim, self.width = chunk, action_dim, width
        self.context = nn.Linear(context_dim, width)
        self.actions = nn.Linear(chunk * action_dim, width) if timed else None
        self.time = nn.Linear(width, width) if timed else None
        self.mlp = ResidualMLP(width, layers)
        self.output = zeroed(nn.Linear(width, chunk * action_dim))

    def prepare(self, context: Context) -> Tensor:
        """(B, width) from a context."""
        prepared: Tensor = self.context(context.pooled())
        return prepared

    def forward(self, prepared: Tensor, actions: Tensor | None = None, times: Tensor | None = None) -> Tensor:
        """(B, draws, chunk, A) from noisy actions of that shape and times (B, draws); one draw without them."""
        hidden = prepared[:, None]
        if self.actions is not None and self.time is not None and actions is not None and times is not None:
            timed = self.time(time_embedding(times.flatten(), self.width))
            hidden = hidden + self.actions(actions.flatten(2)) + timed.view(*times.shape, -1)
        output: Tensor = self.output(self.mlp(hidden))
        return output.reshape(len(output), -1, self.chunk, self.action_dim)


class ChunkTransformer(nn.Module):
    """One slot an action, which attends to the other slots and to every context token.

    Arguments as for `ChunkMLP`; `heads` are the attention's.
    """

    def __init__(
        self, context_dim: int, chunk: int, action_dim: int, *, width: int, layers: int, heads: int, timed: bool
    ) -> None:
        super().__init__()
        if width % heads:
            raise ConfigurationError(f"width {width} of an action head must be a multiple of its {heads} heads")
        self.width = width
        self.slots = token(chunk, width)
        self.actions = nn.Linear(action_dim, width) if timed else None
        self.mix = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, width)) if timed else None
        self.layers = nn.ModuleList(TransformerLayer(width, heads, context_dim) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.output = zeroed(nn.Linear(width, action_dim))

    def prepare(self, context: Context) -> list[Memory]:
        """Each layer's keys and values of a context."""
        return [layer.cross.remember(context.tokens, context.mask) for layer in self.layers]  # type: ignore[union-attr, operator]

    def forward(self, prepared: Any, actions: Tensor | None = None, times: Tensor | None = None) -> Tensor:
        """(B, draws, chunk, A) from noisy actions of that shape and times (B, draws); one draw without them."""
        batch = len(prepared[0].keys) if prepared else 1
        draws = 1
        hidden = self.slots.expand(batch, -1, -1)
        if self.actions is not None and self.mix is not None and actions is not None and times is not None:
            batch, draws = times.shape
            embedded = time_embedding(times.flatten(), self.width)[:, None].expand(-1, len(self.slots), -1)
            hidden = self.mix(torch.cat([self.actions(actions.flatten(0, 1)), embedded], dim=-1)) + self.slots
        for layer, memory in zip(self.layers, prepared, strict=True):
            hidden = layer(hidden, memory.repeat(draws))
        output: Tensor = self.output(self.norm(hidden))
        return output.reshape(batch, draws, len(self.slots), -1)


NETWORKS: dict[str, type[ChunkMLP] | type[ChunkTransformer]] = {"mlp": ChunkMLP, "transformer": ChunkTransformer}


def chunk_network(options: Any, shape: ContextShape, chunk: int, outputs: int, *, timed: bool = False) -> Any:
    """The network of `NETWORKS` that a head's options name, in the sizes they give.

    Args:
        options: With `network`, `width`, `layers` and `heads`.
        shape: Of the contexts.
        chunk: Actions, or other slots.
        outputs: Numbers of each; the action's where noisy actions are given.
        timed: Whether it is given noisy actions and times.
    """
    return NETWORKS[options.network](
        shape.width, chunk, outputs, width=options.width, layers=options.layers, heads=options.heads, timed=timed
    )


def language_layers(kind: str, network: str, shape: ContextShape) -> LayersShape:
    """The shape of the language model behind contexts, for a network that needs one.

    Raises:
        ConfigurationError: There is none, or its layers cannot be had.
    """
    if shape.layers is None:
        raise ConfigurationError(
            f"option network={network!r} of {kind} needs the layers of a language model, which this backbone does not "
            "give; use backbone hf_vlm with proprioception 'prefix' or 'none', or another network"
        )
    return shape.layers
