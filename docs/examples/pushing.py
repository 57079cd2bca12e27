"""A new task in one file: a hand pushes a puck to the left or to the right edge of a table."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vla_cl.envs import MujocoTaskEnv
from vla_cl.tasks import register_task

SCENE = """
<mujoco>
  <option timestep="0.005" integrator="implicitfast"/>
  <worldbody>
    <light pos="0 0 2" dir="0 0 -1" diffuse="0.4 0.4 0.4" specular="0 0 0"/>
    <camera name="top" pos="0 0 1" fovy="50"/>
    <camera name="side" pos="0 -0.8 0.5" xyaxes="1 0 0 0 0.53 0.85"/>
    <geom type="plane" size="0.4 0.4 0.1" rgba="0.9 0.9 0.85 1" contype="0" conaffinity="0"/>
    <body name="hand" pos="0 -0.25 0.03">
      <joint name="hand_x" type="slide" axis="1 0 0" damping="1"/>
      <joint name="hand_y" type="slide" axis="0 1 0" damping="1"/>
      <geom type="cylinder" size="0.02 0.03" rgba="0.2 0.3 0.8 1" mass="0.5"/>
    </body>
    <body name="puck" pos="0 0 0.02">
      <joint name="puck_x" type="slide" axis="1 0 0" damping="3"/>
      <joint name="puck_y" type="slide" axis="0 1 0" damping="3"/>
      <geom type="cylinder" size="0.04 0.02" rgba="0.8 0.2 0.2 1" mass="0.2"/>
    </body>
  </worldbody>
  <actuator>
    <velocity joint="hand_x" kv="50"/>
    <velocity joint="hand_y" kv="50"/>
  </actuator>
</mujoco>
"""
SPEED = 0.5  # metres a second at full action
EDGE = 0.2  # metres from the middle


class PushingExpert:
    """Go beside the puck, then behind it, then push. A function of the state alone."""

    def reset(self, env: PushingEnv, generator: np.random.Generator) -> None:
        """Nothing to prepare."""

    def act(self, env: PushingEnv) -> NDArray[np.float32]:
        hand, puck = np.split(env.environment_state(), 2)
        beside = puck[0] - env.direction * 0.1
        if abs(puck[1] - hand[1]) < 0.03 and env.direction * (puck[0] - hand[0]) > 0:
            velocity = np.array([env.direction, 10 * (puck[1] - hand[1])])
        elif abs(beside - hand[0]) > 0.01:
            velocity = np.array([10 * (beside - hand[0]), 0.0])
        else:
            velocity = np.array([0.0, 10 * (puck[1] - hand[1])])
        return np.clip(velocity, -1.0, 1.0).astype(np.float32)


@register_task(
    "push-right",
    suite="pushing",
    instruction="push the puck to the right",
    paraphrases=("move the red puck over to the right", "shove the puck towards the right edge"),
    held_out_paraphrases=("the puck belongs on the right",),
    horizon=80,
    expert=PushingExpert,
    direction=1,
)
@register_task(
    "push-left",
    suite="pushing",
    instruction="push the puck to the left",
    paraphrases=("move the red puck over to the left", "shove the puck towards the left edge"),
    held_out_paraphrases=("the puck belongs on the left",),
    horizon=80,
    expert=PushingExpert,
    direction=-1,
)
class PushingEnv(MujocoTaskEnv):
    """Solved once the puck is past the edge on the side where `direction` (-1 left, +1 right) points."""

    scene = SCENE
    action_size = 2
    default_cameras = ("top", "side")
    direction = 1

    def initialise(self, generator: np.random.Generator) -> None:
        self.data.qpos[:] = generator.uniform([-0.15, 0, -0.08, -0.05], [0.15, 0, 0.08, 0.05])

    def apply(self, action: NDArray[np.float32]) -> None:
        self.data.ctrl[:] = SPEED * action

    def success(self) -> bool:
        return bool(self.direction * self.data.body("puck").xpos[0] > EDGE)

    def proprioception(self) -> NDArray[np.float64]:
        return self.data.body("hand").xpos[:2]

    def privileged_state(self) -> NDArray[np.float64]:
        return np.concatenate([self.data.body("hand").xpos[:2], self.data.body("puck").xpos[:2]])
