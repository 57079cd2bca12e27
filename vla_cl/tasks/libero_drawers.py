"""Drawers: hooked behind the bar and drawn out, pushed in by the bar."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from vla_cl.envs.libero.env import LiberoEnv
from vla_cl.tasks.libero_handles import Handle, grip_yaw, handle_of, joint_of, leaning, open_from, opening_sign
from vla_cl.tasks.skills import Hand, Plan, SkillFailed, reach, retreat, travel
from vla_cl.tasks.skills.fixtures import slide
from vla_cl.tasks.skills.motion import UP

Vector = NDArray[np.float64]

_PITCH = np.deg2rad(35.0)  # below level: flat enough for the bars above, steep enough for the table
_PUSH_PITCH = np.deg2rad(50.0)  # the steepest at which the hand keeps off the bars above when a drawer is in
_TIP, _HALF_WIDTH = 0.009, 0.0105  # metres of a finger beyond the grip site, and across the hand's flat side
_CLEAR = 0.005  # metres between a bar's back and the tips
_ABOVE, _BEFORE = 0.03, 0.06  # metres from where the bar is hooked to where the hand comes from
_PRESSURE = 0.015  # metres below the bar's top that the tips are drawn to
_AWAY, _PUSH = 0.05, 0.05  # metres before a bar where a push begins; metres ahead of the hand: how hard it is
_SOFT_PUSH, _HELD = 0.02, 3  # metres, once it is in; steps that it is held there, as it would bounce back
_TIMEOUT = 100
_SPARE = 0.008  # metres further than a drawer must go to be open


def open_drawer(hand: Hand, env: LiberoEnv, name: str) -> Plan[None]:
    """Draw it out by its bar, with closed finger tips behind it."""
    joint, sign = joint_of(env, name), opening_sign(env, name)
    out = sign * env.joint_axis(joint)[1]
    bar = handle_of(env, joint, out)
    hook = partial(_behind, bar, out)
    hand.closed = True
    attitude = _attitude(hand, out, _PITCH)
    yield from travel(hand, lambda: hook() + _ABOVE * UP + _BEFORE * out, attitude=attitude, tolerance=0.015)
    yield from reach(hand, lambda: hook() + _ABOVE * UP, tolerance=0.008, timeout=40)
    yield from reach(hand, hook, tolerance=0.004, timeout=20)
    enough = abs(open_from(env, name)) + _SPARE
    try:
        yield from slide(hand, lambda: hook() - _PRESSURE * UP, out, lambda: sign * env.joint(joint) > enough)
    except SkillFailed:
        yield from retreat(hand, 0.05)
        raise
    yield from retreat(hand, 0.2)


def close_drawer(hand: Hand, env: LiberoEnv, name: str) -> Plan[None]:
    """Push it in with closed finger tips against its bar."""
    joint, sign = joint_of(env, name), opening_sign(env, name)
    out = sign * env.joint_axis(joint)[1]
    bar = handle_of(env, joint, out)
    before = lambda: bar.centre() + (bar.half(out) + _AWAY) * out  # noqa: E731
    hand.closed = True
    yield from travel(hand, before, attitude=_attitude(hand, out, _PUSH_PITCH), tolerance=0.02)
    shut = 0
    for _ in range(_TIMEOUT):
        shut = shut + 1 if env.kind(name).is_closed(env.joint(joint)) else 0
        if shut > _HELD:
            yield from retreat(hand, _AWAY, direction=out)
            yield from retreat(hand, 0.15)
            return
        line = bar.centre() - hand.position
        ahead = min(_PUSH, _SOFT_PUSH + abs(env.joint(joint)))
        yield hand.toward(hand.position - ahead * out + line - line @ out * out)
    raise SkillFailed(f"{name} does not close")


def _attitude(hand: Hand, out: Vector, pitch: float) -> Vector:
    """Pointing at the front of a cabinet from above, the flat of the hand level: room between bars is scarce."""
    return leaning(hand, grip_yaw(hand, np.cross(UP, out)), -out, np.pi / 2 - pitch)


def _behind(bar: Handle, out: Vector) -> Vector:
    """Where the hand is with its tips just behind a bar."""
    ahead = -np.cos(_PITCH) * out - np.sin(_PITCH) * UP
    over = -np.sin(_PITCH) * out + np.cos(_PITCH) * UP
    edge = bar.centre() - (bar.half(out) + _CLEAR) * out + bar.half(UP) * UP
    place: Vector = edge - _TIP * ahead + _HALF_WIDTH * over
    return place
