"""The contexts of several moments as one."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from vla_cl.errors import ConfigurationError
from vla_cl.policies.base import Context, ContextShape


class History(nn.Module):
    """Joins the contexts of T moments, each token marked with its moment; with T = 1 it does nothing.

    Args:
        moment: Shape of the context of one moment.
        length: T.

    Attributes:
        shape: Of the joined contexts.

    Raises:
        ConfigurationError: T > 1, and the contexts' length varies, or a decoder made them.
    """

    moments: Tensor | None

    def __init__(self, moment: ContextShape, length: int) -> None:
        super().__init__()
        self.length = length
        self.shape = moment
        self.moments = None
        if length > 1:
            if moment.layers is not None or moment.tokens is None:
                raise ConfigurationError("a backbone that is a language model sees one moment; set policy.history=1")
            self.shape = replace(moment, tokens=length * moment.tokens)
            self.moments = nn.Parameter(torch.randn(length, moment.width) * 0.02)

    def forward(self, context: Context) -> Context:
        """The context of B observations from those (T * B rows) of their moments, the oldest moment's rows first."""
        if self.moments is None:
            return context
        rows = len(context) // self.length
        tokens = context.tokens.view(self.length, rows, *context.tokens.shape[1:]) + self.moments[:, None, None]
        mask = context.mask
        return replace(
            context,
            tokens=tokens.transpose(0, 1).flatten(1, 2),
            agent_pos=context.agent_pos[-rows:],
            mask=None if mask is None else mask.view(self.length, rows, -1).transpose(0, 1).flatten(1, 2),
        )
