"""What LIBERO's fixtures are worked by: bars that stick out of drawers, doors and knobs, found in the compiled model;
and how the hand is turned to take them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vla_cl.envs.libero.env import LiberoEnv
from vla_cl.errors import ConfigurationError
from vla_cl.tasks.skills import Hand, rotation_about
from vla_cl.tasks.skills.motion import DOWN

Vector = NDArray[np.float64]

_EASY_YAW = 0.7  # radians: amid the yaws that a Panda's wrist can reach


@dataclass(frozen=True)
class Handle:
    """A collision shape that a hand takes hold of, or pushes.

    Args:
        env: The environment it is in.
        geom: Its number in the compiled model.
    """

    env: LiberoEnv
    geom: int

    def centre(self) -> Vector:
        """Its middle now (3,), in metres."""
        middle: Vector = self._position() + self._rotation() @ self.env.model.geom_aabb[self.geom, :3]
        return middle

    def half(self, direction: Vector) -> float:
        """From its middle to its end along a unit vector (3,), in metres."""
        return float(np.abs(self._rotation().T @ direction) @ self.env.model.geom_aabb[self.geom, 3:])

    def thin_direction(self, axis: Vector) -> Vector:
        """The unit vector (3,), square to an axis, along which it is thinnest."""
        turned = self._rotation()
        square = [column for column in turned.T if abs(float(column @ axis)) < 0.5]
        return min(square, key=self.half)

    def volume(self) -> float:
        """Of the box around it, in cubic metres."""
        return float(np.prod(2.0 * self.env.model.geom_aabb[self.geom, 3:]))

    def _position(self) -> Vector:
        return np.array(self.env.data.geom_xpos[self.geom])

    def _rotation(self) -> Vector:
        return np.array(self.env.data.geom_xmat[self.geom]).reshape(3, 3)


def joint_of(env: LiberoEnv, name: str) -> str:
    """The joint of a part that opens, closes or turns.

    Raises:
        ConfigurationError: Nothing moves it.
    """
    joints = env.joints_of(name)
    if not joints:
        raise ConfigurationError(f"{name!r} has no joint: it neither opens nor turns")
    return joints[0]


def shapes_of(env: LiberoEnv, joint: str) -> list[Handle]:
    """The collision shapes that a joint moves."""
    model = env.model
    body = int(model.joint(joint).bodyid[0])
    solid = model.geom_contype | model.geom_conaffinity
    return [Handle(env, int(geom)) for geom in np.flatnonzero((model.geom_bodyid == body) & (solid != 0))]


def handle_of(env: LiberoEnv, joint: str, direction: Vector) -> Handle:
    """Of the collision shapes that a joint moves, the one that sticks out furthest along a unit vector (3,)."""
    return max(shapes_of(env, joint), key=lambda shape: float(shape.centre() @ direction) + shape.half(direction))


def opening_sign(env: LiberoEnv, name: str) -> float:
    """1 if a part's joint grows as it opens, -1 if it shrinks.

    Raises:
        ConfigurationError: It does not open.
    """
    kind = env.kind(name)
    if kind.open is None or kind.closed is None:
        raise ConfigurationError(f"{name!r} neither opens nor closes")
    return float(np.sign(sum(kind.open) - sum(kind.closed)))


def open_from(env: LiberoEnv, name: str) -> float:
    """The joint's position past which a part counts as open.

    Raises:
        ConfigurationError: It does not open.
    """
    kind, sign = env.kind(name), opening_sign(env, name)
    assert kind.open is not None
    return min(kind.open) if sign > 0 else max(kind.open)


def grip_yaw(hand: Hand, across: Vector, turn: float = 0.0) -> float:
    """The yaw to take something with that the hand will then turn about the vertical.

    Args:
        hand: The hand.
        across: Level direction (3,) along which the fingers close.
        turn: How far it will be turned, in radians, counter-clockwise from above.

    Returns:
        Of the two yaws, as fingers may be swapped, and their like a full turn away, the one from which the wrist is
        never far from the middle of its range.
    """
    yaw = hand.finger_yaw(across)
    choices = (yaw - np.pi, yaw, yaw + np.pi)
    return float(min(choices, key=lambda start: max(abs(start - _EASY_YAW), abs(start + turn - _EASY_YAW))))


def leaning(hand: Hand, yaw: float, towards: Vector, angle: float) -> Vector:
    """The rotation (3, 3) of a hand that points down, turned by a yaw, then leans to point towards a level direction.

    Args:
        hand: The hand.
        yaw: In radians, from how the hand is held at its nominal start.
        towards: Level unit vector (3,).
        angle: How far from pointing straight down, in radians.
    """
    rotation: Vector = rotation_about(np.cross(DOWN, towards), angle) @ hand.pointing_down(yaw)
    return rotation
