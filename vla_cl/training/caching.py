"""Whether and how a policy learns from cached features instead of pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vla_cl.data import ObservationBatch, WindowDataset
from vla_cl.data.features import cached_features
from vla_cl.policies import Policy
from vla_cl.training.options import TrainingOptions, autocast_for


def caches_features(policy: Policy, options: TrainingOptions) -> bool:
    """Whether anything can be computed beforehand. Not where the backbone is trained or cheap, and names no features;
    where images are augmented (`policy.random_shift`); or where `options.cache_features` is off.
    """
    return _origin(policy, options) is not None


def with_cached_features(policy: Policy, data: WindowDataset, options: TrainingOptions) -> WindowDataset:
    """The windows with what the policy's frozen backbone makes of them, computed now unless it lies beside the file.

    The windows as they are, where nothing can be computed beforehand.

    Args:
        policy: On its device.
        data: A task's windows.
        options: Under whose precision the features are computed, as they would be in the step, and kept.

    Raises:
        VlaClError: The disk is too small, or cannot be written.
    """
    origin = _origin(policy, options)
    if origin is None:
        return data
    device = next(policy.parameters()).device

    def perceive(observation: ObservationBatch) -> Mapping[str, Tensor]:
        with torch.no_grad(), autocast_for(options, device):
            return policy.backbone.perceive(observation.to(device))

    return data.with_features(cached_features(data, perceive, origin, rounded=options.precision == "bfloat16"))


def _origin(policy: Policy, options: TrainingOptions) -> dict[str, Any] | None:
    """What features depend on beside the data; None where there are none."""
    if not options.cache_features or policy.config.random_shift:
        return None
    fingerprint = policy.backbone.fingerprint()  # last: it may read all the weights
    if not fingerprint:
        return None
    return {
        "fingerprint": fingerprint,
        "cameras": list(policy.features.cameras),
        "image_size": policy.features.image_size,
        "layers": policy.backbone.layers_wanted,
        "precision": options.precision,
    }
