"""Where the hand is, how it is turned and how far it is open."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_cl.envs.mujoco_import import import_mujoco

_ARM = "right"


class GripperPose:
    """The grip site of a one-armed robosuite robot, in numbers that mean the same for every robot.

    Rotations are taken from a reference that points straight down and is turned about the vertical as the robot's hand
    is at its nominal start. A rotation vector near zero is then the usual one, where the absolute one jumps between pi
    and -pi.

    Args:
        robot: A `robosuite.robots.FixedBaseRobot`, reset.
        model, data: The `mujoco.MjModel` and `mujoco.MjData`.

    Attributes:
        reference: Rotation (3, 3) of the hand where it points straight down as at its nominal start.
        finger_axis: Unit vector (3,) in the hand's frame along which the fingers close; the first axis without fingers.
    """

    def __init__(self, robot: Any, model: Any, data: Any) -> None:
        self._mujoco = mujoco = import_mujoco()
        self._data = data
        self._site = int(model.site(robot.part_controllers[_ARM].ref_name).id)
        pads = [_pad_geoms(robot.gripper[_ARM], model, side) for side in ("left", "right")]
        self._pads = pads if all(pads) else []
        nominal = mujoco.MjData(model)
        nominal.qpos[robot._ref_joint_pos_indexes] = robot.init_qpos
        mujoco.mj_kinematics(model, nominal)
        hand = nominal.site_xmat[self._site].reshape(3, 3)
        self.reference = pointing_down(hand)
        self.finger_axis = np.array([1.0, 0.0, 0.0])
        if self._pads:
            left, right = (nominal.geom_xpos[pad].mean(axis=0) for pad in self._pads)
            self.finger_axis = hand.T @ (left - right) / np.linalg.norm(left - right)

    @property
    def position(self) -> NDArray[np.float64]:
        """Of the grip site (3,), in metres."""
        return np.array(self._data.site_xpos[self._site])

    @property
    def rotation(self) -> NDArray[np.float64]:
        """Of the grip site, as a matrix (3, 3): its third column points out of the hand."""
        return np.array(self._data.site_xmat[self._site]).reshape(3, 3)

    @property
    def opening(self) -> float:
        """Distance between the finger pads' centres in metres; 0 for a tool without fingers."""
        if not self._pads:
            return 0.0
        left, right = (self._data.geom_xpos[pad].mean(axis=0) for pad in self._pads)
        return float(np.linalg.norm(left - right))

    def rotation_vector(self) -> NDArray[np.float64]:
        """From pointing straight down to the present rotation (3,), in radians, in the world's frame."""
        return rotation_vector(self.rotation @ self.reference.T)

    def proprioception(self) -> NDArray[np.float64]:
        """Position (3), rotation vector (3) and opening (1)."""
        return np.concatenate([self.position, self.rotation_vector(), [self.opening]])


def _pad_geoms(gripper: Any, model: Any, side: str) -> list[int]:
    """Numbers of the geoms of one finger's pad, none for a tool without fingers.

    robosuite's grippers say which they are, except that XArm7's names geoms that it does not have.
    """
    present = {model.geom(index).name: index for index in range(model.ngeom)}
    listed = [present[name] for name in gripper.important_geoms.get(f"{side}_fingerpad", ()) if name in present]
    prefix = f"{gripper.naming_prefix}{side}_finger_pad"
    return listed or [index for name, index in present.items() if name.startswith(prefix)]


def pointing_down(rotation: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rotation (3, 3) with its third axis straight down and its first nearest to that of `rotation`."""
    down = np.array([0.0, 0.0, -1.0])
    first = rotation[:, 0] - rotation[:, 0] @ down * down
    first /= np.linalg.norm(first)
    return np.stack([first, np.cross(down, first), down], axis=1)


def rotation_vector(rotation: NDArray[np.float64]) -> NDArray[np.float64]:
    """Axis times angle (3,), the angle in [-pi, pi], of a rotation matrix (3, 3)."""
    mujoco = import_mujoco()
    quaternion, vector = np.empty(4), np.empty(3)
    mujoco.mju_mat2Quat(quaternion, np.ascontiguousarray(rotation).ravel())
    mujoco.mju_quat2Vel(vector, quaternion, 1.0)
    return vector
