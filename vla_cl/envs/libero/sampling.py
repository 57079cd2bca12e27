"""Where LIBERO puts things at a reset.

The draws are LIBERO's own, in its order and with its arithmetic, so that a seed gives here the scene that it gives
there (`numpy.random.seed(s)` before the first `reset` of an environment).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vla_cl.envs.libero.bddl import Condition, Problem, by_category
from vla_cl.envs.libero.catalogue import Category, Range, category
from vla_cl.envs.libero.workspaces import Workspace
from vla_cl.errors import ConfigurationError, SimulationError

Vector = NDArray[np.float64]
SitePosition = Callable[[str], Vector]

_TRIES = 5000
_OBJECT_LIFT = 0.01  # metres above the surface at which objects are let go
_JOINT_RANGES: Mapping[str, Callable[[Category], Range | None]] = {
    "open": lambda kind: kind.open,
    "close": lambda kind: kind.closed,
    "turnon": lambda kind: kind.on,
    "turnoff": lambda kind: kind.off,
}


class CannotPlaceError(SimulationError):
    """Things do not fit beside each other; the next draw may succeed."""


class Thing(Protocol):
    """What sampling needs to know of robosuite's model of an object or a fixture."""

    name: str
    horizontal_radius: float
    bottom_offset: Vector
    top_offset: Vector
    joints: list[str]


@dataclass(frozen=True)
class Part:
    """A region that a thing's model marks by a site.

    Args:
        parent: The thing it belongs to, or "" for a region of the table or the floor.
        joints: Joints of the body that the site belongs to.
        size: Half the extents of the site's box (3,), in metres.
    """

    parent: str
    joints: tuple[str, ...]
    size: Vector


@dataclass(frozen=True)
class Placed:
    """Where a thing is put: position (3,) in metres, and the quaternion (4,) that is written as it is, w first."""

    position: Vector
    quaternion: Vector
    thing: Thing


