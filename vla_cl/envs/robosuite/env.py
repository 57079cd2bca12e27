"""robosuite's environments behind the environment contract."""

from __future__ import annotations

import hashlib
import logging
from collections import deque
from collections.abc import Mapping
from typing import Any, ClassVar

import gymnasium
import numpy as np
from numpy.typing import NDArray

from vla_cl.envs.base import BACKENDS, UNSTABLE, EnvironmentSpec, ManipulationEnv
from vla_cl.envs.mujoco_import import import_mujoco, instability_counters
from vla_cl.envs.rendering import Renderer
from vla_cl.envs.robosuite.build import (
    CONTROL_FREQUENCY,
    build_raw,
    free_stuck_joints,
    physics_steps,
    reseed,
    robots_not_compiled_alone,
)
from vla_cl.envs.robosuite.control import ArmControl, ControlRules
from vla_cl.envs.robosuite.pose import GripperPose
from vla_cl.envs.robosuite.wipe import WipedMarkers
from vla_cl.errors import ConfigurationError, SimulationError, UnknownNameError

logger = logging.getLogger(__name__)

STEPPERS = ("fast", "robosuite")
OBJECT_SLOTS, JOINT_SLOTS = 8, 6
"""`environment_state` has room for this many objects' poses and fixtures' joints, zero where there are fewer."""

_COLLISION_GROUP = 0
_CAMERA_NAMES = {"wrist": "robot0_eye_in_hand"}
_ACTION_SIZE = 7
_PUT_AWAY = 5.0  # metres: robosuite drops objects that a task does not use ten metres from the table


