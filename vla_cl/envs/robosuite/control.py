"""robosuite's OSC_POSE controller and gripper, with every name looked up once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_cl.errors import ConfigurationError

_ARM = "right"  # what robosuite calls the arm of a one-armed robot


class ArmControl:
    """The controller that robosuite gave a one-armed robot, run in compiled code; built anew after robosuite's resets.

    `advance` computes what `robosuite`'s own control loop computes, to rounding: its controllers invert matrices where
    this one solves systems. Afterwards `mj_step1` has run on the new state, which robosuite leaves to the next step.

    Args:
        robot: A `robosuite.robots.FixedBaseRobot`, reset.
        model, data: The `mujoco.MjModel` and `mujoco.MjData` that it moves.
        physics_steps: Physics steps in a control step.

    Raises:
        ConfigurationError: The robot's controller is not OSC_POSE with fixed gains and relative goals.

    Attributes:
        posture: Joint positions (n,) that the null space is drawn to: the arm's at the reset. Part of the state.
    """

    def __init__(self, robot: Any, model: Any, data: Any, physics_steps: int) -> None:
        from robosuite.utils import transform_utils

        from vla_cl.envs.robosuite import kernel

        kernel.load_library()
        self._quaternion, self._matrix = transform_utils.axisangle2quat, transform_utils.quat2mat
        self._step = kernel.control_step
        controller = robot.part_controllers[_ARM]
        _check_supported(controller)
        self._data = data
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
        self._goal_position, self._goal_rotation = np.empty(3), np.empty((3, 3))
        self._arguments = (
            *(model._address, data._address, data.qM.ctypes.data),
            *(data.qpos, data.qvel, data.qfrc_bias, data.ctrl),
            *(site, self._site_position, self._site_rotation),
            np.array(controller.qpos_index, dtype=np.int64),
            np.array(controller.qvel_index, dtype=np.int64),
            *(actuators, model.actuator_ctrlrange[actuators].copy()),
            *(self._goal_position, self._goal_rotation),
            *(np.array(controller.kp, dtype=np.float64), np.array(controller.kd, dtype=np.float64)),
        )
        self._scratch = (np.zeros((3, model.nv)), np.zeros((3, model.nv)), np.zeros((model.nv, model.nv)))
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

    def advance(self, action: NDArray[np.floating[Any]]) -> None:
        """Apply one action (6 + g,): translation, rotation vector, and, where there is a gripper, its command."""
        self._set_goal(np.asarray(action[:6], dtype=np.float64))
        if len(self._fingers):
            command = np.asarray(self._gripper.format_action(np.asarray(action[6:7], dtype=np.float64)))
            self._data.ctrl[self._fingers] = self._finger_centre + self._finger_reach * np.clip(command, -1.0, 1.0)
        self._step(*self._arguments, self.posture, *self._scratch, self._physics_steps)

    def _set_goal(self, action: NDArray[np.float64]) -> None:
        """The pose where the action leads from the present one; the action's frame is the robot's base."""
        action = np.clip(action, self._lowest, self._highest)
        change = (action - self._centre) * self._scale + self._offset
        base = self._origin_rotation
        self._goal_position[:] = self._site_position + base @ change[:3]
        # robosuite turns rotation vectors into matrices through single precision; so must we
        turn = base @ self._matrix(self._quaternion(change[3:])) @ base.T
        self._goal_rotation[:] = turn @ self._site_rotation.reshape(3, 3)


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
