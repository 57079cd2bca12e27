"""Working fixtures: pull and push along a rail, twist about the vertical, press down, push or tow over the table."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from vla_cl.tasks.skills.hand import Hand
from vla_cl.tasks.skills.motion import UP, close_fingers, open_fingers, reach, retreat, travel
from vla_cl.tasks.skills.plan import Condition, Plan, Point, SkillFailed

Vector = NDArray[np.float64]

_HOVER = 0.08
_STEP = 0.05  # metres ahead of a thing that moves with the hand: how hard it is pulled
_VEER = 0.15  # share of a new direction that is taken over in a step
_NEAR, _LOST = 0.015, 0.06  # metres from a goal, and from where the hand should be in what it tows


def grip_handle(hand: Hand, handle: Point, direction: Vector) -> Plan[None]:
    """Take a handle from above.

    Args:
        hand: The hand.
        handle: Where the handle is to be held, in metres.
        direction: Along which the fingers close on it (3,).
    """
    hand.closed = False
    yield from travel(hand, lambda: handle() + _HOVER * UP, attitude=hand.finger_yaw(direction))
    yield from reach(hand, handle, tolerance=0.006, timeout=60)
    yield from close_fingers(hand)


def slide(hand: Hand, handle: Point, direction: Vector, until: Condition, timeout: int = 100) -> Plan[None]:
    """Move a handle that is held along its rail.

    Args:
        hand: The hand, which holds the handle.
        handle: Where the handle is now, in metres.
        direction: Unit vector (3,) of the way.
        until: Whether it is far enough.
        timeout: Steps after which it has failed.

    Raises:
        SkillFailed: The hand lost the handle, or it does not move.
    """
    across = np.eye(3) - np.outer(direction, direction)
    start = handle()
    for _ in range(timeout):
        if until():
            return
        if np.linalg.norm(handle() - hand.position) > 0.04:
            raise SkillFailed("the handle was lost")
        correction = across @ (start - hand.position)
        yield hand.toward(hand.position + _STEP * direction + correction)
    raise SkillFailed("the handle does not move any further")


def let_go(hand: Hand, distance: float = 0.1) -> Plan[None]:
    """Open the fingers and move up."""
    yield from open_fingers(hand, 10)
    yield from retreat(hand, distance)


def twist(hand: Hand, bar: Point, angle: float, until: Condition, timeout: int = 120) -> Plan[None]:
    """Turn a bar that is held about the vertical.

    Args:
        hand: The hand, which holds the bar.
        bar: Where it is held, in metres.
        angle: How far to turn, in radians, counter-clockwise from above.
        until: Whether it is far enough.
        timeout: Steps after which it has failed.

    Raises:
        SkillFailed: It does not turn that far.
    """
    goal = hand.yaw + angle
    place = bar()
    for _ in range(timeout):
        if until():
            return
        hand.attitude = float(np.clip(goal, hand.yaw - 0.5, hand.yaw + 0.5))
        yield hand.toward(place)
    raise SkillFailed("it does not turn any further")


def press(hand: Hand, top: Point, until: Condition, timeout: int = 80) -> Plan[None]:
    """Press something down with closed fingers.

    Args:
        hand: The hand.
        top: Where to press, in metres.
        until: Whether it is down.
        timeout: Steps after which it has failed.

    Raises:
        SkillFailed: It does not go down.
    """
    hand.closed = True
    yield from travel(hand, lambda: top() + _HOVER * UP, tolerance=0.01)
    for _ in range(timeout):
        if until():
            yield from retreat(hand, 0.1)
            return
        sideways = (top() - hand.position) * np.array([1.0, 1.0, 0.0])
        yield hand.toward(hand.position + sideways - _STEP * UP)
    raise SkillFailed("it does not go down")


def push(
    hand: Hand,
    thing: Point,
    goal: Point,
    radius: float,
    until: Condition,
    *,
    height: float,
    attempts: int = 4,
    timeout: int = 90,
) -> Plan[None]:
    """Push a flat thing over the table with both finger tips, open, so that it lies between them and follows the hand.

    Args:
        hand: The hand.
        thing: Where the thing's middle is, in metres.
        goal: Where it is to go.
        radius: Of the thing, in metres.
        until: Whether it is there.
        height: Of the finger tips above the thing's middle while they push, in metres.
        attempts: How often to begin anew from behind it.
        timeout: Steps of one attempt.

    Raises:
        SkillFailed: It never got there.
    """
    for _ in range(attempts):
        way = _flat(goal() - thing())
        hand.closed = False
        behind = partial(_behind, thing, way, radius + 0.035, height)
        above = partial(_behind, thing, way, radius + 0.035, height + _HOVER)
        yield from travel(hand, above, attitude=hand.finger_yaw(np.cross(UP, way)), tolerance=0.015)
        yield from reach(hand, behind, tolerance=0.01, timeout=50)
        for _ in range(timeout):
            left = goal() - thing()
            if until() or float(left @ way) < 0.0:
                break
            line, speed = thing() - hand.position, min(0.04, 0.02 + float(np.linalg.norm(left[:2])))
            sideways = 0.5 * _across(line, way) + 0.6 * _across(left, way)  # behind it, and with it to the goal's line
            yield hand.toward(hand.position + speed * way + sideways + (line[2] + height) * UP)
        yield from retreat(hand, 0.05, direction=-way)  # it may be wedged between the fingers
        yield from retreat(hand, 0.1)
        if until():
            return
    raise SkillFailed("it was pushed, but not to its place")


def tow(
    hand: Hand,
    dish: Point,
    goal: Point,
    lead: float,
    until: Condition,
    *,
    height: float,
    attempts: int = 4,
    timeout: int = 90,
) -> Plan[None]:
    """Move a shallow dish over the table with closed finger tips in it, against the rim that goes ahead.

    Unlike `push`, it needs no room behind the dish, and what is towed follows of itself.

    Args:
        hand: The hand.
        dish: Where the dish's middle is, in metres.
        goal: Where it is to go; it may move on, from corner to corner.
        lead: How far ahead of its middle the finger tips are, in metres.
        until: Whether it is there.
        height: Of the finger tips above the dish's middle while they tow, in metres: low enough to press.
        attempts: How often to begin anew.
        timeout: Steps of one attempt.

    Raises:
        SkillFailed: It never got there.
    """
    for _ in range(attempts):
        way = _flat(goal() - dish())
        hand.closed = True
        above = partial(_behind, dish, way, -lead, height + _HOVER)
        yield from travel(hand, above, attitude=hand.finger_yaw(np.cross(UP, way)), tolerance=0.015)
        yield from reach(hand, partial(_behind, dish, way, -lead, height), tolerance=0.008, timeout=30)
        for _ in range(timeout):
            left = goal() - dish()
            way = _flat(way + _VEER * _flat(left))
            line = _behind(dish, way, -lead, height) - hand.position
            if (until() and float(left @ way) < _NEAR) or np.linalg.norm(_level(line)) > _LOST:
                break
            step = min(_STEP, float(np.linalg.norm(left))) * _flat(left)
            yield hand.toward(hand.position + step + 0.3 * _across(line, way) + line[2] * UP)
        yield from retreat(hand, 0.1)
        if until():
            return
    raise SkillFailed("it was towed, but not to its place")


def _flat(vector: Vector) -> Vector:
    """The level unit vector (3,) nearest to a vector."""
    level = _level(vector)
    return level / max(float(np.linalg.norm(level)), 1e-9)


def _level(vector: Vector) -> Vector:
    """What of a vector (3,) is level."""
    level: Vector = vector * np.array([1.0, 1.0, 0.0])
    return level


def _across(vector: Vector, way: Vector) -> Vector:
    """What of a vector (3,) is level and across a level unit vector."""
    return _level(vector - vector @ way * way)


def _behind(thing: Point, way: Vector, distance: float, height: float) -> Vector:
    """The point (3,) at a distance behind a thing, seen along its way."""
    place: Vector = thing() - distance * way + height * UP
    return place
