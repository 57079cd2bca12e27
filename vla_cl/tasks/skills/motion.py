"""The simplest skills: go somewhere, wait, open and close the fingers, move away."""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from vla_cl.tasks.skills.hand import Attitude, Hand
from vla_cl.tasks.skills.plan import Plan, Point, fixed

FINGER_STEPS = 12
"""Control steps for the fingers to close and to build up their force."""

_LEVEL_WAY = 0.06  # metres sideways from where the hand may go down

UP = np.array([0.0, 0.0, 1.0])
DOWN = -UP

_OFF_THE_WAY, _FUNNEL = 0.003, 8.0


class Stall:
    """Notices that the hand has come to rest.

    Args:
        patience: Steps that it must have been still for.
        still: How far it may have moved in them, in metres; a radian of turn counts as ten centimetres.
    """

    def __init__(self, patience: int = 10, still: float = 0.002) -> None:
        self._still = still
        self._poses: deque[NDArray[np.float64]] = deque(maxlen=patience)

    def noted(self, hand: Hand) -> bool:
        """Whether the hand rests, now that this step is taken into account."""
        self._poses.append(np.concatenate([hand.position, 0.1 * hand.turn_left()]))
        if len(self._poses) < (self._poses.maxlen or 0):
            return False
        return float(np.ptp(self._poses, axis=0).max()) < self._still


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
    """Go to a point, which may move.

    Args:
        hand: The hand.
        target: Where the point between the finger tips is to be.
        attitude: How the hand is to be turned from now on; None leaves it as decided before.
        tolerance: How near is near enough, in metres.
        turn_tolerance: The same of the rotation, in radians.
        speed: Fraction of the largest speed.
        timeout: Steps after which it stops trying; it stops earlier where something is in the way.

    Returns:
        Whether the hand arrived.
    """
    if attitude is not None:
        hand.attitude = attitude
    stall = Stall()
    for _ in range(timeout):
        goal = target()
        near = np.linalg.norm(goal - hand.position) < tolerance
        if near and np.linalg.norm(hand.turn_left()) < turn_tolerance:
            return True
        if stall.noted(hand):
            return False
        yield hand.toward(goal, speed)
    return False


def descend(
    hand: Hand,
    target: Point,
    *,
    way: NDArray[np.float64] = DOWN,
    tolerance: float = 0.006,
    speed: float = 1.0,
    timeout: int = 60,
) -> Plan[bool]:
    """Approach a point along a way, sideways first: the further off the way the hand is, the further back it waits.

    Args:
        hand: The hand.
        target: Where the point between the finger tips is to be.
        way: Unit vector (3,) of the approach, down by default.
        tolerance: How near is near enough, in metres.
        speed: Fraction of the largest speed.
        timeout: Steps after which it stops trying; it stops earlier where something is in the way.

    Returns:
        Whether the hand arrived.
    """
    stall = Stall()
    for _ in range(timeout):
        error = target() - hand.position
        if np.linalg.norm(error) < tolerance:
            return True
        if stall.noted(hand):
            return False
        yield hand.toward(hand.position + held_back(error, way), speed)
    return False


def held_back(error: NDArray[np.float64], way: NDArray[np.float64], slack: float = _OFF_THE_WAY) -> NDArray[np.float64]:
    """The part of a step (3,) along `way` shortened by what is off it sideways, so that the motion is a funnel.

    Args:
        error: The step that is left, in metres.
        way: Unit vector (3,) of the approach.
        slack: How far off sideways does not matter, in metres.
    """
    ahead = float(error @ way)
    sideways = error - ahead * way
    off = max(0.0, float(np.linalg.norm(sideways)) - slack)
    step: NDArray[np.float64] = sideways + min(ahead, max(0.0, ahead - _FUNNEL * off)) * way
    return step


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
    hand: Hand, distance: float = 0.1, direction: NDArray[np.float64] = UP, speed: float = 1.0, timeout: int = 40
) -> Plan[bool]:
    """Move away from where the hand is, straight along a unit direction (3,); up by default."""
    target = fixed(hand.position + distance * np.asarray(direction))
    return (yield from reach(hand, target, tolerance=0.02, turn_tolerance=np.pi, speed=speed, timeout=timeout))


def travel(hand: Hand, target: Point, attitude: Attitude | None = None, tolerance: float = 0.012) -> Plan[bool]:
    """Go to a point from above: up first if it is higher, then level, then down, so as not to sweep things off.

    Args:
        hand: The hand.
        target: Where the point between the finger tips is to be, in metres.
        attitude: How the hand is to be turned from now on; None leaves it as decided before.
        tolerance: How near is near enough, in metres.

    Returns:
        Whether the hand arrived.
    """
    if attitude is not None:
        hand.attitude = attitude
    height = max(float(hand.position[2]), float(target()[2]))
    if float(np.linalg.norm((target() - hand.position)[:2])) > _LEVEL_WAY:
        yield from rise_to(hand, height)
        level = lambda: np.array([*target()[:2], height])  # noqa: E731
        yield from reach(hand, level, tolerance=_LEVEL_WAY, turn_tolerance=np.pi)
    return (yield from reach(hand, target, tolerance=tolerance))


def rise_to(hand: Hand, height: float, speed: float = 1.0) -> Plan[None]:
    """Go straight up to a height in metres, if the hand is lower."""
    if hand.position[2] < height - 0.01:
        place = hand.position
        target = fixed(np.array([place[0], place[1], height]))
        yield from reach(hand, target, tolerance=0.02, turn_tolerance=np.pi, speed=speed, timeout=60)
