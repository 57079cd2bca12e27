"""How the tests describe robosuite environments, and a worker that continues their episodes in another process."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.envs.continuation import trajectory
from vla_cl.envs import EnvironmentSpec, ObservationOptions, make_environment
from vla_cl.envs.process import serve
from vla_cl.envs.robosuite.env import RobosuiteEnv
from vla_cl.tasks import EXPERTS


def robosuite_spec(
    environment: str = "Lift",
    *,
    cameras: tuple[str, ...] | None = (),
    privileged: bool = False,
    horizon: int = 1000,
    **arguments: Any,
) -> EnvironmentSpec:
    return EnvironmentSpec(
        "robosuite",
        {"environment": environment, **arguments},
        horizon=horizon,
        observation=ObservationOptions(cameras, 64, privileged),
    )


def robosuite_env(environment: str = "Lift", **options: Any) -> RobosuiteEnv:
    env = make_environment(robosuite_spec(environment, **options))
    assert isinstance(env, RobosuiteEnv)
    return env


def moderate_actions(count: int, seed: int = 0) -> NDArray[np.float32]:
    """Smooth random motions (T, 7) that stay away from joint limits, the fingers closing and opening."""
    generator = np.random.default_rng(seed)
    phase, pace = generator.uniform(0, 2 * np.pi, 7), generator.uniform(0.05, 0.15, 7)
    size = np.array([0.6, 0.6, 0.4, 0.2, 0.2, 0.4, 1.0])
    return (size * np.sin(phase + pace * np.arange(count)[:, None])).astype(np.float32)


def expert_actions(env: RobosuiteEnv, expert: str, count: int) -> NDArray[np.float32]:
    """What an expert does (T, 7) in the state that `env` is in, which is advanced; until success."""
    demonstrator = EXPERTS[expert]()
    demonstrator.reset(env, np.random.default_rng(0))
    actions = []
    for _ in range(count):
        actions.append(demonstrator.act(env))
        if env.advance(actions[-1]).terminated:
            break
    return np.stack(actions)


def start(request: tuple[str, int]) -> NDArray[np.float64]:
    environment, seed = request
    env = robosuite_env(environment)
    env.restart(seed=seed)
    return env.get_state()


def continue_episode(request: tuple[str, NDArray[np.float64], NDArray[np.float32]]) -> list[tuple[Any, ...]]:
    environment, state, actions = request
    env = robosuite_env(environment)
    env.set_state(state)
    return trajectory(env, actions)


def main(file_descriptor: int) -> None:
    serve(file_descriptor, {"start": start, "continue": continue_episode})
