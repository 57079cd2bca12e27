"""Rollouts on the real simulator, under controllers whose actions are known."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vla_cl.data import ObservationBatch
from vla_cl.envs import EnvironmentPool, ObservationOptions
from vla_cl.errors import ConfigurationError, SimulationError
from vla_cl.evaluation import Controller, EarlyStop, EpisodeRow, EvaluationOptions, rollout
from vla_cl.tasks import SeedSplit, Task

Respond = Callable[[ObservationBatch, Sequence[int]], NDArray[np.float32]]


class Recorder(Controller):
    """A controller that notes whom it was asked for, and leaves acting to `respond(observation, seeds)`."""

    def __init__(self, respond: Respond, execute: int, before: Callable[[int], None] = lambda query: None) -> None:
        self.respond = respond
        self.execute = execute
        self.before = before
        self.batches: list[tuple[ObservationBatch, tuple[int, ...]]] = []

    def act(self, observation: ObservationBatch, seeds: Sequence[int]) -> NDArray[np.float32]:
        self.batches.append((observation, tuple(seeds)))
        self.before(len(self.batches))
        return self.respond(observation, seeds)

    @property
    def batch_sizes(self) -> list[int]:
        return [len(observation) for observation, _ in self.batches]


def random_actions(chunk: int) -> Respond:
    """Uniform actions, each row from its own seed: a policy whose noise is all there is to it."""

    def respond(observation: ObservationBatch, seeds: Sequence[int]) -> NDArray[np.float32]:
        rows = [np.random.default_rng(seed).uniform(-1, 1, (chunk, 4)) for seed in seeds]
        return np.stack(rows).astype(np.float32)

    return respond


def expert_actions() -> Respond:
    """Meta-World's scripted policy for closing a window, a function of the 39 privileged numbers; chunks of 1."""
    from metaworld.policies import SawyerWindowCloseV3Policy

    expert = SawyerWindowCloseV3Policy()

    def respond(observation: ObservationBatch, seeds: Sequence[int]) -> NDArray[np.float32]:
        assert observation.environment_state is not None
        states = observation.environment_state.double().numpy()
        return np.stack([expert.get_action(state) for state in states]).clip(-1, 1).astype(np.float32)[:, None]

    return respond


def sometimes_expert() -> Respond:
    """The expert, except in episodes whose first seed says otherwise: outcomes and lengths differ."""
    expert = expert_actions()

    def respond(observation: ObservationBatch, seeds: Sequence[int]) -> NDArray[np.float32]:
        actions = expert(observation, seeds)
        assert observation.environment_state is not None
        # The window's place is drawn by the reset, so this depends on the episode alone.
        lazy = (observation.environment_state[:, -2] * 1000).int().numpy() % 3 == 0
        actions[lazy] = 0.0
        return actions

    return respond


def roll(
    controller: Any, task: Task, pool: EnvironmentPool, options: EvaluationOptions, **more: Any
) -> list[EpisodeRow]:
    observation = more.pop("observation", ObservationOptions(cameras=(), privileged=True))
    settings = {"stage": 0, "seed": 0, **more}
    return rollout(controller, task, options=options, observation=observation, pool=pool, **settings)


def test_the_expert_closes_the_window_through_a_rollout_as_it_does_alone(
    pool: EnvironmentPool, window_close: Task
) -> None:
    rows = roll(Recorder(expert_actions(), 1), window_close, pool, EvaluationOptions(episodes=10, slots=5))
    expert, alone = expert_actions(), []
    env = window_close.environment(ObservationOptions(cameras=(), privileged=True))
    for seed in window_close.seeds["test"][:10]:
        observation, _ = env.reset(seed=seed)
        terminated = truncated = False
        while not (terminated or truncated):
            batch = ObservationBatch.from_environments([observation], [""])
            observation, _, terminated, truncated, _ = env.step(expert(batch, [0])[0, 0])
        alone.append((seed, terminated, env.elapsed_steps))
    assert [(row.seed, row.success, row.steps) for row in rows] == alone
    assert sum(row.success for row in rows) >= 9


