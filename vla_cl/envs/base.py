"""The environment contract: one `gymnasium.Env` over every simulator.

A backend subclasses `ManipulationEnv` and fills in the five abstract methods; everything that Gymnasium, the
collector and the rollout evaluator rely on is here, once.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import gymnasium
import numpy as np
from numpy.typing import NDArray

from vla_cl.envs.displacement import displace
from vla_cl.envs.mujoco_import import import_mujoco
from vla_cl.errors import ConfigurationError
from vla_cl.registry import Registry

if TYPE_CHECKING:
    from vla_cl.envs.rendering import Renderer

Observation = dict[str, Any]
"""`{"pixels": {camera: (H, W, 3) uint8}, "agent_pos": (S,) float32, "environment_state": (E,) float32}`.

`pixels` is absent when no camera was asked for, `environment_state` unless privileged state was asked for.
Images are upright."""


@dataclass(frozen=True)
class ObservationOptions:
    """What an environment shows.

    Args:
        cameras: Names of the backend's cameras; `None` is the backend's `default_cameras`; `()` draws nothing.
        image_size: Height and width in pixels, 64 to 256.
        privileged: Whether to add `environment_state`, the simulator's own low-dimensional state.
    """

    cameras: tuple[str, ...] | None = None
    image_size: int = 64
    privileged: bool = False


RAYCAST = "raycast"
RENDERING_BACKENDS = ("auto", "egl", "osmesa", RAYCAST)


@dataclass(frozen=True)
class RenderingOptions:
    """How images are drawn. The defaults are lean: each effect costs several times a frame's price.

    Args:
        backend: "auto" (EGL, else OSMesa, else ray casting with a warning), "egl", "osmesa", or "raycast": without
            OpenGL, textures in their mean colour, none of the effects below.
        reflections: Draw mirror reflections of the floor and the table.
        shadows: Draw shadows.
        multisampling: Samples a pixel for anti-aliasing; 0 switches it off, MuJoCo's own default is 4.
        mesh_detail: Details of meshes smaller than this, in metres, or than a twentieth of a large mesh, are not drawn;
            0 draws every triangle. Physics never changes. Rays are cast against every triangle for 0; otherwise a
            body's collision shapes stand in for its finely tessellated meshes.

    Raises:
        ConfigurationError: No such backend.
    """

    backend: str = "auto"
    reflections: bool = False
    shadows: bool = False
    multisampling: int = 0
    mesh_detail: float = 0.005

    def __post_init__(self) -> None:
        if self.backend not in RENDERING_BACKENDS:
            known = ", ".join(RENDERING_BACKENDS)
            raise ConfigurationError(f"rendering backend {self.backend!r} is unknown; use one of {known}")


@dataclass(frozen=True)
class EnvironmentSpec:
    """Everything needed to build an environment in any process; picklable.

    Args:
        backend: Name in `BACKENDS` ("meta_world").
        arguments: Keyword arguments of the backend's class, e.g. `{"task": "window-close-v3"}`.
        horizon: Steps after which an episode is truncated.
        init_state_seeds: Seeds of the stored initial states: `reset(options={"init_state": k})` restores the
            state of `init_state_seeds[k]`.
        observation: What is shown.
        rendering: How it is drawn.
        plugins: Modules or files that register backends, imported before the environment is built.
        task: Name of the task, for messages only.
        perturbations: What is different in it from what was learned in, each as `vla_cl.envs.perturbations` reads it
            ("camera:small").
    """

    backend: str
    arguments: dict[str, Any] = field(default_factory=dict)
    horizon: int = 200
    init_state_seeds: tuple[int, ...] = ()
    observation: ObservationOptions = ObservationOptions()
    rendering: RenderingOptions = RenderingOptions()
    plugins: tuple[str, ...] = ()
    task: str = ""
    perturbations: tuple[str, ...] = ()


UNSTABLE = "unstable"
"""The failure of an episode whose simulation met NaN or huge numbers. The environment is of no further use to a pool,
which builds it anew: what has numbers like these somewhere may keep them."""


class Advance(NamedTuple):
    """What happened to the world in one control step (or in one chunk of them)."""

    reward: float
    terminated: bool
    truncated: bool
    info: dict[str, Any]


class ManipulationEnv(gymnasium.Env[Observation, NDArray[np.float32]], abc.ABC):
    """A manipulation task as a `gymnasium.Env`.

    Success terminates, the horizon truncates, `info["success"]` is there every step, actions are a float32 Box in
    [-1, 1], and `reset(seed=)` fixes the whole initial state. `step` is `advance` followed by `observe`; callers
    that act in chunks call the two apart, so that only frames somebody looks at are drawn.

    A subclass sets `default_cameras` and `metadata["render_fps"]`, calls `super().__init__`, assigns
    `action_space`, and implements the abstract methods.

    Attributes:
        noise_scale: Of the class: what action noise is multiplied by while demonstrations are collected, 1 where an
            action of 1 moves the hand by a centimetre or so.
        uniform: Of the class: whether all its tasks agree in the sizes of action, proprioception and state.
        swaps_states: Whether `set_state` is cheap, so that several episodes may take turns in this environment.
        model: The `mujoco.MjModel` being simulated.
        data: Its `mujoco.MjData`.
        renderer: What draws the model's cameras; None where the simulator draws itself.
        elapsed_steps: Control steps since the last reset.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 20}
    default_cameras: ClassVar[tuple[str, ...]] = ()
    noise_scale: ClassVar[float] = 1.0
    uniform: ClassVar[bool] = False
    swaps_states: bool = True
    model: Any
    data: Any
    renderer: Renderer | None = None

    def __init__(self, spec: EnvironmentSpec, render_mode: str | None = None) -> None:
        if spec.horizon < 1:
            raise ConfigurationError(f"horizon must be at least 1, got {spec.horizon}")
        if not 64 <= spec.observation.image_size <= 256:
            raise ConfigurationError(f"image_size must be 64 to 256, got {spec.observation.image_size}")
        if render_mode not in (None, "rgb_array"):
            raise ConfigurationError(f"render_mode {render_mode!r} is not supported; use 'rgb_array' or None")
        self.specification = spec
        self.horizon = spec.horizon
        self.render_mode = render_mode
        cameras = spec.observation.cameras
        self.cameras: tuple[str, ...] = self.default_cameras if cameras is None else tuple(cameras)
        self.image_size = spec.observation.image_size
        self.privileged = spec.observation.privileged
        self.elapsed_steps = 0

    # --- what a backend implements -------------------------------------------------------------------------

    @abc.abstractmethod
    def reset_simulation(self, seed: int) -> None:
        """Put the world into the initial state that `seed` names; a function of `seed` alone."""

    @abc.abstractmethod
    def simulate(self, action: NDArray[np.float32]) -> tuple[float, bool, dict[str, Any]]:
        """Apply one clipped action (A,) for one control step; return (reward, success, info).

        A simulator that can no longer go on puts the reason in `info["failure"]`, which truncates the episode.
        """

    @abc.abstractmethod
    def agent_pos(self) -> NDArray[np.float32]:
        """Proprioception (S,), float32."""

    @abc.abstractmethod
    def environment_state(self) -> NDArray[np.float64]:
        """Privileged low-dimensional state (E,), float64: what scripted experts look at."""

    @abc.abstractmethod
    def render_camera(self, camera: str, height: int, width: int) -> NDArray[np.uint8]:
        """Draw one upright image (H, W, 3) of the present state."""

    @abc.abstractmethod
    def get_state(self) -> NDArray[np.float64]:
        """The whole state as one flat vector (N,), float64: physics, what a reset changes in the model, and
        counters. `set_state` of it, in this or in another process, continues bit-exactly. N is constant for a task.
        """

    @abc.abstractmethod
    def set_state(self, state: NDArray[np.float64]) -> None:
        """Restore what `get_state` returned."""

    # --- what a backend may know of its scene ----------------------------------------------------------------------

    def model_camera(self, camera: str) -> int | None:
        """Which of the model's cameras one of `cameras` is; None for one that is none of the model's."""
        if self.renderer is None or camera not in self.renderer.cameras:
            return None
        return int(self.model.camera(camera).id)

    def placed_bodies(self) -> NDArray[np.intp]:
        """The bodies without joints that resets put somewhere, so that they are the task's and not its surroundings."""
        return np.zeros(0, np.intp)

    def is_solved(self) -> bool:
        """Whether the present state solves the task, as far as that can be told without a step."""
        return False

    def displace(self, generator: np.random.Generator, distance: float, angle: float) -> None:
        """Move the task's things from where a reset put them; `get_state` knows where they are.

        Here: bodies with a free joint and `placed_bodies`, on whatever they stand.

        Args:
            generator: Source of the draws.
            distance: How far at most, in metres.
            angle: How far each is turned about the vertical at most, in radians.

        Raises:
            ConfigurationError: There is nothing to move.
        """
        displace(self, generator, distance, angle)
        self.after_displacement()

    def after_displacement(self) -> None:
        """Bring up to date what hangs on positions that were written into `data.qpos` or `model.body_pos`."""
        import_mujoco().mj_forward(self.model, self.data)

    def rest_action(self) -> NDArray[np.float32]:
        """The action (A,) that asks for nothing."""
        assert self.action_space.shape is not None
        return np.zeros(self.action_space.shape, np.float32)

    def model_xml(self) -> str:
        """The simulated model as XML, for archives; "" where the backend cannot say."""
        return ""

    # --- what everybody else uses --------------------------------------------------------------------------

    def advance(self, action: NDArray[np.float32]) -> Advance:
        """One control step without an observation: physics, success, horizon.

        `info["success"]` says whether the task is solved; `info["failure"]` why the episode was truncated: "" while it
        was not, "horizon", or what the simulator said ("unstable").

        Raises:
            ConfigurationError: The action has the wrong shape or is not finite.
        """
        action = np.asarray(action, dtype=np.float32)
        if action.shape != self.action_space.shape or not np.isfinite(action).all():
            raise ConfigurationError(f"action must be finite with shape {self.action_space.shape}, got {action!r}")
        reward, success, info = self.simulate(np.clip(action, -1.0, 1.0))
        self.elapsed_steps += 1
        failure = info.get("failure", "")
        if not failure and not success and self.elapsed_steps >= self.horizon:
            failure = "horizon"
        return Advance(reward, success, bool(failure), {**info, "success": success, "failure": failure})

    def observe(self) -> Observation:
        """Proprioception, and whatever else was asked for, of the present state. Draws the cameras."""
        observation: Observation = {"agent_pos": self.agent_pos()}
        if self.cameras:
            size = self.image_size
            observation["pixels"] = {camera: self.render_camera(camera, size, size) for camera in self.cameras}
        if self.privileged:
            observation["environment_state"] = self.environment_state().astype(np.float32)
        return observation

    def step(self, action: NDArray[np.float32]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """`advance`, then `observe`."""
        reward, terminated, truncated, info = self.advance(action)
        return self.observe(), reward, terminated, truncated, info

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode.

        Args:
            seed: Names the initial state. Without one, the next state of this environment's own stream.
            options: `{"init_state": k}` restores the k-th stored initial state instead.

        Raises:
            ConfigurationError: `init_state` is out of range, or an option is unknown.
        """
        self.restart(seed=seed, options=options)
        return self.observe(), {"success": False}

    def restart(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        """`reset` without an observation."""
        super().reset(seed=seed)
        options = dict(options or {})
        index = options.pop("init_state", None)
        if options:
            raise ConfigurationError(f"reset option {sorted(options)[0]!r} is unknown; known: init_state")
        if index is not None:
            stored = self.specification.init_state_seeds
            if not 0 <= index < len(stored):
                raise ConfigurationError(f"init_state {index} is out of range; this task stores {len(stored)} states")
            seed = stored[index]
        elif seed is None:
            seed = int(self.np_random.integers(2**31))
        self.elapsed_steps = 0
        self.reset_simulation(seed)

    def render(self) -> NDArray[np.uint8] | None:
        """The first camera's view (H, W, 3), for people; None unless `render_mode="rgb_array"`."""
        if self.render_mode is None:
            return None
        camera = (self.cameras or self.default_cameras)[0]
        return self.render_camera(camera, self.image_size, self.image_size)

    def build_observation_space(self) -> gymnasium.spaces.Dict:
        """The space of `observe()`, from one sample of each part; a backend calls it once its model is loaded."""
        spaces: dict[str, gymnasium.Space[Any]] = {
            "agent_pos": gymnasium.spaces.Box(-np.inf, np.inf, self.agent_pos().shape, np.float32)
        }
        if self.cameras:
            shape = (self.image_size, self.image_size, 3)
            box = gymnasium.spaces.Box(0, 255, shape, np.uint8)
            spaces["pixels"] = gymnasium.spaces.Dict(dict.fromkeys(self.cameras, box))
        if self.privileged:
            shape_state = self.environment_state().shape
            spaces["environment_state"] = gymnasium.spaces.Box(-np.inf, np.inf, shape_state, np.float32)
        return gymnasium.spaces.Dict(spaces)


BACKENDS: Registry[type[ManipulationEnv]] = Registry("backend", "vla_cl.envs", "vla-cl doctor")
"""Simulators by name. A backend's class takes `(spec: EnvironmentSpec, render_mode=None, **spec.arguments)`."""
