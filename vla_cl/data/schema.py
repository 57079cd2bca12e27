"""What a demonstration file holds, in words and in names.

robomimic's layout (Mandlekar et al., "What Matters in Learning from Offline Human Demonstrations", 2021), with what it
lacks as extra attributes and datasets that its readers never look at::

    data                        attributes: total, env_args, and the fields of `Header`, checksum
    data/demo_N                 attributes: num_samples, seed, attempt, model_file (where the simulator has one)
    data/demo_N/actions         (T, A) float32: what a policy should do, the expert's own action
    data/demo_N/executed_actions (T, A) float32: what was done; differs under action noise
    data/demo_N/states          (T, N) float64: the simulator before actions[t]
    data/demo_N/rewards         (T,) float32
    data/demo_N/dones           (T,) uint8: 1 at the last transition, the one that succeeded
    data/demo_N/obs/<key>       (T, ...): what the policy saw before actions[t]
    data/demo_N/next_obs/<key>  (T, ...): what it saw after; images are views of obs and last_obs, not copies
    data/demo_N/last_obs/<key>  (1, ...): images after the last action
    mask/<split>                names of the demonstrations of "train" and "valid"

Keys of obs: `agent_pos` (S,) float32, `environment_state` (E,) float32 when privileged state was asked for, and
`<camera>_image` (H, W, 3) uint8, upright.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_cl.envs import ObservationOptions, RenderingOptions
from vla_cl.envs.rendering import settled
from vla_cl.tasks import Task

SCHEMA = "vla_cl.demonstrations"
SCHEMA_VERSION = 1

AGENT_POS = "agent_pos"
ENVIRONMENT_STATE = "environment_state"
IMAGE_SUFFIX = "_image"

ROBOMIMIC_GYM_TYPE = 2
"""robomimic's `EnvType.GYM_TYPE`: its reader makes `env_name` with Gym."""

UNKNOWN_SEED = -1
"""The seed of a demonstration of which nobody wrote down how it began."""

SOURCE = "source"
"""Key of `Header.collection` in a file that was converted and lost what a simulator needs to do it again."""

VALID_EVERY = 10
"""Every tenth demonstration is in `mask/valid`, the others in `mask/train`."""

HEADER_TEXTS = ("task", "instruction", "expert", "env_name")
HEADER_TREES = ("environment", "observation", "rendering", "collection", "versions")
"""Fields of `Header` that are stored as text, and as JSON."""

RECORDED_PACKAGES = ("vla_cl", "numpy", "h5py", "gymnasium", "mujoco", "metaworld", "robosuite")


@dataclass(frozen=True)
class Episode:
    """One demonstration of T transitions, in memory.

    Args:
        seed: Initial-state seed given to `reset`, or `UNKNOWN_SEED`.
        attempt: Which attempt of the collection it was.
        actions: (T, A) float32, what a policy should do.
        executed_actions: (T, A) float32, what was done.
        states: (T, N) float64, the simulator before each action; N is 0 where nobody stored it.
        rewards: (T,) float32.
        observations: T + 1 rows under each observation key; the last row is what was seen after the last action.
        model_file: The model's XML, or "".
    """

    seed: int
    attempt: int
    actions: NDArray[np.float32]
    executed_actions: NDArray[np.float32]
    states: NDArray[np.float64]
    rewards: NDArray[np.float32]
    observations: Mapping[str, NDArray[Any]]
    model_file: str = ""

    def __len__(self) -> int:
        return len(self.actions)


@dataclass(frozen=True)
class Header:
    """What is said once about all demonstrations of a file.

    Args:
        task: Name of the task.
        instruction: What the robot is told.
        expert: Name of the expert in `vla_cl.tasks.EXPERTS`.
        env_name: Gymnasium id of the environment.
        environment: backend, arguments and horizon: with `observation` and `rendering`, what rebuilds the environment.
        observation: Fields of `ObservationOptions`, cameras resolved.
        rendering: Fields of `RenderingOptions`.
        collection: How the demonstrations came about: episodes, seed, action_noise, and in words what `actions` are; of
            converted ones `SOURCE`: layout and file, and in words what is not what it was.
        versions: Installed packages that matter, by name.
    """

    task: str
    instruction: str
    expert: str
    env_name: str
    environment: Mapping[str, Any]
    observation: Mapping[str, Any]
    rendering: Mapping[str, Any]
    collection: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def env_args(self) -> str:
        """robomimic's JSON: env_name, type, env_kwargs; `gymnasium.make(env_name, **env_kwargs)` is the environment."""
        kwargs = dict(self.observation)
        return canonical_json({"env_name": self.env_name, "type": ROBOMIMIC_GYM_TYPE, "env_kwargs": kwargs})


def canonical_json(value: Any) -> str:
    """JSON with sorted keys: equal values give equal text."""
    return json.dumps(value, sort_keys=True, allow_nan=False)


def image_key(camera: str) -> str:
    """The observation key of a camera's images."""
    return camera + IMAGE_SUFFIX


def demonstration_name(index: int) -> str:
    """The group of the demonstration `index`, from 0."""
    return f"demo_{index}"


def environment_fields(task: Task) -> dict[str, Any]:
    """What rebuilds the simulation of a task: backend, arguments and horizon."""
    return {"backend": task.backend, "arguments": dict(task.arguments), "horizon": task.horizon}


def observation_fields(options: ObservationOptions, cameras: tuple[str, ...]) -> dict[str, Any]:
    """The fields of `options` for JSON, with the cameras that were drawn."""
    return {"cameras": list(cameras), "image_size": options.image_size, "privileged": options.privileged}


def rendering_fields(options: RenderingOptions, observation: ObservationOptions) -> dict[str, Any]:
    """The fields of `options` for JSON. If anything is drawn, ray casting is told apart from OpenGL."""
    return asdict(options if observation.cameras == () else settled(options))


def installed_versions() -> dict[str, str]:
    """Versions of the packages that decide what a simulation does, as far as they are installed."""
    versions = {}
    for package in RECORDED_PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions
