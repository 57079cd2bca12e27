"""The images that a backbone looks at, checked."""

from __future__ import annotations

import torch
from torch import Tensor

from vla_cl.data import ObservationBatch
from vla_cl.errors import ConfigurationError
from vla_cl.policies.base import PolicyFeatures


def check_cameras(kind: str, features: PolicyFeatures) -> None:
    """Check that there is something to see; `kind` says for whom.

    Raises:
        ConfigurationError: There are no cameras.
    """
    if not features.cameras:
        raise ConfigurationError(f"{kind} sees through cameras; set pixels=true, or use backbone lowdim")


def views(observation: ObservationBatch, features: PolicyFeatures) -> list[Tensor]:
    """Each camera's images (B, H, W, 3) uint8, in the order of `features.cameras`.

    Raises:
        ConfigurationError: A camera is missing, or its images have another size or type.
    """
    size = features.image_size
    images = []
    for camera in features.cameras:
        if camera not in observation.pixels:
            seen = ", ".join(observation.pixels) or "none"
            raise ConfigurationError(f"this policy sees through camera {camera!r}; the observation has {seen}")
        view = observation.pixels[camera]
        if view.shape[1:] != (size, size, 3) or view.dtype != torch.uint8:
            raise ConfigurationError(
                f"camera {camera!r} must give uint8 images of {size} x {size} x 3, "
                f"got {view.dtype} of {' x '.join(map(str, view.shape[1:]))}"
            )
        images.append(view)
    return images
