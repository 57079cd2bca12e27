"""LIBERO's tasks behind the environment contract."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from vla_cl.envs.base import BACKENDS, EnvironmentSpec
from vla_cl.envs.libero.bddl import parse_problem, read_problem
from vla_cl.envs.libero.catalogue import Category, category
from vla_cl.envs.libero.initial_states import read_initial_states
from vla_cl.envs.libero.models import INITIAL_POSTURE
from vla_cl.envs.libero.predicates import check_goal, holds
from vla_cl.envs.libero.root import LiberoRoot, libero_root
from vla_cl.envs.libero.sampling import Part
from vla_cl.envs.libero.workspaces import workspace
from vla_cl.envs.libero.world import register_world
from vla_cl.envs.robosuite.contacts import Contacts
from vla_cl.envs.robosuite.control import ControlRules
from vla_cl.envs.robosuite.env import JOINT_SLOTS, RobosuiteEnv
from vla_cl.errors import ConfigurationError, SimulationError

THING_SLOTS = 12
"""`environment_state` has room for this many things' poses."""

SETTLE_STEPS = 10
"""Control steps after a reset in which things come to rest, as in the VLA papers' evaluations."""

ARM_NOISE = 0.02
"""Standard deviation of the arm's joint positions in LIBERO's stored initial states, in radians."""

_NOT_IN_LIBERO = "robot0_link7_collision"  # a shape that robosuite's Panda has had since 1.5
_QUATERNION_SLACK = 1e-3
_KEPT_RESETS = 128


