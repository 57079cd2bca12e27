"""A camera that was set up elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from vla_cl.envs.mujoco_import import import_mujoco
from vla_cl.envs.perturbations.base import PERTURBATIONS, Perturbation
from vla_cl.envs.perturbations.changes import Changes
from vla_cl.envs.perturbations.rotations import about_vertical, rotation
from vla_cl.envs.perturbations.views import View, still_views
from vla_cl.envs.surroundings import cast

if TYPE_CHECKING:
    from vla_cl.envs.base import ManipulationEnv

_TRIES = 30
_DISTANCE_SHARE = 1 / 150
"""By how much of its distance a camera comes nearer or goes away, for each degree."""

_LOWEST = 0.15
"""Of its distance: how high above what it looks at a camera stays."""

_UNOBSTRUCTED = 0.7
"""Share of the way to what it looks at on which nothing may stand."""


@PERTURBATIONS.decorator("camera")
class Camera(Perturbation):
    """Cameras that stand still go round what they look at, up or down, and nearer or away; those on the hand stay."""

    levels: ClassVar = {"small": 5.0, "medium": 15.0, "large": 30.0}
    unit: ClassVar = "degrees"
    largest: ClassVar = 90.0
    is_seen: ClassVar = True

    def check(self, env: ManipulationEnv) -> None:
        """One camera at least must stand still."""
        still_views(env)

    def dress(self, env: ManipulationEnv, changes: Changes, generator: np.random.Generator) -> None:
        """Put each of them on another place, from which it looks at the same point."""
        mujoco, model, data = import_mujoco(), env.model, env.data
        for view in still_views(env):
            position, frame = self._elsewhere(env, view, generator)
            body = model.cam_bodyid[view.camera]
            to_body = data.xmat[body].reshape(3, 3).T
            quaternion = np.empty(4)
            mujoco.mju_mat2Quat(quaternion, (to_body @ frame).ravel())
            changes.write("cam_pos", view.camera, to_body @ (position - data.xpos[body]))
            changes.write("cam_quat", view.camera, quaternion)
        changes.update()

    def _elsewhere(
        self, env: ManipulationEnv, view: View, generator: np.random.Generator
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Position (3,) and frame (3, 3): the first one drawn that is not below or behind something, else the last."""
        degrees, target = float(self.strength), view.target
        for _ in range(_TRIES):
            bearing, nearer = generator.uniform(0.0, 2.0 * np.pi), generator.uniform(-1.0, 1.0)
            round_it, over_it = np.deg2rad(degrees) * np.array([np.cos(bearing), np.sin(bearing)])
            turn = about_vertical(round_it) @ rotation(view.frame[:, 0], over_it)
            distance = view.distance * (1.0 + nearer * degrees * _DISTANCE_SHARE)
            frame = turn @ view.frame
            position = target + distance * frame[:, 2]
            lowest = min(view.position[2], target[2] + _LOWEST * distance)
            geom, reach = cast(env, position, -frame[:, 2])
            if position[2] >= lowest and (geom < 0 or reach >= _UNOBSTRUCTED * distance):
                break
        return position, frame
