"""An action head in one file: each action dimension as one of many bins, learned by cross-entropy (as in RT-1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vla_cl.policies import HEADS, ActionHead, Context, ContextShape


@dataclass(frozen=True)
class BinsOptions:
    """Keys of the configuration: `policy.head_options.bins=64`."""

    bins: int = 32
    width: int = 256


@HEADS.decorator("bins")
class BinsHead(ActionHead):
    """Independent categorical distributions over bins of [-1, 1]; acting takes the likeliest bin's centre."""

    Options = BinsOptions

    def __init__(self, options: BinsOptions, shape: ContextShape, chunk: int, action_dim: int) -> None:
        super().__init__()
        self.layout = (chunk, action_dim, options.bins)
        self.bins = options.bins
        self.network = nn.Sequential(
            nn.Linear(shape.width, options.width),
            nn.GELU(),
            nn.Linear(options.width, chunk * action_dim * options.bins),
        )

    def sample_noise(self, batch_size: int, generator: torch.Generator) -> Tensor:
        """Nothing is random: (B, 0)."""
        return torch.empty(batch_size, 0)

    def target(self, actions: Tensor, noise: Tensor) -> Tensor:
        """One-hot bins (B, chunk, A * bins)."""
        return nn.functional.one_hot(self._bin(actions), self.bins).float().flatten(-2)

    def predict(self, context: Context, actions: Tensor, noise: Tensor) -> Tensor:
        """Logarithmic probabilities (B, chunk, A * bins)."""
        return self._logits(context).log_softmax(dim=-1).flatten(-2)

    def loss(self, context: Context, actions: Tensor, padding: Tensor, noise: Tensor) -> Tensor:
        """Cross-entropy (B,), averaged over dimensions and over actions that are not padding."""
        errors = -(self.predict(context, actions, noise) * self.target(actions, noise)).sum(dim=-1) / self.layout[1]
        kept = ~padding
        return (errors * kept).sum(dim=1) / kept.sum(dim=1)

    def sample(self, context: Context, initial_noise: Tensor) -> Tensor:
        """The centre of the likeliest bin (B, chunk, A)."""
        return (self._logits(context).argmax(dim=-1) + 0.5) * 2 / self.bins - 1

    def _logits(self, context: Context) -> Tensor:
        return self.network(context.pooled()).unflatten(-1, self.layout).float()

    def _bin(self, actions: Tensor) -> Tensor:
        return ((actions + 1) / 2 * self.bins).long().clamp(0, self.bins - 1)
