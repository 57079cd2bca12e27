"""What can be true of things on a table, as functions of their poses, joints and contacts.

Directions are the camera's, which faces the robot: left is -y, right +y, behind (further from the camera) -x, in front
+x.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vla_cl.envs.tabletop.item import Item
from vla_cl.errors import ConfigurationError

TOUCH = 0.012
"""Metres that the bottom of a thing may be above what it lies on."""

SIDE_GAP, SIDE_WIDTH = 0.02, 0.07
"""Metres: "left of" and the like need this much more distance than touching, and at most this much sideways."""

NEAR = 0.08
"""Metres between the rims of things that are near each other."""

TILT = 0.94
"""Cosine of the tilt up to which a thing is upright: 20 degrees."""


class View(Protocol):
    """What predicates may look at."""

    def item(self, name: str) -> Item:
        """What a thing is made of."""

    def pose(self, name: str, part: str = "") -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Position (3,) in metres and rotation (3, 3) of a thing, or of a part of it."""

    def joint(self, name: str) -> float:
        """Position of a fixture's mechanism, in metres or radians."""

    def touching(self, first: str, second: str) -> bool:
        """Whether two things are in contact."""

    def held(self, name: str) -> bool:
        """Whether the hand touches a thing."""


Test = Callable[..., bool]


def _moves_along(item: Item, joint: str, vertical: bool) -> bool:
    mechanism = item.mechanism
    return mechanism is not None and mechanism.joint == joint and bool(mechanism.axis[2]) == vertical


_NEEDS: Mapping[str, Callable[[Item], bool]] = {
    "": lambda item: True,
    "support": lambda item: item.support is not None,
    "interior": lambda item: item.interior is not None,
    "movable": lambda item: item.movable,
    "slides": lambda item: _moves_along(item, "slide", vertical=False),
    "turns": lambda item: _moves_along(item, "hinge", vertical=True),
    "sinks": lambda item: _moves_along(item, "slide", vertical=True),
}


@dataclass(frozen=True)
class Predicate:
    """A test of one or more things, and which things it makes sense for."""

    test: Test
    arity: int
    needs: tuple[str, ...] = ()

    def check(self, text: str, items: Sequence[Item]) -> None:
        """Refuse things that the test can say nothing about.

        Raises:
            ConfigurationError: One lacks what the test looks at.
        """
        for need, item in zip(self.needs, items, strict=False):
            if not _NEEDS[need](item):
                raise ConfigurationError(f"condition {text!r} cannot hold: a thing in it {_LACKS[need]}")


_LACKS = {
    "support": "has no flat top",
    "interior": "has no inside",
    "movable": "does not move",
    "slides": "has no drawer",
    "turns": "has no dial",
    "sinks": "has no button",
}

PREDICATES: dict[str, Predicate] = {}
"""Predicates by the name that goals use."""


def _predicate(arity: int, *needs: str) -> Callable[[Test], Test]:
    def register(test: Test) -> Test:
        PREDICATES[test.__name__.rstrip("_")] = Predicate(test, arity, needs)
        return test

    return register


@_predicate(2, "movable", "support")
def on(view: View, upper: str, lower: str) -> bool:
    """`upper` lies on the top of `lower`, its middle over it, and the hand has let go; what has no grip lies flat."""
    item, holder = view.item(upper), view.item(lower)
    assert holder.support is not None
    offset = in_frame(view.pose(lower), view.pose(upper)[0])
    gap = lowest_point(view, upper) - (view.pose(lower)[0][2] + holder.support.top)
    over = _within(offset, holder.support.centre, holder.support.half)
    supported = not holder.solid or view.touching(upper, lower)
    flat = item.grip is not None or view.pose(upper)[1][2, 2] >= TILT  # a plate is not on what it leans against
    return bool(over and abs(gap) < TOUCH and supported and flat and not view.held(upper))


@_predicate(2, "movable", "interior")
def in_(view: View, inner: str, outer: str) -> bool:
    """The middle of `inner` is inside `outer`, and the hand has let go."""
    holder = view.item(outer)
    assert holder.interior is not None
    offset = in_frame(view.pose(outer, holder.interior_body), view.pose(inner)[0])
    space = holder.interior
    inside = _within(offset, space.centre, space.half) and space.bottom - 0.01 < offset[2] < space.top + 0.02
    return bool(inside and not view.held(inner))


@_predicate(1, "slides")
def open_(view: View, fixture: str) -> bool:
    """A drawer is out by three quarters of its way or more."""
    return _done(view, fixture)


