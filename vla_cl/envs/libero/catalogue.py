"""LIBERO's object categories: where their models are, how they lie at rest, and when they are open or on."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from vla_cl.errors import UnknownNameError

Range = tuple[float, float]


@dataclass(frozen=True)
class Category:
    """A kind of thing that a BDDL file may name.

    Args:
        name: As in BDDL ("wooden_cabinet").
        xml: Path of its model below the assets.
        turns: Rotations drawn at a reset, one after another: axis ("x", "y", "z"), lowest and highest angle in radians.
        open, closed: Joint positions (metres or radians) that a reset draws for an open or a closed part.
        on, off: Joint positions that a reset draws for a thing that is turned on or off.
        shown_when_on: Site that is seen while the thing is on, or "".
        movable: Whether it can be a free object, too; a fixture has no joint to the world.
    """

    name: str
    xml: str
    turns: tuple[tuple[str, float, float], ...]
    open: Range | None = None
    closed: Range | None = None
    on: Range | None = None
    off: Range | None = None
    shown_when_on: str = ""
    movable: bool = True

    def is_open(self, joint: float) -> bool:
        """Whether a joint position counts as open: past the range's end that is nearer to closed."""
        if self.open is None or self.closed is None:
            return False
        return joint < max(self.open) if self._opens_downwards else joint > min(self.open)

    def is_closed(self, joint: float) -> bool:
        """Whether a joint position counts as closed: nearer to closed than the range's far end."""
        if self.open is None or self.closed is None:
            return False
        return joint > min(self.closed) if self._opens_downwards else joint < max(self.closed)

    def is_on(self, joint: float) -> bool:
        """Whether a knob's position counts as turned on."""
        return self.on is not None and joint >= min(self.on)

    def is_off(self, joint: float) -> bool:
        """Whether a knob's position counts as turned off."""
        return self.off is not None and joint < max(self.off)

    @property
    def _opens_downwards(self) -> bool:
        assert self.open is not None and self.closed is not None
        return sum(self.open) < sum(self.closed)


def category(name: str) -> Category:
    """The category of that name.

    Raises:
        UnknownNameError: LIBERO has no such object.
    """
    known = _categories()
    if name not in known:
        raise UnknownNameError("LIBERO object", name, known)
    return known[name]


@functools.cache
def _categories() -> Mapping[str, Category]:
    text = resources.files("vla_cl.envs.libero").joinpath("catalogue.json").read_text(encoding="utf-8")
    return {name: Category(name=name, **_tuples(fields)) for name, fields in json.loads(text).items()}


def _tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
    plain = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
    return plain | {"turns": tuple(tuple(turn) for turn in fields["turns"])}
