"""A noisy camera."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from vla_cl.envs.perturbations.base import PERTURBATIONS, Perturbation


@PERTURBATIONS.decorator("sensor_noise")
class SensorNoise(Perturbation):
    """Every image gets Gaussian noise, independent in each pixel and channel, of this standard deviation."""

    levels: ClassVar = {"small": 8.0, "medium": 16.0, "large": 32.0}
    unit: ClassVar = "grey levels of 255"
    largest: ClassVar = 128.0
    is_seen: ClassVar = True

    def seen(self, image: NDArray[np.uint8], generator: np.random.Generator) -> NDArray[np.uint8]:
        """The noisy image."""
        noise = generator.normal(0.0, float(self.strength), image.shape)
        return (image + noise).clip(0.0, 255.0).round().astype(np.uint8)
