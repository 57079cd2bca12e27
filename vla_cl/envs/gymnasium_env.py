"""Any existing Gymnasium environment as a task: the backend "gymnasium", configured by its arguments alone."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from vla_cl.envs.base import BACKENDS, UNSTABLE, EnvironmentSpec, ManipulationEnv
from vla_cl.envs.gymnasium_observation import VectorSelection, image_at
from vla_cl.envs.gymnasium_state import MujocoWrappedState, ReplayedState, WrappedState
from vla_cl.envs.mujoco_import import import_mujoco
from vla_cl.envs.rendering import Renderer
from vla_cl.errors import ConfigurationError, RenderingError, SimulationError, UnknownNameError
from vla_cl.seeding import derive_seed

logger = logging.getLogger(__name__)

MAX_DRAWS = 100
"""Initial states that are drawn until one is found in which the task is not solved already."""

RENDER = "render"
"""The camera that is the environment's own `render()`."""


class GymnasiumEnv(ManipulationEnv):
    """A task that somebody else wrote as a `gymnasium.Env`, behind our contract.

    Its own time limit is taken off, since ours truncates. Its actions, any finite Box, are scaled to [-1, 1]. Success
    is read where the environment tells it, and ends the episode; an environment that ends an episode otherwise
    truncates it, with the reason "terminated" or "truncated".

    Saving and restoring is exact in one of two ways. Where `env.unwrapped` has a MuJoCo `model` and `data`, MuJoCo's
    integration state is kept, what resets write into the model, every numeric attribute of the environment and its
    wrappers, and its random generator ("mujoco"). Elsewhere a state is the seed and the actions since, which are played
    again ("replay"): exact as far as the environment is deterministic. `vla-cl tasks check` says whether it is.

    Args:
        spec: How to build it.
        render_mode: None or "rgb_array".
        id: Gymnasium's id ("FetchPush-v4").
        modules: Modules to import first, which register the id ("gymnasium_robotics").
        kwargs: What `gymnasium.make` gets beside the id.
        success: The key of `info` that tells success ("is_success"), or "terminated" when ending means it.
        proprioception: Parts of the observation that make `agent_pos`: a key ("observation"), keys of nested
            dictionaries ("robot/joints"), each with an optional range ("observation[0:3]"), or "[0:3]" of an
            observation that is no dictionary. By default all numbers of the observation.
        environment_state: The same for the privileged state; by default all numbers, keys in alphabetical order.
        cameras: What each camera shows: "render" the environment's own `render()`, the name of a camera of its MuJoCo
            model, or the key of an image in the observation. A camera that is not listed stands for itself.
        actions: The components of the environment's action that the policy commands; the others are 0, or what is
            nearest to it in their range. By default all.
        state: "mujoco", "replay", or "auto": whichever fits.
        skip_solved: Whether an initial state in which the first step of rest succeeds is passed over, as the goal holds
            in it already; its seed then names the next one that the seed leads to.

    Raises:
        ConfigurationError: The id is not registered, a package is missing, or an argument cannot be used.
        UnknownNameError: The environment has no such camera.

    Attributes:
        wrapped: The environment, for scripted experts that need it.
        observed: Its own last observation.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}
    default_cameras = (RENDER,)

    def __init__(
        self,
        spec: EnvironmentSpec,
        render_mode: str | None = None,
        *,
        id: str,
        modules: Sequence[str] = (),
        kwargs: Mapping[str, Any] | None = None,
        success: str = "is_success",
        proprioception: Sequence[str] = (),
        environment_state: Sequence[str] = (),
        cameras: Mapping[str, str] | None = None,
        actions: Sequence[int] | None = None,
        state: str = "auto",
        skip_solved: bool = True,
    ) -> None:
        super().__init__(spec, render_mode)
        self._id, self._success_key, self._skip_solved = id, success, skip_solved
        self._sources = dict(cameras or {})
        draws_itself = RENDER in {self._source(camera) for camera in (*self.cameras, *self.default_cameras)}
        self.wrapped = _make(id, modules, dict(kwargs or {}), draws_itself)
        self.observed: Any = self.wrapped.reset(seed=0)[0]

        inner = self.wrapped.unwrapped
        self._is_mujoco = _is_mujoco(inner)
        self.model, self.data = (inner.model, inner.data) if self._is_mujoco else (None, None)  # type: ignore[attr-defined]
        self.renderer = Renderer(self.model, spec.rendering) if self._is_mujoco else None
        for camera in self.cameras:
            self._check_camera(camera)
        self.metadata = {**self.metadata, "render_fps": self.wrapped.metadata.get("render_fps") or 20}
        self._proprioception = VectorSelection(f"{id}: proprioception", proprioception, self.observed)
        self._privileged = VectorSelection(f"{id}: environment_state", environment_state, self.observed)
        self._commanded, self._rest, self._centre, self._half_range = _action_scale(id, self.wrapped, actions)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (len(self._commanded),), np.float32)
        self._state = self._choose_state(state)
        self.observation_space = self.build_observation_space()

    # --- the world ---------------------------------------------------------------------------------------------

    def reset_simulation(self, seed: int) -> None:
        """Reset the environment with `seed`, or with the first of the seeds derived from it that leaves work to do.

        Raises:
            SimulationError: `MAX_DRAWS` initial states in a row are solved already.
        """
        for draw in range(MAX_DRAWS):
            drawn = seed if draw == 0 else derive_seed("initial state", seed, draw) % 2**31
            self.observed = self._state.reset(drawn)
            if not self._skip_solved:
                return
            _, _, terminated, _, told = self._state.step(self._rest)
            if not self._succeeded(terminated, told):
                self.observed = self._state.reset(drawn)
                return
        raise SimulationError(f"the goal of {self._id} holds in {MAX_DRAWS} initial states in a row; see `success`")

    def simulate(self, action: NDArray[np.float32]) -> tuple[float, bool, dict[str, Any]]:
        """One step of the environment."""
        command = self._rest.copy()
        command[self._commanded] = self._centre + self._half_range * action
        self.observed, reward, terminated, truncated, told = self._state.step(command)
        numbers = (self.agent_pos(), self.environment_state())
        if self._state.is_unstable() or not all(np.isfinite(each).all() for each in numbers):
            logger.warning("%s became unstable at step %d; the episode ends", self._id, self.elapsed_steps)
            return 0.0, False, {"failure": UNSTABLE}
        success = self._succeeded(terminated, told)
        info = {key: value for key, value in told.items() if np.isscalar(value)}
        if not success and (terminated or truncated):
            info["failure"] = "terminated" if terminated else "truncated"
        return float(reward), success, info

    def rest_action(self) -> NDArray[np.float32]:
        """The action (A,) that commands the wrapped environment to rest."""
        rest = (self._rest[self._commanded] - self._centre) / np.where(self._half_range > 0, self._half_range, 1.0)
        return np.asarray(rest, np.float32)

    def model_camera(self, camera: str) -> int | None:
        """Which of the model's cameras it is; None for `render()` and images in the observation."""
        return super().model_camera(self._source(camera))

    def after_displacement(self) -> None:
        """Have the environment observe where things are now.

        Raises:
            ConfigurationError: It cannot be asked to.
        """
        super().after_displacement()
        look = getattr(self.wrapped.unwrapped, "_get_obs", None)  # what Gymnasium's own MuJoCo environments call it
        if look is None:
            raise ConfigurationError(f"{self._id} has no _get_obs() that would tell where its things are now")
        self.observed = look()

    def _succeeded(self, terminated: bool, told: Mapping[str, Any]) -> bool:
        if self._success_key == "terminated":
            return bool(terminated)
        if self._success_key not in told:
            raise ConfigurationError(
                f"{self._id} tells no {self._success_key!r} in info, only {', '.join(sorted(told)) or 'nothing'}; "
                "name one of these, or 'terminated', as success"
            )
        return bool(told[self._success_key])

    def agent_pos(self) -> NDArray[np.float32]:
        """The chosen parts of the observation (S,), float32."""
        return self._proprioception(self.observed).astype(np.float32)

    def environment_state(self) -> NDArray[np.float64]:
        """The chosen parts of the observation (E,), float64."""
        return self._privileged(self.observed)

    def get_state(self) -> NDArray[np.float64]:
        """Step counter, then the simulation's numbers, or the seed and the actions since."""
        return np.concatenate([[self.elapsed_steps], self._state.get(self.observed)])

    def set_state(self, state: NDArray[np.float64]) -> None:
        """Restore what `get_state` returned.

        Raises:
            SimulationError: The vector's length is not this task's.
        """
        self.observed = self._state.set(np.asarray(state, np.float64)[1:])
        self.elapsed_steps = int(state[0])

    def _choose_state(self, kind: str) -> WrappedState:
        match kind:
            case "auto":
                kind = "mujoco" if self._is_mujoco else "replay"
            case "mujoco" if not self._is_mujoco:
                raise ConfigurationError(f"{self._id} has no MuJoCo model and data; use state: replay")
        match kind:
            case "mujoco":
                return MujocoWrappedState(self.wrapped, self._rest)
            case "replay":
                self.swaps_states = False  # every restored state is simulated anew
                return ReplayedState(self.wrapped, self._rest, self.horizon)
        raise ConfigurationError(f"{self._id}: state {kind!r} is unknown; use auto, mujoco or replay")

    # --- images ------------------------------------------------------------------------------------------------

    def render_camera(self, camera: str, height: int, width: int) -> NDArray[np.uint8]:
        """Draw one upright image (H, W, 3) of the present state."""
        source = self._source(camera)
        if self.renderer is not None and source in self.renderer.cameras:
            self._state.before_drawing()
            image = self.renderer.draw(self.data, source, height, width)
            self._state.after_drawing()
            return image
        if source == RENDER:
            self._state.before_drawing()
            try:
                drawn = self.wrapped.render()
            except gymnasium.error.Error as error:
                raise RenderingError(f"{self._id} cannot be drawn: {error}") from error
            self._state.after_drawing()
            if not isinstance(drawn, np.ndarray):
                raise RenderingError(f"{self._id} draws {type(drawn).__name__}, not an image; name one of its cameras")
            return _resized(drawn, height, width)
        return _resized(image_at(self._id, self.observed, source), height, width)

    def _source(self, camera: str) -> str:
        return self._sources.get(camera, camera)

    def _check_camera(self, camera: str) -> None:
        source = self._source(camera)
        of_model = list(self.renderer.cameras) if self.renderer else []
        if source != RENDER and source not in of_model:
            try:
                image_at(self._id, self.observed, source)
            except ConfigurationError:
                raise UnknownNameError("camera", camera, [RENDER, *of_model, *self._sources]) from None

    def close(self) -> None:
        """Close the environment, and free what drawing needed."""
        self.wrapped.close()
        if self.renderer is not None:
            self.renderer.close()
        super().close()


