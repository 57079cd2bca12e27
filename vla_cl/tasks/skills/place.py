"""Bring a held object to where it belongs, steered by where the object is, not by where the hand is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vla_cl.tasks.skills.grasp import Graspable, nearest_yaw
from vla_cl.tasks.skills.hand import Hand
from vla_cl.tasks.skills.motion import DOWN, UP, Stall, held_back, open_fingers, retreat
from vla_cl.tasks.skills.plan import Plan, Point, SkillFailed, fixed

_LARGEST_SLIP = 0.05  # metres that an object may move in the hand before it counts as lost
_INTEGRAL_GAIN, _LARGEST_INTEGRAL = 0.06, 0.02
_LARGEST_DROP = 0.025  # metres asked for at once: arms that sink faster swing out sideways


def place(
    hand: Hand,
    thing: Graspable,
    at: Point,
    *,
    headings: Sequence[float] = (),
    clearance: float = 0.06,
    precision: float = 0.01,
    release_within: float = 0.01,
    slack: float = 0.003,
    speed: float = 1.0,
) -> Plan[None]:
    """Carry an object above a place, lower it, let go and move away upwards.

    Args:
        hand: The hand, which holds the object.
        thing: The object.
        at: Where its body's origin is to be when it is released, in metres.
        headings: Where its first axis may point then, angles about the vertical from the world's first axis in radians:
            four for a square, two for a slab; none leaves it as it is.
        clearance: How high above `at`, and above where it was taken, it is carried, in metres.
        precision: How near to the place it must be sideways before it is lowered, and when it is released, in metres.
        release_within: How near to its final height it is released, in metres; earlier where it rests on something.
        slack: How far off sideways it may be without being lowered more slowly, in metres.
        speed: Fraction of the largest speed while it is lowered.

    Raises:
        SkillFailed: The object was lost on the way.
    """
    carried = _Carried(hand, thing, at)
    if headings:
        hand.attitude = nearest_yaw(hand.yaw - thing.heading(hand), headings)
    height = max(float(at()[2]), float(carried.position[2])) + clearance
    yield from carried.raise_to(height)
    yield from carried.cross(height, precision)
    yield from carried.lower(release_within, precision, slack, speed)
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

    def cross(self, height: float, precision: float) -> Plan[None]:
        """Sideways, at the height at which it is carried, until the object is above its place."""
        level = np.array([1.0, 1.0, 0.0])
        yield from self._move(
            lambda: level * self._at() + height * UP, np.array([1.0, 1.0, 0.3]), precision, timeout=120
        )

    def lower(self, release_within: float, precision: float, slack: float, speed: float) -> Plan[None]:
        """Down until the object is at its height, or rests on something. What it is off sideways is integrated."""
        integral = np.zeros(3)
        stall = Stall()
        for _ in range(100):
            self._check()
            error = self._at() - self.position
            there = -error[2] < release_within and float(np.linalg.norm(error[:2])) < precision
            if there or stall.noted(self._hand):
                return
            integral = np.clip(integral + _INTEGRAL_GAIN * error, -_LARGEST_INTEGRAL, _LARGEST_INTEGRAL)
            integral[2] = 0.0
            error[2] = max(error[2], -_LARGEST_DROP)
            yield self._hand.toward(self._hand.position + held_back(error, DOWN, slack) + integral, speed)

    def _move(self, goal: Point, weight: NDArray[np.float64], tolerance: float, timeout: int) -> Plan[None]:
        """Steer the object to a point, until its weighted distance and its turn are small, or the arm is stuck."""
        stall = Stall()
        for _ in range(timeout):
            self._check()
            error = goal() - self.position
            there = np.linalg.norm(weight * error) < tolerance and np.linalg.norm(self._hand.turn_left()) < 0.1
            if there or stall.noted(self._hand):
                return
            yield self._hand.toward(self._hand.position + error)

    def _in_hand(self) -> NDArray[np.float64]:
        return self._hand.rotation.T @ (self._thing.place(self._hand) - self._hand.position)

    def _check(self) -> None:
        if np.linalg.norm(self._in_hand() - self._grip) > _LARGEST_SLIP:
            raise SkillFailed(f"{self._thing.name} was lost on the way")