def test_rows_say_what_was_tried_and_how_it_ended(pool: EnvironmentPool, window_close: Task) -> None:
    task = replace(window_close, horizon=30)
    rows = roll(Recorder(random_actions(8), 8), task, pool, EvaluationOptions(episodes=3, slots=2), stage=4)
    assert [row.episode for row in rows] == [0, 1, 2]
    for row in rows:
        assert row == EpisodeRow(
            stage=4,
            task="window-close",
            split="test",
            episode=row.episode,
            seed=window_close.seeds.test[row.episode],
            instruction=window_close.instruction,
            success=False,
            steps=30,
            failure="horizon",
        )


def test_rows_do_not_depend_on_the_number_of_processes(pool: EnvironmentPool, window_close: Task) -> None:
    options = EvaluationOptions(episodes=7, slots=4)
    two = roll(Recorder(sometimes_expert(), 1), window_close, pool, options)
    with EnvironmentPool(1) as single:
        one = roll(Recorder(sometimes_expert(), 1), window_close, single, options)
    assert one == two
    assert 0 < sum(row.success for row in two) < 7
    assert len({row.steps for row in two}) > 2


def test_rollouts_that_stop_early_are_the_first_of_all_whatever_the_number_of_slots(
    pool: EnvironmentPool, window_close: Task
) -> None:
    rule = EarlyStop(width=0.7)
    everything = roll(Recorder(sometimes_expert(), 1), window_close, pool, EvaluationOptions(episodes=10, slots=5))
    wins = np.cumsum([row.success for row in everything])
    enough = next(n for n in range(1, 11) if rule.is_met(int(wins[n - 1]), n))
    assert 1 < enough < 10
    first = [replace(row, stopping="watched") for row in everything[:enough]]
    first[-1] = replace(first[-1], stopping="stopped")
    asked = []
    for slots in (1, 10):
        controller = Recorder(sometimes_expert(), 1)
        options = EvaluationOptions(episodes=10, slots=slots, early_stop=rule)
        assert roll(controller, window_close, pool, options) == first
        asked.append(sum(controller.batch_sizes))
    assert asked[0] == sum(row.steps for row in first), "one after another, nothing is simulated in vain"
    assert asked[0] < sum(row.steps for row in everything)
    # What was left in the middle does not disturb what comes next.
    again = roll(Recorder(sometimes_expert(), 1), window_close, pool, EvaluationOptions(episodes=10, slots=5))
    assert again == everything


def test_a_rule_that_is_never_met_plays_all_episodes_and_says_that_it_watched(
    pool: EnvironmentPool, window_close: Task
) -> None:
    task, rule = replace(window_close, horizon=8), EarlyStop(width=0.1)
    rows = roll(Recorder(random_actions(8), 8), task, pool, EvaluationOptions(episodes=3, slots=2, early_stop=rule))
    assert [row.stopping for row in rows] == ["watched"] * 3


def test_episodes_that_do_not_count_leave_no_film(pool: EnvironmentPool, window_close: Task, tmp_path: Path) -> None:
    task = replace(window_close, horizon=8)
    options = EvaluationOptions(episodes=9, slots=9, videos=9, early_stop=EarlyStop(threshold=0.6))
    rows = roll(Recorder(random_actions(8), 8), task, pool, options, video_folder=tmp_path)
    assert 1 < len(rows) < 9 and rows[-1].stopping == "stopped"
    names = {"window-close.mp4", *(f"window-close-episode-{episode}.mp4" for episode in range(1, len(rows)))}
    assert {path.name for path in tmp_path.iterdir()} == names


def test_a_second_evaluation_on_the_same_pool_repeats_the_first(pool: EnvironmentPool, window_close: Task) -> None:
    task, options = replace(window_close, horizon=40), EvaluationOptions(episodes=5, slots=3)
    queries = []
    for _ in range(2):
        controller = Recorder(random_actions(8), 8)
        roll(controller, task, pool, options)
        queries.append([(seeds, observation.agent_pos.tolist()) for observation, seeds in controller.batches])
    assert queries[0] == queries[1]


def test_the_policy_is_asked_only_for_episodes_that_run(pool: EnvironmentPool, window_close: Task) -> None:
    controller = Recorder(expert_actions(), 1)
    rows = roll(controller, window_close, pool, EvaluationOptions(episodes=8, slots=3))
    assert sum(controller.batch_sizes) == sum(row.steps for row in rows)
    lengths = [[row.steps for row in rows[slot::3]] for slot in range(3)]
    ends = [sum(steps) for steps in lengths]
    running = [sum(end > query for end in ends) for query in range(max(ends))]
    assert controller.batch_sizes == running
    assert running[0] == 3
    assert running[-1] == 1


