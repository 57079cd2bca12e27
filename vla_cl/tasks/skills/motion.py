"""The simplest skills: go somewhere, wait, open and close the fingers, move away."""

from __future__ import annotations

import numpy as np

from vla_cl.tasks.skills.hand import Attitude, Hand
from vla_cl.tasks.skills.plan import Plan, Point, fixed

FINGER_STEPS = 12
"""Control steps for the fingers to close and to build up their force."""

UP = np.array([0.0, 0.0, 1.0])


def reach(
    hand: Hand,
    target: Point,
    *,
    attitude: Attitude | None = None,
    tolerance: float = 0.01,
    turn_tolerance: float = 0.1,
    speed: float = 1.0,
    timeout: int = 100,
) -> Plan[bool]:
    """Go straight to a point, which may move.

    Args:
        hand: The hand.
        target: Where the point between the finger tips is to be.
        attitude: How the hand is to be turned from now on; None leaves it as decided before.
        tolerance: How near is near enough, in metres.
        turn_tolerance: The same of the rotation, in radians.
        speed: Fraction of the largest speed.
        timeout: Steps after which it stops trying.

    Returns:
        Whether the hand arrived.
    """
    if attitude is not None:
        hand.attitude = attitude
    for _ in range(timeout):
        goal = target()
        near = np.linalg.norm(goal - hand.position) < tolerance
        if near and np.linalg.norm(hand.turn_left()) < turn_tolerance:
            return True
        yield hand.toward(goal, speed)
    return False


def hold(hand: Hand, steps: int) -> Plan[None]:
    """Stay where the hand is."""
    place = hand.position
    for _ in range(steps):
        yield hand.toward(place)


def close_fingers(hand: Hand, steps: int = FINGER_STEPS) -> Plan[None]:
    """Close the fingers without moving the hand."""
    hand.closed = True
    yield from hold(hand, steps)


def open_fingers(hand: Hand, steps: int = FINGER_STEPS) -> Plan[None]:
    """Open the fingers without moving the hand."""
    hand.closed = False
    yield from hold(hand, steps)


def retreat(
    hand: Hand, distance: float = 0.1, direction: np.ndarray = UP, speed: float = 1.0, timeout: int = 40
) -> Plan[bool]:
    """Move away from where the hand is, straight along a unit direction (3,); up by default."""
    target = fixed(hand.position + distance * np.asarray(direction))
    return (yield from reach(hand, target, tolerance=0.02, turn_tolerance=np.pi, speed=speed, timeout=timeout))


def rise_to(hand: Hand, height: float, speed: float = 1.0) -> Plan[None]:
    """Go straight up to a height in metres, if the hand is lower."""
    if hand.position[2] < height - 0.01:
        place = hand.position
        target = fixed(np.array([place[0], place[1], height]))
        yield from reach(hand, target, tolerance=0.02, turn_tolerance=np.pi, speed=speed, timeout=60)
