"""A microwave's door: led open and shut by the upper end of its handle."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vla_cl.envs.libero.env import LiberoEnv
from vla_cl.tasks.libero_handles import Handle, grip_yaw, handle_of, joint_of, open_from, opening_sign, shapes_of
from vla_cl.tasks.skills import Condition, Hand, Plan, close_fingers, descend, open_fingers, retreat, swing, travel
from vla_cl.tasks.skills.motion import UP

Vector = NDArray[np.float64]

_GRIP_DEPTH = 0.011  # metres below the handle's upper end
_HOVER = 0.06
_SPARE = 0.02  # radians further than a door must go to be open; the arm is all but stretched then


def open_door(hand: Hand, env: LiberoEnv, name: str) -> Plan[None]:
    """Draw it open by its handle, taken from above."""
    joint, sign = joint_of(env, name), opening_sign(env, name)
    goal = open_from(env, name) + sign * _SPARE
    yield from _lead(hand, env, name, goal, lambda: sign * env.joint(joint) > sign * goal)


def close_door(hand: Hand, env: LiberoEnv, name: str) -> Plan[None]:
    """Lead it shut by its handle, taken from above."""
    joint = joint_of(env, name)
    yield from _lead(hand, env, name, 0.0, lambda: env.kind(name).is_closed(env.joint(joint)))


def _lead(hand: Hand, env: LiberoEnv, name: str, goal: float, until: Condition) -> Plan[None]:
    """Take the handle's upper end, and lead it on its circle to a position of the joint."""
    joint = joint_of(env, name)
    axis = env.joint_axis(joint)[1]
    way = goal - env.joint(joint)
    normal = _normal(env, joint, opening_sign(env, name))
    handle = handle_of(env, joint, normal)

    def top() -> Vector:
        place: Vector = handle.centre() + (handle.half(UP) - _GRIP_DEPTH) * UP
        return place

    hand.closed = False
    attitude = grip_yaw(hand, np.cross(UP, normal), way * float(axis[2]))
    yield from travel(hand, lambda: top() + _HOVER * UP, attitude=attitude)
    yield from descend(hand, top)
    yield from close_fingers(hand)
    yield from swing(hand, lambda: env.joint_axis(joint), float(np.sign(way)), until)
    hand.attitude = hand.rotation
    yield from open_fingers(hand)
    yield from retreat(hand, 0.12)


def _normal(env: LiberoEnv, joint: str, outward: float) -> Vector:
    """The unit vector (3,) out of a door's face, the way it opens."""
    anchor, axis = env.joint_axis(joint)
    leaf = max(shapes_of(env, joint), key=Handle.volume)
    normal, arm = leaf.thin_direction(axis), leaf.centre() - anchor
    opens: Vector = outward * np.cross(axis, arm)
    return normal if float(normal @ opens) > 0 else -normal
