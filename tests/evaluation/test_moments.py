"""Policies that see several moments, and temporal ensembling, on the real simulator."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from vla_cl.data import ObservationBatch
from vla_cl.envs import EnvironmentPool, EpisodeStart, ObservationOptions
from vla_cl.evaluation import Controller, EvaluationOptions, rollout
from vla_cl.evaluation.simulation import RunningEpisode
from vla_cl.tasks import Task


class Watcher(Controller):
    """Acts at random, each row from its own seed, and notes what it saw and did in an evaluation of one episode."""

    def __init__(self, execute: int, history: int, pool: EnvironmentPool | None = None) -> None:
        self.execute, self.history, self.pool = execute, history, pool
        self.seen: list[list[NDArray[np.float32]]] = []
        self.actions: list[NDArray[np.float32]] = []

    def act(self, observation: ObservationBatch, seeds: Sequence[int]) -> NDArray[np.float32]:
        assert all(each.environment_state is not None for each in observation.moments)
        self.seen.append([each.environment_state[0].numpy() for each in observation.moments])
        chunk = np.random.default_rng(seeds[0]).uniform(-1, 1, (1, self.execute, 4)).astype(np.float32)
        self.actions.extend(chunk[0])
        if self.pool is not None and len(self.seen) == 3:
            for process in self.pool.process_ids().values():
                os.kill(process, signal.SIGKILL)
        return chunk


OBSERVATION = ObservationOptions(cameras=(), privileged=True)


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize(("execute", "history"), [(1, 4), (3, 2), (4, 3), (2, 5)])
def test_a_history_is_what_was_seen_in_the_control_steps_before(
    window_close: Task, execute: int, history: int, killed: bool
) -> None:
    task = replace(window_close, horizon=14)
    with EnvironmentPool(1) as pool:
        watcher = Watcher(execute, history, pool if killed else None)
        options = EvaluationOptions(episodes=1, slots=1)
        rollout(watcher, task, stage=0, options=options, observation=OBSERVATION, pool=pool, seed=0)
    env = task.environment(OBSERVATION)
    observations = [env.reset(seed=task.seeds["test"][0])[0], *(env.step(each)[0] for each in watcher.actions[:14])]
    states = [each["environment_state"] for each in observations]
    assert len(watcher.seen) == -(-14 // execute)
    for query, moments in enumerate(watcher.seen):
        steps = [max(0, query * execute - lag) for lag in reversed(range(history))]
        np.testing.assert_array_equal(moments, [states[step] for step in steps])


def test_temporal_ensembling_is_the_weighted_mean_of_all_that_was_planned_for_a_step(window_close: Task) -> None:
    episode = RunningEpisode(0, "", EpisodeStart(window_close.environment_spec(OBSERVATION), seed=0))
    generator = np.random.default_rng(0)
    chunk, decay, plans = 5, 0.3, []
    for step in range(12):
        episode.steps = step
        plans.append(generator.normal(size=(chunk, 2)).astype(np.float32))
        (action,) = episode.blend(plans[-1], 1, decay)
        said = [plans[begin][step - begin] for begin in range(max(0, step - chunk + 1), step + 1)]
        weights = [np.exp(-decay * age) for age in range(len(said))]  # the oldest weighs most
        expected = sum(weight * each for weight, each in zip(weights, said, strict=True)) / sum(weights)
        np.testing.assert_allclose(action, expected, rtol=1e-5)


def test_a_rollout_executes_the_ensemble(pool: EnvironmentPool, window_close: Task) -> None:
    class Planner(Controller):
        execute, temporal_ensemble = 2, 0.0

        def act(self, observation: ObservationBatch, seeds: Sequence[int]) -> NDArray[np.float32]:
            rows = [np.random.default_rng(seed).uniform(-1, 1, (6, 4)) for seed in seeds]
            return np.stack(rows).astype(np.float32)

    class Blended(Planner):
        """The same, blended by hand: with m = 0 it is the plain mean."""

        temporal_ensemble = None  # type: ignore[assignment]

        def __init__(self) -> None:
            self.plans: list[NDArray[np.float32]] = []

        def act(self, observation: ObservationBatch, seeds: Sequence[int]) -> NDArray[np.float32]:
            self.plans.append(super().act(observation, seeds)[0])
            newest = len(self.plans) - 1
            said = [
                [self.plans[newest - age][2 * age + ahead] for age in (2, 1, 0) if newest >= age] for ahead in range(2)
            ]
            return np.array([[np.mean(each, axis=0) for each in said]], np.float32)

    task = replace(window_close, horizon=20)
    outcomes = []
    for controller in (Planner(), Blended()):
        starts = []
        options = EvaluationOptions(episodes=1, slots=1)

        class Noting(Controller):
            execute = controller.execute
            temporal_ensemble = controller.temporal_ensemble
            inner, seen = controller, starts

            def act(self, observation: ObservationBatch, seeds: Sequence[int]) -> NDArray[np.float32]:
                self.seen.append(observation.environment_state.numpy())  # type: ignore[union-attr]
                return self.inner.act(observation, seeds)

        rollout(Noting(), task, stage=0, options=options, observation=OBSERVATION, pool=pool, seed=0)
        outcomes.append(np.concatenate(starts))
    np.testing.assert_allclose(outcomes[0], outcomes[1], atol=1e-6)
