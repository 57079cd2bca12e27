"""What a task must keep so that collecting, training and evaluating can rely on it: one function a property.

Each returns what it measured, or raises `BrokenPropertyError` with one line on what is wrong and where to look.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import gymnasium
import numpy as np
from gymnasium.utils.env_checker import check_env
from numpy.typing import NDArray

from vla_cl.data.attempts import CollectionOptions, attempt_episode
from vla_cl.envs import EnvironmentPool, EpisodeStart, ManipulationEnv, ObservationOptions
from vla_cl.errors import VlaClError
from vla_cl.evaluation.statistics import wilson_interval
from vla_cl.seeding import numpy_generator
from vla_cl.tasks import Task, make_expert

_SPLITS = ("train", "selection", "test")
_SAVED_AFTER = 7
_CONTINUED = 12
_REPLAY_ATTEMPTS = 5
_REPLAY_NOISE = 0.05
_SMALLEST_CONTRAST = 2.0
_FOREIGN_SEED = 123_456_789
_UNSEEN = ObservationOptions(cameras=(), privileged=True)


class BrokenPropertyError(VlaClError):
    """A property that the task lacks."""


@dataclass(frozen=True)
class Subject:
    """The task under test.

    Args:
        task: The task.
        env: An environment of it, without cameras, that all proofs share.
        episodes: Initial states of each split that are looked at, and episodes of the expert.
        minimum_success: Share of the test episodes that the expert must solve.
        plugins: What another process loads to know the task.
    """

    task: Task
    env: ManipulationEnv
    episodes: int
    minimum_success: float
    plugins: tuple[str, ...] = ()

    def seeds(self, *splits: str) -> list[int]:
        """The first seeds of some splits, from each as many as there are episodes."""
        return [seed for split in splits for seed in self.task.seeds[split][: self.episodes]]

    def rest(self) -> NDArray[np.float32]:
        """The action of doing nothing (A,)."""
        return np.zeros(self.env.action_space.shape or (), np.float32)

    def random_actions(self, count: int) -> NDArray[np.float32]:
        """(count, A), always the same."""
        shape = (count, *(self.env.action_space.shape or ()))
        return numpy_generator("task check", self.task.name).uniform(-1, 1, shape).astype(np.float32)


def contract(subject: Subject) -> str:
    """Gymnasium's checker, our ranges and types, success told at every step."""
    env, space = subject.env, subject.env.action_space
    if not isinstance(space, gymnasium.spaces.Box) or space.dtype != np.float32 or len(space.shape) != 1:
        raise BrokenPropertyError(f"actions must be a float32 Box of shape (A,), got {space}")
    if (space.low != -1).any() or (space.high != 1).any():
        raise BrokenPropertyError(f"actions must lie in [-1, 1], got {space}")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            check_env(env, skip_render_check=True)
        except AssertionError as error:
            raise BrokenPropertyError(f"Gymnasium's checker: {error}") from error
    said = [str(each.message) for each in caught if "infinity" not in str(each.message)]
    if said:
        raise BrokenPropertyError(f"Gymnasium's checker: {said[0]}")
    observation, info = env.reset(seed=0)
    told = env.step(subject.rest())[4]["success"]
    if observation not in env.observation_space or info.get("success") is not False or not isinstance(told, bool):
        raise BrokenPropertyError(f"observations must lie in {env.observation_space}, info['success'] must be a bool")
    return "Gymnasium's checker has nothing to say"


def seeding(subject: Subject) -> str:
    """One seed, one initial state: after other episodes, in another environment, in another process."""
    env, seeds = subject.env, subject.seeds("test")
    states = [_start(env, seed) for seed in seeds]
    with closing(subject.task.environment(_UNSEEN)) as other:
        _start(other, _FOREIGN_SEED)
        other.advance(subject.random_actions(1)[0])
        for seed, state in zip(reversed(seeds), reversed(states), strict=True):
            if not np.array_equal(_start(other, seed), state, equal_nan=True):
                raise BrokenPropertyError(
                    f"seed {seed} leads to different states; draw from the seed, and nothing else"
                )
    spec = subject.task.environment_spec(_UNSEEN, plugins=subject.plugins)
    with EnvironmentPool(1) as pool:
        seen = pool.start({0: EpisodeStart(spec, seeds[0])})[0]
    env.restart(seed=seeds[0])
    for key, values in env.observe().items():
        if not np.array_equal(seen[key], values):
            raise BrokenPropertyError(f"seed {seeds[0]} shows another {key} in another process")
    return f"{len(seeds)} seeds lead to the same states again, also in another process"


def distinct_starts(subject: Subject) -> str:
    """Different seeds, different initial states."""
    seeds = subject.seeds(*_SPLITS)
    states = {_start(subject.env, seed).tobytes() for seed in seeds}
    if len(states) < len(seeds):
        raise BrokenPropertyError(
            f"{len(seeds)} seeds lead to only {len(states)} initial states; draw from more of them"
        )
    return f"{len(states)} initial states from {len(seeds)} seeds"


def unsolved_starts(subject: Subject) -> str:
    """The goal does not hold where an episode begins."""
    seeds, solved = subject.seeds(*_SPLITS), []
    for seed in seeds:
        subject.env.restart(seed=seed)
        if subject.env.advance(subject.rest()).info["success"]:
            solved.append(seed)
    if solved:
        where = f"{len(solved)} of {len(seeds)} seeds, e.g. {solved[0]}"
        raise BrokenPropertyError(f"the goal holds at the start of {where}; start elsewhere or ask for more")
    return f"the goal holds at the start of none of {len(seeds)} seeds"


