"""Bring a held object to where it belongs, steered by where the object is, not by where the hand is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from vla_cl.tasks.skills.grasp import Graspable
from vla_cl.tasks.skills.hand import Hand
from vla_cl.tasks.skills.motion import UP, open_fingers, retreat
from vla_cl.tasks.skills.plan import Plan, Point, SkillFailed, fixed

_LARGEST_SLIP = 0.05  # metres that an object may move in the hand before it counts as lost
_INTEGRAL_GAIN, _LARGEST_INTEGRAL = 0.15, 0.02


def place(
    hand: Hand,
    thing: Graspable,
    at: Point,
    *,
    heading: Callable[[], float] | None = None,
    fold: int = 1,
    clearance: float = 0.06,
    precision: float = 0.01,
    release_within: float = 0.01,
    speed: float = 1.0,
) -> Plan[None]:
    """Carry an object above a place, lower it, let go and move away upwards.

    Args:
        hand: The hand, which holds the object.
        thing: The object.
        at: Where its body's origin is to be when it is released, in metres.
        heading: Where its first axis is to point, an angle about the vertical from the world's x axis in radians; None
            leaves it as it is.
        fold: How many headings are as good: 4 for a square, 2 for a slab.
        clearance: How high above `at`, and above where it was taken, it is carried, in metres.
        precision: How near to the place it must be sideways before it is lowered, in metres.
        release_within: How near to its final height it is released, in metres; earlier where it rests on something.
        speed: Fraction of the largest speed while it is lowered.

    Raises:
        SkillFailed: The object was lost on the way.
    """
    carried = _Carried(hand, thing, at)
    if heading is not None:
        hand.attitude = _nearest_attitude(hand, thing, heading(), fold)
    yield from carried.raise_to(max(float(at()[2]), float(carried.position[2])) + clearance)
    yield from carried.cross(clearance, precision)
    yield from carried.lower(release_within, speed)
    yield from open_fingers(hand, 10)
    yield from retreat(hand, max(0.08, thing.hover))


class _Carried:
    """An object in the hand, on its way to a place."""

    def __init__(self, hand: Hand, thing: Graspable, at: Point) -> None:
        self._hand, self._thing, self._at = hand, thing, at
        self._grip = self._in_hand()

    @property
    def position(self) -> NDArray[np.float64]:
        return self._hand.env.position(self._thing.name)

    def raise_to(self, height: float) -> Plan[None]:
        """Straight up until the object is that high."""
        start = self.position
        goal = np.array([start[0], start[1], height])
        yield from self._move(fixed(goal), np.array([1.0, 1.0, 1.0]), 0.02, timeout=60)

    def cross(self, clearance: float, precision: float) -> Plan[None]:
        """Sideways until the object is above its place."""
        yield from self._move(lambda: self._at() + clearance * UP, np.array([1.0, 1.0, 0.3]), precision, timeout=120)

    def lower(self, release_within: float, speed: float) -> Plan[None]:
        """Down until the object is at its height, or rests on something. What it is off sideways is integrated."""
        integral = np.zeros(3)
        heights = [np.inf] * 8
        for _ in range(100):
            self._check()
            error = self._at() - self.position
            heights = [*heights[1:], float(self.position[2])]
            if -error[2] < release_within or heights[0] - heights[-1] < 0.002:
                return
            integral = np.clip(integral + _INTEGRAL_GAIN * error, -_LARGEST_INTEGRAL, _LARGEST_INTEGRAL)
            integral[2] = 0.0
            off = float(np.linalg.norm(error[:2]))
            error[2] = max(error[2], -max(0.005, 0.06 - 5.0 * off))  # first above the place, then down
            yield self._hand.toward(self._hand.position + error + integral, speed)

    def _move(self, goal: Point, weight: NDArray[np.float64], tolerance: float, timeout: int) -> Plan[None]:
        """Steer the object to a point, until its weighted distance and its turn are small."""
        for _ in range(timeout):
            self._check()
            error = goal() - self.position
            if np.linalg.norm(weight * error) < tolerance and np.linalg.norm(self._hand.turn_left()) < 0.1:
                return
            yield self._hand.toward(self._hand.position + error)

    def _in_hand(self) -> NDArray[np.float64]:
        return self._hand.rotation.T @ (self._thing.place(self._hand) - self._hand.position)

    def _check(self) -> None:
        if np.linalg.norm(self._in_hand() - self._grip) > _LARGEST_SLIP:
            raise SkillFailed(f"{self._thing.name} was lost on the way")


def _nearest_attitude(hand: Hand, thing: Graspable, heading: float, fold: int) -> float:
    """The hand's yaw at which the object that it holds has one of its headings; of these the one nearest to nominal."""
    axis = hand.env.rotation(thing.name)[:, 0]
    present = float(np.arctan2(axis[1], axis[0]))
    period = 2.0 * np.pi / fold
    yaws = hand.yaw + heading - present + period * np.arange(-2 * fold, 2 * fold + 1)
    return float(min(yaws, key=lambda yaw: abs(yaw) + 0.1 * abs(yaw - hand.yaw)))
