"""Cameras that stand still: which of an environment's they are, and what they look at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vla_cl.envs.mujoco_import import import_mujoco
from vla_cl.envs.surroundings import cast, stands_still
from vla_cl.errors import ConfigurationError

if TYPE_CHECKING:
    from vla_cl.envs.base import ManipulationEnv


@dataclass(frozen=True, eq=False)
class View:
    """What a camera that stands still sees now.

    Args:
        camera: Its number in the model.
        position: (3,) in metres, in the world.
        frame: (3, 3), as columns its axes to the right, up and backwards.
        distance: From it to what is in the middle of its picture, in metres.
    """

    camera: int
    position: NDArray[np.float64]
    frame: NDArray[np.float64]
    distance: float

    @property
    def target(self) -> NDArray[np.float64]:
        """What is in the middle of its picture (3,)."""
        looked_at: NDArray[np.float64] = self.position - self.distance * self.frame[:, 2]
        return looked_at


def still_views(env: ManipulationEnv) -> list[View]:
    """The views of the environment's cameras that are cameras of its model and fixed to the world.

    Raises:
        ConfigurationError: There is none.
    """
    fixed = int(import_mujoco().mjtCamLight.mjCAMLIGHT_FIXED)
    views = []
    for name in env.cameras:
        camera = env.model_camera(name) if env.model is not None else None
        if camera is None or env.model.cam_mode[camera] != fixed:
            continue
        if stands_still(env.model, int(env.model.cam_bodyid[camera])):
            views.append(_view(env, camera))
    if not views:
        seen = ", ".join(env.cameras)
        raise ConfigurationError(f"none of the cameras that are seen ({seen}) is one that stands still in its model")
    return views


def _view(env: ManipulationEnv, camera: int) -> View:
    position, frame = np.array(env.data.cam_xpos[camera]), np.array(env.data.cam_xmat[camera]).reshape(3, 3)
    geom, distance = cast(env, position, -frame[:, 2])
    return View(camera, position, frame, distance if geom >= 0 else float(env.model.stat.extent))