def saved_states(subject: Subject) -> str:
    """A restored state continues bit-exactly, in this environment and in another."""
    env, actions = subject.env, subject.random_actions(_SAVED_AFTER + _CONTINUED)
    _start(env, subject.task.seeds.test[0])
    before = list(_trajectory(env, actions[:_SAVED_AFTER]))
    saved = before[-1]
    expected = list(_trajectory(env, actions[len(before) :]))
    with closing(subject.task.environment(_UNSEEN)) as other:
        for each, place in ((env, "the same environment"), (other, "another environment")):
            _start(each, _FOREIGN_SEED)
            each.set_state(saved)
            for step, state in enumerate(_trajectory(each, actions[len(before) :])):
                if not np.array_equal(state, expected[step], equal_nan=True):
                    raise BrokenPropertyError(
                        f"a restored state diverges after {step + 1} steps in {place}; see get_state"
                    )
    return f"a restored state ({len(saved)} numbers) continues bit-exactly for {len(expected)} steps"


def horizon(subject: Subject) -> str:
    """Without an actor nothing succeeds, and the episode is truncated at its horizon."""
    env = subject.env
    env.restart(seed=subject.task.seeds.test[0])
    for step in range(1, env.horizon + 1):
        _, success, truncated, info = env.advance(subject.rest())
        if success:
            raise BrokenPropertyError(f"doing nothing succeeds after {step} steps; success must need the robot")
        if truncated != (step == env.horizon):
            ended = f"ends ({info['failure']})" if truncated else "goes on"
            raise BrokenPropertyError(f"an episode {ended} at step {step}, its horizon is {env.horizon}")
    return f"an episode is truncated after {env.horizon} steps"


def expert(subject: Subject) -> str:
    """The expert solves enough of the test split's initial states."""
    env, task, seeds = subject.env, subject.task, subject.seeds("test")
    steps = []
    for seed in seeds:
        actor = make_expert(task)
        env.restart(seed=seed)
        actor.reset(env, numpy_generator("task check", task.name, seed))
        ended = False
        while not ended:
            _, success, truncated, _ = env.advance(np.asarray(actor.act(env), np.float32))
            ended = success or truncated
        if success:
            steps.append(env.elapsed_steps)
    low, high = wilson_interval(len(steps), len(seeds))
    told = f"{len(steps)} of {len(seeds)} episodes solved (95 % interval {low:.0%} to {high:.0%})"
    if len(steps) < subject.minimum_success * len(seeds):
        raise BrokenPropertyError(f"expert {task.expert!r}: {told}, {subject.minimum_success:.0%} is asked for")
    return f"{told}, in {round(float(np.median(steps)))} steps of {env.horizon}" if steps else told


def replay(subject: Subject) -> str:
    """A recorded demonstration, played again from its first state in another environment, is the same bit for bit."""
    task, options = subject.task, CollectionOptions(action_noise=_REPLAY_NOISE)
    attempts = (
        attempt_episode(subject.env, make_expert(task), task, options, attempt) for attempt in range(_REPLAY_ATTEMPTS)
    )
    episode = next((each for each in attempts if each is not None), None)
    if episode is None:
        raise BrokenPropertyError(
            f"the expert solved none of {_REPLAY_ATTEMPTS} training episodes, nothing was recorded"
        )
    with closing(task.environment(_UNSEEN)) as env:
        env.set_state(episode.states[0])
        for step, action in enumerate(episode.executed_actions):
            if not np.array_equal(env.get_state(), episode.states[step], equal_nan=True):
                raise BrokenPropertyError(f"a recorded demonstration differs from its replay at step {step}")
            success = env.advance(action).info["success"]
        if not success:
            raise BrokenPropertyError("a recorded demonstration does not succeed when it is replayed")
    return f"a demonstration of {len(episode.actions)} steps replays bit-exactly"


def rendering(subject: Subject) -> str:
    """Every default camera draws pictures with contrast, the same for the same state, others for others."""
    with closing(subject.task.environment(ObservationOptions())) as env:
        seeds = subject.seeds("test")[:5]
        shape = (env.image_size, env.image_size, 3)
        still = []
        for camera in env.cameras:
            frames = []
            for seed in seeds:
                state = _start(env, seed)
                frames += [env.render_camera(camera, *shape[:2]), env.render_camera(camera, *shape[:2])]
                if not np.array_equal(env.get_state(), state, equal_nan=True):
                    raise BrokenPropertyError(f"drawing camera {camera!r} changes the state")
            if any(frame.shape != shape or frame.dtype != np.uint8 for frame in frames):
                raise BrokenPropertyError(f"camera {camera!r} must draw {shape} uint8")
            if min(float(frame.std()) for frame in frames) < _SMALLEST_CONTRAST:
                raise BrokenPropertyError(f"camera {camera!r} shows one colour only; point it at the scene")
            if any((first != again).any() for first, again in zip(frames[::2], frames[1::2], strict=True)):
                raise BrokenPropertyError(f"camera {camera!r} draws the same state differently")
            if all((frame == frames[0]).all() for frame in frames[2::2]):
                still.append(camera)
        if len(still) == len(env.cameras):
            raise BrokenPropertyError(f"{len(seeds)} initial states look the same; point a camera at what differs")
    return f"{', '.join(env.cameras)}: {shape[0]} px pictures that tell initial states apart"


def _start(env: ManipulationEnv, seed: int) -> NDArray[np.float64]:
    env.restart(seed=seed)
    return env.get_state()


def _trajectory(env: ManipulationEnv, actions: NDArray[np.float32]) -> Iterator[NDArray[np.float64]]:
    """The states that actions lead to, until the episode ends."""
    for action in actions:
        _, success, truncated, _ = env.advance(action)
        yield env.get_state()
        if success or truncated:
            return
