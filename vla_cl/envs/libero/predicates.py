"""LIBERO's predicates, with its thresholds.

Source: Liu et al., "LIBERO: Benchmarking Knowledge Transfer for Lifelong Robot Learning", 2023, appendix on the
procedural generation of tasks, and the benchmark's code, which decides the details below.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vla_cl.envs.libero.bddl import Condition, Problem
from vla_cl.envs.libero.catalogue import Category
from vla_cl.envs.libero.sampling import Part
from vla_cl.errors import ConfigurationError

Vector = NDArray[np.float64]

LIFTED = 1.0
"""Height in metres from which on a thing is `up`."""

_REACH_ABOVE = 0.10  # metres above a region's top within which a thing is still on it
_SINK = 0.005  # metres below its top
_FLOOR_SLACK = 0.01  # metres below a region's bottom at which a thing is still in it
_MIDDLE = 0.03  # metres between the middles of two things, one on the other


class View(Protocol):
    """What predicates look at."""

    @property
    def parts(self) -> Mapping[str, Part]:
        """Regions that have a site, by name."""

    def position(self, name: str) -> Vector:
        """Where a thing's body is (3,), in metres."""

    def site_pose(self, name: str) -> tuple[Vector, Vector]:
        """Position (3,) and rotation (3, 3) of a region's site."""

    def touching(self, first: str, second: str) -> bool:
        """Whether collision shapes of two things are in contact."""

    def joint(self, name: str) -> float:
        """Position of a joint."""

    def kind(self, name: str) -> Category:
        """The category of a thing."""

    def joints_of(self, name: str) -> tuple[str, ...]:
        """Joints of a thing, or those that move a region of it."""


def holds(view: View, condition: Condition) -> bool:
    """Whether a condition holds now."""
    return PREDICATES[condition.predicate](view, *condition.arguments)


def _in(view: View, thing: str, region: str) -> bool:
    """The thing's middle is in the region's box, whose extents are turned with it; a centimetre below still counts."""
    position, rotation = view.site_pose(region)
    extent = np.abs(rotation @ view.parts[region].size)
    where = view.position(thing)
    lowest = position - extent - np.array([0.0, 0.0, _FLOOR_SLACK])
    return bool((where > lowest).all() and (where < position + extent).all())


def _on(view: View, thing: str, below: str) -> bool:
    """The thing stands on a region, touching what the region belongs to; or on the middle of another thing."""
    if below in view.parts:
        return _above_region(view, thing, below)
    where, under = view.position(thing), view.position(below)
    near = np.linalg.norm((under - where)[:2]) < _MIDDLE
    return bool(under[2] <= where[2] and near and view.touching(below, thing))


def _above_region(view: View, thing: str, region: str) -> bool:
    position, rotation = view.site_pose(region)
    part = view.parts[region]
    offset = rotation @ (view.position(thing) - position)
    height = part.size[2]
    above = height - _SINK < offset[2] < height + _REACH_ABOVE
    inside = bool((np.abs(offset[:2]) < part.size[:2]).all())
    return bool(above and inside and (not part.parent or view.touching(part.parent, thing)))


def _up(view: View, thing: str) -> bool:
    return bool(view.position(thing)[2] >= LIFTED)


def _any(test: Callable[[Category, float], bool]) -> Callable[[View, str], bool]:
    """Whether any joint of a thing or a region is in a state."""
    return lambda view, name: any(test(view.kind(name), view.joint(joint)) for joint in view.joints_of(name))


def _all(test: Callable[[Category, float], bool]) -> Callable[[View, str], bool]:
    """Whether all joints of a thing or a region are in a state."""
    return lambda view, name: all(test(view.kind(name), view.joint(joint)) for joint in view.joints_of(name))


PREDICATES: Mapping[str, Callable[..., bool]] = {
    "in": _in,
    "on": _on,
    "up": _up,
    "open": _any(Category.is_open),
    "close": _all(Category.is_closed),
    "turnon": _any(Category.is_on),
    "turnoff": _all(Category.is_off),
    "true": lambda view, *names: True,
    "false": lambda view, *names: False,
}
"""Predicates by name: functions of a view and of names."""


def check_goal(problem: Problem, parts: Mapping[str, Part], kinds: Mapping[str, Category]) -> None:
    """See to it that a goal can be judged in a scene.

    Args:
        problem: What a BDDL file declares.
        parts: Regions that have a site.
        kinds: Categories of all objects and fixtures, by name.

    Raises:
        ConfigurationError: A condition speaks of something that has no such property.
    """
    for condition in problem.goal:
        *things, last = condition.arguments
        for name in things if len(condition.arguments) > 1 else ():
            if name not in kinds:
                raise ConfigurationError(f"{condition} in :goal: {name!r} is not a thing that can be moved")
        if last not in kinds and last not in parts:
            raise ConfigurationError(f"{condition} in :goal: no model has a site {last!r}")
        if condition.predicate == "in" and last not in parts:
            raise ConfigurationError(f"{condition} in :goal: a thing is in a region, and {last!r} is none")
        if condition.predicate == "up" and last not in kinds:
            raise ConfigurationError(f"{condition} in :goal: only a thing can be up")
        owner = kinds.get(parts[last].parent if last in parts else last)
        movable = {"open": "open", "close": "closed", "turnon": "on", "turnoff": "off"}.get(condition.predicate)
        if movable and (owner is None or getattr(owner, movable) is None):
            raise ConfigurationError(f"{condition} in :goal: {last!r} cannot be {movable}")
