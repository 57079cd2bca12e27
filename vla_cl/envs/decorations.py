"""Things that are drawn and not simulated: nothing touches them, and no state knows of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Decoration:
    """A simple shape that stands in the pictures of a scene.

    Args:
        shape: Sphere, ellipsoid, capsule, cylinder or box, as a value of `mujoco.mjtGeom`.
        size: (3,) MuJoCo's sizes of it, in metres.
        position: (3,) in metres, in the world.
        rotation: (3, 3), its own axes as columns.
        colour: (4,) red, green, blue and opacity in [0, 1].
    """

    shape: int
    size: NDArray[np.float64]
    position: NDArray[np.float64]
    rotation: NDArray[np.float64]
    colour: NDArray[np.float32]

    def add_to(self, scene: Any, mujoco: Any) -> None:
        """Append it to a `mujoco.MjvScene`, which has room for it."""
        geom = scene.geoms[scene.ngeom]
        mujoco.mjv_initGeom(geom, self.shape, self.size, self.position, self.rotation.ravel(), self.colour)
        scene.ngeom += 1
