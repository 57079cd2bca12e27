"""A stove's knob: taken from above by its bar, and turned about its axis."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vla_cl.envs.libero.env import LiberoEnv
from vla_cl.errors import ConfigurationError
from vla_cl.tasks.libero_handles import grip_yaw, handle_of, joint_of, leaning
from vla_cl.tasks.skills import (
    Attitude,
    Condition,
    Hand,
    Plan,
    SkillFailed,
    close_fingers,
    descend,
    rotation_about,
    travel,
)
from vla_cl.tasks.skills.fixtures import let_go
from vla_cl.tasks.skills.motion import UP

Vector = NDArray[np.float64]

_GRIP_DEPTH = 0.014  # metres below the bar's top
_HOVER = 0.06
_SPARE = 0.12  # radians further than a knob must go
_AHEAD = 0.5  # radians that the hand is turned ahead of where it is
_AHEAD_AT_END, _HELD = 0.15, 6  # the same once it is there; steps that it is held, as it would spring back
_TIMEOUT = 80
_ROOMY = 0.45  # metres from the robot's base from which the arm is not folded
_FOLDED_GAIN, _LARGEST_TILT = 4.0, 0.4  # radians of lean a metre nearer, and at most


def turn(hand: Hand, env: LiberoEnv, name: str, on: bool) -> Plan[None]:
    """Turn something on or off by its knob, taken from above.

    Args:
        hand: The hand.
        env: The environment it acts in.
        name: The thing ("flat_stove_1").
        on: Whether it is to be on afterwards.

    Raises:
        ConfigurationError: It is neither on nor off.
        SkillFailed: The knob did not turn far enough.
    """
    joint, kind = joint_of(env, name), env.kind(name)
    if kind.on is None or kind.off is None:
        raise ConfigurationError(f"{name!r} cannot be turned on or off")
    anchor, axis = env.joint_axis(joint)
    bar = handle_of(env, joint, axis)
    height = float((bar.centre() - anchor) @ axis) + bar.half(axis) - _GRIP_DEPTH
    place = anchor + height * axis
    present, enough = env.joint(joint), min(kind.on) + _SPARE
    way = (enough if on else max(kind.off)) - present
    hand.closed = False
    attitude = _grip(hand, env, place, bar.thin_direction(axis), float(axis[2]) * way)
    yield from travel(hand, lambda: place + _HOVER * UP, attitude=attitude)
    yield from descend(hand, lambda: place)
    yield from close_fingers(hand)
    done = (lambda: env.joint(joint) >= enough) if on else (lambda: kind.is_off(env.joint(joint)))
    yield from _twist(hand, place, np.sign(way) * axis, done)
    yield from let_go(hand)


def _grip(hand: Hand, env: LiberoEnv, place: Vector, across: Vector, way: float) -> Attitude:
    """How the hand takes a bar that it is to turn by an angle about the vertical, in radians.

    From above, with room for the wrist to turn, and leaning away from the robot's base where the arm would be folded.
    """
    yaw = grip_yaw(hand, across, way)
    level = (np.array(env.data.body("robot0_base").xpos) - place) * (1.0, 1.0, 0.0)
    lean = float(np.clip(_FOLDED_GAIN * (_ROOMY - np.linalg.norm(level)), 0.0, _LARGEST_TILT))
    if lean == 0.0:
        return yaw
    along = np.cross(UP, across)
    return leaning(hand, yaw, along * np.sign(float(along @ level)), lean)


def _twist(hand: Hand, place: Vector, axis: Vector, until: Condition) -> Plan[None]:
    """Turn what is held about an axis (3,) through where it is held."""
    there = 0
    for _ in range(_TIMEOUT):
        there = there + 1 if until() else 0
        if there > _HELD:
            hand.attitude = hand.rotation
            return
        hand.attitude = rotation_about(axis, _AHEAD if not there else _AHEAD_AT_END) @ hand.rotation
        yield hand.toward(place)
    raise SkillFailed("the knob does not turn any further")
