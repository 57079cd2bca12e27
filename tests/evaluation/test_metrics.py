"""Metrics against matrices worked out by hand, against a literal reading of the formulas, and against their bounds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vla_cl.errors import ConfigurationError
from vla_cl.evaluation import metrics

NAN = float("nan")

# Row 0 zero-shot, then after tasks 0, 1, 2.
BY_HAND = np.array(
    [
        [0.1, 0.0, 0.2],
        [1.0, 0.3, 0.1],
        [0.5, 1.0, 0.4],
        [0.7, 0.9, 0.8],
    ]
)


def test_metrics_of_a_matrix_worked_out_by_hand() -> None:
    assert metrics.final_average(BY_HAND) == pytest.approx((0.7 + 0.9 + 0.8) / 3)
    assert metrics.learning_accuracy(BY_HAND) == pytest.approx((1.0 + 1.0 + 0.8) / 3)
    assert metrics.mean_average_accuracy(BY_HAND) == pytest.approx((1.0 + (0.5 + 1.0) / 2 + 0.8) / 3)
    assert metrics.backward_transfer(BY_HAND) == pytest.approx(((0.7 - 1.0) + (0.9 - 1.0)) / 2)
    assert metrics.forgetting(BY_HAND) == pytest.approx((0.3 + 0.1) / 2)
    assert metrics.forward_transfer(BY_HAND) == pytest.approx(((0.3 - 0.0) + (0.4 - 0.2)) / 2)
    assert metrics.stability(BY_HAND) == pytest.approx([0.7, 0.9, 1.0])
    assert metrics.plasticity_loss(BY_HAND, [1.0, 0.8, 1.0]) == pytest.approx([0.0, -0.2, 0.2])


def test_one_matrix_has_forgetting_of_a_fifth_and_a_negative_backward_transfer_of_a_quarter_or_a_sixth() -> None:
    assert metrics.forgetting(BY_HAND) == pytest.approx(0.20)
    assert metrics.negative_backward_transfer(BY_HAND, count_last_task=False) == pytest.approx(0.25)
    assert metrics.negative_backward_transfer(BY_HAND, count_last_task=True) == pytest.approx(1 / 6)


def test_forgetting_counts_from_the_best_that_a_task_ever_was_and_backward_transfer_from_when_it_was_learned() -> None:
    late_peak = np.array([[0, 0, 0], [0.4, 0, 0], [0.9, 0.5, 0], [0.6, 0.5, 1.0]])
    assert metrics.forgetting(late_peak) == pytest.approx((0.3 + 0.0) / 2)
    assert metrics.backward_transfer(late_peak) == pytest.approx((0.2 + 0.0) / 2)


def test_a_single_task_is_not_forgotten_and_receives_nothing() -> None:
    single = [[0.1], [0.9]]
    assert metrics.forgetting(single) == 0.0
    assert metrics.backward_transfer(single) == 0.0
    assert metrics.negative_backward_transfer(single) == 0.0
    assert metrics.negative_backward_transfer(single, count_last_task=False) == 0.0
    assert metrics.final_average(single) == metrics.learning_accuracy(single) == 0.9
    assert np.isnan(metrics.forward_transfer(single))


def test_metrics_of_the_lower_triangle_do_not_need_the_rest() -> None:
    lower = BY_HAND.copy()
    lower[0] = NAN
    lower[1:][np.triu_indices(3, 1)] = NAN
    for name in (
        "final_average",
        "learning_accuracy",
        "mean_average_accuracy",
        "backward_transfer",
        "forgetting",
        "negative_backward_transfer",
    ):
        metric = getattr(metrics, name)
        assert metric(lower) == metric(BY_HAND), name
    assert np.isnan(metrics.forward_transfer(lower))


@pytest.mark.parametrize("missing", [(1, 0), (2, 0), (3, 0), (3, 1), (2, 1), (3, 2)])
def test_a_missing_cell_makes_every_metric_that_reads_it_nan(missing: tuple[int, int]) -> None:
    holed = BY_HAND.copy()
    holed[missing] = NAN
    stage, task = missing[0] - 1, missing[1]
    assert np.isnan(metrics.mean_average_accuracy(holed))
    assert np.isnan(metrics.final_average(holed)) == (stage == 2)
    assert np.isnan(metrics.learning_accuracy(holed)) == (stage == task)
    assert np.isnan(metrics.backward_transfer(holed)) == (task < 2 and stage in (2, task))
    assert np.isnan(metrics.forgetting(holed)) == (task < 2)


@pytest.mark.parametrize("shape", [(3, 3), (2, 3), (1, 0), (4,), (2, 2, 1)])
def test_a_matrix_without_the_zero_shot_row_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigurationError, match=r"shape \(T \+ 1, T\)"):
        metrics.final_average(np.zeros(shape))


@pytest.mark.parametrize("value", [-0.1, 1.5, 20, float("inf")])
def test_percentages_and_counts_are_refused(value: float) -> None:
    matrix = BY_HAND.copy()
    matrix[2, 1] = value
    with pytest.raises(ConfigurationError, match=r"success rates in \[0, 1\]"):
        metrics.forgetting(matrix)


def literal_metrics(matrix: np.ndarray) -> dict[str, float]:
    """The formulas with loops and indices as they are printed, R[-1] being the zero-shot row."""
    tasks = matrix.shape[1]
    R = {(i, j): matrix[i + 1, j] for i in range(-1, tasks) for j in range(tasks)}
    last = tasks - 1

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    result = {
        "final_average": mean([R[last, j] for j in range(tasks)]),
        "learning_accuracy": mean([R[i, i] for i in range(tasks)]),
        "mean_average_accuracy": mean([mean([R[i, j] for j in range(i + 1)]) for i in range(tasks)]),
    }
    if tasks > 1:
        result["backward_transfer"] = mean([R[last, j] - R[j, j] for j in range(last)])
        result["forgetting"] = mean([max(R[stage, j] for stage in range(j, last)) - R[last, j] for j in range(last)])
        result["forward_transfer"] = mean([R[j - 1, j] - R[-1, j] for j in range(1, tasks)])
        transfer = 0.0
        for k in range(tasks):
            later = [R[k, k] - R[t, k] for t in range(k + 1, tasks)]
            transfer += mean(later) if later else 0.0
        result["negative_backward_transfer"] = transfer / tasks
    return result


success_matrices = st.integers(1, 8).flatmap(
    lambda tasks: arrays(np.float64, (tasks + 1, tasks), elements=st.integers(0, 20).map(lambda wins: wins / 20))
)


@settings(deadline=None)
@given(success_matrices)
def test_metrics_agree_with_the_formulas_read_literally(matrix: np.ndarray) -> None:
    for name, value in literal_metrics(matrix).items():
        assert getattr(metrics, name)(matrix) == pytest.approx(value, abs=1e-12), name


@settings(deadline=None)
@given(success_matrices)
def test_metrics_stay_in_their_ranges(matrix: np.ndarray) -> None:
    for name in ("final_average", "learning_accuracy", "mean_average_accuracy"):
        assert 0 <= getattr(metrics, name)(matrix) <= 1, name
    for name in ("backward_transfer", "forgetting", "negative_backward_transfer"):
        assert -1 <= getattr(metrics, name)(matrix) <= 1, name
    assert metrics.forgetting(matrix) >= -metrics.backward_transfer(matrix) - 1e-12
    if matrix.shape[1] > 1:
        assert -1 <= metrics.forward_transfer(matrix) <= 1


def test_stability_of_a_task_that_was_never_learned_is_undefined() -> None:
    assert metrics.stability([[0, 0], [0.5, 0], [1.0, 0]]) == pytest.approx([2.0, NAN], nan_ok=True)


def test_recovery_is_the_first_step_that_reaches_the_target() -> None:
    steps, successes = [0, 10, 20, 40], [0.1, 0.6, 0.9, 0.7]
    assert metrics.recovery_steps(steps, successes, 0.6) == 10
    assert metrics.recovery_steps(steps, successes, 0.95) == float("inf")
    with pytest.raises(ConfigurationError, match="ascending steps"):
        metrics.recovery_steps([0, 0, 1, 2], successes, 0.5)