def test_a_chunk_stops_at_success_and_is_not_executed_beyond_execute(pool: EnvironmentPool, window_close: Task) -> None:
    task = replace(window_close, horizon=30)
    controller = Recorder(random_actions(8), 4)
    rows = roll(controller, task, pool, EvaluationOptions(episodes=2, slots=2))
    assert [row.steps for row in rows] == [30, 30]
    assert controller.batch_sizes == [2] * 8


def test_noise_seeds_name_run_task_stage_episode_and_query(pool: EnvironmentPool, window_close: Task) -> None:
    task = replace(window_close, horizon=16)

    def seeds(slots: int, **settings: Any) -> dict[tuple[int, int], int]:
        """Seeds by (episode, query); every episode has the same length, so they are served slots at a time."""
        controller = Recorder(random_actions(8), 8)
        roll(controller, task, pool, EvaluationOptions(episodes=4, slots=slots), **settings)
        named = {}
        for query, (_, row_seeds) in enumerate(controller.batches):
            for slot, seed in enumerate(row_seeds):
                named[slot + slots * (query // 2), query % 2] = seed
        return named

    reference = seeds(slots=4)
    assert len(set(reference.values())) == 8
    assert seeds(slots=2) == reference
    for settings in ({"stage": 1}, {"seed": 1}):
        assert not set(seeds(slots=4, **settings).values()) & set(reference.values())


def test_initial_states_are_the_same_for_every_stage_and_seed(pool: EnvironmentPool, window_close: Task) -> None:
    task, options = replace(window_close, horizon=8), EvaluationOptions(episodes=4, slots=4)
    first_sights = []
    for settings in ({}, {"stage": 2}, {"seed": 9}):
        controller = Recorder(random_actions(8), 8)
        roll(controller, task, pool, options, **settings)
        first_sights.append(controller.batches[0][0].environment_state.tolist())
    assert first_sights[0] == first_sights[1] == first_sights[2]
    assert len({tuple(state) for state in first_sights[0]}) == 4


def test_splits_start_in_different_states(pool: EnvironmentPool, window_close: Task) -> None:
    task = replace(window_close, horizon=8)
    test, selection = (
        roll(Recorder(random_actions(8), 8), task, pool, EvaluationOptions(episodes=2, slots=2, split=split))
        for split in ("test", "selection")
    )
    assert {row.seed for row in test} <= set(window_close.seeds.test)
    assert {row.seed for row in selection} <= set(window_close.seeds.selection)


def test_instructions_take_turns(pool: EnvironmentPool, window_close: Task) -> None:
    task, kind = replace(window_close, horizon=8), "held_out"
    options = EvaluationOptions(episodes=3, slots=2, instructions=kind)
    controller = Recorder(random_actions(8), 8)
    rows = roll(controller, task, pool, options)
    known = task.instructions(kind)
    assert [row.instruction for row in rows] == [known[episode % len(known)] for episode in range(3)]
    assert controller.batches[0][0].instruction == tuple(row.instruction for row in rows[:2])


def test_progress_hears_of_every_episode_once(pool: EnvironmentPool, window_close: Task) -> None:
    heard: list[EpisodeRow] = []
    task, options = replace(window_close, horizon=8), EvaluationOptions(episodes=5, slots=2)
    rows = roll(Recorder(random_actions(8), 8), task, pool, options, progress=heard.append)
    assert sorted(heard, key=lambda row: row.episode) == rows


def test_killed_processes_change_no_row_and_no_query(pool: EnvironmentPool, window_close: Task) -> None:
    options = EvaluationOptions(episodes=6, slots=4)

    def evaluate(deaths: dict[int, int]) -> tuple[list[EpisodeRow], list[Any]]:
        """Rows and queries of a rollout in which process deaths[q] is killed before the q-th query is answered."""

        def kill(query: int) -> None:
            if query in deaths:
                os.kill(pool.process_ids()[deaths[query]], signal.SIGKILL)

        controller = Recorder(sometimes_expert(), 1, before=kill)
        rows = roll(controller, window_close, pool, options)
        return rows, [(seeds, each.environment_state.tolist()) for each, seeds in controller.batches]

    undisturbed = evaluate({})
    shortest = min(row.steps for row in undisturbed[0])
    # At once, mid-way, and in the round after the first episode ended, when another has just taken its slot.
    assert evaluate({1: 0, 20: 1, shortest + 1: 0}) == undisturbed


def test_a_process_that_keeps_dying_under_an_episode_ends_the_rollout(window_close: Task) -> None:
    with EnvironmentPool(1) as own:
        controller = Recorder(random_actions(8), 8, before=lambda query: os.kill(own.process_ids()[0], signal.SIGKILL))
        with pytest.raises(SimulationError, match=r"3 simulator processes died under episode 0 \(seed \d+\)"):
            roll(controller, window_close, own, EvaluationOptions(episodes=1, slots=1))


def test_a_split_without_enough_initial_states_is_refused(pool: EnvironmentPool, window_close: Task) -> None:
    task = replace(window_close, seeds=SeedSplit(test=range(5_000_000, 5_000_003)))
    with pytest.raises(ConfigurationError, match=r"has 3 initial states for test; lower evaluation\.episodes from 4"):
        roll(Recorder(random_actions(8), 8), task, pool, EvaluationOptions(episodes=4))


@pytest.mark.parametrize(
    ("respond", "message"),
    [
        (lambda observation, seeds: np.zeros((len(seeds), 4)), r"actions \(2, at least 8, A\), got \(2, 4\)"),
        (lambda observation, seeds: np.zeros((len(seeds), 7, 4)), r"got \(2, 7, 4\)"),
        (lambda observation, seeds: np.zeros((1, 8, 4)), r"got \(1, 8, 4\)"),
    ],
)
def test_a_controller_that_returns_something_else_is_told_so(
    respond: Respond, message: str, pool: EnvironmentPool, window_close: Task
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        roll(Recorder(respond, 8), window_close, pool, EvaluationOptions(episodes=2, slots=2))


@pytest.mark.parametrize("ensemble", [None, 0.1], ids=["chunks", "temporal ensemble"])
def test_an_action_that_is_not_finite_fails_its_episode_and_no_other(
    ensemble: float | None, pool: EnvironmentPool, window_close: Task, caplog: pytest.LogCaptureFixture
) -> None:
    task, options = replace(window_close, horizon=40), EvaluationOptions(episodes=5, slots=2)
    usual = roll(Recorder(random_actions(8), 4), task, pool, options)
    asked: list[str] = []

    def sick(observation: ObservationBatch, seeds: Sequence[int]) -> NDArray[np.float32]:
        actions = random_actions(8)(observation, seeds)
        for row, episode in enumerate(observation.episode or ()):
            asked.append(episode)
            if episode.endswith(("/1", "/4")) and asked.count(episode) == 3:
                actions[row, 6, 0] = np.inf if episode.endswith("/4") else np.nan  # an action that is not executed yet
        return actions

    controller = Recorder(sick, 4)
    controller.temporal_ensemble = ensemble
    rows = roll(controller, task, pool, options)
    assert [row.episode for row in rows] == [0, 1, 2, 3, 4]
    for row, without in zip(rows, usual, strict=True):
        if row.episode in (1, 4):
            assert (row.success, row.steps, row.failure) == (False, 8, "action not finite")
        elif ensemble is None:
            assert row == without
    assert "stage 0, task window-close: in 2 of 5 episodes the policy's action was not finite, first in" in caplog.text
    assert "episode 1 at step 8" in caplog.text


def test_films_show_the_first_episodes_in_real_time(pool: EnvironmentPool, window_close: Task, tmp_path: Path) -> None:
    import imageio.v3 as iio

    task, options = replace(window_close, horizon=40), EvaluationOptions(episodes=3, slots=3, videos=2)
    rows = roll(
        Recorder(random_actions(8), 8), task, pool, options, observation=ObservationOptions(), video_folder=tmp_path
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["window-close-episode-1.mp4", "window-close.mp4"]
    frames = iio.imread(tmp_path / "window-close.mp4", plugin="FFMPEG")
    meta = iio.immeta(tmp_path / "window-close.mp4", plugin="FFMPEG")
    assert frames.shape[1:] == (192, 192, 3)
    assert (meta["codec"], meta["pix_fmt"].split("(")[0]) == ("h264", "yuv420p")
    assert len(frames) / meta["fps"] == pytest.approx(rows[0].steps / 80, abs=0.1)
    assert np.abs(frames[0].astype(int) - frames[-1]).mean() > 1  # the arm moved
