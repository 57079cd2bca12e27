"""The short way to a new environment: a MuJoCo scene and four methods."""

from __future__ import annotations

import abc
import inspect
import logging
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
from numpy.typing import NDArray

from vla_cl.envs.base import UNSTABLE, EnvironmentSpec, ManipulationEnv
from vla_cl.envs.mujoco_import import import_mujoco
from vla_cl.envs.rendering import Renderer
from vla_cl.envs.simulation_state import SimulationState
from vla_cl.errors import ConfigurationError, SimulationError, UnknownNameError

logger = logging.getLogger(__name__)

PROBE_SEEDS = (0, 1, 2)
MAX_DRAWS = 100
"""Initial states that are drawn until one is found in which the task is not solved already."""


class MujocoTaskEnv(ManipulationEnv):
    """A manipulation task over a MuJoCo scene. An author writes `initialise`, `apply`, `success`, `proprioception`.

    Rendering, spaces, seeding, the horizon and exact saving of the state are done here: what `initialise` writes into
    the model (positions, colours, masses, friction) and every number that it puts into an attribute of `self` are part
    of the state, beside MuJoCo's own. An attribute that an episode uses must get its first value in `initialise`.

    Class attributes are the task's parameters: arguments of the same name, given in a task's declaration, replace
    them. All other methods may read them.

    Attributes:
        scene: MJCF as text, or the path of an XML file; a relative path starts at the file that defines the class.
        action_size: Numbers in an action, A.
        control_frequency: Control steps a second; a whole number of the scene's time steps must make one of them.
        default_cameras: Cameras of the scene that policies see.
        model: The `mujoco.MjModel`, compiled from the scene.
        data: Its `mujoco.MjData`.

    Raises:
        ConfigurationError: The scene cannot be compiled (the message names its file), or a parameter is unknown.
        UnknownNameError: The scene has no such camera.
    """

    scene: ClassVar[str | Path]
    action_size: ClassVar[int]
    control_frequency: ClassVar[float] = 20.0
    renderer: Renderer

    def __init__(self, spec: EnvironmentSpec, render_mode: str | None = None, **parameters: Any) -> None:
        super().__init__(spec, render_mode)
        self._mujoco = import_mujoco()
        self._label = f"task {spec.task!r}" if spec.task else type(self).__name__
        self._set_parameters(parameters)
        self.model = self._compile()
        self.data = self._mujoco.MjData(self.model)
        self.physics_steps = self._count_physics_steps()
        self.metadata = {**self.metadata, "render_fps": round(self.control_frequency)}
        self.renderer = Renderer(self.model, spec.rendering)
        for camera in self.cameras:
            if camera not in self.renderer.cameras:
                raise UnknownNameError("camera", camera, self.renderer.cameras)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (self.action_size,), np.float32)
        self._state = SimulationState(self.model, self.data, [(self, (*vars(self), "_np_random_seed"))])
        for seed in PROBE_SEEDS:
            self.reset_simulation(seed)
            self._state.observe()
            self.simulate(np.zeros(self.action_size, np.float32))
            self._state.observe()
        self.reset_simulation(PROBE_SEEDS[0])
        self.observation_space = self.build_observation_space()

    # --- what an author writes ---------------------------------------------------------------------------------

    @abc.abstractmethod
    def initialise(self, generator: np.random.Generator) -> None:
        """Make an initial state: write to `self.data` (and `self.model`), drawing only from `generator`.

        The model and the data are as compiled when this is called.
        """

    @abc.abstractmethod
    def apply(self, action: NDArray[np.float32]) -> None:
        """Turn an action (A,) in [-1, 1] into controls, usually `self.data.ctrl`; physics runs after it."""

    @abc.abstractmethod
    def success(self) -> bool:
        """Whether the task is solved in the present state."""

    @abc.abstractmethod
    def proprioception(self) -> NDArray[np.float64]:
        """What the robot feels of itself, (S,): joint angles, position of the hand, opening of the gripper."""

    def privileged_state(self) -> NDArray[np.float64]:
        """What the simulator knows (E,), for experts and low-dimensional policies; positions and velocities here."""
        return np.concatenate([self.data.qpos, self.data.qvel])

    def reward(self) -> float:
        """The reward of the present state; 1 when solved, else 0, unless overridden."""
        return float(self.success())

    # --- the contract of `ManipulationEnv` ---------------------------------------------------------------------

    def reset_simulation(self, seed: int) -> None:
        """Draw initial states from `seed` until the task is not solved in one.

        Raises:
            SimulationError: It is solved in all of them.
        """
        generator = np.random.default_rng(seed)
        for _ in range(MAX_DRAWS):
            self._state.restore_model()
            self._mujoco.mj_resetData(self.model, self.data)
            self.initialise(generator)
            self._state.update_derived_quantities()
            if not self.success():
                return
        raise SimulationError(
            f"the goal of {self._label} holds in {MAX_DRAWS} initial states in a row; change initialise or success"
        )

    def simulate(self, action: NDArray[np.float32]) -> tuple[float, bool, dict[str, Any]]:
        """`apply` the action, run the physics for a control step, ask for `success`."""
        self.apply(action)
        self._mujoco.mj_step(self.model, self.data, nstep=self.physics_steps)
        if self._state.is_unstable():
            logger.warning("%s became unstable at step %d; the episode ends", self._label, self.elapsed_steps)
            return 0.0, False, {"failure": UNSTABLE}
        self._state.update_derived_quantities()
        return float(self.reward()), bool(self.success()), {}

    def is_solved(self) -> bool:
        """`success` of the present state."""
        return bool(self.success())

    def placed_bodies(self) -> NDArray[np.intp]:
        """The bodies that stand elsewhere than the scene says."""
        return self._state.moved_bodies()

    def after_displacement(self) -> None:
        """Bring up to date what is computed from positions, as after every step."""
        self._state.update_derived_quantities()

    def agent_pos(self) -> NDArray[np.float32]:
        """`proprioception` as (S,) float32."""
        return np.array(self.proprioception(), np.float32, ndmin=1)

    def environment_state(self) -> NDArray[np.float64]:
        """`privileged_state` as (E,) float64."""
        return np.array(self.privileged_state(), np.float64, ndmin=1)

    def render_camera(self, camera: str, height: int, width: int) -> NDArray[np.uint8]:
        """Draw one upright image (H, W, 3) of the present state."""
        return self.renderer.draw(self.data, camera, height, width)

    def get_state(self) -> NDArray[np.float64]:
        """Step counter, MuJoCo's integration state, what resets write into the model, the author's attributes."""
        return np.concatenate([[self.elapsed_steps], self._state.get()])

    def set_state(self, state: NDArray[np.float64]) -> None:
        """Restore what `get_state` returned.

        Raises:
            SimulationError: The vector's length is not this task's.
        """
        if np.shape(state) != (self._state.size + 1,):
            raise SimulationError(f"a state of {self._label} has {self._state.size + 1} numbers, got {np.shape(state)}")
        self._state.set(state[1:])
        self.elapsed_steps = int(state[0])

    def model_xml(self) -> str:
        """The scene as it was given."""
        path = self._scene_path()
        return str(self.scene) if path is None else path.read_text(encoding="utf-8")

    def close(self) -> None:
        """Free what drawing needed."""
        self.renderer.close()
        super().close()

    # --- construction ------------------------------------------------------------------------------------------

    def _set_parameters(self, parameters: dict[str, Any]) -> None:
        for name, value in parameters.items():
            default = inspect.getattr_static(type(self), name, None)
            if default is None or callable(default) or isinstance(default, property) or name.startswith("_"):
                raise UnknownNameError(f"parameter of {type(self).__name__}", name, self._parameter_names())
            setattr(self, name, value)

    def _parameter_names(self) -> list[str]:
        own = [vars(each) for each in type(self).__mro__ if issubclass(each, MujocoTaskEnv)]
        return [name for each in own for name, value in each.items() if name[0] != "_" and not callable(value)]

    def _scene_path(self) -> Path | None:
        """The scene's file, or None when `scene` is MJCF itself."""
        if isinstance(self.scene, str) and self.scene.lstrip().startswith("<"):
            return None
        return Path(inspect.getfile(type(self))).parent / self.scene

    def _compile(self) -> Any:
        path = self._scene_path()
        place = f"the scene of {type(self).__name__}" if path is None else str(path)
        try:
            if path is None:
                return self._mujoco.MjModel.from_xml_string(str(self.scene))
            if not path.is_file():
                raise ConfigurationError(
                    f"{self._label}: scene {path} does not exist; correct {type(self).__name__}.scene"
                )
            return self._mujoco.MjModel.from_xml_path(str(path))
        except ValueError as error:
            raise ConfigurationError(
                f"{self._label}: {place} cannot be compiled: {' '.join(str(error).split())}"
            ) from error

    def _count_physics_steps(self) -> int:
        exact = 1.0 / (self.control_frequency * float(self.model.opt.timestep))
        steps = round(exact)
        if steps < 1 or abs(exact - steps) > 1e-6 * exact:
            raise ConfigurationError(
                f"{self._label}: control_frequency {self.control_frequency} Hz is no whole number of the scene's "
                f"{self.model.opt.timestep} s steps; change one of them"
            )
        return steps
