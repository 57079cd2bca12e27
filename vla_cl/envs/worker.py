"""The process that simulates: it keeps environments, starts episodes in them and advances them by chunks.

`EnvironmentPool` runs one of these a core. Requests and replies are pickles over a socket between the two;
the process ends when that socket closes, so it outlives its parent by no more than one chunk.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_cl.envs.base import UNSTABLE, EnvironmentSpec, ManipulationEnv, Observation
from vla_cl.envs.building import make_environment
from vla_cl.envs.chunk import advance_chunk
from vla_cl.envs.process import serve

MAX_ENVIRONMENTS = 32
"""Environments that a worker keeps for later episodes; the one that was idle longest goes first.

Episodes of the same specification take turns in one environment: their states are swapped, which is exact and costs
less than a control step, where an environment of its own costs seconds to build and tens of megabytes."""

FILM_SIZE = 192
"""Height and width in pixels of recorded frames, unless the policy looks at larger ones: people look at films."""


@dataclass(frozen=True)
class EpisodeStart:
    """An episode to be started.

    Args:
        spec: The environment.
        seed: Of the initial state.
        record_every: n > 0 keeps a frame of the first camera every n control steps, and the last one, for a video.
        history: Moments that the policy sees: with more than 1, what was seen before a chunk's last step comes along.
    """

    spec: EnvironmentSpec
    seed: int
    record_every: int = 0
    history: int = 1


@dataclass(frozen=True)
class ChunkResult:
    """What came of one chunk of actions.

    Args:
        observation: What the policy sees next; None once the episode has ended.
        success: Whether the task is solved.
        terminated: Whether the episode ended in success.
        truncated: Whether it ended otherwise.
        steps: Control steps made in this chunk.
        reward: Summed over them.
        failure: "" unless truncated; then "horizon", or what the simulator said.
        frames: Recorded frames (H, W, 3) uint8, oldest first.
        past: The observations after the steps before the last one, oldest first: `history - 1` or all that there were.
    """

    observation: Observation | None
    success: bool
    terminated: bool
    truncated: bool
    steps: int
    reward: float
    failure: str
    frames: list[NDArray[np.uint8]]
    past: list[Observation] = field(default_factory=list)


@dataclass(eq=False)
class Episode:
    """An episode in a worker; `state` is where it was left while another has its environment."""

    env: ManipulationEnv
    record_every: int
    history: int = 1
    frames: list[NDArray[np.uint8]] = field(default_factory=list)
    state: NDArray[np.float64] | None = None
    ended: bool = False
    unstable: bool = False

    def start(self, seed: int) -> Observation:
        """Put the environment into the initial state and observe it."""
        self.env.restart(seed=seed)
        if self.record_every:
            self._record()
        return self.env.observe()

    def advance(self, actions: NDArray[np.float32]) -> tuple[Any, ...]:
        """Advance by a chunk (k, A) or wider; the fields of a `ChunkResult` in order.

        A policy that has learned other robots, too, commands as many numbers as the widest of them takes; this one
        takes its first A.
        """
        actions = actions[..., : self.env.action_space.shape[0]]  # type: ignore[index]
        past: list[Observation] = []
        (reward, terminated, truncated, info), steps = advance_chunk(
            self.env, actions, self._after_step(len(actions), past)
        )
        self.ended = ended = terminated or truncated
        self.unstable = info["failure"] == UNSTABLE
        if ended and self.record_every and self.env.elapsed_steps % self.record_every:
            self._record()
        frames, self.frames = self.frames, []
        observation = None if ended else self.env.observe()
        return observation, info["success"], terminated, truncated, steps, reward, info["failure"], frames, past

    def _after_step(self, steps: int, past: list[Observation]) -> Callable[[], None] | None:
        """What is to be done after each of a chunk's steps: record a frame, remember what a history needs."""
        if self.history == 1:
            return self._record_if_due if self.record_every else None
        last = self.env.elapsed_steps + steps

        def after_step() -> None:
            if self.record_every:
                self._record_if_due()
            if last - self.history < self.env.elapsed_steps < last:
                past.append(self.env.observe())

        return after_step

    def _record_if_due(self) -> None:
        if self.env.elapsed_steps % self.record_every == 0:
            self._record()

    def _record(self) -> None:
        env = self.env
        camera = (env.cameras or env.default_cameras)[0]
        size = max(FILM_SIZE, env.image_size)
        self.frames.append(env.render_camera(camera, size, size))


class Worker:
    """The episodes of some slots, and the environments that they reuse.

    Args:
        max_environments: How many environments are kept.
    """

    def __init__(self, max_environments: int = MAX_ENVIRONMENTS) -> None:
        self._episodes: dict[int, Episode] = {}
        self._environments: OrderedDict[tuple[int, bytes], ManipulationEnv] = OrderedDict()
        self._present: dict[ManipulationEnv, Episode] = {}
        self._max_environments = max_environments

    def start(self, episodes: Mapping[int, EpisodeStart]) -> dict[int, Observation]:
        """Start an episode in each slot, in place of the one that was there."""
        return {slot: self._start(slot, episode) for slot, episode in episodes.items()}

    def advance(self, chunks: Mapping[int, NDArray[np.float32]]) -> dict[int, tuple[Any, ...]]:
        """Advance each slot by its chunk."""
        return {slot: self._advance(self._episodes[slot], actions) for slot, actions in chunks.items()}

    def _start(self, slot: int, start: EpisodeStart) -> Observation:
        self._episodes.pop(slot, None)
        episode = Episode(self._environment(slot, start.spec), start.record_every, start.history)
        self._episodes[slot] = episode
        self._make_room_for(episode)
        return episode.start(start.seed)

    def _advance(self, episode: Episode, actions: NDArray[np.float32]) -> tuple[Any, ...]:
        if self._present.get(episode.env) is not episode:
            self._make_room_for(episode)
            assert episode.state is not None, "an episode that is not present was left before"
            episode.env.set_state(episode.state)
        result = episode.advance(actions)
        if episode.unstable:
            self._discard(episode.env)
        return result

    def _make_room_for(self, episode: Episode) -> None:
        """Take the episode out of its environment that is in it now, unless it has ended."""
        other = self._present.get(episode.env)
        if other is not None and not other.ended and other in self._episodes.values():
            other.state = other.env.get_state()
        self._present[episode.env] = episode

    def _discard(self, env: ManipulationEnv) -> None:
        """Let an environment go whose simulation became unstable; other episodes in it go on in a new one."""
        key = next(key for key, each in self._environments.items() if each is env)
        del self._environments[key], self._present[env]
        env.close()
        others = [each for each in self._episodes.values() if each.env is env and not each.ended]
        if others:
            self._environments[key] = make_environment(pickle.loads(key[1]))
        for other in others:
            other.env = self._environments[key]

    def _environment(self, slot: int, spec: EnvironmentSpec) -> ManipulationEnv:
        """The environment for an episode: one for all slots, or one a slot where states are dear to restore."""
        shared, own = (-1, pickle.dumps(spec)), (slot, pickle.dumps(spec))
        key = own if own in self._environments else shared
        env = self._environments.pop(key, None) or make_environment(spec)
        if not env.swaps_states:
            key = own
        self._environments[key] = env
        while len(self._environments) > self._max_environments:
            _, oldest = self._environments.popitem(last=False)
            if all(episode.env is not oldest for episode in self._episodes.values()):
                self._present.pop(oldest, None)
                oldest.close()
        return env


def main(file_descriptor: int) -> None:
    """Serve requests until the connection closes."""
    worker = Worker()
    serve(file_descriptor, {"start": worker.start, "advance": worker.advance})
