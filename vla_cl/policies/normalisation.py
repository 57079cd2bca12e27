"""Frozen normalisation: set once, saved with the weights, moved with the device, never recomputed."""

from __future__ import annotations

from dataclasses import fields

import torch
from torch import Tensor, nn

from vla_cl.data import Statistics, VectorStatistics
from vla_cl.errors import ConfigurationError
from vla_cl.policies.base import PolicyFeatures
from vla_cl.policies.options import check_choice

NORMALISATIONS = ("min_max", "quantile", "mean_std")

SMALLEST_ACTION_SPREAD = 0.05
"""An action dimension that moves less than this, of the [-1, 1] that every action may use, keeps its raw scale: a
gripper that a first task never closes must not turn a later task's closing into a huge number."""

SMALLEST_RELATIVE_SPREAD = 0.1
"""An observed dimension counts as spread out by at least this share of the vector's widest dimension, for the same
reason: what stands still in the first task moves in another."""


class VectorNormaliser(nn.Module):
    """An affine map of one vector (..., D) and its inverse, from statistics that are buffers.

    Args:
        dimensions: D.
        method: One of `NORMALISATIONS`.
        bounded: Whether raw values live in [-1, 1], as actions do; else spreads are relative to the widest dimension.
    """

    mean: Tensor
    std: Tensor
    min: Tensor
    max: Tensor
    q01: Tensor
    q99: Tensor

    def __init__(self, dimensions: int, method: str = "mean_std", bounded: bool = False) -> None:
        super().__init__()
        check_choice("policy", "normalisation", method, NORMALISATIONS)
        self.method, self.bounded = method, bounded
        for field in fields(VectorStatistics):
            self.register_buffer(field.name, torch.full((dimensions,), float("nan")))

    def offset_and_scale(self) -> tuple[Tensor, Tensor]:
        """What `normalise` subtracts, and then divides by, each (D,); the scale is positive."""
        if self.method == "mean_std":
            offset, spread = self.mean, self.std
        else:
            low, high = (self.min, self.max) if self.method == "min_max" else (self.q01, self.q99)
            offset, spread = (low + high) / 2, (high - low) / 2
        if self.bounded:
            return offset, torch.where(spread < SMALLEST_ACTION_SPREAD, torch.ones_like(spread), spread)
        widest = spread.max()
        floor = torch.where(widest > 0, widest * SMALLEST_RELATIVE_SPREAD, torch.ones_like(widest))
        return offset, torch.maximum(spread, floor)

    def normalise(self, values: Tensor) -> Tensor:
        """Raw (..., D) to normalised."""
        offset, scale = self.offset_and_scale()
        return (values - offset) / scale

    def denormalise(self, values: Tensor) -> Tensor:
        """Normalised (..., D) to raw."""
        offset, scale = self.offset_and_scale()
        return values * scale + offset


class Normaliser(nn.Module):
    """The normalisation of everything that a policy sees and does, apart from images.

    Args:
        features: Sizes of the vectors.
        method: How actions are scaled. Observed vectors are always standardised, since nothing bounds them.
    """

    def __init__(self, features: PolicyFeatures, method: str) -> None:
        super().__init__()
        self.action = VectorNormaliser(features.action_dim, method, bounded=True)
        self.agent_pos = VectorNormaliser(features.agent_pos_dim)
        privileged = features.environment_state_dim > 0
        self.environment_state = VectorNormaliser(features.environment_state_dim) if privileged else None

    @property
    def statistics(self) -> Statistics | None:
        """What was set; None before."""
        if bool(self.action.mean.isnan().any()):
            return None
        return Statistics.from_state_dict(self.state_dict())

    def set_statistics(self, statistics: Statistics) -> None:
        """Set the statistics, once. Setting the same again is harmless.

        Raises:
            ConfigurationError: Others were set before, or their sizes do not fit.
        """
        present = self.statistics
        if present is not None and present != statistics:
            raise ConfigurationError(
                "normalisation is frozen: this policy already has other statistics, and new ones would silently "
                "rescale what it has learned; build a new policy instead"
            )
        given = statistics.state_dict()
        for name, buffer in self.named_buffers():
            if name not in given or given[name].shape != buffer.shape:
                shape = tuple(given[name].shape) if name in given else "nothing"
                raise ConfigurationError(f"statistics {name} must have shape {tuple(buffer.shape)}, got {shape}")
            buffer.copy_(given[name])
