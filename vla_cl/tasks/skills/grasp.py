"""Take hold of a loose object from above."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vla_cl.tasks.skills.hand import Hand
from vla_cl.tasks.skills.motion import close_fingers, open_fingers, reach, retreat, rise_to
from vla_cl.tasks.skills.plan import Plan, SkillFailed

X_AXIS, Y_AXIS, Z_AXIS = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)

_LEVEL = 0.5  # sine of 30 degrees: fingers close along an axis that is steeper only if none is more level


@dataclass(frozen=True)
class Graspable:
    """How a loose object is taken from above.

    Args:
        name: The object's name in the environment.
        offset: Where to take it (3,), from its body's origin, in its own frame, in metres.
        closes_along: Unit vectors in its frame along which the fingers may close: two for a cube, one for a slab,
            none for a thing that is round about the vertical. Axes that happen to point up or down are left out.
        hover: How far above that place the hand comes to wait before it goes down, in metres.
    """

    name: str
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)
    closes_along: tuple[tuple[float, float, float], ...] = (X_AXIS, Y_AXIS)
    hover: float = 0.09

    def place(self, hand: Hand) -> NDArray[np.float64]:
        """Where it is to be taken (3,), in metres."""
        return hand.env.position(self.name) + hand.env.rotation(self.name) @ np.array(self.offset)

    def yaw(self, hand: Hand) -> float:
        """How the hand is to be turned to take it: the choice nearest to the nominal start."""
        rotation = hand.env.rotation(self.name)
        directions = [rotation @ np.array(axis) for axis in self.closes_along]
        level = [direction for direction in directions if abs(direction[2]) < _LEVEL]
        return min((hand.finger_yaw(direction) for direction in level), key=abs, default=0.0)


def grasp(
    hand: Hand, thing: Graspable, *, attempts: int = 3, lift: float = 0.05, smallest_opening: float = 0.0
) -> Plan[None]:
    """Take an object: hover above it, go down, close the fingers, lift it, and see whether it comes along.

    Args:
        hand: The hand.
        thing: What to take, and where.
        attempts: How often to try.
        lift: How far to lift it, in metres.
        smallest_opening: Fingers that are nearer to each other than this have closed on nothing, in metres.

    Raises:
        SkillFailed: It never came along.
    """
    for _ in range(attempts):
        yield from _go_above(hand, thing)
        yield from reach(hand, lambda: thing.place(hand), tolerance=0.006, timeout=60)
        yield from close_fingers(hand)
        before = thing.place(hand)
        if hand.opening > smallest_opening:
            yield from retreat(hand, lift)
            rise = thing.place(hand)[2] - before[2]
            if rise > 0.5 * lift and distance_to(hand, thing) < 0.05:
                return
        yield from open_fingers(hand, 6)
    raise SkillFailed(f"{thing.name} did not come along in {attempts} attempts")


def distance_to(hand: Hand, thing: Graspable) -> float:
    """From the finger tips to where the object is taken, in metres."""
    return float(np.linalg.norm(thing.place(hand) - hand.position))


def _go_above(hand: Hand, thing: Graspable) -> Plan[None]:
    """Open the fingers on the way to a point above the object; up first, if the way there is long."""
    hand.closed = False
    above = np.array([0.0, 0.0, thing.hover])
    if np.linalg.norm((thing.place(hand) - hand.position)[:2]) > 0.05:
        yield from rise_to(hand, float((thing.place(hand) + above)[2]))
    yield from reach(hand, lambda: thing.place(hand) + above, attitude=thing.yaw(hand), tolerance=0.012)
