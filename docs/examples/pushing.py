"""A new task in one file: a hand pushes a puck to the left or to the right edge of a table."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from vla_cl.envs import BACKENDS, EnvironmentSpec, ManipulationEnv
from vla_cl.envs.rendering import Renderer
from vla_cl.tasks import EXPERTS, Task, TaskSuite, register_suite

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
PHYSICS_STEPS = 10  # of 5 ms: 20 control steps a second
EDGE = 0.2  # metres from the middle


class PushingEnv(ManipulationEnv):
    """Solved once the puck is past the edge on the side where `direction` (-1 left, +1 right) points."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}
    default_cameras = ("top", "side")

    def __init__(self, spec: EnvironmentSpec, render_mode: str | None = None, *, direction: int) -> None:
        import mujoco

        super().__init__(spec, render_mode)
        self.mujoco, self.direction = mujoco, direction
        self.model = mujoco.MjModel.from_xml_string(SCENE)
        self.data = mujoco.MjData(self.model)
        self.renderer = Renderer(self.model, spec.rendering, scene="pushing")
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.observation_space = self.build_observation_space()

    def reset_simulation(self, seed: int) -> None:
        self.mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:] = np.random.default_rng(seed).uniform([-0.15, 0, -0.08, -0.05], [0.15, 0, 0.08, 0.05])
        self.mujoco.mj_forward(self.model, self.data)

    def simulate(self, action: NDArray[np.float32]) -> tuple[float, bool, dict[str, Any]]:
        self.data.ctrl[:] = SPEED * action
        self.mujoco.mj_step(self.model, self.data, nstep=PHYSICS_STEPS)
        self.mujoco.mj_forward(self.model, self.data)
        progress = float(self.direction * self.data.body("puck").xpos[0])
        return progress, progress > EDGE, {}

    def agent_pos(self) -> NDArray[np.float32]:
        return self.data.body("hand").xpos[:2].astype(np.float32)

    def environment_state(self) -> NDArray[np.float64]:
        return np.concatenate([self.data.body("hand").xpos[:2], self.data.body("puck").xpos[:2]])

    def render_camera(self, camera: str, height: int, width: int) -> NDArray[np.uint8]:
        return self.renderer.draw(self.data, camera, height, width)

    def get_state(self) -> NDArray[np.float64]:
        kind = self.mujoco.mjtState.mjSTATE_INTEGRATION
        physics = np.empty(self.mujoco.mj_stateSize(self.model, kind))
        self.mujoco.mj_getState(self.model, self.data, physics, kind)
        return np.concatenate([[self.elapsed_steps], physics])

    def set_state(self, state: NDArray[np.float64]) -> None:
        self.mujoco.mj_setState(self.model, self.data, state[1:], self.mujoco.mjtState.mjSTATE_INTEGRATION)
        self.mujoco.mj_forward(self.model, self.data)
        self.elapsed_steps = int(state[0])


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


BACKENDS.register("pushing", PushingEnv)
EXPERTS.register("pushing", PushingExpert)


def pushing_task(side: str, direction: int) -> Task:
    """One of the two tasks."""
    return Task(
        name=f"push-{side}",
        instruction=f"push the puck to the {side}",
        paraphrases=(f"move the red puck over to the {side}", f"shove the puck towards the {side} edge"),
        held_out_paraphrases=(f"the puck belongs on the {side}",),
        horizon=80,
        backend="pushing",
        arguments={"direction": direction},
        expert="pushing",
    )


@register_suite("pushing")
def pushing() -> TaskSuite:
    """Two tasks that contradict each other."""
    tasks = (pushing_task("left", -1), pushing_task("right", 1))
    return TaskSuite(name="pushing", tasks=tasks, description="a puck, to the left and to the right")