@_predicate(1, "slides")
def closed(view: View, fixture: str) -> bool:
    """A drawer is in, up to a centimetre and a half."""
    mechanism = view.item(fixture).mechanism
    assert mechanism is not None
    return bool(view.joint(fixture) <= mechanism.undone)


@_predicate(1, "turns")
def turned(view: View, fixture: str) -> bool:
    """A knob is turned by a radian or more, either way."""
    return _done(view, fixture)


@_predicate(1, "sinks")
def pressed(view: View, fixture: str) -> bool:
    """A button is down by 14 mm or more."""
    return _done(view, fixture)


@_predicate(2)
def left_of(view: View, first: str, second: str) -> bool:
    """`first` is to the left of `second` and beside it."""
    return _beside(view, first, second, axis=1, sign=-1)


@_predicate(2)
def right_of(view: View, first: str, second: str) -> bool:
    """`first` is to the right of `second` and beside it."""
    return _beside(view, first, second, axis=1, sign=1)


@_predicate(2)
def behind(view: View, first: str, second: str) -> bool:
    """`first` is further from the camera than `second`, and in line with it."""
    return _beside(view, first, second, axis=0, sign=-1)


@_predicate(2)
def in_front_of(view: View, first: str, second: str) -> bool:
    """`first` is nearer to the camera than `second`, and in line with it."""
    return _beside(view, first, second, axis=0, sign=1)


@_predicate(2)
def near(view: View, first: str, second: str) -> bool:
    """At most 8 cm lie between the circles that the two stand in."""
    gap = np.linalg.norm((view.pose(first)[0] - view.pose(second)[0])[:2])
    return bool(gap - view.item(first).radius - view.item(second).radius <= NEAR)


@_predicate(3)
def between(view: View, middle: str, first: str, second: str) -> bool:
    """`middle` is in the middle half of the way between the two others, at most 6 cm off the line."""
    start, end, point = (view.pose(name)[0][:2] for name in (first, second, middle))
    way = end - start
    share = float((point - start) @ way / max(float(way @ way), 1e-9))
    off = float(np.linalg.norm(point - start - share * way))
    return 0.25 <= share <= 0.75 and off <= 0.06


@_predicate(1, "movable")
def upright(view: View, name: str) -> bool:
    """It stands as it stood at the start, tilted by 20 degrees at most."""
    return bool(view.pose(name)[1][2, 2] >= TILT)


@_predicate(1, "movable")
def lifted(view: View, name: str) -> bool:
    """Its lowest point is 5 cm above the table or more."""
    return lowest_point(view, name) >= 0.05


def holds(view: View, predicate: str, arguments: Sequence[str], negated: bool = False) -> bool:
    """Whether a condition is true in the present state."""
    return PREDICATES[predicate].test(view, *arguments) != negated


def in_frame(pose: tuple[NDArray[np.float64], NDArray[np.float64]], point: NDArray[np.float64]) -> NDArray[np.float64]:
    """A point (3,) of the world in the frame of a pose."""
    position, rotation = pose
    return rotation.T @ (point - position)


def lowest_point(view: View, name: str) -> float:
    """Height of the lowest point of a thing's bounds above the table's top, in metres."""
    position, rotation = view.pose(name)
    bounds = view.item(name).bounds
    centre = position + rotation @ np.array(bounds.centre)
    return float(centre[2] - np.abs(rotation[2]) @ np.array(bounds.half))


def _within(point: NDArray[np.float64], centre: Sequence[float], half: Sequence[float]) -> bool:
    return all(abs(point[axis] - centre[axis]) <= half[axis] for axis in (0, 1))


def _done(view: View, fixture: str) -> bool:
    mechanism = view.item(fixture).mechanism
    assert mechanism is not None
    return bool(abs(view.joint(fixture)) >= mechanism.done)


def _beside(view: View, first: str, second: str, axis: int, sign: int) -> bool:
    offset = sign * (view.pose(first)[0] - view.pose(second)[0])
    reach = _extent(view, first, axis) + _extent(view, second, axis)
    across = _extent(view, second, 1 - axis)
    return bool(offset[axis] >= reach + SIDE_GAP and abs(offset[1 - axis]) <= max(SIDE_WIDTH, across))


def _extent(view: View, name: str, axis: int) -> float:
    """Half the width of a thing's bounds along an axis of the world."""
    rotation = view.pose(name)[1]
    return float(np.abs(rotation[axis]) @ np.array(view.item(name).bounds.half))
