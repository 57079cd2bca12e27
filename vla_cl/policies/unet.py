"""The convolutional denoiser of Diffusion Policy: a UNet over the time of a chunk, told by FiLM what to make of it."""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vla_cl.errors import ConfigurationError
from vla_cl.policies.base import Context, ContextShape
from vla_cl.policies.layers import time_embedding

GROUPS = 8
"""Of every group norm; all widths are multiples of it."""

TIME_WIDTH = 256
"""Of the time's embedding."""

CONDITION_WIDTH = 256
"""Of what `ChunkUNet` makes of a context."""

FLAT_TOKENS = 32
"""Contexts of so many tokens at most are seen whole, longer ones as their mean."""


class FiLMBlock(nn.Module):
    """Two convolutions, the first of them scaled and shifted channel by channel by a linear function of the condition
    (FiLM, Perez et al., arXiv 1709.07871), around a residual connection.
    """

    def __init__(self, inputs: int, outputs: int, condition: int, kernel: int) -> None:
        super().__init__()
        self.first = convolution(inputs, outputs, kernel)
        self.second = convolution(outputs, outputs, kernel)
        self.film = nn.Sequential(nn.Mish(), nn.Linear(condition, 2 * outputs))
        self.shortcut = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, hidden: Tensor, condition: Tensor) -> Tensor:
        """(M, outputs, L) from (M, inputs, L) and conditions (M, condition)."""
        scale, shift = self.film(condition)[:, :, None].chunk(2, dim=1)
        output: Tensor = self.second(self.first(hidden) * scale + shift) + self.shortcut(hidden)
        return output


def convolution(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    """A convolution of an odd kernel that keeps the length, group norm, Mish."""
    return nn.Sequential(
        nn.Conv1d(inputs, outputs, kernel, padding=kernel // 2), nn.GroupNorm(GROUPS, outputs), nn.Mish()
    )


class ConditionalUNet(nn.Module):
    """The UNet of Chi et al., arXiv 2303.04137, section III-A, with the layers of the authors' program.

    Each level has two blocks and doubles the channels; between levels the length is halved. The way up mirrors the way
    down, and each level there is given what the same level made on the way down; of the first level, the way up has
    only the last convolution, which is given nothing, as in the authors' network.

    Args:
        action_dim: A.
        condition: Numbers in a condition.
        width: Channels of the first level, a multiple of 8.
        levels: How many; the authors have three, of 256, 512 and 1024 channels or twice as many.
        kernel: Length of the convolutions' kernels, odd.

    Raises:
        ConfigurationError: `width` is no multiple of 8, or `kernel` is even.
    """

    def __init__(self, action_dim: int, condition: int, *, width: int, levels: int, kernel: int) -> None:
        super().__init__()
        if width < GROUPS or width % GROUPS:
            raise ConfigurationError(f"width {width} of a UNet must be a multiple of {GROUPS}")
        if kernel < 1 or kernel % 2 == 0:
            raise ConfigurationError(f"kernel {kernel} of a UNet must be odd, e.g. 5")
        self.multiple = 2 ** (levels - 1)
        self.time = nn.Sequential(
            nn.Linear(TIME_WIDTH, 4 * TIME_WIDTH), nn.Mish(), nn.Linear(4 * TIME_WIDTH, TIME_WIDTH)
        )
        condition += TIME_WIDTH
        widths = [width * 2**level for level in range(levels)]

        def pair(inputs: int, outputs: int) -> nn.ModuleList:
            blocks = (FiLMBlock(each, outputs, condition, kernel) for each in (inputs, outputs))
            return nn.ModuleList(blocks)

        self.down = nn.ModuleList(pair(*each) for each in zip([action_dim, *widths], widths, strict=False))
        self.shrink = nn.ModuleList(nn.Conv1d(each, each, 3, stride=2, padding=1) for each in widths[:-1])
        self.middle = pair(widths[-1], widths[-1])
        above = list(itertools.pairwise(widths))[::-1]
        self.up = nn.ModuleList(pair(2 * outer, inner) for inner, outer in above)
        self.grow = nn.ModuleList(nn.ConvTranspose1d(inner, inner, 4, stride=2, padding=1) for inner, _ in above)
        self.output = nn.Sequential(convolution(width, width, kernel), nn.Conv1d(width, action_dim, 1))

    def forward(self, actions: Tensor, times: Tensor, condition: Tensor) -> Tensor:
        """The network's answer to noisy actions.

        Args:
            actions: (M, chunk, A). Any length: zeros fill it up to a multiple of 2^(levels - 1).
            times: (M,) in [0, 1].
            condition: (M, condition).

        Returns:
            (M, chunk, A).
        """
        chunk = actions.shape[1]
        hidden = F.pad(actions.transpose(1, 2), (0, -chunk % self.multiple))
        # the authors' sines and cosines of the time step, 10,000 their base, at the 100 steps that they train with
        embedded = time_embedding(times, TIME_WIDTH, shortest=2 * math.pi / 100, longest=2 * math.pi * 100)
        told = torch.cat([self.time(embedded), condition], dim=-1)

        skips = []
        for level, blocks in enumerate(self.down):
            hidden = _through(blocks, hidden, told)
            if level:
                skips.append(hidden)
            if level < len(self.shrink):
                hidden = self.shrink[level](hidden)
        hidden = _through(self.middle, hidden, told)
        for blocks, grow in zip(self.up, self.grow, strict=True):
            hidden = grow(_through(blocks, torch.cat([hidden, skips.pop()], dim=1), told))
        output: Tensor = self.output(hidden)[:, :, :chunk]
        return output.transpose(1, 2)


class ChunkUNet(nn.Module):
    """A `ConditionalUNet` conditioned on contexts, in the two halves that samplers want (see `networks`).

    A context of few tokens, always the same number, is one flat vector, as in the paper ("global conditioning"); of any
    other the mean token stands for it. One linear layer makes the condition of it.

    Args:
        shape: Of the contexts.
        action_dim: A.
        width: See `ConditionalUNet`, as for `levels` and `kernel`.
    """

    def __init__(self, shape: ContextShape, action_dim: int, *, width: int, levels: int, kernel: int) -> None:
        super().__init__()
        self.flat = shape.tokens is not None and shape.tokens <= FLAT_TOKENS
        self.context = nn.Linear(shape.width * (shape.tokens or 1) if self.flat else shape.width, CONDITION_WIDTH)
        self.unet = ConditionalUNet(action_dim, CONDITION_WIDTH, width=width, levels=levels, kernel=kernel)

    def prepare(self, context: Context) -> Tensor:
        """The condition (B, 256) that a context is."""
        tokens = context.tokens
        if self.flat and context.mask is not None:
            tokens = tokens.masked_fill(~context.mask[:, :, None], 0.0)
        prepared: Tensor = self.context(tokens.flatten(1) if self.flat else context.pooled())
        return prepared

    def forward(self, prepared: Tensor, actions: Tensor, times: Tensor) -> Tensor:
        """(B, draws, chunk, A) from noisy actions of that shape and times (B, draws) in [0, 1]."""
        condition = prepared.repeat_interleave(times.shape[1], dim=0)
        output: Tensor = self.unet(actions.flatten(0, 1), times.flatten(), condition)
        return output.view_as(actions)


def _through(blocks: nn.Module, hidden: Tensor, condition: Tensor) -> Tensor:
    for block in blocks.children():
        hidden = block(hidden, condition)
    return hidden
