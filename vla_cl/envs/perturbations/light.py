"""Another hour of the day, another lamp."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from vla_cl.envs.mujoco_import import import_mujoco
from vla_cl.envs.perturbations.base import PERTURBATIONS, Perturbation
from vla_cl.envs.perturbations.changes import Changes
from vla_cl.envs.perturbations.rotations import about_vertical
from vla_cl.errors import ConfigurationError

if TYPE_CHECKING:
    from vla_cl.envs.base import ManipulationEnv

_TINT = 0.5
"""How far a colour channel of the light may be off, as a share of the strength."""

_TURN = np.deg2rad(120.0)
"""By how much lamps go round the scene at a strength of 1."""

_PARTS = ("ambient", "diffuse", "specular")


@PERTURBATIONS.decorator("light")
class Light(Perturbation):
    """All lights are dimmed or brightened by a share of themselves and tinted, and lamps go round the scene."""

    levels: ClassVar = {"small": 0.25, "medium": 0.5, "large": 0.75}
    unit: ClassVar = "share of the brightness"
    largest: ClassVar = 0.95
    is_seen: ClassVar = True

    def check(self, env: ManipulationEnv) -> None:
        """There must be a model, whose lights they are."""
        if env.model is None:
            raise ConfigurationError("it is not simulated by MuJoCo, whose lights would be changed")

    def dress(self, env: ManipulationEnv, changes: Changes, generator: np.random.Generator) -> None:
        """Change the headlight and the lights of the model."""
        share, model = float(self.strength), env.model
        brightness = 1.0 + share * generator.choice([-1.0, 1.0])
        tint = 1.0 + _TINT * share * generator.uniform(-1.0, 1.0, 3)
        turn = generator.choice([-1.0, 1.0]) * share * _TURN
        factors = brightness * tint / tint.mean()
        for part in _PARTS:
            changes.write(f"vis.headlight.{part}", ..., getattr(model.vis.headlight, part) * factors)
        if model.nlight:
            for part in _PARTS:
                changes.write(f"light_{part}", ..., getattr(model, f"light_{part}") * factors)
        fixed = int(import_mujoco().mjtCamLight.mjCAMLIGHT_FIXED)
        still = np.flatnonzero((model.light_bodyid == 0) & (model.light_mode == fixed))
        if len(still):
            rotation = about_vertical(turn)
            centre = np.array(model.stat.center)
            changes.write("light_pos", still, (model.light_pos[still] - centre) @ rotation.T + centre)
            changes.write("light_dir", still, model.light_dir[still] @ rotation.T)
        changes.update()
