"""Metrics over several sequences: equal to the metrics of each, with intervals of the known width and coverage."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from vla_cl.errors import ConfigurationError
from vla_cl.evaluation import EpisodeRow, metrics, student_interval, success_matrix
from vla_cl.evaluation.estimates import ESTIMATED_METRICS, episode_outcomes, estimate

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


def test_the_interval_has_the_width_of_the_nested_bootstraps_variance() -> None:
    """Its closed form: variance of sequence means / S + mean variance of task means / ST + of episodes / STE."""
    source = np.random.default_rng(3)
    ability = 0.5 + source.normal(0, 0.12, (12, 1, 1)) + source.normal(0, 0.12, (12, 8, 1))
    final = (source.random((12, 8, 20)) < ability).astype(float)
    outcomes = np.full((12, 9, 8, 20), np.nan)
    outcomes[:, -1] = final
    cells = final.mean(axis=2)
    variance = (cells.mean(axis=1).var() + cells.var(axis=1).mean() / 8 + final.var(axis=2).mean() / (8 * 20)) / 12

    found = estimate("final_average", list(outcomes), generator(), replicates=4000)

    assert found.low is not None and found.high is not None and found.mean is not None
    assert found.high - found.low == pytest.approx(2 * 1.96 * np.sqrt(variance), rel=0.05)
    assert (found.low + found.high) / 2 == pytest.approx(found.mean, abs=0.01)


def test_the_stages_of_an_episode_are_drawn_together() -> None:
    """Where every episode ends as it began, whatever the initial state, nothing is forgotten in any draw."""
    outcomes = np.broadcast_to(random_outcomes(1)[:1], (5, 4, 6))
    found = estimate("forgetting", [episode_outcomes(rows_of(outcomes), TASKS)] * 3, generator(), replicates=200)
    assert (found.mean, found.low, found.high) == (0.0, 0.0, 0.0)
    assert estimate("final_average", [episode_outcomes(rows_of(outcomes), TASKS)], generator()).low != found.mean


def test_an_interval_covers_the_truth_as_often_as_it_says_or_more() -> None:
    """Simulated studies of ten sequences whose ability differs from seed to seed and from task to task."""
    covered = 0
    for study in range(150):
        source = np.random.default_rng(study)
        ability = 0.5 + source.normal(0, 0.1, (10, 1, 1)) + source.normal(0, 0.1, (10, 5, 1))
        outcomes = np.full((10, 6, 5, 10), np.nan)
        outcomes[:, -1] = source.random((10, 5, 10)) < np.clip(ability, 0, 1)
        found = estimate("final_average", list(outcomes), np.random.default_rng(study + 1000), replicates=200)
        assert found.low is not None and found.high is not None
        covered += found.low <= 0.5 <= found.high
    assert covered >= 0.92 * 150


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
