"""Colours at random."""

from __future__ import annotations

import colorsys

import numpy as np
from numpy.typing import NDArray


def random_colour(
    generator: np.random.Generator, saturation: tuple[float, float], value: tuple[float, float]
) -> NDArray[np.float32]:
    """Red, green and blue (3,) in [0, 1] of any hue, with saturation and value from these ranges."""
    hue, *rest = (generator.uniform(*bounds) for bounds in ((0.0, 1.0), saturation, value))
    return np.array(colorsys.hsv_to_rgb(hue, *rest), np.float32)
