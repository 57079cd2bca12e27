"""One environment of each simulator, small, for tests of what perturbs them; and plug-ins of a user."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_cl.envs import EnvironmentSpec, ObservationOptions, RenderingOptions
from vla_cl.envs.building import make_perturbable
from vla_cl.envs.perturbations.episodes import PerturbedEnv
from vla_cl.tasks import find_task

SEED, OTHER_SEED = 2_000_000, 2_000_001
LOOKS = ("camera:large", "light:large", "texture:large", "distractors:small", "sensor_noise:small")
EVERYTHING = (*LOOKS, "object_pose:medium", "action_delay=2")


def meta_world() -> EnvironmentSpec:
    return find_task("mw50/push").environment_spec(ObservationOptions(("corner2", "gripperPOV"), 64))


def tabletop() -> EnvironmentSpec:
    return find_task("tabletop_goal/turn-knob").environment_spec(ObservationOptions(("agentview",), 64))


def robosuite() -> EnvironmentSpec:
    return EnvironmentSpec("robosuite", {"environment": "Lift"}, observation=ObservationOptions(("agentview",), 64))


def scene() -> EnvironmentSpec:
    """A task that is a MuJoCo scene and four methods, by a plug-in."""
    return EnvironmentSpec(
        "perturbed_pushing", observation=ObservationOptions(("above",), 64), plugins=("tests.perturbations.pushing",)
    )


def fetch() -> EnvironmentSpec:
    """Somebody else's environment, simulated by MuJoCo."""
    arguments = {"id": "FetchPush-v4", "modules": ["gymnasium_robotics"], "cameras": {"front": "external_camera_0"}}
    return EnvironmentSpec("gymnasium", arguments, observation=ObservationOptions(("front",), 64))


def thermostat() -> EnvironmentSpec:
    """Somebody else's environment, which knows nothing of MuJoCo."""
    arguments = {"id": "vla_cl_tests/Thermostat-v0", "modules": ["tests.envs.foreign"], "success": "warm"}
    return EnvironmentSpec("gymnasium", arguments, horizon=40, observation=ObservationOptions(("render",), 64))


def built(spec: EnvironmentSpec, *perturbations: str) -> PerturbedEnv:
    """The environment, drawn by casting rays: exact, and no system library is needed."""
    return make_perturbable(replace(spec, perturbations=perturbations, rendering=RenderingOptions("raycast")))


def actions(env: Any, count: int) -> NDArray[np.float32]:
    phase = np.random.default_rng(0).uniform(0, 2 * np.pi, env.action_space.shape)
    return (0.5 * np.sin(phase + 0.2 * np.arange(count)[:, None])).astype(np.float32)


def seen(env: Any, taken: NDArray[np.float32]) -> list[Any]:
    """All that there is to see and to save, before each of the actions and after the last one."""
    moments = [_moment(env)]
    for action in taken:
        env.advance(action)
        moments.append(_moment(env))
    return moments


def _moment(env: Any) -> list[Any]:
    observation = env.observe()
    pictures = [image.tobytes() for image in observation.get("pixels", {}).values()]
    return [env.get_state().tobytes(), observation["agent_pos"].tobytes(), *pictures]