class Placement:
    """The initial conditions of a problem, ready to be drawn.

    Args:
        problem: What a BDDL file declares.
        workspace: Its problem class.
        things: Models of all objects and fixtures, by name.
        parts: Regions that have a site, by name.

    Raises:
        ConfigurationError: A condition cannot be drawn from.
    """

    def __init__(
        self, problem: Problem, workspace: Workspace, things: Mapping[str, Thing], parts: Mapping[str, Part]
    ) -> None:
        self._problem, self._workspace, self._things, self._parts = problem, workspace, things, parts
        self._kinds = {**problem.fixtures, **problem.objects}
        placing = [each for each in problem.initial if each.predicate in ("on", "in")]
        self._on_surface: list[Condition] = []
        self._on_parts: list[Condition] = []
        self._on_things: list[Condition] = []
        self._in_parts: list[Condition] = []
        for condition in placing:
            self._list_for(condition).append(condition)
        self._joint_draws = list(self._find_joint_draws())
        placed = [each.arguments[0] for each in placing]
        lost = [name for name in by_category(problem.objects) if name not in placed]
        if lost:
            raise ConfigurationError(f"object {lost[0]!r} is put nowhere; add (On {lost[0]} ...) to :init")

    def draw_joints(self, random: np.random.RandomState, draws: int) -> dict[str, float]:
        """Positions of joints that are open, closed, on or off at first.

        Args:
            random: LIBERO's random numbers.
            draws: How often everything is drawn; the last counts.
        """
        positions: dict[str, float] = {}
        for _ in range(draws):
            for joints, (low, high) in self._joint_draws:
                positions |= dict.fromkeys(joints, random.uniform(high=high, low=low))
        return positions

    def draw_places(self, random: np.random.RandomState, site_position: SitePosition) -> dict[str, Placed]:
        """Where everything stands.

        Args:
            random: LIBERO's random numbers.
            site_position: Where a site is (3,) while fixtures are as the model has them, joints as just drawn.

        Raises:
            CannotPlaceError: An object finds no place beside those that are there.
        """
        placed: dict[str, Placed] = {}
        for condition in self._on_surface:
            self._put_on_surface(condition, placed, random)
        for condition in self._on_parts:
            self._put_at_part(condition, placed, random, site_position, inside=False)
        for condition in self._in_parts:
            self._put_at_part(condition, placed, random, site_position, inside=True)
        for condition in self._on_things:
            self._put_on_thing(condition, placed, random)
        return placed

    # --- what the conditions mean --------------------------------------------------------------------------------

    def _list_for(self, condition: Condition) -> list[Condition]:
        thing, where = condition.arguments
        if thing not in self._things:
            raise ConfigurationError(f"{condition} in :init: {thing!r} is neither an object nor a fixture")
        on = condition.predicate == "on"
        if on and where in self._problem.objects:
            return self._on_things
        region = self._problem.regions.get(where)
        if region is None:
            raise ConfigurationError(f"{condition} in :init: a thing is put at a region or on an object")
        if on and region.target == self._workspace.surface:
            if not region.ranges:
                raise ConfigurationError(f"{condition} in :init: region {where!r} has no (:ranges ...)")
            return self._on_surface
        if thing in self._problem.fixtures:
            raise ConfigurationError(f"{condition} in :init: a fixture is put on {self._workspace.surface} only")
        if where not in self._parts or not self._parts[where].parent:
            raise ConfigurationError(f"{condition} in :init: the model of {region.target!r} has no site {where!r}")
        return self._on_parts if on else self._in_parts

    def _find_joint_draws(self) -> Iterator[tuple[tuple[str, ...], Range]]:
        for condition in self._problem.initial:
            if condition.predicate not in _JOINT_RANGES:
                continue
            (name,) = condition.arguments
            part = self._parts.get(name)
            owner = part.parent if part else name
            joints = part.joints if part else tuple(self._things[name].joints)
            span = _JOINT_RANGES[condition.predicate](category(self._kinds[owner])) if owner else None
            if span is None:
                raise ConfigurationError(f"{condition} in :init: {name!r} cannot be told to {condition.predicate}")
            yield joints, span

    # --- LIBERO's samplers -----------------------------------------------------------------------------------------

    def _put_on_surface(self, condition: Condition, placed: dict[str, Placed], random: np.random.RandomState) -> None:
        name, where = condition.arguments
        region, thing, fixed = self._problem.regions[where], self._things[name], name in self._problem.fixtures
        margin = 0.0 if fixed or not self._workspace.keeps_margin else thing.horizontal_radius
        lift = self._workspace.fixture_drop if fixed else _OBJECT_LIFT
        origin = np.array(self._workspace.offset)
        rectangles = [((x_low, x_high), (y_low, y_high)) for x_low, y_low, x_high, y_high in region.ranges]
        position = _draw_position(rectangles, margin, origin, lift, thing, {} if fixed else placed, random)
        quaternion = _yaw(region.yaw, random) if fixed else self._draw_rotation(name, random)
        placed[name] = Placed(position, quaternion, thing)

    def _put_at_part(
        self,
        condition: Condition,
        placed: dict[str, Placed],
        random: np.random.RandomState,
        site_position: SitePosition,
        inside: bool,
    ) -> None:
        from robosuite.utils import transform_utils

        name, where = condition.arguments
        thing, part = self._things[name], self._parts[where]
        if part.parent not in placed:
            raise ConfigurationError(f"{condition} in :init: {part.parent!r} is itself put nowhere before")
        parent = placed[part.parent]
        rotation = transform_utils.quat2mat(transform_utils.convert_quat(parent.quaternion, to="xyzw"))
        origin = np.array(parent.position)
        if inside:
            rectangle, margin = ((0.0, 0.0), (0.0, 0.0)), 0.0
        else:
            origin += np.array((0.0, 0.0, parent.thing.top_offset[-1]))
            x, y = part.size[:2]
            rectangle, margin = ((-x / 2, x / 2), (-y / 2, y / 2)), thing.horizontal_radius
        local = rotation @ site_position(where)
        position = _draw_position([rectangle], margin, origin + local, 0.0, thing, placed, random)
        placed[name] = Placed(position, self._draw_rotation(name, random), thing)

    def _put_on_thing(self, condition: Condition, placed: dict[str, Placed], random: np.random.RandomState) -> None:
        name, other = condition.arguments
        if other not in placed:
            raise ConfigurationError(f"{condition} in :init: {other!r} is itself put nowhere before")
        below = placed[other]
        origin = np.array(below.position) + np.array((0.0, 0.0, below.thing.top_offset[-1]))
        thing = self._things[name]
        position = _draw_position([((0.0, 0.0), (0.0, 0.0))], 0.0, origin, _OBJECT_LIFT, thing, {}, random)
        placed[name] = Placed(position, self._draw_rotation(name, random), thing)

    def _draw_rotation(self, name: str, random: np.random.RandomState) -> Vector:
        """LIBERO draws a quaternion with w last and writes it where w comes first: so do we."""
        from robosuite.utils.transform_utils import quat_multiply

        turns = category(self._kinds[name]).turns
        turned = [_about(axis, random.uniform(high=high, low=low)) for axis, low, high in turns]
        if len(turned) == 1:
            return turned[0]
        quaternion = np.array([0.0, 0.0, 0.0, 1.0])
        for turn in turned:
            quaternion = quat_multiply(turn, quaternion)
        return np.asarray(quaternion, dtype=np.float64)


def _draw_position(
    rectangles: list[tuple[Range, Range]],
    margin: float,
    origin: Vector,
    lift: float,
    thing: Thing,
    beside: Mapping[str, Placed],
    random: np.random.RandomState,
) -> Vector:
    radius, bottom = thing.horizontal_radius, thing.bottom_offset[-1]
    for _ in range(_TRIES):
        (x_low, x_high), (y_low, y_high) = rectangles[random.randint(len(rectangles))]
        x = random.uniform(high=x_high - margin, low=x_low + margin) + origin[0]
        y = random.uniform(high=y_high - margin, low=y_low + margin) + origin[1]
        z = lift + origin[2] - bottom
        if not any(
            np.linalg.norm((x - other.position[0], y - other.position[1])) <= other.thing.horizontal_radius + radius
            and z - other.position[2] <= other.thing.top_offset[-1] - bottom
            for other in beside.values()
        ):
            return np.array((x, y, z))
    raise CannotPlaceError(f"{thing.name!r} finds no place beside the things that are there")


def _about(axis: str, angle: float) -> Vector:
    """Quaternion (4,), w last, of a rotation about a coordinate axis."""
    quaternion = np.zeros(4)
    quaternion["xyz".index(axis)] = math.sin(angle / 2)
    quaternion[3] = math.cos(angle / 2)
    return quaternion


def _yaw(span: Range, random: np.random.RandomState) -> Vector:
    """Quaternion (4,), w first, of a rotation about the vertical."""
    angle = random.uniform(high=max(span), low=min(span))
    return np.array([math.cos(angle / 2), 0.0, 0.0, math.sin(angle / 2)])