BACKENDS.register("gymnasium", GymnasiumEnv)


def _make(id: str, modules: Sequence[str], kwargs: dict[str, Any], draws_itself: bool) -> gymnasium.Env[Any, Any]:
    """The environment without its own time limit and checker, `render()` returning images."""
    import_mujoco()  # with MUJOCO_GL as we want it, before anything else imports it
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ConfigurationError(
                f"Gymnasium environment {id!r} needs the module {module!r}, which cannot be imported: {error}; "
                f"pip install {module.partition('.')[0].replace('_', '-')}"
            ) from error
    try:
        mode = {"render_mode": "rgb_array"} if draws_itself else {}
        made = gymnasium.make(id, max_episode_steps=-1, disable_env_checker=True, **mode, **kwargs)
    except (gymnasium.error.Error, ImportError, TypeError) as error:
        hint = "" if modules else "; name the modules that register it"
        raise ConfigurationError(f"Gymnasium cannot make {id!r}: {' '.join(str(error).split())}{hint}") from error
    return made


def _is_mujoco(inner: Any) -> bool:
    mujoco = import_mujoco()
    model, data = getattr(inner, "model", None), getattr(inner, "data", None)
    return isinstance(model, mujoco.MjModel) and isinstance(data, mujoco.MjData)


def _action_scale(
    id: str, wrapped: gymnasium.Env[Any, Any], chosen: Sequence[int] | None
) -> tuple[NDArray[np.intp], NDArray[Any], NDArray[np.float32], NDArray[np.float32]]:
    """Which components are commanded, what the others are, and the affine map from [-1, 1] to their ranges."""
    space = wrapped.action_space
    if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1 or not space.is_bounded():
        raise ConfigurationError(f"{id} acts in {space}; only a bounded Box of shape (A,) can be commanded")
    size = space.shape[0]
    indices = np.arange(size) if chosen is None else np.array(chosen, np.intp)
    if not len(indices) or len(set(indices.tolist())) != len(indices) or not set(indices.tolist()) <= set(range(size)):
        raise ConfigurationError(f"{id}: actions must be different indices from 0 to {size - 1}, got {chosen}")
    rest = np.clip(np.zeros(size, space.dtype), space.low, space.high)
    low, high = space.low[indices].astype(np.float32), space.high[indices].astype(np.float32)
    return indices, rest, (low + high) / 2, (high - low) / 2


def _resized(image: NDArray[Any], height: int, width: int) -> NDArray[np.uint8]:
    """An RGB image at another size, its middle square or whatever shape is asked for, averaged over areas."""
    from PIL import Image

    present_height, present_width = image.shape[:2]
    kept_width = min(present_width, round(present_height * width / height))
    kept_height = min(present_height, round(present_width * height / width))
    top, left = (present_height - kept_height) // 2, (present_width - kept_width) // 2
    cut = np.ascontiguousarray(image[top : top + kept_height, left : left + kept_width], np.uint8)
    return np.array(Image.fromarray(cut).convert("RGB").resize((width, height), Image.Resampling.BOX))
