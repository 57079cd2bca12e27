"""Take hold of a loose object from above."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vla_cl.tasks.skills.hand import Hand
from vla_cl.tasks.skills.motion import close_fingers, descend, open_fingers, retreat, travel
from vla_cl.tasks.skills.plan import Plan, SkillFailed

X_AXIS, Y_AXIS, Z_AXIS = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)

_FINGER_REACH = 0.05  # metres from the middle of the hand to an open finger
_ELBOW_ROOM, _CROWDING = 0.045, 40.0  # metres from other objects that fingers keep if they can; radians a metre
_ANY_YAW = np.linspace(-0.375, 0.375, 7) * np.pi
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
        offset: NDArray[np.float64] = hand.env.rotation(self.name) @ np.array(self.offset)
        return hand.env.position(self.name) + offset

    def heading(self, hand: Hand) -> float:
        """Where its first axis points: an angle about the vertical from the world's first axis, in radians."""
        axis = hand.env.rotation(self.name)[:, 0]
        return float(np.arctan2(axis[1], axis[0]))

    def yaws(self, hand: Hand, headings: Sequence[float] = ()) -> list[float]:
        """How the hand may be turned to take it, best first: near its nominal start, fingers away from other objects.

        Args:
            hand: The hand.
            headings: Where its first axis may point later, with the hand still near its nominal start.
        """
        rotation = hand.env.rotation(self.name)
        directions = [rotation @ np.array(axis) for axis in self.closes_along]
        level = [direction for direction in directions if abs(direction[2]) < _LEVEL]
        yaws = [hand.finger_yaw(direction) for direction in level] or list(_ANY_YAW)
        present = self.heading(hand)
        if headings:
            yaws += [yaw - np.pi if yaw > 0 else yaw + np.pi for yaw in yaws]

        def cost(yaw: float) -> float:
            later = abs(nearest_yaw(yaw - present, headings)) if headings else 0.0
            return max(abs(yaw), later) + _CROWDING * max(0.0, _ELBOW_ROOM - self._room(hand, yaw))

        return sorted(yaws, key=cost)

    def _room(self, hand: Hand, yaw: float) -> float:
        """From the middle of other objects to the nearer of the two open fingers, seen from above, in metres."""
        gripper = hand.env.gripper
        across = hand.pointing_down(yaw) @ gripper.finger_axis * _FINGER_REACH
        fingers = [self.place(hand) + across, self.place(hand) - across]
        others = [hand.env.position(name) for name in hand.env.objects if name != self.name]
        return min((float(np.linalg.norm((a - b)[:2])) for a in fingers for b in others), default=np.inf)


def nearest_yaw(offset: float, headings: Sequence[float]) -> float:
    """Of the hand's yaws `heading + offset`, in (-pi, pi], the one nearest to the nominal start."""
    yaws = [np.pi - (np.pi - heading - offset) % (2.0 * np.pi) for heading in headings]
    return float(min(yaws, key=abs))


def grasp(
    hand: Hand,
    thing: Graspable,
    *,
    headings: Sequence[float] = (),
    attempts: int = 3,
    lift: float = 0.05,
    smallest_opening: float = 0.0,
) -> Plan[None]:
    """Take an object: hover above it, go down, close the fingers, lift it, and see whether it comes along.

    Args:
        hand: The hand.
        thing: What to take, and where.
        headings: Those that it will be placed with, if it matters (see `place`): a grip is chosen that allows one.
        attempts: How often to try.
        lift: How far to lift it, in metres.
        smallest_opening: Fingers that are nearer to each other than this have closed on nothing, in metres.

    Raises:
        SkillFailed: It never came along.
    """
    for attempt in range(attempts):
        yaws = thing.yaws(hand, headings)
        yield from _go_above(hand, thing, yaws[attempt % len(yaws)])
        yield from descend(hand, lambda: thing.place(hand))
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


def _go_above(hand: Hand, thing: Graspable, yaw: float) -> Plan[None]:
    """Open the fingers on the way to a point above the object."""
    hand.closed = False
    above = np.array([0.0, 0.0, thing.hover])
    yield from travel(hand, lambda: thing.place(hand) + above, attitude=yaw)
