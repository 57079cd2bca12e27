"""Regions of a BDDL file: named parts of fixtures and objects."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from vla_cl.envs.libero.bddl_tokens import Group, Word, headed, nearest, words


@dataclass(frozen=True)
class Region:
    """A named part of a fixture or an object: where things are put at first, or what a goal speaks of.

    Args:
        name: Without its target ("plate_region").
        target: The instance that it belongs to ("main_table").
        ranges: Rectangles (x_min, y_min, x_max, y_max) in metres, relative to the target's own frame; none for a
            region that the target's model marks by a site ("top_region" of a cabinet).
        yaw: Least and greatest rotation about z, in radians, of what is put here.
        rgba: Colour of the marking.
    """

    name: str
    target: str
    ranges: tuple[tuple[float, float, float, float], ...] = ()
    yaw: tuple[float, float] = (0.0, 0.0)
    rgba: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 0.0)


_ATTRIBUTES = (":target", ":ranges", ":yaw_rotation", ":rgba")


def read_region(name: Word, group: Group) -> tuple[Region, Word]:
    """A region, and the word that names its target.

    Args:
        name: The word after its opening parenthesis.
        group: The attributes that follow.

    Raises:
        BddlError: It has no target, an unknown attribute, or numbers that cannot be used.
    """
    attributes: dict[str, Group] = {}
    for item in group.items:
        attribute, value = headed(item, "an attribute of a region")
        if attribute.text not in _ATTRIBUTES:
            raise attribute.place.error(
                f"attribute {attribute.text!r} of a region is unknown; {nearest(attribute.text, _ATTRIBUTES)}"
            )
        if attribute.text in attributes:
            raise attribute.place.error(f"attribute {attribute.text!r} is there twice")
        attributes[attribute.text] = value
    if ":target" not in attributes:
        raise name.place.error(f"region {name.text!r} has no (:target ...)")
    match attributes[":target"].items:
        case [Word() as target]:
            pass
        case _:
            raise attributes[":target"].place.error("(:target ...) must hold one name")
    region = Region(name.text, target.text)
    if ":ranges" in attributes:
        region = replace(region, ranges=_ranges(attributes[":ranges"]))
    if ":yaw_rotation" in attributes:
        region = replace(region, yaw=_yaw(attributes[":yaw_rotation"]))
    if ":rgba" in attributes:
        region = replace(region, rgba=_rgba(attributes[":rgba"]))
    return region, target


def _ranges(group: Group) -> tuple[tuple[float, float, float, float], ...]:
    rectangles = []
    for item in _enclosed(group, "(:ranges ((x_min y_min x_max y_max) ...))"):
        x_min, y_min, x_max, y_max = _numbers(item, 4, "x_min y_min x_max y_max")
        for axis, low, high in (("x", x_min, x_max), ("y", y_min, y_max)):
            if low > high:
                raise item.place.error(f"{axis}_min {low:g} is greater than {axis}_max {high:g}")
        rectangles.append((x_min, y_min, x_max, y_max))
    return tuple(rectangles)


def _yaw(group: Group) -> tuple[float, float]:
    expected = "(:yaw_rotation ((least greatest)))"
    match _enclosed(group, expected):
        case [item]:
            pass
        case _:
            raise group.place.error(f"expected {expected}")
    least, greatest = _numbers(item, 2, "least greatest")
    if least > greatest:
        raise item.place.error(f"the least yaw {least:g} is greater than the greatest {greatest:g}")
    return least, greatest


def _rgba(group: Group) -> tuple[float, float, float, float]:
    match group.items:
        case [item]:
            red, green, blue, alpha = _numbers(item, 4, "red green blue alpha")
            return red, green, blue, alpha
    raise group.place.error("expected (:rgba (red green blue alpha))")


def _enclosed(group: Group, expected: str) -> tuple[Word | Group, ...]:
    """What the one group in a group holds."""
    match group.items:
        case [Group(items)]:
            return items
    raise group.place.error(f"expected {expected}")


def _numbers(item: Word | Group, count: int, names: str) -> tuple[float, ...]:
    if not isinstance(item, Group):
        raise item.place.error(f"expected ({names}), got {item.text!r}")
    if len(item.items) != count:
        raise item.place.error(f"expected {count} numbers ({names}), got {len(item.items)}")
    return tuple(_number(word) for word in words(item.items, "a number"))


def _number(word: Word) -> float:
    try:
        value = float(word.text)
    except ValueError:
        raise word.place.error(f"expected a number, got {word.text!r}") from None
    if not math.isfinite(value):
        raise word.place.error(f"expected a finite number, got {word.text!r}")
    return value
