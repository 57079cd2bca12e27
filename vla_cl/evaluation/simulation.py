"""Episodes on a pool of simulator processes that may die, told apart from who acts in them.

A process that is killed (out of memory, a crash of the simulator, an operator) takes the episodes along that it was
simulating. They are run again: from their initial state through all the actions they had been given. The simulation is
deterministic, so that leads back to the state in which the process died, the policy is asked nothing twice, and the
outcome is the same bit for bit as if nothing had happened.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from vla_cl.envs import ChunkResult, EnvironmentPool, EpisodeStart, Observation, WorkerDiedError
from vla_cl.errors import SimulationError

MAX_DEATHS = 3
"""An episode during which this many processes died is not tried again."""

Request = TypeVar("Request")

logger = logging.getLogger(__name__)


@dataclass
class RunningEpisode:
    """An episode in its slot.

    Args:
        index: Its number within the task's evaluation.
        instruction: What the policy is told.
        start: Its initial state, and whether it is filmed.
        observation: What the policy sees next; the last one it saw, once the episode is over.
        past: What was seen in the `start.history - 1` control steps before, oldest first; the first observation repeats
            where the episode is younger.
        plans: The chunks (chunk, A) that the policy predicted, each with the step at which it begins, as long as they
            say something about the present.
        actions: Chunks (k, A) executed so far, or being executed.
        steps: Control steps so far.
        success: Whether it has succeeded.
        finished: Whether it is over.
        failure: Why it ended before its horizon without success, else "".
        frames: Images for the film.
        deaths: How many processes died under it.
    """

    index: int
    instruction: str
    start: EpisodeStart
    observation: Observation = field(default_factory=dict)
    past: list[Observation] = field(default_factory=list)
    plans: list[tuple[int, NDArray[np.float32]]] = field(default_factory=list)
    actions: list[NDArray[np.float32]] = field(default_factory=list)
    steps: int = 0
    success: bool = False
    finished: bool = False
    failure: str = ""
    frames: list[NDArray[np.uint8]] = field(default_factory=list)
    deaths: int = 0

    def begin(self, observation: Observation) -> None:
        """Take note of the first observation; what a dead process had reported is void."""
        self.observation, self.steps, self.frames = observation, 0, []
        self.past = [observation] * (self.start.history - 1)

    def proceed(self, result: ChunkResult) -> None:
        """Take note of what an executed chunk led to."""
        if result.observation is not None:
            seen = [*self.past, self.observation, *result.past]
            self.past = seen[len(seen) - (self.start.history - 1) :]
            self.observation = result.observation
        self.steps += result.steps
        self.frames.extend(result.frames)
        self.success = result.success
        self.finished = result.terminated or result.truncated or bool(result.failure)
        self.failure = result.failure

    def blend(self, plan: NDArray[np.float32], execute: int, decay: float) -> NDArray[np.float32]:
        """ACT's temporal ensembling (Zhao et al., arXiv 2304.13705, section 4.2).

        Args:
            plan: The newest chunk (chunk, A), from the present step on.
            execute: How many actions are wanted.
            decay: m.

        Returns:
            Actions (execute, A): for each step the mean of what all chunks say about it, the i-th oldest of them
            weighed by exp(-m i).
        """
        self.plans = [(begin, chunk) for begin, chunk in self.plans if begin + len(chunk) > self.steps]
        self.plans.append((self.steps, plan))
        actions = []
        for step in range(self.steps, self.steps + execute):
            said = [chunk[step - begin] for begin, chunk in self.plans if step < begin + len(chunk)]
            weights = np.exp(-decay * np.arange(len(said)))
            actions.append((weights / weights.sum()) @ np.stack(said))
        return np.array(actions, np.float32)


class Simulation:
    """The episodes that are running, by slot.

    Args:
        pool: Processes that simulate.
    """

    def __init__(self, pool: EnvironmentPool) -> None:
        self._pool = pool
        self.running: dict[int, RunningEpisode] = {}

    def start(self, episodes: Mapping[int, RunningEpisode]) -> None:
        """Start episodes in free slots; each then has its first observation."""
        self.running.update(episodes)
        lost = self._start(episodes)
        self._run_again(lost)

    def advance(self, chunks: Mapping[int, NDArray[np.float32]]) -> list[RunningEpisode]:
        """Execute a chunk (k, A) in each slot.

        Returns:
            The episodes that ended, or had failed, by ascending slot; their slots are free.

        Raises:
            SimulationError: `MAX_DEATHS` processes died under one episode.
        """
        for slot, chunk in chunks.items():
            self.running[slot].actions.append(chunk)
        lost = self._advance(chunks)
        self._run_again(lost)
        ended = [slot for slot in sorted(self.running) if self.running[slot].finished]
        return [self.running.pop(slot) for slot in ended]

    def fail(self, slot: int, failure: str) -> None:
        """End an episode that cannot go on, for a reason of its own; the next `advance` returns it."""
        self.running[slot].finished, self.running[slot].failure = True, failure

    def _run_again(self, lost: set[int]) -> None:
        """Bring episodes whose process died back to where they were."""
        while lost:
            for slot in lost:
                episode = self.running[slot]
                episode.deaths += 1
                if episode.deaths >= MAX_DEATHS:
                    raise SimulationError(
                        f"{episode.deaths} simulator processes died under episode {episode.index} "
                        f"(seed {episode.start.seed}); see whether the machine is short of memory (vla-cl doctor)"
                    )
            logger.warning("a simulator process died; running %d of its episodes again", len(lost))
            lost_again = self._start(lost)
            histories = {
                slot: np.concatenate(self.running[slot].actions)
                for slot in sorted(lost - lost_again)
                if self.running[slot].actions
            }
            lost = lost_again | self._advance(histories)

    def _start(self, slots: Iterable[int]) -> set[int]:
        started, lost = self._call(self._pool.start, {slot: self.running[slot].start for slot in sorted(slots)})
        for slot, observation in started.items():
            self.running[slot].begin(observation)
        return lost

    def _advance(self, chunks: Mapping[int, NDArray[np.float32]]) -> set[int]:
        if not chunks:
            return set()
        results, lost = self._call(self._pool.advance, chunks)
        for slot, result in results.items():
            self.running[slot].proceed(result)
        return lost

    def _call(
        self, function: Callable[[Mapping[int, Request]], Mapping[int, Any]], request: Mapping[int, Request]
    ) -> tuple[Mapping[int, Any], set[int]]:
        """What the living processes returned, and the slots of the others whose episodes are not over."""
        try:
            return function(request), set()
        except WorkerDiedError as death:
            unfinished = {slot for slot, episode in self.running.items() if not episode.finished}
            return death.results, set(death.slots) & unfinished
