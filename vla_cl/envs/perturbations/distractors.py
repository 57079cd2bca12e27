"""Things that have nothing to do with the task."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from vla_cl.envs.decorations import Decoration
from vla_cl.envs.mujoco_import import import_mujoco
from vla_cl.envs.perturbations.base import PERTURBATIONS, Perturbation
from vla_cl.envs.perturbations.changes import Changes
from vla_cl.envs.perturbations.colours import random_colour
from vla_cl.envs.perturbations.rotations import about_vertical
from vla_cl.envs.perturbations.views import View, still_views
from vla_cl.envs.surroundings import cast, surrounding_geoms
from vla_cl.errors import ConfigurationError

if TYPE_CHECKING:
    from vla_cl.envs.base import ManipulationEnv

_TRIES_EACH = 60
_MARGIN = 0.9
"""Of half the picture: how far from its middle things may stand."""

_FARTHEST = 1.4
"""How far from the camera, in units of its distance to what it looks at."""

_SIZES = (0.02, 0.04)
"""Half width of things, in the same units."""

_CLEAR = 0.6
"""Room around a thing, in units of its half width."""

_UNEVEN = 0.1
"""How uneven the ground may be, in the same units."""

_HEADROOM = 0.3
"""How far above the ground the way must be free, in units of the camera's distance."""

_DOWN = np.array([0.0, 0.0, -1.0])


@PERTURBATIONS.decorator("distractors")
class Distractors(Perturbation):
    """Simple coloured things stand about where the first camera that stands still sees them, clear of the task's own.

    They are drawn and not simulated, so what they cost is due to seeing them alone: nothing is pushed away, and the
    scripted expert does as well as without. Where there is room for fewer, there are fewer.
    """

    levels: ClassVar = {"small": 3.0, "medium": 6.0, "large": 12.0}
    unit: ClassVar = "things"
    largest: ClassVar = 50.0
    whole: ClassVar = True
    is_seen: ClassVar = True

    def check(self, env: ManipulationEnv) -> None:
        """A camera must stand still, and see a free place."""
        if not self._placed(env, np.random.default_rng(0)):
            raise ConfigurationError("nothing can be put where its cameras see it: there is no level free place")

    def dress(self, env: ManipulationEnv, changes: Changes, generator: np.random.Generator) -> None:
        """Have them drawn."""
        for thing in self._placed(env, generator):
            changes.decorate(thing)

    def _placed(self, env: ManipulationEnv, generator: np.random.Generator) -> list[Decoration]:
        if env.renderer is None:
            raise ConfigurationError("its pictures are not drawn by this package")
        view, around = still_views(env)[0], surrounding_geoms(env)
        things: list[Decoration] = []
        for _ in range(int(self.strength)):
            for _ in range(_TRIES_EACH):
                radius = view.distance * generator.uniform(*_SIZES)
                ground = _free_place(env, view, around, radius, things, generator)
                if ground is not None:
                    things.append(_thing(ground, radius, generator))
                    break
        return things


def _free_place(
    env: ManipulationEnv,
    view: View,
    around: NDArray[np.bool_],
    radius: float,
    things: list[Decoration],
    generator: np.random.Generator,
) -> NDArray[np.float64] | None:
    """A point (3,) of level ground that the camera sees somewhere in its picture; None if there is something there."""
    slope = np.tan(np.deg2rad(env.model.cam_fovy[view.camera]) / 2)
    across, up = slope * generator.uniform(-_MARGIN, _MARGIN, 2)
    direction = view.frame @ np.array([across, up, -1.0])
    direction /= np.linalg.norm(direction)
    geom, distance = cast(env, view.position, direction)
    if geom < 0 or not around[geom] or distance > _FARTHEST * view.distance:
        return None
    place: NDArray[np.float64] = view.position + distance * direction
    clear = radius * (1.0 + _CLEAR)
    if any(np.linalg.norm(place[:2] - thing.position[:2]) < clear + thing.size[:2].max() for thing in things):
        return None
    height = _HEADROOM * view.distance
    angles = np.arange(8) * np.pi / 4
    ring = [clear * np.array([np.cos(angle), np.sin(angle), 0.0]) for angle in angles]
    for offset in (np.zeros(3), *ring, *(each / 2 for each in ring)):
        below, depth = cast(env, place + offset - height * _DOWN, _DOWN)
        if below < 0 or not around[below] or abs(depth - height) > _UNEVEN * radius:
            return None
    return place


def _thing(ground: NDArray[np.float64], radius: float, generator: np.random.Generator) -> Decoration:
    """A box, cylinder, ball, capsule or egg that stands on the ground."""
    kind = import_mujoco().mjtGeom
    shape = (kind.mjGEOM_BOX, kind.mjGEOM_CYLINDER, kind.mjGEOM_SPHERE, kind.mjGEOM_CAPSULE, kind.mjGEOM_ELLIPSOID)[
        int(generator.integers(5))
    ]
    half = radius * generator.uniform(0.7, 1.6)
    width = radius * (np.sqrt(0.5) if shape == kind.mjGEOM_BOX else 1.0)
    sizes = {
        kind.mjGEOM_BOX: (width, width * generator.uniform(0.5, 1.0), half),
        kind.mjGEOM_CYLINDER: (width, half, 0.0),
        kind.mjGEOM_SPHERE: (width, 0.0, 0.0),
        kind.mjGEOM_CAPSULE: (width / 2, half, 0.0),
        kind.mjGEOM_ELLIPSOID: (width, width, half),
    }
    heights = {kind.mjGEOM_SPHERE: width, kind.mjGEOM_CAPSULE: half + width / 2}
    rotation = about_vertical(generator.uniform(0.0, np.pi))
    colour = np.append(random_colour(generator, (0.6, 1.0), (0.5, 1.0)), np.float32(1.0))
    position = ground + np.array([0.0, 0.0, heights.get(shape, half)])
    return Decoration(int(shape), np.array(sizes[shape]), position, rotation, colour)