class RobosuiteEnv(ManipulationEnv):
    """One robosuite task. The physics is robosuite's; the loop around it is faster unless asked not to be.

    Observations: `agent_pos` (7,) is the grip site's position (3) in metres, its rotation vector (3) in radians from
    pointing straight down, and the distance between the finger pads (1) in metres. `environment_state` (69,) is
    `agent_pos`, up to eight objects' positions (3) and quaternions (4, w first), and up to six fixture joints.

    Actions (7,), 20 a second: translation in units of 5 cm, rotation vector in units of 0.5 rad, both in the frame of
    the robot's base and from the present pose, and the gripper's command, which closes it when positive.

    A reset is a function of the seed alone: object placement, the arm's initial noise, and whatever the task draws.
    Success is judged on the present state, where robosuite judges on the state one physics step (2 ms) before.

    Args:
        spec: How to build it.
        render_mode: None or "rgb_array".
        environment: robosuite's name of the task ("Lift").
        robot: "Panda", "Sawyer", "UR5e", "Kinova3", "IIWA", "Jaco" or "XArm7".
        gripper: robosuite's name of a gripper, or "default".
        stepper: "fast", or "robosuite" for its own control loop.
        rebuild: Compile the model anew at each reset, as robosuite does by default (`hard_reset`).
        action_delay: Control steps that pass before an action takes effect.
        options: Further arguments of robosuite's class.
        model: robosuite's name of a model of the robot, where it is not the usual one.

    Raises:
        UnknownNameError: No such environment, robot, gripper or camera.
        ConfigurationError: An argument cannot be used.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": CONTROL_FREQUENCY}
    default_cameras: ClassVar[tuple[str, ...]] = ("agentview", "wrist")
    uniform: ClassVar[bool] = True
    control_rules: ClassVar[ControlRules] = ControlRules()
    noise_scale: ClassVar[float] = 0.25  # an action of 1 asks for 5 cm
    renderer: Renderer

    def __init__(
        self,
        spec: EnvironmentSpec,
        render_mode: str | None = None,
        *,
        environment: str,
        robot: str = "Panda",
        gripper: str = "default",
        stepper: str = "fast",
        rebuild: bool = False,
        action_delay: int = 0,
        options: Mapping[str, Any] | None = None,
        model: str = "",
    ) -> None:
        super().__init__(spec, render_mode)
        if stepper not in STEPPERS:
            raise UnknownNameError("stepper", stepper, STEPPERS)
        if action_delay < 0:
            raise ConfigurationError(f"action_delay must be 0 or more control steps, got {action_delay}")
        self._mujoco = import_mujoco()
        self._pending: deque[NDArray[np.float32]] = deque()
        self.environment, self.robot = environment, robot
        self._fast, self._rebuild, self._delay = stepper == "fast", rebuild, action_delay
        self.raw = build_raw(environment, robot, gripper, rebuild, options or {}, model)
        self._bind_model()
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (_ACTION_SIZE,), np.float32)
        self.reset_simulation(seed=0)
        self.observation_space = self.build_observation_space()

    # --- the world ---------------------------------------------------------------------------------------------

    def reset_simulation(self, seed: int) -> None:
        """robosuite's reset, with everything random drawn from `seed`."""
        if not self._rebuild:
            for name, values in self._pristine.items():
                getattr(self.model, name)[:] = values
        reseed(self.raw, seed)
        with robots_not_compiled_alone():
            self.raw.reset()
        if self._rebuild:
            self._bind_model()
        self._after_reset()

    def simulate(self, action: NDArray[np.float32]) -> tuple[float, bool, dict[str, Any]]:
        """One control step of 50 ms."""
        if self._delay:
            self._pending.append(action.copy())
            action = self._pending.popleft()
        if self._fast:
            self._control.advance(action)
        else:
            self.raw.step(np.asarray(action[: self.raw.action_dim], dtype=np.float64))
            self._mujoco.mj_step1(self.model, self.data)
        if self._instability.any():
            logger.warning("%s became unstable at step %d; the episode ends", self.environment, self.elapsed_steps)
            return 0.0, False, {"failure": UNSTABLE}
        return self.judge(action)

    def judge(self, action: NDArray[np.float32]) -> tuple[float, bool, dict[str, Any]]:
        """Reward, success and further information of the present state, right after `action`."""
        reward = float(self.raw.reward(action))
        return reward, bool(self.raw._check_success()), {}

    def is_solved(self) -> bool:
        """What robosuite says of the present state."""
        return bool(self.raw._check_success())

    def placed_bodies(self) -> NDArray[np.intp]:
        """Objects and fixtures that do not float freely."""
        return self._moved_rows["body_pos"]

    def model_camera(self, camera: str) -> int | None:
        """Which of the model's cameras it is."""
        return super().model_camera(_CAMERA_NAMES.get(camera, camera))

    def after_displacement(self) -> None:
        """What a reset ends with."""
        self._mujoco.mj_step1(self.model, self.data)

    def agent_pos(self) -> NDArray[np.float32]:
        """Position (3) of the grip site in metres, rotation vector (3) from straight down, finger opening (1)."""
        return self.gripper.proprioception().astype(np.float32)

    def environment_state(self) -> NDArray[np.float64]:
        """`agent_pos` (7), objects' poses (8 x 7) and fixtures' joint positions (6), zero where there are none."""
        state = np.zeros(7 + 7 * OBJECT_SLOTS + JOINT_SLOTS)
        state[:7] = self.gripper.proprioception()
        bodies = list(self._bodies.values())[:OBJECT_SLOTS]
        poses = state[7 : 7 + 7 * len(bodies)].reshape(-1, 7)
        poses[:, :3], poses[:, 3:] = self.data.xpos[bodies], self.data.xquat[bodies]
        poses[np.abs(poses[:, :2]).max(axis=1) > _PUT_AWAY] = 0.0
        if len(self._markers):
            state[7:10] = self.dirt().mean(axis=0) if len(self.dirt()) else 0.0
        joints = list(self._joints.values())[:JOINT_SLOTS]
        state[len(state) - JOINT_SLOTS :][: len(joints)] = self.data.qpos[joints]
        return state

    # --- what experts ask ----------------------------------------------------------------------------------------

    @property
    def base_rotation(self) -> NDArray[np.float64]:
        """Rotation matrix (3, 3) of the frame in which actions are given: the robot's base."""
        return self._control.base_rotation

    @property
    def action_delay(self) -> int:
        """Control steps that pass before an action takes effect."""
        return self._delay

    @property
    def objects(self) -> tuple[str, ...]:
        """Names of the objects and fixtures."""
        return tuple(self._bodies)

    def position(self, name: str) -> NDArray[np.float64]:
        """Where an object's body is (3,), in metres; of a site, if no object has that name."""
        if name in self._bodies:
            return np.array(self.data.xpos[self._bodies[name]])
        return np.array(self.data.site(name).xpos)

    def rotation(self, name: str) -> NDArray[np.float64]:
        """How an object's body is turned: rotation matrix (3, 3)."""
        return np.array(self.data.xmat[self._bodies[name]]).reshape(3, 3)

    def joint(self, name: str) -> float:
        """Position of a fixture's joint, in metres or radians."""
        return float(self.data.qpos[self._joints[name]])

    def joint_axis(self, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Where a fixture's joint is now: a point on its axis (3,) in metres, and the axis as a unit vector (3,)."""
        joint = self.data.joint(name)
        return np.array(joint.xanchor), np.array(joint.xaxis)

    def dirt(self) -> NDArray[np.float64]:
        """Where dirt is left to be wiped (K, 3), in metres."""
        return self._markers.dirty_positions()

    # --- saving and restoring ----------------------------------------------------------------------------------

    def get_state(self) -> NDArray[np.float64]:
        """Step counter, delayed actions, gripper's command, arm's posture, wiped dirt, model's moved parts, physics."""
        physics = np.empty(self._physics_size)
        self._mujoco.mj_getState(self.model, self.data, physics, self._mujoco.mjtState.mjSTATE_INTEGRATION)
        moved = [getattr(self.model, name)[rows].ravel() for name, rows in self._moved_rows.items()]
        return np.concatenate(
            [
                [self.elapsed_steps],
                *self._pending,
                self._control.gripper_command,
                self._control.memory,
                self._markers.get(),
                *moved,
                physics,
            ],
            dtype=np.float64,
        )

    def set_state(self, state: NDArray[np.float64]) -> None:
        """Restore what `get_state` returned.

        Raises:
            SimulationError: The vector's length is not this task's.
        """
        sizes = self._state_sizes()
        if np.shape(state) != (sum(sizes),):
            raise SimulationError(
                f"a state of {self.environment} has {sum(sizes)} numbers, got shape {np.shape(state)}"
            )
        parts = np.split(np.asarray(state, dtype=np.float64), np.cumsum(sizes)[:-1])
        counter, pending, command, memory, wiped, *moved, physics = parts
        self.elapsed_steps = int(counter[0])
        self._pending = deque(pending.astype(np.float32).reshape(self._delay, _ACTION_SIZE))
        for name, values in self._pristine.items():
            getattr(self.model, name)[:] = values
        for (name, rows), values in zip(self._moved_rows.items(), moved, strict=True):
            getattr(self.model, name)[rows] = values.reshape(len(rows), len(self._pristine[name][0]))
        self._markers.set(wiped)
        self._mujoco.mj_resetData(self.model, self.data)
        self._mujoco.mj_setState(self.model, self.data, physics, self._mujoco.mjtState.mjSTATE_INTEGRATION)
        self._mujoco.mj_step1(self.model, self.data)
        self._control.gripper_command = command
        self._control.memory = memory
        self._hand_posture_to_robosuite()

    def model_xml(self) -> str:
        """The scene as robosuite composed it; what resets move in it is part of the state."""
        return str(self.raw.model.get_xml())

    def _state_sizes(self) -> list[int]:
        moved = [len(rows) * getattr(self.model, name).shape[1] for name, rows in self._moved_rows.items()]
        control = self._control
        return [
            *(1, self._delay * _ACTION_SIZE, len(control.gripper_command), len(control.memory)),
            *(len(self._markers), *moved, self._physics_size),
        ]

    # --- images ------------------------------------------------------------------------------------------------

    def render_camera(self, camera: str, height: int, width: int) -> NDArray[np.uint8]:
        """Draw one upright image (H, W, 3) of the present state."""
        return self.renderer.draw(self.data, _CAMERA_NAMES.get(camera, camera), height, width)

    def close(self) -> None:
        """Free what drawing needed."""
        self.renderer.close()
        super().close()

    # --- inside ------------------------------------------------------------------------------------------------

    def _bind_model(self) -> None:
        """Take hold of the model that robosuite has just compiled."""
        sim = self.raw.sim
        self.model, self.data = sim.model._model, sim.data._data
        mujoco = self._mujoco
        self._physics_size = mujoco.mj_stateSize(self.model, mujoco.mjtState.mjSTATE_INTEGRATION)
        self._instability = instability_counters(self.data)
        free_stuck_joints(self.robot, self.model)
        scene = hashlib.sha256(self.raw.model.get_xml().encode()).hexdigest()
        self.renderer = Renderer(self.model, self.specification.rendering, scene, hidden_groups=(_COLLISION_GROUP,))
        for camera in self.cameras:
            known = {*self.renderer.cameras, *_CAMERA_NAMES}
            if camera not in known:
                raise UnknownNameError("camera", camera, known)
        self._find_things()
        self._markers = WipedMarkers(self.raw)
        self.gripper = GripperPose(self.raw.robots[0], self.model, self.data)
        standing = [body for body in self._bodies.values() if not self._is_free(body)]
        placed = np.array(sorted({*standing, *self._markers.bodies}), dtype=np.intp)
        self._moved_rows = {
            "body_pos": placed,
            "body_quat": placed,
            "geom_rgba": np.array(self._markers.geoms, np.intp),
        }
        self._pristine = {name: getattr(self.model, name).copy() for name in self._moved_rows}

    def _is_free(self, body: int) -> bool:
        first = self.model.body_jntadr[body]
        return bool(first >= 0 and self.model.jnt_type[first] == self._mujoco.mjtJoint.mjJNT_FREE)

    def _after_reset(self) -> None:
        robot, steps = self.raw.robots[0], physics_steps(self.raw)
        self._control = ArmControl(robot, self.model, self.data, steps, self.control_rules)
        self._pending = deque(np.zeros(_ACTION_SIZE, np.float32) for _ in range(self._delay))
        self._mujoco.mj_step1(self.model, self.data)
        self._hand_posture_to_robosuite()

    def _hand_posture_to_robosuite(self) -> None:
        """Have robosuite's own controller start from the present state.

        It keeps its own copy of the posture, and after a reset takes its first torque from a mass matrix that was
        computed before the fingers and the objects were in place.
        """
        for controller in self.raw.robots[0].part_controllers.values():
            controller.new_update = True
        self.raw.robots[0].part_controllers["right"].initial_joint = self._control.posture

    def _find_things(self) -> None:
        """Learn the bodies of objects and fixtures by name, and where the fixtures' joints lie in `qpos`."""
        free = int(self._mujoco.mjtJoint.mjJNT_FREE)
        things = self.raw.model.mujoco_objects
        self._bodies = {item.name: int(self.model.body(item.root_body).id) for item in things}
        joints = {name: self.model.joint(name) for item in things for name in item.joints}
        self._joints = {name: int(joint.qposadr[0]) for name, joint in joints.items() if joint.type[0] != free}


BACKENDS.register("robosuite", RobosuiteEnv)
