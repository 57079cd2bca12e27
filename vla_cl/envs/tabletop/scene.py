"""The declaration of a scene: what stands where, and what is to become true."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from vla_cl.envs.tabletop.checks import as_numbers, as_range, check_name, check_scene
from vla_cl.envs.tabletop.item import COLOURS, KINDS, Item, Material
from vla_cl.envs.tabletop.predicates import PREDICATES
from vla_cl.errors import ConfigurationError, UnknownNameError, VlaClError

_CALL = re.compile(r"\s*(not\s+)?([a-z_]+)\s*\(\s*([^()]*?)\s*\)\s*")
_SURFACES = ("table", "top", "inside")


@dataclass(frozen=True)
class Region:
    """Where a thing may start.

    Args:
        x, y: Ranges of its origin in metres, from the middle of the table or of `of`. +x leads away from the robot,
            towards the camera; +y to the right as the camera sees it.
        of: A fixture that the ranges are relative to; "" is the table.
        surface: "table", or the "top" or the "inside" of `of`.
        yaw: Range of its turn about the vertical, in radians.
    """

    x: tuple[float, float]
    y: tuple[float, float]
    of: str = ""
    surface: str = "table"
    yaw: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        for axis in ("x", "y", "yaw"):
            object.__setattr__(self, axis, as_range(axis, getattr(self, axis)))
        if self.surface not in _SURFACES:
            raise UnknownNameError("surface", self.surface, _SURFACES)
        if self.surface != "table" and not self.of:
            raise ConfigurationError(f"the surface {self.surface!r} must say of which fixture")


@dataclass(frozen=True)
class Thing:
    """One thing of a scene.

    Args:
        kind: Name in `KINDS`.
        colour: Name in `COLOURS`.
        region: Where it starts, or several regions, of which each episode draws one.
        options: Arguments of its kind.
        start: Where its mechanism starts, a number or a range, if not where its kind says.
        phrase: What instructions call it; by default colour and kind.
    """

    kind: str
    region: tuple[Region, ...]
    colour: str = "grey"
    options: Mapping[str, Any] = field(default_factory=dict)
    start: tuple[float, float] | None = None
    phrase: str = ""

    @property
    def called(self) -> str:
        """What instructions call it."""
        return self.phrase or f"{self.colour} {self.kind}"


@dataclass(frozen=True)
class Condition:
    """A predicate applied to things of the scene: `on(red_cube, plate)`, `not open(cabinet)`."""

    predicate: str
    arguments: tuple[str, ...]
    negated: bool = False

    @classmethod
    def parse(cls, text: object) -> Condition:
        """Read `on(a, b)`.

        Raises:
            ConfigurationError: It is not of that form.
            UnknownNameError: There is no such predicate.
        """
        match = _CALL.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            torn = isinstance(text, str) and "(" in text and ")" not in text
            hint = "; inside [ ], YAML splits at commas: put it in quotes" if torn else ""
            raise ConfigurationError(f"condition {text!r} is not of the form predicate(thing, ...){hint}")
        negation, predicate, arguments = match.groups()
        if predicate not in PREDICATES:
            raise UnknownNameError("predicate", predicate, PREDICATES)
        names = tuple(name.strip() for name in arguments.split(","))
        expected = PREDICATES[predicate].arity
        if len(names) != expected:
            raise ConfigurationError(f"condition {text!r} needs {expected} things, got {len(names)}")
        return cls(predicate, names, bool(negation))

    def __str__(self) -> str:
        return f"{'not ' if self.negated else ''}{self.predicate}({', '.join(self.arguments)})"


@dataclass(frozen=True)
class Dynamics:
    """Factors on the scene's physics: what `tabletop_dynamics` shifts."""

    friction: float = 1.0
    mass: float = 1.0
    damping: float = 1.0

    def __post_init__(self) -> None:
        for entry in fields(self):
            if not 0.05 <= getattr(self, entry.name) <= 20:
                raise ConfigurationError(f"dynamics.{entry.name} must be 0.05 to 20, got {getattr(self, entry.name)}")


@dataclass(frozen=True)
class Camera:
    """A fixed camera.

    Args:
        position, target: Where it stands and what it looks at (3,), in metres from the middle of the table's top.
        field_of_view: Vertical, in degrees.
    """

    position: tuple[float, float, float] = (0.8, 0.0, 0.8)
    target: tuple[float, float, float] = (-0.1, -0.03, 0.0)
    field_of_view: float = 46.0

    def __post_init__(self) -> None:
        for end in ("position", "target"):
            point = as_numbers(end, getattr(self, end))
            if len(point) != 3:
                raise ConfigurationError(f"{end} must be [x, y, z], got {list(point)}")
            object.__setattr__(self, end, point)
        if math.dist(self.position, self.target) < 0.01:
            raise ConfigurationError(f"target must be away from the camera's position {list(self.position)}")
        if not 1 <= self.field_of_view <= 170:
            raise ConfigurationError(f"field_of_view must be 1 to 170 degrees, got {self.field_of_view}")


