"""What makes a declared scene impossible, told before anything is simulated."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vla_cl.envs.tabletop.item import Item
from vla_cl.envs.tabletop.predicates import PREDICATES
from vla_cl.errors import ConfigurationError, UnknownNameError

if TYPE_CHECKING:
    from vla_cl.envs.tabletop.scene import Region, Scene, Thing

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_ROBOSUITES = re.compile(r"world|table|(left|right)_eef_target|(robot|gripper|fixed_mount)\d+_.*")


def as_numbers(where: str, value: Any) -> tuple[float, ...]:
    """Some finite numbers.

    Raises:
        ConfigurationError: It is something else.
    """
    plain = isinstance(value, (list, tuple)) and all(isinstance(number, (int, float)) for number in value)
    if not plain or not all(math.isfinite(number) for number in value):
        raise ConfigurationError(f"{where} must be a list of numbers, got {value!r}")
    return tuple(map(float, value))


def as_range(where: str, value: Any) -> tuple[float, float]:
    """Two numbers, the lower one first; one number is a range without width.

    Raises:
        ConfigurationError: It is something else.
    """
    values = as_numbers(where, value if isinstance(value, (list, tuple)) else (value, value))
    if len(values) != 2 or values[0] > values[1]:
        raise ConfigurationError(f"{where} must be a number or [low, high], got {list(values)}")
    return values[0], values[1]


def check_name(name: object) -> None:
    """Refuse what cannot be the name of a thing.

    Raises:
        ConfigurationError: It is no plain word, or robosuite has something of that name.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigurationError(f"thing {name!r} is not a usable name; use lower-case letters, digits and _")
    if _ROBOSUITES.fullmatch(name):
        raise ConfigurationError(f"thing {name!r} is not a usable name: robosuite has one of that name; choose another")


def check_scene(scene: Scene, items: Mapping[str, Item]) -> None:
    """Refuse regions, starts and conditions that its things cannot meet.

    Raises:
        ConfigurationError: Something cannot be, and why.
        UnknownNameError: A thing that is not there is named.
    """
    _check_parts(items)
    for name, thing in scene.things.items():
        if not thing.region:
            raise ConfigurationError(f"thing {name!r} has no region to start in; give at least one")
        for region in thing.region:
            _check_region(name, region, items)
        _check_start(name, thing, items[name])
    _check_no_circles(scene)
    for condition in (*scene.goal, *scene.steps, *scene.referents.values()):
        for argument in condition.arguments:
            if argument not in scene.things:
                raise UnknownNameError("thing", argument, scene.things)
        if len(set(condition.arguments)) < len(condition.arguments):
            raise ConfigurationError(f"condition {str(condition)!r} names one thing twice")
        PREDICATES[condition.predicate].check(str(condition), [items[name] for name in condition.arguments])
    for name, condition in scene.referents.items():
        if name not in scene.things:
            raise UnknownNameError("thing", name, scene.things)
        if condition.arguments[0] != name:
            raise ConfigurationError(f"referents.{name} must be a condition of {name!r} first, got {str(condition)!r}")


def _check_parts(items: Mapping[str, Item]) -> None:
    """Things and their parts are bodies of one world, in which each name is there once."""
    for name, item in items.items():
        part = item.mechanism.part if item.mechanism else item.interior_body
        if part and f"{name}_{part}" in items:
            raise ConfigurationError(f"thing '{name}_{part}' is called like a part of {name!r}; choose another name")


def _check_region(name: str, region: Region, items: Mapping[str, Item]) -> None:
    if not region.of:
        return
    if region.of not in items:
        raise UnknownNameError(f"thing that {name!r} is placed by", region.of, items)
    holder = items[region.of]
    if holder.movable:
        raise ConfigurationError(f"{name!r} is placed by {region.of!r}, which moves; place it by a fixture")
    if region.surface == "top" and holder.support is None:
        raise ConfigurationError(f"{name!r} cannot start on {region.of!r}, which has no flat top")
    if region.surface == "inside" and holder.interior is None:
        raise ConfigurationError(f"{name!r} cannot start inside {region.of!r}, which is no container")


def _check_start(name: str, thing: Thing, item: Item) -> None:
    if thing.start is None:
        return
    if item.mechanism is None:
        raise ConfigurationError(f"things.{name}.start is for things with a joint, and a {thing.kind} has none")
    low, high = thing.start
    if not item.mechanism.low <= low <= high <= item.mechanism.high:
        limits = f"{item.mechanism.low:g} to {item.mechanism.high:g}"
        raise ConfigurationError(f"things.{name}.start must lie within {limits}, got [{low:g}, {high:g}]")


def _check_no_circles(scene: Scene) -> None:
    """Refuse things that are placed by each other, directly or in a circle."""
    done: set[str] = set()
    while len(done) < len(scene.things):
        ready = {
            name
            for name, thing in scene.things.items()
            if name not in done and all(region.of in done or not region.of for region in thing.region)
        }
        if not ready:
            circle = sorted(set(scene.things) - done)
            raise ConfigurationError(f"{' and '.join(map(repr, circle))} cannot be placed: each waits for the other")
        done |= ready
