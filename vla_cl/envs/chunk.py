"""Acting in chunks: many control steps, one observation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from vla_cl.envs.base import Advance, ManipulationEnv, Observation
from vla_cl.errors import ConfigurationError


def advance_chunk(
    env: ManipulationEnv, actions: NDArray[np.float32], after_step: Callable[[], None] | None = None
) -> tuple[Advance, int]:
    """Apply actions one after another until one ends the episode or all are used. Nothing is observed.

    Args:
        env: The environment.
        actions: (k, A) with k >= 1.
        after_step: Called after each control step, e.g. to record a frame.

    Returns:
        The summed reward with the last step's flags and info, and how many actions were applied.

    Raises:
        ConfigurationError: `actions` is not (k, A), or is not finite.
    """
    actions = np.asarray(actions, dtype=np.float32)
    if actions.ndim != 2 or not len(actions):
        raise ConfigurationError(f"a chunk of actions must have shape (k, A) with k >= 1, got {actions.shape}")
    total, steps = 0.0, 0
    for action in actions:
        reward, terminated, truncated, info = env.advance(action)
        total += reward
        steps += 1
        if after_step is not None:
            after_step()
        if terminated or truncated:
            break
    return Advance(total, terminated, truncated, info), steps


class ActionChunk(
    gymnasium.Wrapper[Observation, NDArray[np.float32], Observation, NDArray[np.float32]],
    gymnasium.utils.RecordConstructorArgs,
):
    """Takes k actions at a time, advances up to k control steps, and observes once.

    A step stops early at success or at the horizon. Its reward is the sum over the steps taken; `info["steps"]`
    says how many those were.

    Args:
        env: An environment whose innermost one is a `ManipulationEnv`.
        chunk: k, the number of actions in a chunk.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], chunk: int) -> None:
        gymnasium.utils.RecordConstructorArgs.__init__(self, chunk=chunk)
        gymnasium.Wrapper.__init__(self, env)
        if chunk < 1:
            raise ConfigurationError(f"chunk must be at least 1, got {chunk}")
        if not isinstance(env.unwrapped, ManipulationEnv):
            raise ConfigurationError(f"ActionChunk needs a ManipulationEnv, got {type(env.unwrapped).__name__}")
        self.chunk = chunk
        space = env.unwrapped.action_space
        assert isinstance(space, gymnasium.spaces.Box)
        low, high = np.tile(space.low, (chunk, 1)), np.tile(space.high, (chunk, 1))
        self.action_space = gymnasium.spaces.Box(low, high, dtype=np.float32)

    def step(self, action: NDArray[np.float32]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Advance by a chunk (k, A), then observe."""
        if np.shape(action) != self.action_space.shape:
            raise ConfigurationError(f"a chunk must have shape {self.action_space.shape}, got {np.shape(action)}")
        env = self.env.unwrapped
        assert isinstance(env, ManipulationEnv)
        (reward, terminated, truncated, info), steps = advance_chunk(env, action)
        return env.observe(), reward, terminated, truncated, {**info, "steps": steps}
