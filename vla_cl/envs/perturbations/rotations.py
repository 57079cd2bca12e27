"""Rotation matrices."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vla_cl.envs.mujoco_import import import_mujoco


def rotation(axis: NDArray[np.float64], angle: float) -> NDArray[np.float64]:
    """Rotation matrix (3, 3) about a unit vector (3,), by an angle in radians."""
    mujoco = import_mujoco()
    quaternion, matrix = np.empty(4), np.empty(9)
    mujoco.mju_axisAngle2Quat(quaternion, axis, angle)
    mujoco.mju_quat2Mat(matrix, quaternion)
    return matrix.reshape(3, 3)


def about_vertical(angle: float) -> NDArray[np.float64]:
    """Rotation matrix (3, 3) about the z axis."""
    return rotation(np.array([0.0, 0.0, 1.0]), angle)
