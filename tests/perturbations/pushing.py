"""A plug-in: a puck on a table, and a perturbation of its own. Loaded by name, as a user's module is."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from vla_cl.envs import BACKENDS, MujocoTaskEnv
from vla_cl.envs.perturbations import PERTURBATIONS, Perturbation

SCENE = """
<mujoco>
  <asset>
    <texture name="checks" type="2d" builtin="checker" width="32" height="32" rgb1="1 0 0" rgb2="0 0 1"/>
    <material name="checked" texture="checks"/>
  </asset>
  <worldbody>
    <light name="lamp" pos="1 0 2" dir="-0.4 0 -1"/>
    <camera name="above" pos="0.8 0 0.8" xyaxes="0 1 0 -0.7071 0 0.7071"/>
    <geom name="table" type="box" size="0.5 0.5 0.05" pos="0 0 -0.05" material="checked"/>
    <body name="puck" pos="0 0 0.02">
      <freejoint/>
      <geom name="puck" type="cylinder" size="0.03 0.02" rgba="0 0.8 0 1" mass="0.2"/>
    </body>
    <body name="hand" pos="-0.2 0 0.05">
      <joint name="x" type="slide" axis="1 0 0" damping="5"/>
      <joint name="y" type="slide" axis="0 1 0" damping="5"/>
      <geom name="hand" type="sphere" size="0.03" rgba="0.2 0.2 0.2 1"/>
    </body>
  </worldbody>
  <actuator><motor joint="x" gear="5"/><motor joint="y" gear="5"/></actuator>
</mujoco>
"""


class PerturbedPushing(MujocoTaskEnv):
    """Push the puck beyond x = 0.3."""

    scene = SCENE
    action_size = 2
    default_cameras = ("above",)

    def initialise(self, generator: np.random.Generator) -> None:
        self.data.qpos[:2] = generator.uniform(-0.1, 0.1, 2)

    def apply(self, action: NDArray[np.float32]) -> None:
        self.data.ctrl[:] = action

    def success(self) -> bool:
        return bool(self.data.body("puck").xpos[0] > 0.3)

    def proprioception(self) -> NDArray[np.float64]:
        return np.array(self.data.body("hand").xpos)


BACKENDS.register("perturbed_pushing", PerturbedPushing)


@PERTURBATIONS.decorator("upside_down")
class UpsideDown(Perturbation):
    """The camera hangs on its head."""

    levels: ClassVar = {"medium": 1.0}
    is_seen: ClassVar = True

    def seen(self, image: NDArray[np.uint8], generator: np.random.Generator) -> Any:
        """The image, turned by half a turn."""
        return np.ascontiguousarray(image[::-1, ::-1])
