"""Things that stand elsewhere than they ever did."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from vla_cl.envs.perturbations.base import PERTURBATIONS, Perturbation
from vla_cl.errors import ConfigurationError

if TYPE_CHECKING:
    from vla_cl.envs.base import ManipulationEnv

_RADIANS_A_METRE = 10.0
"""How far a thing is turned for each metre that it is moved: 6 degrees a centimetre."""


@PERTURBATIONS.decorator("object_pose")
class ObjectPose(Perturbation):
    """The task's things are moved from where the reset puts them, and turned, as far as there is room."""

    levels: ClassVar = {"small": 0.02, "medium": 0.05, "large": 0.1}
    unit: ClassVar = "metres"
    largest: ClassVar = 0.5

    def check(self, env: ManipulationEnv) -> None:
        """There must be something to move."""
        if env.model is None:
            raise ConfigurationError("it is not simulated by MuJoCo, whose bodies would be moved")
        self.start(env, np.random.default_rng(0))

    def start(self, env: ManipulationEnv, generator: np.random.Generator) -> None:
        """Move them."""
        distance = float(self.strength)
        env.displace(generator, distance, min(_RADIANS_A_METRE * distance, np.pi))