class LiberoEnv(RobosuiteEnv):
    """A task that a BDDL file declares, in LIBERO's scene, with LIBERO's rules of control.

    Observations: `agent_pos` (8,) is the grip site's position (3) in metres, the hand's rotation as axis times angle
    (3) in radians, and the finger joints' positions (2) in metres: LIBERO's `ee_states` and `gripper_states`.
    `environment_state` (98,) is `agent_pos`, up to twelve things' positions (3) and quaternions (4, w first), objects
    before fixtures, and up to six fixtures' joints. Cameras: "agentview", "wrist" (`robot0_eye_in_hand`).

    Actions (7,), 20 a second: translation in units of 5 cm, rotation vector in units of 0.5 rad, both in the world's
    frame and from the present pose, and the gripper's command: it closes while positive, opens while negative, and
    stays where it is at 0. Where the rotation is exactly 0, the arm holds the last commanded one (robosuite 1.4).

    A reset with the seed of a stored initial state (`EnvironmentSpec.init_state_seeds`) loads that state from the
    benchmark's file, in the scene that LIBERO builds after `numpy.random.seed(fixture_seed)`: stored states do not say
    where fixtures stand. Any other seed draws what LIBERO draws after `numpy.random.seed(seed)`, plus noise of the
    arm. Things then come to rest for `settle_steps`.

    Args:
        spec: How to build it.
        render_mode: None or "rgb_array".
        suite, problem: A task of the benchmark: `<root>/bddl_files/<suite>/<problem>.bddl`.
        file: A BDDL file instead.
        text: The text of a BDDL file instead.
        states: The file of its stored initial states.
        fixture_seed: Where fixtures stand under stored initial states.
        settle_steps: Control steps after a reset that do not count.
        settle_gripper: The gripper's command meanwhile: -1 opens it, 0 leaves it (as in LIBERO's own evaluation).
        arm_noise: Standard deviation of the arm's joints at a fresh reset, in radians; LIBERO's own environment has 0.
        action_delay: As for `RobosuiteEnv`.

    Raises:
        UnknownNameError: No such suite, problem, object or camera.
        ConfigurationError: The task cannot be built, or LIBERO's files are not there.
    """

    control_rules: ClassVar[ControlRules] = ControlRules(holds_rotation=True, finger_speed=0.01)

    def __init__(
        self,
        spec: EnvironmentSpec,
        render_mode: str | None = None,
        *,
        suite: str = "",
        problem: str = "",
        file: str = "",
        text: str = "",
        states: str = "",
        fixture_seed: int = 0,
        settle_steps: int = SETTLE_STEPS,
        settle_gripper: float = -1.0,
        arm_noise: float = ARM_NOISE,
        action_delay: int = 0,
    ) -> None:
        if [bool(suite and problem), bool(file), bool(text)].count(True) != 1:
            raise ConfigurationError("say either suite and problem, or the file of a BDDL task, or its text")
        if settle_steps < 0:
            raise ConfigurationError(f"settle_steps must be 0 or more control steps, got {settle_steps}")
        root = libero_root()
        if text:
            self.problem = parse_problem(text, spec.task or "BDDL")
        else:
            self.problem = read_problem(Path(file) if file else root.problem_path(suite, problem))
        things = len(self.problem.objects) + len(self.problem.fixtures) - 1  # of which one is the table or the floor
        if spec.observation.privileged and things > THING_SLOTS:
            raise ConfigurationError(
                f"the privileged state has room for {THING_SLOTS} things, the task has {things}; use fewer"
            )
        self._states_file = _states_file(root, suite, problem, states)
        self._stored: NDArray[np.float64] | None = None
        self._fixture_seed, self._settling = fixture_seed, (settle_steps, settle_gripper)
        self._stored_scene: NDArray[np.float64] | None = None
        self._rested: dict[int, NDArray[np.float64]] = {}
        super().__init__(
            spec,
            render_mode,
            environment=register_world(),
            model=workspace(self.problem.name).robot,
            action_delay=action_delay,
            options={
                "problem": self.problem,
                "assets": root.assets,
                "arm_noise": arm_noise,
                "initialization_noise": None,
            },
        )

    # --- the world ---------------------------------------------------------------------------------------------

    def reset_simulation(self, seed: int) -> None:
        """A stored initial state, or a fresh one, after things have come to rest."""
        if seed in self._rested:
            self.set_state(self._rested[seed])
            return
        seeds = self.specification.init_state_seeds
        stored = self._stored_state(seeds.index(seed)) if seed in seeds and self._states_file else None
        if stored is None:
            self._draw(seed)
        else:
            self._build_stored_scene()
            self._load(stored)
        self._settle()
        if len(self._rested) >= _KEPT_RESETS:
            self._rested.pop(next(iter(self._rested)))
        self._rested[seed] = self.get_state()

    def _draw(self, seed: int) -> None:
        """The scene of a seed, before things come to rest."""
        self.raw.placement_seed = seed
        super().reset_simulation(seed)

    def _build_stored_scene(self) -> None:
        """The scene in which stored states stand: drawn once, and restored from then on, which is quicker."""
        if self._stored_scene is None:
            self._draw(self._fixture_seed)
            self._stored_scene = self.get_state()
        else:
            self.set_state(self._stored_scene)

    def judge(self, action: NDArray[np.float32]) -> tuple[float, bool, dict[str, Any]]:
        """1 and True when every condition of the goal holds; `info["conditions"]` tells them apart."""
        conditions = {str(condition): holds(self, condition) for condition in self.problem.goal}
        success = all(conditions.values())
        return float(success), success, {"conditions": conditions}

    def is_solved(self) -> bool:
        """Whether the goal holds."""
        return self.judge(np.zeros(7, np.float32))[1]

    def agent_pos(self) -> NDArray[np.float32]:
        """Position (3) of the grip site, the hand's axis times angle (3), finger joints (2)."""
        return self._proprioception().astype(np.float32)

    def environment_state(self) -> NDArray[np.float64]:
        """`agent_pos` (8), things' poses (12 x 7) and fixtures' joint positions (6), zero where there are none."""
        state = np.zeros(8 + 7 * THING_SLOTS + JOINT_SLOTS)
        state[:8] = self._proprioception()
        bodies = list(self._bodies.values())[:THING_SLOTS]
        poses = state[8 : 8 + 7 * len(bodies)].reshape(-1, 7)
        poses[:, :3], poses[:, 3:] = self.data.xpos[bodies], self.data.xquat[bodies]
        joints = list(self._joints.values())[:JOINT_SLOTS]
        state[-JOINT_SLOTS:][: len(joints)] = self.data.qpos[joints]
        return state

    def benchmark_state(self) -> NDArray[np.float64]:
        """The state as LIBERO and robosuite flatten it: time, qpos, qvel (1 + nq + nv,)."""
        return np.concatenate([[self.data.time], self.data.qpos, self.data.qvel])

    def render_camera(self, camera: str, height: int, width: int) -> NDArray[np.uint8]:
        """Draw one upright image (H, W, 3) of the present state."""
        for site, name in self._lights.items():
            self.model.site_rgba[site, 3] = float(
                any(self.kind(name).is_on(self.joint(j)) for j in self.joints_of(name))
            )
        return super().render_camera(camera, height, width)

    # --- what predicates and experts look at -------------------------------------------------------------------

    @property
    def parts(self) -> Mapping[str, Part]:
        """Regions that have a site, by name."""
        parts: Mapping[str, Part] = self.raw.parts
        return parts

    def kind(self, name: str) -> Category:
        """The category of a thing, or of the thing that a region belongs to."""
        part = self.parts.get(name)
        return self._kinds[part.parent if part else name]

    def joints_of(self, name: str) -> tuple[str, ...]:
        """Joints of a thing, or those that move a region of it."""
        part = self.parts.get(name)
        return part.joints if part else tuple(self._things[name].joints)

    def site_pose(self, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Position (3,) in metres and rotation (3, 3) of a region's site."""
        site = self.data.site(name)
        return np.array(site.xpos), np.array(site.xmat).reshape(3, 3)

    def touching(self, first: str, second: str) -> bool:
        """Whether collision shapes of two things are in contact."""
        return self._contacts.between(first, second)

    def held(self, name: str) -> bool:
        """Whether the robot touches a thing."""
        return self._contacts.with_robot(name)

    def shapes_of(self, name: str) -> NDArray[np.intp]:
        """Numbers of a thing's geoms; those of tables, floor and walls for the name ""."""
        return self._contacts.geoms(name)

    # --- inside ------------------------------------------------------------------------------------------------

    def _proprioception(self) -> NDArray[np.float64]:
        from robosuite.utils import transform_utils

        quaternion = transform_utils.convert_quat(np.array(self.data.xquat[self._hand]), to="xyzw")
        axis_angle = transform_utils.quat2axisangle(quaternion)
        return np.concatenate([self.gripper.position, axis_angle, self.data.qpos[self._fingers]])

    def _stored_state(self, index: int) -> NDArray[np.float64]:
        if self._stored is None:
            assert self._states_file is not None
            self._stored = read_initial_states(self._states_file)
            self._check_stored(self._stored)
        if index >= len(self._stored):
            raise ConfigurationError(
                f"{self._states_file} holds {len(self._stored)} initial states; state {index} is not among them"
            )
        return np.array(self._stored[index])

    def _check_stored(self, states: NDArray[np.float64]) -> None:
        """Refuse the initial states of another task, which have another width, or no rotations where ours has them."""
        width = 1 + self.model.nq + self.model.nv
        if states.shape[1] != width:
            raise SimulationError(
                f"{self._states_file}: its states have {states.shape[1]} numbers, those of {self.problem_name} have "
                f"{width}; they belong to another task"
            )
        for name in self.raw.objects:
            start = 1 + int(self.model.joint(self._things[name].joints[-1]).qposadr[0]) + 3
            norms = np.linalg.norm(states[:, start : start + 4], axis=1)
            if (np.abs(norms - 1.0) > _QUATERNION_SLACK).any():
                raise SimulationError(
                    f"{self._states_file}: numbers {start} to {start + 3} are no rotation of {name!r}; "
                    f"the states belong to another task than {self.problem_name}"
                )

    @property
    def problem_name(self) -> str:
        """What messages call the task."""
        return self.specification.task or self.problem.name

    def _load(self, state: NDArray[np.float64]) -> None:
        """Put time, positions and velocities (1 + nq + nv,) into the scene as it stands."""
        positions = 1 + self.model.nq
        self.data.time, self.data.qpos[:], self.data.qvel[:] = state[0], state[1:positions], state[positions:]
        self._mujoco.mj_forward(self.model, self.data)
        self._mujoco.mj_step1(self.model, self.data)

    def _settle(self) -> None:
        steps, gripper = self._settling
        action = np.array([0, 0, 0, 0, 0, 0, gripper], dtype=np.float32)
        for _ in range(steps):
            self._control.advance(action)

    def _after_reset(self) -> None:
        super()._after_reset()
        self._control.start_from(np.array(INITIAL_POSTURE), *self._nominal_pose)

    def _bind_model(self) -> None:
        super()._bind_model()
        self.model.geom_contype[self.model.geom(_NOT_IN_LIBERO).id] = 0
        self.model.geom_conaffinity[self.model.geom(_NOT_IN_LIBERO).id] = 0
        nominal = self._mujoco.MjData(self.model)
        nominal.qpos[self.raw.robots[0]._ref_joint_pos_indexes] = INITIAL_POSTURE
        self._mujoco.mj_kinematics(self.model, nominal)
        site = nominal.site(self.raw.robots[0].part_controllers["right"].ref_name)
        self._nominal_pose = np.array(site.xpos), np.array(site.xmat).reshape(3, 3)

    def _find_things(self) -> None:
        super()._find_things()
        model = self.model
        self._things = {**self.raw.objects, **self.raw.fixtures}
        self._kinds = {name: category({**self.problem.objects, **self.problem.fixtures}[name]) for name in self._things}
        check_goal(self.problem, self.parts, self._kinds)
        self._hand = int(model.body("robot0_right_hand").id)
        self._fingers = [int(model.joint(f"gripper0_right_finger_joint{finger}").qposadr[0]) for finger in (1, 2)]
        self._lights = {
            int(model.site(f"{name}_{kind.shown_when_on}").id): name
            for name, kind in self._kinds.items()
            if kind.shown_when_on
        }
        self._contacts = Contacts(model, self.data, self._bodies)


def _states_file(root: LiberoRoot, suite: str, problem: str, states: str) -> Path | None:
    if states:
        return Path(states)
    return root.initial_states_path(suite, problem) if suite else None


BACKENDS.register("libero", LiberoEnv)
