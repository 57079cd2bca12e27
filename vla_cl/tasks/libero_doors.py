"""A microwave's door: drawn open by the upper end of its handle, pushed shut."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vla_cl.envs.libero.env import LiberoEnv
from vla_cl.tasks.libero_handles import Handle, handle_of, joint_of, opening_sign, shapes_of
from vla_cl.tasks.skills import Hand, Plan, close_fingers, descend, open_fingers, retreat, swing, travel
from vla_cl.tasks.skills.motion import UP

Vector = NDArray[np.float64]

_GRIP_DEPTH = 0.015  # metres below the handle's upper end
_HOVER = 0.06
_SPARE = 0.08  # radians further than a door must go to be open


def open_door(hand: Hand, env: LiberoEnv, name: str) -> Plan[None]:
    """Draw it open by its handle, taken from above."""
    joint, sign = joint_of(env, name), opening_sign(env, name)
    kind = env.kind(name)
    assert kind.open is not None
    enough = sign * (kind.open[0] if sign > 0 else kind.open[1]) + _SPARE
    yield from _lead(hand, env, joint, sign, sign, lambda: sign * env.joint(joint) > enough)


def close_door(hand: Hand, env: LiberoEnv, name: str) -> Plan[None]:
    """Lead it shut by its handle, taken from above."""
    joint, sign = joint_of(env, name), opening_sign(env, name)
    yield from _lead(hand, env, joint, sign, -sign, lambda: env.kind(name).is_closed(env.joint(joint)))


def _lead(hand: Hand, env: LiberoEnv, joint: str, outward: float, sign: float, until) -> Plan[None]:  # type: ignore[no-untyped-def]
    handle = handle_of(env, joint, _normal(env, joint, outward))
    top = lambda: handle.centre() + (handle.half(UP) - _GRIP_DEPTH) * UP  # noqa: E731
    along = np.cross(UP, _normal(env, joint, outward))
    hand.closed = False
    yield from travel(hand, lambda: top() + _HOVER * UP, attitude=hand.finger_yaw(along))
    yield from descend(hand, top)
    yield from close_fingers(hand)
    yield from swing(hand, lambda: env.joint_axis(joint), sign, until)
    yield from open_fingers(hand)
    yield from retreat(hand, 0.12)


def _normal(env: LiberoEnv, joint: str, outward: float) -> Vector:
    """The unit vector (3,) out of a door's face, the way it opens."""
    anchor, axis = env.joint_axis(joint)
    leaf = max(shapes_of(env, joint), key=Handle.volume)
    normal = leaf.thin_direction(axis)
    opens = outward * np.cross(axis, leaf.centre() - anchor)
    return normal if float(normal @ opens) > 0 else -normal
