"""Which tasks are tried when, and what the options refuse."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vla_cl.envs import EnvironmentPool, ObservationOptions
from vla_cl.errors import ConfigurationError
from vla_cl.evaluation import Controller, EvaluationOptions, evaluate_stage, success_matrix, tasks_at_stage
from vla_cl.tasks import get_suite


def names(stage: int, **options: bool) -> list[str]:
    sequence = get_suite("mw5").sequence(length=3)
    return [task.name for task in tasks_at_stage(sequence, stage, EvaluationOptions(**options))]


def test_by_default_everything_is_tried_before_training_and_what_was_learned_after() -> None:
    assert names(-1) == ["window-close", "faucet-close", "handle-press-side"]
    assert names(0) == ["window-close"]
    assert names(2) == ["window-close", "faucet-close", "handle-press-side"]


def test_the_zero_shot_row_and_the_upper_triangle_are_asked_for_apart() -> None:
    assert names(-1, zero_shot=False) == []
    assert names(-1, zero_shot=False, upper_triangle=True) == []
    assert len(names(0, upper_triangle=True)) == 3


def test_a_task_that_was_learned_twice_is_tried_once() -> None:
    cw20 = get_suite("cw20").sequence()
    assert len(tasks_at_stage(cw20, -1, EvaluationOptions())) == 10
    assert len(tasks_at_stage(cw20, 12, EvaluationOptions())) == 10


@pytest.mark.parametrize("stage", [-2, 3])
def test_a_stage_outside_of_the_sequence_is_refused(stage: int) -> None:
    with pytest.raises(ConfigurationError, match="out of range"):
        names(stage)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"episodes": 0}, "evaluation.episodes must be at least 1, got 0"),
        ({"slots": 0}, "evaluation.slots must be at least 1"),
        ({"videos": -1}, "evaluation.videos must be 0 or more"),
        ({"processes": 0}, "evaluation.processes must be at least 1"),
        ({"split": "train"}, "evaluation.split must be test or selection, got 'train'"),
        ({"instructions": "french"}, "evaluation.instructions must be"),
        ({"horizon": 0}, "evaluation.horizon must be at least 1, or null"),
    ],
)
def test_options_that_cannot_be_used_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        EvaluationOptions(**options)


class Still(Controller):
    """A controller that does nothing."""

    execute = 8

    def act(self, observation, seeds):  # type: ignore[no-untyped-def]
        return np.zeros((len(seeds), 8, 4), np.float32)


def test_the_rows_of_all_stages_fill_the_matrix_that_the_protocol_asks_for(pool: EnvironmentPool) -> None:
    sequence = tuple(replace(task, horizon=8) for task in get_suite("mw5").sequence(length=2))
    rows = []
    for stage in range(-1, 2):
        rows += evaluate_stage(
            Still(),
            sequence,
            stage=stage,
            options=EvaluationOptions(episodes=2, slots=2),
            observation=ObservationOptions(cameras=()),
            pool=pool,
            seed=0,
        )
    matrix = success_matrix(rows, [task.name for task in sequence])
    np.testing.assert_array_equal(np.isnan(matrix), [[False, False], [False, True], [False, False]])
