"""From rows to the success matrix and to the content of metrics.json."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vla_cl.errors import ConfigurationError
from vla_cl.evaluation import (
    EpisodeRow,
    interval_matrix,
    read_rows,
    success_matrix,
    summarise,
    trial_matrix,
    wilson_interval,
    write_rows,
)


def cell(stage: int, task: str, successes: int, trials: int) -> list[EpisodeRow]:
    """The rows of one cell."""
    return [
        EpisodeRow(stage, task, "test", episode, 2_000_000 + episode, f"do {task}", episode < successes, 10)
        for episode in range(trials)
    ]


LOWER_TRIANGLE = [
    *cell(-1, "reach", 1, 10),
    *cell(-1, "push", 0, 10),
    *cell(0, "reach", 10, 10),
    *cell(1, "reach", 4, 10),
    *cell(1, "push", 9, 10),
]


def test_success_matrix_has_the_zero_shot_row_first_and_nan_where_nothing_was_measured() -> None:
    matrix = success_matrix(LOWER_TRIANGLE, ["reach", "push"])
    assert matrix.dtype == np.float64
    np.testing.assert_array_equal(matrix, [[0.1, 0.0], [1.0, np.nan], [0.4, 0.9]])
    np.testing.assert_array_equal(trial_matrix(LOWER_TRIANGLE, ["reach", "push"]), [[10, 10], [10, 0], [10, 10]])


def test_the_order_of_rows_does_not_matter() -> None:
    shuffled = [LOWER_TRIANGLE[index] for index in np.random.default_rng(0).permutation(len(LOWER_TRIANGLE))]
    expected = success_matrix(LOWER_TRIANGLE, ["reach", "push"])
    np.testing.assert_array_equal(success_matrix(shuffled, ["reach", "push"]), expected)


def test_every_cell_has_its_wilson_interval() -> None:
    intervals = interval_matrix(LOWER_TRIANGLE, ["reach", "push"])
    assert intervals.shape == (3, 2, 2)
    assert intervals[2, 0] == pytest.approx(np.stack(wilson_interval(4, 10)))
    assert np.isnan(intervals[1, 1]).all()


def test_a_task_that_occurs_twice_fills_both_of_its_columns() -> None:
    sequence = ["reach", "push", "reach", "push"]
    rows = [*cell(0, "reach", 8, 10), *cell(1, "reach", 2, 10), *cell(1, "push", 9, 10), *cell(2, "reach", 7, 10)]
    matrix = success_matrix(rows, sequence)
    np.testing.assert_array_equal(matrix[1], [0.8, np.nan, 0.8, np.nan])
    np.testing.assert_array_equal(matrix[2], [0.2, 0.9, 0.2, 0.9])
    np.testing.assert_array_equal(matrix[3], [0.7, np.nan, 0.7, np.nan])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (EpisodeRow(0, "drawer", "test", 0, 0, "", True, 1), "'drawer' does not belong"),
        (EpisodeRow(2, "reach", "test", 0, 0, "", True, 1), "stage 2 is out of range"),
        (EpisodeRow(0, "reach", "test", 3, 0, "", True, 1), "episode 3 of 'reach' after stage 0 occurs twice"),
        (EpisodeRow(0, "reach", "selection", 30, 0, "", True, 1), "do not go into one matrix"),
    ],
)
def test_rows_that_would_falsify_the_matrix_are_refused(row: EpisodeRow, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        success_matrix([*LOWER_TRIANGLE, row], ["reach", "push"])


def test_summary_holds_the_metrics_and_survives_json() -> None:
    summary = json.loads(json.dumps(summarise(LOWER_TRIANGLE, ["reach", "push"]), allow_nan=False))
    assert summary["tasks"] == ["reach", "push"]
    assert summary["success_matrix"] == [[0.1, 0.0], [1.0, None], [0.4, 0.9]]
    assert summary["episodes"] == [[10, 10], [10, 0], [10, 10]]
    assert summary["intervals"][1][1] == [None, None]
    assert summary["learning_accuracy"] == pytest.approx(0.95)
    assert summary["final_average"] == pytest.approx(0.65)
    assert summary["forgetting"] == pytest.approx(0.6)
    assert summary["backward_transfer"] == pytest.approx(-0.6)
    assert summary["forward_transfer"] is None
    assert summary["zero_shot_average"] == pytest.approx(0.05)


def test_summary_of_an_unfinished_run_says_none_and_not_zero() -> None:
    unfinished = [row for row in LOWER_TRIANGLE if row.stage < 1]
    summary = summarise(unfinished, ["reach", "push"])
    assert summary["final_average"] is None
    assert summary["forgetting"] is None
    assert summarise([], ["reach"])["success_matrix"] == [[None], [None]]


def test_every_number_of_a_summary_lies_between_minus_one_and_one() -> None:
    generator = np.random.default_rng(0)
    sequence = ["a", "b", "c", "a"]
    rows = [row for stage in range(-1, 4) for task in "abc" for row in cell(stage, task, generator.integers(6), 5)]
    summary = summarise(rows, sequence)
    numbers = [value for value in summary.values() if isinstance(value, float)]
    assert len(numbers) >= 10
    assert all(-1 <= value <= 1 for value in numbers)


def test_rows_come_back_from_their_file_as_they_were_written(tmp_path: Path) -> None:
    rows = [*LOWER_TRIANGLE, replace(LOWER_TRIANGLE[0], episode=99, failure="horizon", instruction="schließe – 窓")]
    write_rows(tmp_path / "episodes" / "stage_00.jsonl", rows)
    assert read_rows(tmp_path / "episodes" / "stage_00.jsonl") == rows
