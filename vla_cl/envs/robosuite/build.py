"""robosuite's own environment objects, built headless and seeded as a whole."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from vla_cl.envs.robosuite_import import import_robosuite
from vla_cl.errors import ConfigurationError, UnknownNameError

ROBOTS = ("Panda", "Sawyer", "UR5e", "Kinova3", "IIWA", "Jaco", "XArm7")
"""One-armed robots on a fixed base that OSC_POSE drives."""

CONTROL_FREQUENCY = 20
"""Control steps a second."""

_STUCK = {"Sawyer": ("robot0_base_col", "robot0_link0_collision")}
_OWN_TOOL = {"Wipe": "WipingGripper"}
_NOT_OURS = frozenset(
    {
        *("robots", "gripper_types", "controller_configs", "has_renderer", "has_offscreen_renderer", "renderer"),
        *("use_camera_obs", "control_freq", "horizon", "ignore_done", "hard_reset", "seed", "env_configuration"),
    }
)


def build_raw(
    environment: str, robot: str, gripper: str, rebuild: bool, options: Mapping[str, Any], model: str = ""
) -> Any:
    """A `robosuite.environments.MujocoEnv` without a renderer, with OSC_POSE, at 20 Hz.

    Args:
        environment: robosuite's name ("Lift").
        robot: One of `ROBOTS`.
        gripper: robosuite's name ("PandaGripper"), or "default": the robot's own.
        rebuild: Whether its `reset` compiles the model again, as robosuite does by default.
        options: Further arguments of the environment's class.
        model: robosuite's name of a model of that robot, where it is not the usual one.

    Raises:
        UnknownNameError: robosuite has no such environment, robot or gripper.
        ConfigurationError: The environment's class does not take an option, or the backend sets it itself.
    """
    robosuite = import_robosuite()
    from robosuite.controllers import load_composite_controller_config
    from robosuite.environments.base import REGISTERED_ENVS
    from robosuite.models.grippers import GRIPPER_MAPPING

    if environment not in REGISTERED_ENVS:
        raise UnknownNameError("robosuite environment", environment, REGISTERED_ENVS)
    if robot not in ROBOTS:
        raise UnknownNameError("robot", robot, ROBOTS)
    grippers = {"default", *(name for name in GRIPPER_MAPPING if name)}
    if gripper not in grippers:
        raise UnknownNameError("gripper", gripper, grippers)
    if clash := sorted(_NOT_OURS & set(options)):
        raise ConfigurationError(f"option {clash[0]!r} of {environment} is set by the backend; leave it out")
    try:
        with robots_not_compiled_alone():
            return robosuite.make(
                environment,
                robots=model or robot,
                gripper_types=_OWN_TOOL.get(environment, gripper),
                controller_configs=load_composite_controller_config(robot=robot),
                has_renderer=False,
                has_offscreen_renderer=False,
                renderer="mujoco",
                use_camera_obs=False,
                control_freq=CONTROL_FREQUENCY,
                ignore_done=True,
                hard_reset=rebuild,
                seed=0,
                **copy.deepcopy(dict(options)),
            )
    except TypeError as error:
        raise ConfigurationError(f"robosuite's {environment} cannot be built: {error}") from error


@contextmanager
def robots_not_compiled_alone() -> Iterator[None]:
    """Spare robosuite a second compilation, of the robot without the scene, wherever it builds one.

    It is there for controllers that solve inverse kinematics; OSC_POSE does not, and for a Panda it takes as long as
    the scene's own.
    """
    from robosuite.models.robots.robot_model import RobotModel

    compiling = RobotModel.set_mujoco_model
    RobotModel.set_mujoco_model = lambda robot, mujoco_model=None: None
    try:
        yield
    finally:
        RobotModel.set_mujoco_model = compiling


def free_stuck_joints(robot: str, model: Any) -> None:
    """Have the shapes in `_STUCK` collide with everything but each other.

    robosuite 1.5.2's Sawyer stands with its first link on its base, and friction between the two holds the joint.

    Args:
        robot: One of `ROBOTS`.
        model: The compiled `mujoco.MjModel`, changed in place.
    """
    for name in _STUCK.get(robot, ()):
        model.geom_conaffinity[model.geom(name).id] = 0


def reseed(raw: Any, seed: int) -> None:
    """Have everything random in a robosuite environment's next reset come from one generator."""
    generator = np.random.default_rng(seed)
    raw.rng = generator
    raw.model.mujoco_arena.rng = generator
    waiting = [getattr(raw, "placement_initializer", None)]
    while waiting:
        sampler = waiting.pop()
        if sampler is not None:
            sampler.rng = generator
            waiting.extend(getattr(sampler, "samplers", {}).values())


def physics_steps(raw: Any) -> int:
    """Physics steps in one control step."""
    return int(raw.control_timestep / raw.model_timestep)