@dataclass(frozen=True)
class Scene:
    """Things on a table and a goal.

    Args:
        things: Objects and fixtures by name.
        goal: Conditions that must hold at once.
        referents: What tells a thing from look-alikes that are called the same: its name, and a condition that starts
            with it, and that holds for it and for none of them at the start.
        dynamics: Factors on the physics.
        camera: Of the view "agentview".
        steps: What becomes true one after the other on the way to the goal; the goal itself by default.

    Raises:
        ConfigurationError, UnknownNameError: Something that it names does not exist or cannot be.
    """

    things: Mapping[str, Thing]
    goal: tuple[Condition, ...]
    referents: Mapping[str, Condition] = field(default_factory=dict)
    dynamics: Dynamics = Dynamics()
    camera: Camera = Camera()
    steps: tuple[Condition, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", self.steps or self.goal)
        if not self.goal:
            raise ConfigurationError("the scene's goal is empty; name at least one condition")
        for name in self.things:
            check_name(name)
        check_scene(self, self.items())

    def items(self) -> dict[str, Item]:
        """What every thing is made of.

        Raises:
            UnknownNameError: No such kind or colour.
            ConfigurationError: A kind does not take an option.
        """
        items = {}
        for name, thing in self.things.items():
            if thing.kind not in KINDS:
                raise UnknownNameError(f"kind of {name!r}", str(thing.kind), KINDS)
            if thing.colour not in COLOURS:
                raise UnknownNameError(f"colour of {name!r}", str(thing.colour), COLOURS)
            material = Material(COLOURS[thing.colour], **asdict(self.dynamics))
            try:
                items[name] = KINDS[thing.kind](name, material, **thing.options)
            except (TypeError, ValueError) as error:
                raise ConfigurationError(f"thing {name!r} cannot be a {thing.kind}: {error}") from error
            if not min(items[name].bounds.half) > 0:
                raise ConfigurationError(f"thing {name!r} has no size; options must be above 0: {dict(thing.options)}")
        return items

    @classmethod
    def from_mapping(cls, declaration: Mapping[str, Any]) -> Scene:
        """Read a scene from plain data, as a YAML file holds it; `to_mapping` writes it.

        Raises:
            ConfigurationError, UnknownNameError: A key or value cannot be used; the message says which and where.
        """
        _check_keys("scene", _mapping("a scene", declaration), [entry.name for entry in fields(cls)])
        things = {}
        for name, entry in _mapping("things", declaration.get("things")).items():
            where = f"things.{name}"
            entry = dict(_mapping(where, entry))
            _check_keys(where, entry, [item.name for item in fields(Thing)])
            if "kind" not in entry or "region" not in entry:
                raise ConfigurationError(f"{where} needs a kind and a region")
            regions = entry.pop("region")
            regions = regions if isinstance(regions, (list, tuple)) else [regions]
            start = entry.pop("start", None)
            things[name] = Thing(
                region=tuple(_build(Region, f"{where}.region", region) for region in regions),
                start=None if start is None else as_range(f"{where}.start", start),
                **entry,
            )
        return cls(
            things=things,
            goal=_conditions("goal", declaration.get("goal")),
            steps=_conditions("steps", declaration.get("steps")),
            referents={
                name: Condition.parse(text)
                for name, text in _mapping("referents", declaration.get("referents", {})).items()
            },
            dynamics=_build(Dynamics, "dynamics", declaration.get("dynamics", {})),
            camera=_build(Camera, "camera", declaration.get("camera", {})),
        )

    def to_mapping(self) -> dict[str, Any]:
        """Plain data that `from_mapping` reads."""
        things = {
            name: {key: value for key, value in asdict(thing).items() if value is not None}
            for name, thing in self.things.items()
        }
        return {
            "things": things,
            "goal": [str(condition) for condition in self.goal],
            "referents": {name: str(condition) for name, condition in self.referents.items()},
            "dynamics": asdict(self.dynamics),
            "camera": asdict(self.camera),
            "steps": [str(condition) for condition in self.steps],
        }


def _conditions(where: str, texts: Any) -> tuple[Condition, ...]:
    """From one condition, a list of them, or nothing."""
    listed = [texts] if isinstance(texts, str) else texts or ()
    if not isinstance(listed, (list, tuple)):
        raise ConfigurationError(f"{where} must be a condition or a list of conditions, got {texts!r}")
    return tuple(Condition.parse(text) for text in listed)


def _mapping(where: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"{where} must map names to values, got {value!r}")
    return value


def _check_keys(where: str, entry: Mapping[str, Any], known: list[str]) -> None:
    for key in entry:
        if key not in known:
            raise UnknownNameError(f"key of {where}", str(key), known)


def _build(kind: Any, where: str, entry: Any) -> Any:
    _check_keys(where, _mapping(where, entry), [item.name for item in fields(kind)])
    try:
        return kind(**entry)
    except (TypeError, ValueError, VlaClError) as error:
        raise ConfigurationError(f"{where} cannot be used: {error}") from error
