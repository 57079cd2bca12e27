"""Meta-World's fifty tasks, each with a reset that is a function of the seed and a state that is saved exactly."""

from __future__ import annotations

import logging
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from vla_cl.envs.attributes import NumericAttributes, PristineAttributes
from vla_cl.envs.base import BACKENDS, UNSTABLE, EnvironmentSpec, ManipulationEnv
from vla_cl.envs.displacement import TRIES
from vla_cl.envs.meta_world_task import build_task, scene_xml
from vla_cl.envs.mujoco_import import import_mujoco, instability_counters
from vla_cl.envs.rendering import Renderer
from vla_cl.errors import SimulationError, UnknownNameError

logger = logging.getLogger(__name__)

MOVED_BY_RESET = ("body_pos", "site_pos")
"""Arrays of the `mujoco.MjModel` that Meta-World's resets write to, the initial state being partly in the model."""

_OBSERVED_NOW = slice(0, 18)
_OBSERVED_BEFORE = slice(18, 36)
_PROBE_SEEDS = (0, 1)
_SETTINGS = frozenset(
    {
        *("_hand", "_right_claw", "_left_claw", "_pads", "_np_random_seed", "_freeze_rand_vec", "_last_rand_vec"),
        *("seeded_rand_vec", "_set_task_called", "_partially_observable", "_did_see_sim_exception"),
        *("_obs_obj_max_len", "action_scale", "action_rot_scale", "curr_path_length", "frame_skip", "num_resets"),
        *("width", "height", "hand_low", "hand_high", "mocap_low", "mocap_high", "hand_init_pos", "init_qpos"),
        *("init_qvel", "obj_init_angle"),
    }
)
"""Attributes of Meta-World's environments that no episode changes, or that no step reads."""


