"""Initial states: where everything stands, drawn from the regions of a scene."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vla_cl.envs.tabletop.item import TABLE_SIZE, Item
from vla_cl.envs.tabletop.predicates import holds
from vla_cl.envs.tabletop.scene import Condition, Region, Scene, Thing
from vla_cl.errors import ConfigurationError

CLEARANCE = 0.012
"""Metres that are left free between things."""

_SCENE_TRIES, _CROWDED_TRIES, _THING_TRIES = 400, 50, 60


@dataclass(frozen=True)
class Placed:
    """Where a thing starts.

    Args:
        position: Of its body (3,), in metres from the middle of the table's top.
        yaw: Its turn about the vertical, in radians.
        joint: Of its mechanism, in metres or radians; 0 where there is none.
        holder: The fixture that it stands on or in, "" for the table.
    """

    position: NDArray[np.float64]
    yaw: float
    joint: float = 0.0
    holder: str = ""

    @property
    def rotation(self) -> NDArray[np.float64]:
        """As a matrix (3, 3)."""
        cosine, sine = np.cos(self.yaw), np.sin(self.yaw)
        return np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])


class PlacedView:
    """A placement as predicates see it: nothing is held, and what lies on something touches it."""

    def __init__(self, items: Mapping[str, Item], placed: Mapping[str, Placed]) -> None:
        self._items, self._placed = items, placed

    def item(self, name: str) -> Item:
        return self._items[name]

    def pose(self, name: str, part: str = "") -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        placed, mechanism = self._placed[name], self._items[name].mechanism
        position = placed.position
        if part and mechanism is not None and part == mechanism.part and mechanism.joint == "slide":
            position = position + placed.rotation @ (placed.joint * np.array(mechanism.axis))
        return position, placed.rotation

    def joint(self, name: str) -> float:
        return self._placed[name].joint

    def touching(self, first: str, second: str) -> bool:
        return True

    def held(self, name: str) -> bool:
        return False


def place(scene: Scene, items: Mapping[str, Item], generator: np.random.Generator) -> dict[str, Placed]:
    """Draw an initial state in which nothing overlaps, every referent is told apart, and the goal does not hold.

    Raises:
        ConfigurationError: There is no such state, or hardly any; the message says what stands in the way.
    """
    obstacle, failures = "", 0
    for _ in range(_SCENE_TRIES):
        placed, crowded = _draw(scene, items, generator)
        if crowded:
            failures += 1
            obstacle = (
                f"there is no room for {crowded!r} in its region; make the region larger, or move it away from other "
                "things and from the table's edge"
            )
            if failures == _CROWDED_TRIES:
                break
            continue
        view = PlacedView(items, placed)
        if all(_true(view, condition) for condition in scene.goal):
            obstacle = f"its goal {_text(scene.goal)} holds at the start; move what it is about"
            continue
        ambiguity = find_ambiguity(scene, view)
        if not ambiguity:
            return placed
        obstacle = ambiguity
    raise ConfigurationError(f"the scene cannot be set up: {obstacle}")


def find_ambiguity(scene: Scene, view: PlacedView) -> str:
    """What is wrong with what tells look-alikes apart in a placement; "" if nothing is."""
    for name, condition in scene.referents.items():
        if not _true(view, condition):
            return f"{condition} does not hold at the start, which is what tells {name!r} apart"
        for other, thing in scene.things.items():
            if other != name and other not in condition.arguments and thing.called == scene.things[name].called:
                swapped = tuple(other if argument == name else argument for argument in condition.arguments)
                if _true(view, Condition(condition.predicate, swapped, condition.negated)):
                    return f"{condition} holds for {other!r}, too, so that {name!r} is ambiguous"
    return ""


def _true(view: PlacedView, condition: Condition) -> bool:
    return holds(view, condition.predicate, condition.arguments, condition.negated)


def _text(conditions: tuple[Condition, ...]) -> str:
    return " and ".join(map(str, conditions))


def _draw(scene: Scene, items: Mapping[str, Item], generator: np.random.Generator) -> tuple[dict[str, Placed], str]:
    """A placement, and the name of the thing that found no room, if one did not."""
    placed: dict[str, Placed] = {}
    for name in _order(scene, items):
        thing = scene.things[name]
        for _ in range(_THING_TRIES):
            candidate = _candidate(thing, items[name], items, placed, generator)
            if _on_the_table(items[name], candidate) and not any(
                _overlap(items[name], candidate, items[other], there)
                for other, there in placed.items()
                if other != candidate.holder
            ):
                placed[name] = candidate
                break
        else:
            return placed, name
    return placed, ""


def _order(scene: Scene, items: Mapping[str, Item]) -> list[str]:
    """Fixtures before movable things, and each after the fixtures that it is placed by."""

    def depth(name: str) -> int:
        return max((1 + depth(region.of) for region in scene.things[name].region if region.of), default=0)

    return sorted(scene.things, key=lambda name: (items[name].movable, depth(name)))


def _candidate(
    thing: Thing, item: Item, items: Mapping[str, Item], placed: Mapping[str, Placed], generator: np.random.Generator
) -> Placed:
    region: Region = thing.region[int(generator.integers(len(thing.region)))]
    offset = np.array([generator.uniform(*region.x), generator.uniform(*region.y), 0.0])
    yaw = generator.uniform(*region.yaw)
    joint = 0.0
    if item.mechanism is not None:
        joint = item.mechanism.start if thing.start is None else float(generator.uniform(*thing.start))
    origin = np.zeros(3)
    height = 0.0
    if region.of:
        holder, there = items[region.of], placed[region.of]
        view = PlacedView(items, placed)
        part = holder.interior_body if region.surface == "inside" else ""
        origin, rotation = view.pose(region.of, part)
        offset = rotation @ offset
        if region.surface == "top" and holder.support is not None:
            height = holder.support.top
        elif region.surface == "inside" and holder.interior is not None:
            height = holder.interior.bottom
        yaw += there.yaw
    position = origin + offset
    position[2] = height - item.bounds.bottom if item.movable else height
    return Placed(position, float(yaw), joint, region.of if region.surface != "table" else "")


def _on_the_table(item: Item, placed: Placed) -> bool:
    """Whether all of a thing is above the table."""
    corners = np.abs(_corners(item, placed))
    return bool((corners <= np.array(TABLE_SIZE[:2]) / 2).all())


def _overlap(item: Item, placed: Placed, other: Item, there: Placed) -> bool:
    """Whether two things come closer than `CLEARANCE`, seen from above: boxes turned about the vertical."""
    if not (item.solid and other.solid):
        return False
    floor = max(placed.position[2] + item.bounds.bottom, there.position[2] + other.bounds.bottom)
    if floor >= min(placed.position[2] + item.bounds.top, there.position[2] + other.bounds.top):
        return False  # one above the other
    first, second = _corners(item, placed), _corners(other, there)
    for rotation in (placed.rotation, there.rotation):
        for axis in rotation[:2, :2].T:
            low, high = (first @ axis).min(), (first @ axis).max()
            if low > (second @ axis).max() + CLEARANCE or high < (second @ axis).min() - CLEARANCE:
                return False
    return True


def _corners(item: Item, placed: Placed) -> NDArray[np.float64]:
    """Corners (4, 2) of a thing's bounds on the table; a drawer's grow with its opening."""
    low = np.array(item.bounds.centre) - item.bounds.half
    high = np.array(item.bounds.centre) + item.bounds.half
    if item.mechanism is not None and item.mechanism.joint == "slide":
        way = placed.joint * np.array(item.mechanism.axis)
        low, high = np.minimum(low, low + way), np.maximum(high, high + way)
    corners = np.array([(x, y, 0.0) for x in (low[0], high[0]) for y in (low[1], high[1])])
    return (corners @ placed.rotation.T + placed.position)[:, :2]
