"""A worker that continues episodes from saved states, for the test that another process does so bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.envs.scenes import meta_world
from vla_cl.envs.process import serve


def trajectory(env: Any, actions: NDArray[np.float32]) -> list[tuple[Any, ...]]:
    """Everything that is visible of the steps that `actions` make."""
    steps = []
    for action in actions:
        reward, terminated, _, info = env.advance(action)
        steps.append((reward, terminated, info, env.environment_state(), env.agent_pos(), env.get_state()))
    return steps


def continue_episode(request: tuple[str, NDArray[np.float64], NDArray[np.float32]]) -> list[tuple[Any, ...]]:
    task, state, actions = request
    env = meta_world(task, horizon=1000)
    env.set_state(state)
    return trajectory(env, actions)


def main(file_descriptor: int) -> None:
    serve(file_descriptor, {"continue": continue_episode})