class MetaWorldEnv(ManipulationEnv):
    """One Meta-World task. It wraps Meta-World's own environment and computes bit for bit what that computes.

    Meta-World ignores `reset(seed=)`, and leaves traces of the former episode in the model and in Python attributes.
    Here `reset(seed)` ends in the state that a freshly built Meta-World environment reaches with the random vector
    drawn from `numpy.random.default_rng(seed)`, whatever happened before.

    Observations: `agent_pos` (4,) is the hand's position in metres and the gripper's opening in [0, 1];
    `environment_state` (39,) is Meta-World's own observation, the goal included (`partially_observable=False`).
    Actions (4,): displacement of the hand along x, y, z in units of 1 cm a step, and the gripper's closing effort.

    Args:
        spec: How to build it.
        render_mode: None or "rgb_array".
        task: Meta-World's name of the task ("window-close-v3").

    Raises:
        UnknownNameError: No such task or camera.
        RenderingError: At the first observation, if images were asked for and nothing here can draw them.

    Attributes:
        meta_world: The wrapped `metaworld.SawyerXYZEnv`, for scripted policies that need it.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 80}
    default_cameras = ("corner2", "gripperPOV")
    uniform = True
    renderer: Renderer

    def __init__(self, spec: EnvironmentSpec, render_mode: str | None = None, *, task: str) -> None:
        super().__init__(spec, render_mode)
        self._mujoco = mujoco = import_mujoco()
        self.task = task
        self.meta_world = build_task(task)
        self.model, self.data = self.meta_world.model, self.meta_world.data
        self.renderer = Renderer(self.model, spec.rendering, scene=self.meta_world.fullpath)
        self._check_cameras()

        bounds = self.meta_world.sawyer_observation_space
        self._observation_low, self._observation_high = bounds.low, bounds.high
        self._instability = instability_counters(self.data)
        self._pristine_model = {name: getattr(self.model, name).copy() for name in MOVED_BY_RESET}
        self._pristine_attributes = PristineAttributes(self.meta_world)
        self._attributes = NumericAttributes(self.meta_world, ignore=_SETTINGS)
        self._moved_rows: dict[str, NDArray[np.intp]] = {}
        self._physics_size = mujoco.mj_stateSize(self.model, mujoco.mjtState.mjSTATE_INTEGRATION)
        self._low_dimensional = np.zeros(39)
        self._learn_state_layout()

        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (4,), np.float32)
        self.observation_space = self.build_observation_space()

    # --- the world ---------------------------------------------------------------------------------------------

    def reset_simulation(self, seed: int) -> None:
        """Put the world into the state of a fresh Meta-World environment whose random vector comes from `seed`."""
        self._reset_model(np.random.default_rng(seed))

    def _reset_model(self, generator: Any) -> None:
        """Meta-World's own reset with a random vector that comes from `generator.uniform`."""
        raw = self.meta_world
        for name, values in self._pristine_model.items():
            getattr(self.model, name)[:] = values
        self._pristine_attributes.restore()
        # Meta-World's own reset runs `reset_model` twice: the first pass places the furniture, the second moves the
        # hand among it. The first also draws the random vector, rejecting those that put object and goal too close.
        raw.np_random = generator
        raw._freeze_rand_vec = False
        self._mujoco.mj_resetData(self.model, self.data)
        raw.reset_model()
        raw._freeze_rand_vec = True
        self._mujoco.mj_resetData(self.model, self.data)
        observation = raw.reset_model()
        raw._prev_obs = observation[_OBSERVED_NOW].copy()
        observation[_OBSERVED_BEFORE] = raw._prev_obs
        self._low_dimensional = observation
        # Some resets move things in the model last; without this, images would show them where they were.
        self._update_derived_quantities()

    def displace(self, generator: np.random.Generator, distance: float, angle: float) -> None:
        """Reset again with a random vector that lies off the one drawn, be it outside of Meta-World's ranges.

        The vector says where objects and goals are, also to Meta-World's own bookkeeping. Coordinates that it never
        varies are kept, and nothing is turned.
        """
        beside = _BesideVector(np.array(self.meta_world._last_rand_vec), generator, distance)
        for _ in range(TRIES):
            self._reset_model(beside)
            if not self.is_solved():
                return

    def is_solved(self) -> bool:
        """What Meta-World says of the present state under an action of zeros."""
        state = self.get_state()
        solved = self.meta_world.evaluate_state(self._low_dimensional, np.zeros(4, np.float32))[1]["success"]
        self.set_state(state)  # some tasks note what they are asked
        return bool(solved)

    def placed_bodies(self) -> NDArray[np.intp]:
        """The bodies whose positions resets write into the model."""
        return self._moved_rows["body_pos"]

    def simulate(self, action: NDArray[np.float32]) -> tuple[float, bool, dict[str, Any]]:
        """`SawyerXYZEnv.step` without its own horizon, and with instability noticed instead of ignored."""
        raw = self.meta_world
        raw.set_xyz_action(action[:3])
        self.data.ctrl[:] = (action[3], -action[3])
        self._mujoco.mj_step(self.model, self.data, nstep=raw.frame_skip)
        if self._instability.any():
            logger.warning("%s became unstable at step %d; the episode ends", self.task, self.elapsed_steps)
            return 0.0, False, {"failure": UNSTABLE}
        self._mujoco.mj_forward(self.model, self.data)
        observation = np.clip(raw._get_obs(), self._observation_low, self._observation_high)
        self._low_dimensional = observation
        reward, info = raw.evaluate_state(observation, action)
        return float(reward), bool(info["success"]), info

    def agent_pos(self) -> NDArray[np.float32]:
        """Hand position (3) in metres and gripper opening (1) in [0, 1]."""
        return self._low_dimensional[:4].astype(np.float32)

    def environment_state(self) -> NDArray[np.float64]:
        """Meta-World's 39 numbers: hand, gripper and objects now (18) and one step before (18), and the goal (3)."""
        return self._low_dimensional.copy()

    def model_xml(self) -> str:
        """The scene as Meta-World ships it; what resets move in it is part of the state."""
        return scene_xml(self.meta_world.fullpath)

    # --- saving and restoring ----------------------------------------------------------------------------------

    def get_state(self) -> NDArray[np.float64]:
        """Step counter, 39 numbers, MuJoCo's integration state, what resets move in the model, Python's attributes."""
        physics = np.empty(self._physics_size)
        self._mujoco.mj_getState(self.model, self.data, physics, self._mujoco.mjtState.mjSTATE_INTEGRATION)
        moved = [getattr(self.model, name)[rows].ravel() for name, rows in self._moved_rows.items()]
        return np.concatenate(
            [[self.elapsed_steps], self._low_dimensional, physics, *moved, self._attributes.get()], dtype=np.float64
        )

    def set_state(self, state: NDArray[np.float64]) -> None:
        """Restore what `get_state` returned.

        Raises:
            SimulationError: The vector's length is not this task's.
        """
        parts = np.split(np.asarray(state, dtype=np.float64), self._state_boundaries[:-1])
        if np.shape(state) != (self._state_boundaries[-1],):
            raise SimulationError(
                f"a state of {self.task} has {self._state_boundaries[-1]} numbers, got shape {np.shape(state)}"
            )
        counter, low_dimensional, physics, *moved, attributes = parts
        for name, values in self._pristine_model.items():
            getattr(self.model, name)[:] = values
        for (name, rows), values in zip(self._moved_rows.items(), moved, strict=True):
            getattr(self.model, name)[rows] = values.reshape(len(rows), 3)
        self._mujoco.mj_resetData(self.model, self.data)
        self._mujoco.mj_setState(self.model, self.data, physics, self._mujoco.mjtState.mjSTATE_INTEGRATION)
        self._update_derived_quantities()
        self._attributes.set(attributes)
        self._low_dimensional = low_dimensional.copy()
        self.elapsed_steps = int(counter[0])

    def _update_derived_quantities(self) -> None:
        """`mj_forward`, except that it leaves the solver's warm start alone, which is part of the state."""
        warm_start = self.data.qacc_warmstart.copy()
        self._mujoco.mj_forward(self.model, self.data)
        self.data.qacc_warmstart[:] = warm_start

    def _learn_state_layout(self) -> None:
        """Find which rows of the model resets move, and which Python attributes hold numbers."""
        changed = {name: np.zeros(len(values), dtype=bool) for name, values in self._pristine_model.items()}
        for seed in _PROBE_SEEDS:
            self.reset_simulation(seed)
            for name, values in self._pristine_model.items():
                changed[name] |= (getattr(self.model, name) != values).any(axis=1)
            self._attributes.observe()
            self.simulate(np.zeros(4, np.float32))
            self._attributes.observe()
        self._moved_rows = {name: np.flatnonzero(rows) for name, rows in changed.items()}
        moved = [3 * len(rows) for rows in self._moved_rows.values()]
        self._state_boundaries = np.cumsum([1, 39, self._physics_size, *moved, self._attributes.size])

    # --- images ------------------------------------------------------------------------------------------------

    def render_camera(self, camera: str, height: int, width: int) -> NDArray[np.uint8]:
        """Draw one upright image (H, W, 3) of the present state."""
        return self.renderer.draw(self.data, camera, height, width)

    def close(self) -> None:
        """Free what drawing needed."""
        self.renderer.close()
        super().close()

    def _check_cameras(self) -> None:
        for camera in self.cameras:
            if camera not in self.renderer.cameras:
                raise UnknownNameError("camera", camera, self.renderer.cameras)


class _BesideVector:
    """Draws random vectors that lie beside a given one, in place of a `numpy.random.Generator`.

    Args:
        vector: The given one.
        generator: Source of the draws.
        distance: How far beside, in metres; each coordinate is 0.35 to 0.7 times as far off.
    """

    def __init__(self, vector: NDArray[np.float64], generator: np.random.Generator, distance: float) -> None:
        self._vector, self._generator, self._distance = vector, generator, distance

    def uniform(
        self, low: NDArray[np.float64], high: NDArray[np.float64], size: tuple[int, ...] | int
    ) -> NDArray[np.float64]:
        """A vector; only coordinates with `low` < `high` differ from the given one."""
        reach = self._distance * self._generator.uniform(0.5, 1.0, size) / np.sqrt(2.0)
        beside = self._vector + reach * self._generator.choice([-1.0, 1.0], size)
        return np.where(np.asarray(high) > np.asarray(low), beside, self._vector)


BACKENDS.register("meta_world", MetaWorldEnv)
