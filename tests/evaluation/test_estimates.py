"""Metrics over several sequences: equal to the metrics of each, with intervals of the known width and coverage."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from vla_cl.errors import ConfigurationError
from vla_cl.evaluation import EpisodeRow, metrics, student_interval, success_matrix
from vla_cl.evaluation.estimates import (
    ESTIMATED_METRICS,
    _resampled_rates,
    episode_outcomes,
    estimate,
    estimate_difference,
)

TASKS = ("push", "reach", "close", "open")


def rows_of(outcomes: NDArray[np.bool_], tasks: tuple[str, ...] = TASKS) -> list[EpisodeRow]:
    """Episode rows of outcomes (T + 1, T, E), every cell measured."""
    return [
        EpisodeRow(stage - 1, task, "test", episode, episode, "", bool(outcomes[stage, column, episode]), 1)
        for stage in range(len(outcomes))
        for column, task in enumerate(tasks)
        for episode in range(outcomes.shape[2])
    ]


def random_outcomes(seed: int, tasks: int = 4, episodes: int = 6) -> NDArray[np.bool_]:
    generator = np.random.default_rng(seed)
    return generator.random((tasks + 1, tasks, episodes)) < generator.random((tasks + 1, tasks, 1))


def generator() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("metric", ESTIMATED_METRICS)
def test_a_value_of_a_sequence_is_the_metric_of_its_success_matrix(metric: str) -> None:
    for first in range(0, 40, 2):
        runs = [rows_of(random_outcomes(seed)) for seed in (first, first + 1)]
        expected = [getattr(metrics, metric)(success_matrix(rows, TASKS)) for rows in runs]
        found = estimate(metric, [episode_outcomes(rows, TASKS) for rows in runs], generator(), replicates=1)
        assert found.values == pytest.approx(expected)
        assert found.mean == pytest.approx(np.mean(expected))
        assert (found.student_low, found.student_high) == pytest.approx(student_interval(expected))


def test_what_a_formula_does_not_read_need_not_be_measured() -> None:
    rows = [row for row in rows_of(random_outcomes(0)) if row.stage >= TASKS.index(row.task)]
    outcomes = [episode_outcomes(rows, TASKS)]
    for metric in ("final_average", "forgetting", "learning_accuracy"):
        expected = getattr(metrics, metric)(success_matrix(rows, TASKS))
        assert estimate(metric, outcomes, generator(), replicates=20).mean == pytest.approx(expected)
    forward = estimate("forward_transfer", outcomes, generator())
    assert (forward.mean, forward.low, forward.high, forward.student_low, forward.values) == (*[None] * 4, ())


@pytest.mark.parametrize("metric", ["final_average", "forgetting", "learning_accuracy"])
def test_a_cell_that_lacks_an_episode_is_not_averaged_over(metric: str) -> None:
    rows = [row for row in rows_of(random_outcomes(0)) if (row.stage, row.task, row.episode) != (3, "push", 2)]
    rows = [row for row in rows if (row.stage, row.task, row.episode) != (1, "reach", 0)]
    assert estimate(metric, [episode_outcomes(rows, TASKS)], generator()).mean is None


def test_before_the_upper_triangle_is_measured_it_does_not_count_as_forgotten() -> None:
    """A task that worked by chance before it was learned, and never after, was not forgotten."""
    outcomes = np.zeros((4, 3, 5), bool)
    outcomes[:2, 1] = True
    found = estimate("forgetting", [episode_outcomes(rows_of(outcomes, TASKS[:3]), TASKS[:3])], generator())
    assert (found.mean, found.low, found.high) == (0.0, 0.0, 0.0)


def test_a_single_task_cannot_be_forgotten_and_has_no_forward_transfer() -> None:
    outcomes = [episode_outcomes(rows_of(random_outcomes(seed, tasks=1), ("push",)), ("push",)) for seed in (0, 1)]
    assert estimate("forgetting", outcomes, generator()).values == (0.0, 0.0)
    assert estimate("forward_transfer", outcomes, generator()).mean is None


def test_a_task_that_recurs_fills_each_of_its_columns() -> None:
    sequence = ("push", "reach", "push")
    rows = [EpisodeRow(stage, task, "test", 0, 0, "", task == "push", 1) for stage in (0, 1, 2) for task in TASKS[:2]]
    outcomes = episode_outcomes(rows, sequence)
    assert outcomes.shape == (4, 3, 1)
    assert outcomes[1:, :, 0].tolist() == [[1, 0, 1]] * 3 and np.isnan(outcomes[0]).all()


def test_the_interval_of_one_sequence_has_the_width_of_the_bootstraps_variance_over_tasks_and_episodes() -> None:
    """Its closed form: variance of task means / T + mean variance of episodes / TE."""
    source = np.random.default_rng(3)
    final = (source.random((40, 20)) < 0.5 + source.normal(0, 0.12, (40, 1))).astype(float)
    outcomes = np.full((41, 40, 20), np.nan)
    outcomes[-1] = final
    variance = final.mean(axis=1).var() / 40 + final.var(axis=1).mean() / (40 * 20)

    found = estimate("final_average", [outcomes], generator(), replicates=4000)

    assert found.low is not None and found.high is not None and found.mean is not None
    assert found.high - found.low == pytest.approx(2 * 1.96 * np.sqrt(variance), rel=0.05)
    assert (found.low + found.high) / 2 == pytest.approx(found.mean, abs=0.01)
    assert found.student_low is None


def test_the_interval_of_many_sequences_is_students_although_tasks_and_episodes_are_drawn_a_second_time() -> None:
    source = np.random.default_rng(3)
    ability = 0.5 + source.normal(0, 0.05, (30, 1, 1)) + np.linspace(-0.3, 0.3, 6)[None, :, None]
    outcomes = np.full((30, 7, 6, 10), np.nan)
    outcomes[:, -1] = source.random((30, 6, 10)) < ability
    found = estimate("final_average", list(outcomes), generator(), replicates=4000)
    assert found.student_low is not None and found.student_high is not None
    assert (found.low, found.high) == pytest.approx((found.student_low, found.student_high), abs=0.01)


def test_sequences_that_agree_exactly_have_the_interval_of_their_tasks_and_episodes() -> None:
    outcomes = [episode_outcomes(rows_of(random_outcomes(1)), TASKS)] * 3
    found = estimate("final_average", outcomes, generator())
    assert (found.student_low, found.student_high) == pytest.approx((found.mean, found.mean))
    assert found.low is not None and found.mean is not None and found.high is not None
    assert found.low < found.mean < found.high


@pytest.mark.parametrize(("metric", "lowest"), [("final_average", 0.0), ("forgetting", -1.0)])
def test_an_interval_stays_within_what_the_metric_can_be(metric: str, lowest: float) -> None:
    for seed in range(20):
        outcomes = [episode_outcomes(rows_of(random_outcomes(2 * seed + run)), TASKS) for run in (0, 1)]
        found = estimate(metric, outcomes, generator(), replicates=100)
        assert found.low is not None and found.high is not None
        assert lowest <= found.low <= found.high <= 1.0


def test_the_stages_of_an_episode_are_drawn_together() -> None:
    """Where every episode ends as it began, whatever the initial state, nothing is forgotten in any draw."""
    outcomes = np.broadcast_to(random_outcomes(1)[:1], (5, 4, 6))
    found = estimate("forgetting", [episode_outcomes(rows_of(outcomes), TASKS)] * 3, generator(), replicates=200)
    assert (found.mean, found.low, found.high) == (0.0, 0.0, 0.0)
    assert estimate("final_average", [episode_outcomes(rows_of(outcomes), TASKS)], generator()).low != found.mean


def stopped(rows: list[EpisodeRow], stage: int, task: str, played: int) -> list[EpisodeRow]:
    """The rows of an evaluation that stopped early in one cell."""
    kept = [row for row in rows if (row.stage, row.task) != (stage, task) or row.episode < played]
    last = (stage, task, played - 1)
    return [
        replace(row, stopping="stopped" if (row.stage, row.task, row.episode) == last else row.stopping or "watched")
        for row in kept
    ]


def test_episodes_that_were_left_out_early_are_not_counted_and_the_others_are() -> None:
    rows = stopped(stopped(rows_of(random_outcomes(0)), 3, "push", 2), 2, "reach", 3)
    outcomes = episode_outcomes(rows, TASKS, 6)
    assert np.isnan(outcomes[4, 0]).tolist() == [False] * 2 + [True] * 4
    matrix = success_matrix(rows, TASKS)
    for metric in ESTIMATED_METRICS:
        found = estimate(metric, [outcomes, outcomes], generator(), replicates=50)
        assert found.values == pytest.approx([getattr(metrics, metric)(matrix)] * 2), metric


def test_a_cell_of_few_episodes_varies_as_few_episodes_do() -> None:
    """A task of five episodes and one of forty, each with its binomial variance."""
    outcomes = np.full((3, 2, 40), np.nan)
    outcomes[-1, 0, :5] = [1, 0, 1, 0, 1]
    outcomes[-1, 1] = [1, 0] * 20
    cells = outcomes[-1][None, :, :, None]
    rates = np.concatenate([drawn for (drawn,) in _resampled_rates([cells], generator(), 20_000)])
    both = rates[..., 0].reshape(-1, 2)
    mixed = np.array([0.6 * 0.4 / 5, 0.25 / 40]).mean() + np.var([0.6, 0.5])  # of a task that is drawn, too
    assert both.var(axis=0) == pytest.approx([mixed, mixed], rel=0.05)


def test_of_pairs_only_the_difference_counts() -> None:
    """Sequences that vary much, and a method that adds the same to each: the difference is known well."""
    source = np.random.default_rng(0)
    ability = np.repeat(source.uniform(0.1, 0.9, (6, 1, 1)), 4, axis=1)
    luck = source.random((6, 4, 50))
    better, worse = np.full((6, 5, 4, 50), np.nan), np.full((6, 5, 4, 50), np.nan)
    better[:, -1], worse[:, -1] = luck < ability + 0.1, luck < ability
    alone = estimate("final_average", list(better), generator())
    paired = estimate_difference("final_average", list(better), list(worse), generator())
    assert paired.mean == pytest.approx((better - worse)[:, -1].mean())
    assert paired.low is not None and paired.high is not None and alone.low is not None and alone.high is not None
    assert paired.low > 0 and paired.high - paired.low < 0.25 * (alone.high - alone.low)
    nothing = estimate_difference("final_average", list(better), list(better), generator())
    assert (nothing.mean, nothing.low, nothing.high) == (0.0, 0.0, 0.0)
    with pytest.raises(ConfigurationError, match="in pairs, got 6 and 5"):
        estimate_difference("final_average", list(better), list(worse[:5]), generator())


@pytest.mark.parametrize(
    ("metric", "shapes", "message"),
    [
        ("plasticity", [(3, 2, 4)], "metric must be one of final_average"),
        ("forgetting", [], "got none"),
        ("forgetting", [(3, 2, 4), (3, 2, 5)], r"\(3, 2, 4\), \(3, 2, 5\)"),
    ],
)
def test_sequences_that_do_not_go_together_are_refused(
    metric: str, shapes: list[tuple[int, ...]], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        estimate(metric, [np.zeros(shape) for shape in shapes], generator())
