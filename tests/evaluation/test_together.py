"""Tasks that were learned at once, in a matrix that has a row for each."""

from __future__ import annotations

import numpy as np

from vla_cl.evaluation import EpisodeRow, forward_transfer, learning_accuracy, success_matrix
from vla_cl.evaluation.together import rows_in_turn

SEQUENCE = ["a", "b", "c", "d"]


def measured(stage: int, **successes: bool) -> list[EpisodeRow]:
    return [EpisodeRow(stage, task, "test", 0, 0, "do", success, 1) for task, success in successes.items()]


def cells(rows: dict[int, list[EpisodeRow]]) -> dict[int, dict[str, bool]]:
    assert all(row.stage == place for place, each in rows.items() for row in each)
    return {place: {row.task: row.success for row in each} for place, each in rows.items()}


def test_a_task_alone_is_its_own_row() -> None:
    after = measured(2, a=True, b=False, c=True)
    assert rows_in_turn((2,), SEQUENCE, after) == {2: after}


def test_the_row_of_a_task_shows_those_up_to_it() -> None:
    rows = rows_in_turn((2, 3), SEQUENCE, measured(3, a=True, b=False, c=True, d=True))
    assert cells(rows) == {
        2: {"a": True, "b": False, "c": True},
        3: {"a": True, "b": False, "c": True, "d": True},
    }


def test_those_of_the_stage_that_follow_are_shown_as_before_it() -> None:
    before = measured(1, a=True, b=True, c=False, d=False)
    rows = rows_in_turn((2, 3), SEQUENCE, measured(3, a=True, b=False, c=True, d=True), before)
    assert cells(rows)[2] == {"a": True, "b": False, "c": True, "d": False}
    assert cells(rows)[3] == {"a": True, "b": False, "c": True, "d": True}


def test_metrics_read_learning_after_the_stage_and_transfer_before_it() -> None:
    zero_shot = measured(-1, a=False, b=False, c=True, d=False)
    first = measured(1, a=True, b=True, c=True, d=True)
    second = measured(3, a=False, b=True, c=True, d=False)
    rows = [*zero_shot]
    for places, after, before in (((0, 1), first, zero_shot), ((2, 3), second, first)):
        for row in rows_in_turn(places, SEQUENCE, after, before).values():
            rows += row
    matrix = success_matrix(rows, SEQUENCE)
    assert not np.isnan(matrix).any()
    assert learning_accuracy(matrix) == (1 + 1 + 1 + 0) / 4
    assert forward_transfer(matrix) == ((0 - 0) + (1 - 1) + (1 - 0)) / 3  # b, c and d, before anybody learned them


def test_a_task_that_comes_again_counts_as_learned() -> None:
    rows = rows_in_turn((2, 3), ["a", "b", "c", "a"], measured(3, a=True, b=True, c=True), measured(1, a=False, b=True))
    assert cells(rows)[2]["a"] is True
