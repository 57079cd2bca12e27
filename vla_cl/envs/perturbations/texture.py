"""Another table, another floor, other walls."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from vla_cl.envs.mujoco_import import import_mujoco
from vla_cl.envs.perturbations.base import PERTURBATIONS, Perturbation
from vla_cl.envs.perturbations.changes import Changes
from vla_cl.envs.perturbations.colours import random_colour
from vla_cl.envs.surroundings import surface_colours, surrounding_geoms
from vla_cl.errors import ConfigurationError

if TYPE_CHECKING:
    from vla_cl.envs.base import ManipulationEnv

_NO_MATERIAL = -1
_COLOURS = {"saturation": (0.15, 0.8), "value": (0.3, 0.95)}


@PERTURBATIONS.decorator("texture")
class Texture(Perturbation):
    """The surroundings (table, floor, walls) are repainted; the robot and the task's things keep their looks.

    At a strength below 1 each surface keeps its texture, tinted. At 1 it takes the texture of another surface of the
    scene, or none, at random.
    """

    levels: ClassVar = {"small": 0.3, "medium": 0.6, "large": 1.0}
    unit: ClassVar = "share of the new colour"
    largest: ClassVar = 1.0
    is_seen: ClassVar = True

    def check(self, env: ManipulationEnv) -> None:
        """Something that is seen must be neither robot nor one of the task's things."""
        if env.model is None:
            raise ConfigurationError("it is not simulated by MuJoCo, whose surfaces would be repainted")
        if not surrounding_geoms(env).any():
            raise ConfigurationError("the scene has no table, floor or wall that is drawn")

    def dress(self, env: ManipulationEnv, changes: Changes, generator: np.random.Generator) -> None:
        """Paint each part in a colour of its own; the same part is what one body has of one material."""
        model, share = env.model, float(self.strength)
        colours, around = surface_colours(model), np.flatnonzero(surrounding_geoms(env))
        parts = np.unique(np.stack([model.geom_bodyid[around], model.geom_matid[around]], axis=1), axis=0)
        bodies, materials = model.geom_bodyid[around].copy(), model.geom_matid[around].copy()
        patterns = _patterned_materials(model)
        for body, material in parts:
            geoms = around[(bodies == body) & (materials == material)]
            colour, pattern = random_colour(generator, **_COLOURS), int(generator.integers(-1, len(patterns)))
            if share == 1.0 and len(patterns):
                material = patterns[pattern] if pattern >= 0 else _NO_MATERIAL
                colour = (colour + 1.0) / 2.0 if pattern >= 0 else colour
            painted = colours[geoms]
            painted[:, :3] += share * (colour - painted[:, :3])
            changes.write("geom_rgba", geoms, painted)
            changes.write("geom_matid", geoms, material)


def _patterned_materials(model: object) -> NDArray[np.intp]:
    """The materials that have a flat texture."""
    mujoco = import_mujoco()
    textures = model.mat_texid[:, int(mujoco.mjtTextureRole.mjTEXROLE_RGB)]  # type: ignore[attr-defined]
    flat = np.append(model.tex_type == mujoco.mjtTexture.mjTEXTURE_2D, False)  # type: ignore[attr-defined]
    return np.flatnonzero(flat[textures])
