"""One attempt of an expert at a task, and what it saw: the part of collection that simulates.

An attempt is simulated without drawing anything; only when it succeeded are its states restored one by one and
observed. Restoring is exact, so these are the observations that a policy would have had, failures cost no pictures,
and drawing a stored demonstration again (`vla_cl.data.rerender`) is the same computation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_cl.data.schema import AGENT_POS, ENVIRONMENT_STATE, Episode, image_key
from vla_cl.envs import ManipulationEnv, Observation
from vla_cl.errors import ConfigurationError
from vla_cl.seeding import derive_seed, numpy_generator
from vla_cl.tasks import Expert, Task


@dataclass(frozen=True)
class CollectionOptions:
    """How demonstrations are collected.

    Args:
        episodes: Successful episodes to keep.
        seed: Names the initial states and all noise.
        action_noise: Standard deviation of Gaussian noise added to the executed actions, which live in [-1, 1], times
            the environment's `noise_scale`, because an action of 1 moves some hands further than others; the
            stored `actions` stay the expert's own, so a policy also learns to recover.
        max_attempts: Attempts after which to give up; None is 20 + 4 * episodes.
        processes: Simulator processes; None is one a core. They change the time that it takes, and nothing else.
    """

    episodes: int = 50
    seed: int = 0
    action_noise: float = 0.0
    max_attempts: int | None = None
    processes: int | None = None

    def __post_init__(self) -> None:
        if self.episodes < 1:
            raise ConfigurationError(f"collection.episodes must be at least 1, got {self.episodes}")
        if not (np.isfinite(self.action_noise) and self.action_noise >= 0.0):
            raise ConfigurationError(f"collection.action_noise must be at least 0, got {self.action_noise}")
        if self.processes is not None and self.processes < 1:
            raise ConfigurationError(f"collection.processes must be at least 1, got {self.processes}")
        if self.max_attempts is not None and self.max_attempts < self.episodes:
            raise ConfigurationError(
                f"collection.max_attempts must be at least the {self.episodes} episodes, got {self.max_attempts}"
            )

    @property
    def attempts(self) -> int:
        """Attempts after which to give up."""
        return 20 + 4 * self.episodes if self.max_attempts is None else self.max_attempts


def initial_state_seed(task: Task, seed: int, attempt: int) -> int:
    """The training initial state that an attempt starts from; different for the attempts of one collection."""
    seeds = task.seeds.train
    return seeds[(derive_seed("initial states", task.name, seed) + attempt) % len(seeds)]


def attempt_episode(
    env: ManipulationEnv, expert: Expert, task: Task, options: CollectionOptions, attempt: int
) -> Episode | None:
    """Let the expert try once; a function of (task, options.seed, options.action_noise, attempt) alone.

    Returns:
        The episode, which ends with the first transition that succeeds; None when none does within the horizon.
    """
    seed = initial_state_seed(task, options.seed, attempt)
    noise = numpy_generator("action noise", task.name, options.seed, attempt)
    env.restart(seed=seed)
    expert.reset(env, numpy_generator("expert", task.name, options.seed, attempt))
    states, actions, executed, rewards = [env.get_state()], [], [], []
    ended = False
    while not ended:
        action = np.clip(expert.act(env), -1.0, 1.0).astype(np.float32)
        drawn = (
            noise.normal(scale=options.action_noise * env.noise_scale, size=action.shape)
            if options.action_noise
            else 0.0
        )
        actions.append(action)
        executed.append(np.clip(action + drawn, -1.0, 1.0).astype(np.float32))
        reward, success, truncated, _ = env.advance(executed[-1])
        rewards.append(reward)
        states.append(env.get_state())
        ended = success or truncated
    if not success:
        return None
    return Episode(
        seed=seed,
        attempt=attempt,
        actions=np.stack(actions),
        executed_actions=np.stack(executed),
        states=np.stack(states[:-1]),
        rewards=np.array(rewards, np.float32),
        observations=stack_observations(observe_states(env, states), len(states)),
        model_file=env.model_xml(),
    )


def observe_states(env: ManipulationEnv, states: Iterable[NDArray[np.float64]]) -> Iterator[Observation]:
    """What is seen in each of the states; `env` is left in the last."""
    for state in states:
        env.set_state(state)
        yield env.observe()


def stack_observations(observations: Iterable[Observation], count: int) -> dict[str, NDArray[Any]]:
    """`count` observations as one array (count, ...) for each key of a demonstration file."""
    stacked: dict[str, NDArray[Any]] = {}
    for index, observation in enumerate(observations):
        for key, values in _flat(observation).items():
            if key not in stacked:
                stacked[key] = np.empty((count, *values.shape), values.dtype)
            stacked[key][index] = values
    return stacked


def _flat(observation: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    flat = {key: observation[key] for key in (AGENT_POS, ENVIRONMENT_STATE) if key in observation}
    return flat | {image_key(camera): image for camera, image in observation.get("pixels", {}).items()}
