"""robosuite's OSC_POSE controller and gripper, with every name looked up once."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_cl.envs.mujoco_import import import_mujoco
from vla_cl.errors import ConfigurationError

_ARM = "right"  # what robosuite calls the arm of a one-armed robot


@dataclass(frozen=True)
class ControlRules:
    """In what robosuite's versions differ; the defaults are version 1.5's.

    Args:
        holds_rotation: Whether an action without any rotation keeps the goal that the last rotation set (1.4), rather
            than taking the present rotation for the goal (1.5). The first action after `start_from` then counts from
            the pose that was given there, wherever the arm is.
        finger_speed: How far a gripper's command moves in each physics step (1.4: 0.01); None for a speed a control
            step, the gripper model's own (1.5).
    """

    holds_rotation: bool = False
    finger_speed: float | None = None


class ArmControl:
    """The controller that robosuite gave a one-armed robot, run in compiled code; built anew after robosuite's resets.

    `advance` computes what `robosuite`'s own control loop computes, to rounding: its controllers invert matrices where
    this one solves systems. Afterwards `mj_step1` has run on the new state, which robosuite leaves to the next step.

    Args:
        robot: A `robosuite.robots.FixedBaseRobot`, reset.
        model, data: The `mujoco.MjModel` and `mujoco.MjData` that it moves.
        physics_steps: Physics steps in a control step.
        rules: Which version's rules hold.

    Raises:
        ConfigurationError: The robot's controller is not OSC_POSE with fixed gains and relative goals.

    Attributes:
        posture: Joint positions (n,) that the null space is drawn to: the arm's at the reset.
    """

    def __init__(
        self, robot: Any, model: Any, data: Any, physics_steps: int, rules: ControlRules = ControlRules()
    ) -> None:
        from robosuite.utils import transform_utils

        from vla_cl.envs.robosuite import kernel

        kernel.load_library()
        self._mujoco = import_mujoco()
        self._quaternion, self._matrix = transform_utils.axisangle2quat, transform_utils.quat2mat
        self._step, self._command = kernel.control_step, kernel.command
        controller = robot.part_controllers[_ARM]
        _check_supported(controller)
        self._model, self._data, self._rules = model, data, rules
        self._gripper = robot.gripper[_ARM]
        self._site = site = int(model.site(controller.ref_name).id)
        self._site_position, self._site_rotation = data.site_xpos[site], data.site_xmat[site]
        origin = model.site(f"{controller.naming_prefix}{controller.part_name}_center").id
        self._origin_position, self._origin_rotation = data.site_xpos[origin], data.site_xmat[origin].reshape(3, 3)

        span = np.abs(controller.output_max - controller.output_min)
        self._scale = span / np.abs(controller.input_max - controller.input_min)
        self._offset = (controller.output_max + controller.output_min) / 2.0
        self._centre = (controller.input_max + controller.input_min) / 2.0
        self._lowest, self._highest = controller.input_min, controller.input_max
        self.posture = np.array(controller.initial_joint, dtype=np.float64)

        actuators = np.array(robot._ref_actuators_indexes_dict[_ARM], dtype=np.int64)
        gripper_part = robot.get_gripper_name(_ARM)
        self._fingers = np.array(robot._ref_actuators_indexes_dict.get(gripper_part, ()), dtype=np.int64)
        finger_range = model.actuator_ctrlrange[self._fingers]
        self._finger_centre = finger_range.sum(axis=1) / 2.0
        self._finger_reach = (finger_range[:, 1] - finger_range[:, 0]) / 2.0
        self._finger_commands = np.empty((physics_steps, len(self._fingers)))
        self._finger_signs = _finger_signs(self._gripper) if rules.finger_speed is not None else np.empty(0)
        self._goal_position, self._goal_rotation = np.empty(3), np.empty((3, 3))
        self._goal_rotation[:] = self._site_rotation.reshape(3, 3)
        self._first_origin, self._is_first = np.zeros(3), False
        self._joints = (
            np.array(controller.qpos_index, dtype=np.int64),
            np.array(controller.qvel_index, dtype=np.int64),
            *(actuators, model.actuator_ctrlrange[actuators].copy()),
            *(self._goal_position, self._goal_rotation),
            *(np.array(controller.kp, dtype=np.float64), np.array(controller.kd, dtype=np.float64)),
        )
        self._scratch = (np.zeros((3, model.nv)), np.zeros((3, model.nv)), np.zeros((model.nv, model.nv)))
        self._views = self._views_of(data)
        self._physics_steps = physics_steps

    @property
    def base_rotation(self) -> NDArray[np.float64]:
        """Rotation matrix (3, 3) of the frame in which actions are given."""
        return np.array(self._origin_rotation)

    @property
    def gripper_command(self) -> NDArray[np.float64]:
        """What each finger was told last (g,), in [-1, 1]: a gripper moves by increments. Part of the state."""
        command = np.asarray(self._gripper.current_action, dtype=np.float64)
        return np.broadcast_to(command, (len(self._fingers),)).copy() if len(self._fingers) else np.empty(0)

    @gripper_command.setter
    def gripper_command(self, command: NDArray[np.float64]) -> None:
        self._gripper.current_action = np.array(command)

    @property
    def memory(self) -> NDArray[np.float64]:
        """What else the controller remembers from step to step: posture (n,); where rotation is held, also that (9,),
        where the first action counts from (3,), and whether it is still to come (1,).
        """
        if not self._rules.holds_rotation:
            return self.posture.copy()
        return np.concatenate([self.posture, self._goal_rotation.ravel(), self._first_origin, [self._is_first]])

    @memory.setter
    def memory(self, memory: NDArray[np.float64]) -> None:
        joints = len(self.posture)
        self.posture = np.array(memory[:joints])
        if self._rules.holds_rotation:
            self._goal_rotation[:] = memory[joints : joints + 9].reshape(3, 3)
            self._first_origin, self._is_first = np.array(memory[joints + 9 : joints + 12]), bool(memory[-1])

    def start_from(
        self, posture: NDArray[np.float64], position: NDArray[np.float64], rotation: NDArray[np.float64]
    ) -> None:
        """Have the controller believe that the arm is where a reset would have put it, until the first action is done.

        Args:
            posture: Joint positions (n,) that the null space is drawn to.
            position: Of the grip site (3,), in metres: the first action's translation counts from here.
            rotation: Of the grip site (3, 3): held until an action rotates.
        """
        self.posture = np.array(posture, dtype=np.float64)
        self._goal_rotation[:] = rotation
        self._first_origin, self._is_first = np.array(position), True

    def advance(self, action: NDArray[np.floating[Any]]) -> None:
        """Apply one action (6 + g,): translation, rotation vector, and, where there is a gripper, its command."""
        from_origin = self._is_first
        self._set_goal(np.asarray(action[:6], dtype=np.float64))
        if len(self._fingers):
            command = self._move_fingers(float(np.clip(action[6], -1.0, 1.0)))
            self._finger_commands[:] = self._finger_centre + self._finger_reach * command
        first = 0
        if from_origin:
            self._step_from_origin()
            first = 1
        arm = (*self._views, *self._joints, self.posture, *self._scratch)
        self._step(arm, self._fingers, self._finger_commands, first)

    def _step_from_origin(self) -> None:
        """The first physics step of the first action: torques as if the arm stood still in `posture`."""
        believed = copy.copy(self._data)
        positions, _, actuators = self._joints[:3]
        believed.qpos[positions], believed.qvel[:] = self.posture, 0.0
        self._mujoco.mj_step1(self._model, believed)
        believed.qfrc_bias[:] = self._data.qfrc_bias
        self._command(*self._views_of(believed), *self._joints, self.posture, *self._scratch)
        self._data.ctrl[actuators] = believed.ctrl[actuators]
        if len(self._fingers):
            self._data.ctrl[self._fingers] = self._finger_commands[0]
        self._mujoco.mj_step2(self._model, self._data)
        self._mujoco.mj_step1(self._model, self._data)

    def _views_of(self, data: Any) -> tuple[Any, ...]:
        """What the kernel needs of a `mujoco.MjData`."""
        site = self._site
        return (
            *(self._model._address, data._address, data.qM.ctypes.data),
            *(data.qpos, data.qvel, data.qfrc_bias, data.ctrl),
            *(site, data.site_xpos[site], data.site_xmat[site]),
        )

    def _move_fingers(self, command: float) -> NDArray[np.float64]:
        """Where the gripper's command stands in each physics step: (physics_steps or 1, g), in [-1, 1]."""
        speed = self._rules.finger_speed
        if speed is None:
            told = np.asarray(self._gripper.format_action(np.array([command])), dtype=np.float64)
            return np.clip(told, -1.0, 1.0)[None]
        way = np.arange(1, self._physics_steps + 1)[:, None] * (speed * np.sign(command))
        ramp: NDArray[np.float64] = np.clip(self.gripper_command + way * self._finger_signs, -1.0, 1.0)
        self.gripper_command = ramp[-1]
        return ramp

    def _set_goal(self, action: NDArray[np.float64]) -> None:
        """The pose where the action leads from the present one; the action's frame is the robot's base."""
        action = np.clip(action, self._lowest, self._highest)
        change = (action - self._centre) * self._scale + self._offset
        base = self._origin_rotation
        position, rotation = self._site_position, self._site_rotation.reshape(3, 3)
        if self._is_first:
            position, rotation, self._is_first = self._first_origin, self._goal_rotation.copy(), False
        self._goal_position[:] = position + base @ change[:3]
        if self._rules.holds_rotation and not change[3:].any():
            return
        # robosuite turns rotation vectors into matrices through single precision; so must we
        turn = base @ self._matrix(self._quaternion(change[3:])) @ base.T
        self._goal_rotation[:] = turn @ rotation


def _finger_signs(gripper: Any) -> NDArray[np.float64]:
    """Which way each finger's command goes when a gripper is told to close (g,)."""
    before = gripper.current_action
    gripper.current_action = np.zeros(gripper.dof)
    signs = np.sign(np.asarray(gripper.format_action(np.ones(1)), dtype=np.float64))
    gripper.current_action = before
    return signs


def _check_supported(controller: Any) -> None:
    settings = {
        "name": "OSC_POSE",
        "impedance_mode": "fixed",
        "input_type": "delta",
        "input_ref_frame": "base",
        "uncoupling": True,
        "interpolator_pos": None,
        "interpolator_ori": None,
    }
    for setting, expected in settings.items():
        found = getattr(controller, setting, None)
        if found != expected:
            raise ConfigurationError(
                f"the fast stepper needs a controller whose {setting} is {expected!r}, not {found!r}; "
                "use stepper='robosuite'"
            )
