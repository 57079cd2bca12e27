"""What a thing on the table is made of: the one description that scenes, predicates, placement and experts share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vla_cl.registry import Registry

Vector = tuple[float, float, float]

TABLE_SIZE = (0.9, 1.2, 0.05)
"""Length along x, width along y, thickness of the table, in metres."""

_FOOT = 0.003  # metres: radius of the spheres that round things stand on


@dataclass(frozen=True)
class Box:
    """An axis-aligned box in a body's frame, in metres."""

    centre: Vector
    half: Vector

    @property
    def bottom(self) -> float:
        """Height of its floor above the body's origin."""
        return self.centre[2] - self.half[2]

    @property
    def top(self) -> float:
        """Height of its lid above the body's origin."""
        return self.centre[2] + self.half[2]


@dataclass(frozen=True)
class Grip:
    """How a hand that points down takes hold of a thing.

    Args:
        point: Between the finger pads, in the frame of `body`, in metres.
        fold: The grip looks the same after a turn of 360 degrees / fold; 0 for round things.
        yaw: Direction in which the fingers close, about the vertical, in the frame of `body`, in radians.
        body: Suffix of the body that is gripped: "" is the thing itself, "drawer" a part of it.
    """

    point: Vector
    fold: int
    yaw: float = 0.0
    body: str = ""


@dataclass(frozen=True)
class Mechanism:
    """The one joint of a fixture.

    Args:
        joint: Suffix of the joint's name.
        axis: That it slides along or turns about, in the fixture's frame.
        part: Suffix of the body that moves.
        start: Position in which it starts unless the scene says otherwise.
        low, high: Range, in metres or radians.
        done: From here on it is "open", "turned" or "pressed".
        undone: Up to here it is "closed".
    """

    joint: str
    axis: Vector
    part: str
    start: float
    low: float
    high: float
    done: float
    undone: float


@dataclass(frozen=True)
class Item:
    """A thing as MuJoCo and as everybody else sees it.

    Args:
        xml: Its `<body>`, at the origin; a movable one has no joint yet.
        assets: What goes into `<asset>`.
        bounds: Everything of it that is solid, at the mechanism's start.
        support: The flat top that things can lie on, if it has one: a box without height.
        interior: The space inside, of the body `interior_body`, if it is a container.
        interior_body: Suffix of the body that the interior moves with.
        grip: How it is gripped, if it can be.
        mechanism: Its joint, if it has one.
        movable: Whether it lies free; fixtures stand fast.
        solid: Whether it stands in the way of other things when initial states are drawn.
    """

    xml: str
    bounds: Box
    assets: str = ""
    support: Box | None = None
    interior: Box | None = None
    interior_body: str = ""
    grip: Grip | None = None
    mechanism: Mechanism | None = None
    movable: bool = True
    solid: bool = True

    @property
    def radius(self) -> float:
        """Of the circle about the body's axis that it stands in, in metres."""
        (x, y, _), (half_x, half_y, _) = self.bounds.centre, self.bounds.half
        return float(((abs(x) + half_x) ** 2 + (abs(y) + half_y) ** 2) ** 0.5)


@dataclass(frozen=True)
class Material:
    """Colour and physics of a thing; the factors are what the shift suites change.

    Args:
        rgba: Red, green, blue and opacity in [0, 1], as MuJoCo writes them.
        friction, mass, damping: Factors on the usual values.
    """

    rgba: str
    friction: float = 1.0
    mass: float = 1.0
    damping: float = 1.0

    def geom(
        self, name: str, kind: str, size: str, pos: str = "0 0 0", *, density: float = 500.0, extra: str = ""
    ) -> str:
        """Two `<geom>`: one that collides and has mass, one that is seen. robosuite keeps them in groups 0 and 1."""
        shape = f'type="{kind}" size="{size}" pos="{pos}" {extra}'
        seen = (
            f'<geom name="{name}_seen" {shape} group="1" rgba="{self.rgba}" contype="0" conaffinity="0" density="0"/>'
        )
        return self.unseen(name, kind, size, pos, density=density, extra=extra) + seen

    def unseen(
        self, name: str, kind: str, size: str, pos: str = "0 0 0", *, density: float = 500.0, extra: str = ""
    ) -> str:
        """A `<geom>` that collides and has mass and is not seen."""
        return (
            f'<geom name="{name}" type="{kind}" size="{size}" pos="{pos}" {extra} group="0" rgba="{self.rgba}" '
            f'density="{density * self.mass:g}" friction="{self.friction:g} 0.01 0.0001" condim="4" solref="0.01 1"/>'
        )

    def feet(self, name: str, radius: float, bottom: float) -> str:
        """Four `<geom>` on a circle under a flat bottom, which stand out by a fifth of a millimetre.

        MuJoCo finds one point where a round or meshed bottom meets a flat, and another one at each step, so that things
        tremble. On spheres they stand still, with a quarter of the contacts.

        Args:
            name: Of the thing.
            radius: Of the circle, in metres.
            bottom: Height of the bottom above the body's origin, in metres.
        """
        z = bottom + _FOOT - 0.0002
        spots = [(radius * x, radius * y) for x, y in ((1, 0), (0, 1), (-1, 0), (0, -1))]
        return "".join(
            f'<geom name="{name}_foot{k}" type="sphere" size="{_FOOT}" pos="{numbers(x, y, z)}" group="0" density="0" '
            f'friction="{self.friction:g} 0.01 0.0001" condim="4" solref="0.01 1"/>'
            for k, (x, y) in enumerate(spots)
        )

    def ghost(self, name: str, kind: str, size: str, pos: str = "0 0 0") -> str:
        """A `<geom>` that is seen and does not collide."""
        return (
            f'<geom name="{name}" type="{kind}" size="{size}" pos="{pos}" rgba="{self.rgba}" group="1" '
            'contype="0" conaffinity="0" density="0"/>'
        )


COLOURS: Mapping[str, str] = {
    "red": "0.85 0.12 0.10 1",
    "green": "0.10 0.60 0.20 1",
    "blue": "0.10 0.25 0.85 1",
    "yellow": "0.95 0.80 0.10 1",
    "orange": "0.95 0.45 0.05 1",
    "purple": "0.50 0.15 0.65 1",
    "cyan": "0.10 0.70 0.75 1",
    "pink": "0.95 0.50 0.65 1",
    "white": "0.92 0.92 0.90 1",
    "black": "0.12 0.12 0.13 1",
    "brown": "0.45 0.28 0.15 1",
    "grey": "0.50 0.52 0.55 1",
}
"""Colours by the word that instructions use."""

KINDS: Registry[Callable[..., Item]] = Registry("kind of thing", "vla_cl.envs", "docs: tabletop scenes")
"""What can stand on the table, by name: functions of `(name: str, material: Material, **options) -> Item`."""


def register_kind(name: str) -> Callable[[Callable[..., Item]], Callable[..., Item]]:
    """Decorator for a function `(name, material, **options) -> Item`."""
    return KINDS.decorator(name)


def body(name: str, *parts: str) -> str:
    """A `<body>` of some parts."""
    return f'<body name="{name}">{"".join(parts)}</body>'


def numbers(*values: Any) -> str:
    """Numbers as MuJoCo's attributes hold them."""
    return " ".join(f"{float(value):.6g}" for value in values)
