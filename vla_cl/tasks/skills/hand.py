"""The hand that skills move: where it is, and the action that brings it towards a pose."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vla_cl.envs.robosuite.env import RobosuiteEnv
from vla_cl.envs.robosuite.pose import rotation_vector

TRANSLATION_UNIT, ROTATION_UNIT = 0.05, 0.5
"""What an action of 1 asks for: metres and radians."""

_GAIN = 1.6  # an action is a spring from where the hand is; this stiff, it arrives quickly and hardly overshoots
_LARGEST_TURN = 1.0  # radians in one command: near pi the controller's measure of a rotation vanishes

Attitude = float | NDArray[np.float64]
"""How the hand is turned: a yaw in radians where it points straight down, otherwise a rotation matrix (3, 3)."""


class Hand:
    """The hand of a robosuite robot, with what skills have decided about it.

    Yaws turn about the vertical, counter-clockwise from above, from how the hand is held at its nominal start, in
    (-pi, pi]. Going from one yaw to another never passes through pi, so that the wrist does not wind itself up.

    Args:
        env: The environment that it acts in.
        pace: Largest speed as a fraction of what the controller allows, in (0, 1].

    Attributes:
        closed: Whether the fingers are told to close.
        attitude: How the hand is to be turned: a yaw, or a rotation matrix.
    """

    def __init__(self, env: RobosuiteEnv, pace: float = 1.0) -> None:
        self.env = env
        self.pace = pace
        self.closed = False
        self.attitude: Attitude = 0.0
        self._gain = _GAIN / (1.0 + 0.5 * env.action_delay)

    @property
    def position(self) -> NDArray[np.float64]:
        """Of the point between the finger tips (3,), in metres."""
        return self.env.gripper.position

    @property
    def rotation(self) -> NDArray[np.float64]:
        """Rotation matrix (3, 3): the third column points out of the hand."""
        return self.env.gripper.rotation

    @property
    def opening(self) -> float:
        """Distance between the finger pads, in metres."""
        return self.env.gripper.opening

    @property
    def yaw(self) -> float:
        """Turn about the vertical from the nominal start, in (-pi, pi]."""
        gripper = self.env.gripper
        return _angle_between(gripper.reference @ gripper.finger_axis, gripper.rotation @ gripper.finger_axis)

    def finger_yaw(self, direction: NDArray[np.float64]) -> float:
        """The yaw at which the fingers of a hand that points down close along a direction (3,), in (-pi/2, pi/2].

        Of the two, as fingers may be swapped, it is the one nearer to the nominal start.
        """
        gripper = self.env.gripper
        yaw = _angle_between(gripper.reference @ gripper.finger_axis, direction)
        return float(np.pi / 2 - (np.pi / 2 - yaw) % np.pi)

    def pointing_down(self, yaw: float) -> NDArray[np.float64]:
        """The rotation (3, 3) of a hand that points straight down."""
        return rotation_about(np.array([0.0, 0.0, 1.0]), yaw) @ self.env.gripper.reference

    def facing(self, direction: NDArray[np.float64], fingers: NDArray[np.float64]) -> NDArray[np.float64]:
        """The rotation (3, 3) of a hand that points along one direction and whose fingers close along another.

        Of the two, as fingers may be swapped, it is the one nearer to the nominal start.

        Args:
            direction: Unit vector (3,) out of the hand.
            fingers: Unit vector (3,) square to it.
        """
        gripper = self.env.gripper
        ahead = np.array([0.0, 0.0, 1.0])
        own = np.stack([gripper.finger_axis, np.cross(ahead, gripper.finger_axis), ahead], axis=1)
        choices = [np.stack([f, np.cross(direction, f), direction], axis=1) @ own.T for f in (fingers, -fingers)]
        return max(choices, key=lambda rotation: float(np.trace(gripper.reference.T @ rotation)))

    def turn_left(self) -> NDArray[np.float64]:
        """The rotation vector (3,) in the world's frame from the present rotation to `attitude`, in radians.

        Where `attitude` is a yaw, at most one radian of the way round.
        """
        if isinstance(self.attitude, np.ndarray):
            goal = self.attitude
        else:
            present = self.yaw
            change = np.clip(self.attitude - present, -_LARGEST_TURN, _LARGEST_TURN)
            goal = self.pointing_down(present + float(change))
        return rotation_vector(goal @ self.rotation.T)

    def toward(self, position: NDArray[np.float64], speed: float = 1.0) -> NDArray[np.float32]:
        """The action (7,) that brings the hand nearer to a position (3,) and to its `attitude`.

        Proportional control: fast at first, slower near the goal. Sideways and vertical speed are bounded apart, so
        that on a long way across the hand keeps its height. Fingers are told what `closed` says.

        Args:
            position: Where to go, in metres.
            speed: Upper bound on the commanded speed, as a fraction of what the controller allows.
        """
        base = self.env.base_rotation.T
        step = (position - self.position) * (self._gain / TRANSLATION_UNIT)
        limit = speed * self.pace
        step = base @ np.concatenate([_bounded(step[:2], limit), _bounded(step[2:], limit)])
        turn = base @ self.turn_left() * (self._gain / ROTATION_UNIT)
        grip = 1.0 if self.closed else -1.0
        action = np.concatenate([step, _bounded(turn, self.pace), [grip]])
        return np.asarray(action, dtype=np.float32)


def rotation_about(axis: NDArray[np.float64], angle: float) -> NDArray[np.float64]:
    """The rotation matrix (3, 3) about a unit axis (3,) by an angle in radians (Rodrigues' formula)."""
    x, y, z = axis
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    rotation: NDArray[np.float64] = np.eye(3) + np.sin(angle) * cross + (1.0 - np.cos(angle)) * cross @ cross
    return rotation


def _angle_between(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """The angle about the vertical from one direction (3,) to another, in (-pi, pi]."""
    sine = first[0] * second[1] - first[1] * second[0]
    return float(np.arctan2(sine, first[0] * second[0] + first[1] * second[1]))


def _bounded(vector: NDArray[np.float64], limit: float) -> NDArray[np.float64]:
    """The vector, shortened to a length of `limit` where it is longer."""
    length = float(np.linalg.norm(vector))
    return vector if length <= limit else vector * (limit / length)
