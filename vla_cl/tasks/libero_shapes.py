"""What stands where, seen from above: collision shapes as boxes, cut by vertical lines."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vla_cl.envs.libero.env import LiberoEnv

Vector = NDArray[np.float64]

NOTHING = -1.0
"""Height in metres where nothing stands: below every floor."""

_LEAST = 1e-9
_FLOOR, _BELOW = np.array([20.0, 20.0, 0.5]), np.array([0.0, 0.0, -0.5])  # a plane counts as a slab
_PALM = ((0.0016, 0.0, -0.0753), (0.1041, 0.0317, 0.0492))
_FINGERS = tuple(((side * 0.0520, 0.0, -0.0180), (0.0160, 0.0109, 0.0306)) for side in (-1.0, 1.0))


@dataclass(frozen=True)
class Boxes:
    """Boxes in the world.

    Args:
        centres: Where their middles are (B, 3), in metres.
        rotations: How they are turned (B, 3, 3).
        halves: Half their extents (B, 3), in metres.
    """

    centres: Vector
    rotations: Vector
    halves: Vector

    def columns(self, points: Vector) -> tuple[Vector, Vector]:
        """Where vertical lines enter and leave the boxes.

        Args:
            points: Where the lines are, seen from above (..., 2), in metres.

        Returns:
            Lowest and highest height in metres (..., B), `inf` and `-inf` where a line misses a box.
        """
        offset = np.concatenate([points, np.zeros((*points.shape[:-1], 1))], axis=-1)
        start = np.einsum("bij,...bi->...bj", self.rotations, offset[..., None, :] - self.centres)
        up = self.rotations[:, 2, :]
        steep = np.where(np.abs(up) < _LEAST, _LEAST, up)
        first, second = (-self.halves - start) / steep, (self.halves - start) / steep
        low, high = np.minimum(first, second).max(axis=-1), np.maximum(first, second).min(axis=-1)
        missed = low > high
        return np.where(missed, np.inf, low), np.where(missed, -np.inf, high)

    def top(self, points: Vector) -> Vector:
        """The highest height at points (..., 2), `-inf` where nothing is."""
        highest: Vector = self.columns(points)[1].max(axis=-1, initial=-np.inf)
        return highest

    def bottom(self, points: Vector) -> Vector:
        """The lowest height at points (..., 2), `inf` where nothing is."""
        lowest: Vector = self.columns(points)[0].min(axis=-1, initial=np.inf)
        return lowest

    def near(self, point: Vector, radius: float) -> Boxes:
        """Those that may come within a level distance of a point (2,), in metres."""
        reach = np.linalg.norm(self.halves, axis=1) + radius
        kept = np.linalg.norm((self.centres - [*point, 0.0])[:, :2], axis=1) < reach
        return Boxes(self.centres[kept], self.rotations[kept], self.halves[kept])

    def turned(self, about: Vector, angle: float) -> Boxes:
        """The same, turned about the vertical through a point (3,) by an angle in radians."""
        turn = np.array([[np.cos(angle), -np.sin(angle), 0.0], [np.sin(angle), np.cos(angle), 0.0], [0.0, 0.0, 1.0]])
        return Boxes(about + (self.centres - about) @ turn.T, turn @ self.rotations, self.halves)

    def __add__(self, other: Boxes) -> Boxes:
        return Boxes(
            np.concatenate([self.centres, other.centres]),
            np.concatenate([self.rotations, other.rotations]),
            np.concatenate([self.halves, other.halves]),
        )

    @property
    def extent(self) -> tuple[Vector, Vector]:
        """Lowest and highest corner (3,) of all of them together."""
        half = np.einsum("bij,bj->bi", np.abs(self.rotations), self.halves)
        return (self.centres - half).min(axis=0), (self.centres + half).max(axis=0)


def boxes_of(env: LiberoEnv, names: Iterable[str]) -> Boxes:
    """The collision shapes of things, "" being tables, floor and walls. What is no box counts as the box around it."""
    model, data = env.model, env.data
    geoms = np.concatenate([env.shapes_of(name) for name in names])
    solid = (model.geom_contype[geoms] != 0) | (model.geom_conaffinity[geoms] != 0)
    geoms = geoms[solid]
    plane = model.geom_type[geoms] == 0
    middles = np.where(plane[:, None], _BELOW, model.geom_aabb[geoms, :3])
    rotations = data.geom_xmat[geoms].reshape(-1, 3, 3)
    centres = data.geom_xpos[geoms] + np.einsum("bij,bj->bi", rotations, middles)
    return Boxes(centres, rotations, np.where(plane[:, None], _FLOOR, model.geom_aabb[geoms, 3:]))


def others(env: LiberoEnv, *names: str) -> Boxes:
    """The collision shapes of everything but some things and the robot."""
    return boxes_of(env, ["", *(name for name in env.objects if name not in names)])


def hand_boxes(env: LiberoEnv) -> Boxes:
    """The hand with open fingers where it is now: palm and fingers.

    Extents are those of the Panda hand's collision meshes about the grip site, with the fingers open.
    """
    gripper = env.gripper
    across = np.cross([0.0, 0.0, 1.0], gripper.finger_axis)
    frame = gripper.rotation @ np.stack([gripper.finger_axis, across, np.array([0.0, 0.0, 1.0])], axis=1)
    parts = np.array([_PALM, *_FINGERS])
    return Boxes(gripper.position + parts[:, 0] @ frame.T, np.repeat(frame[None], len(parts), axis=0), parts[:, 1])
