"""Metrics that need learning curves, against numbers worked out by hand and LIBERO's notebook, written out again."""

from __future__ import annotations

import numpy as np
import pytest

from vla_cl.errors import ConfigurationError
from vla_cl.evaluation import learning_curves, metrics

# Row 0 zero-shot, then after tasks 0, 1, 2.
MATRIX = np.array([[0.1, 0.0, 0.2], [1.0, 0.3, 0.1], [0.5, 1.0, 0.4], [0.7, 0.9, 0.8]])


def test_libero_holds_a_learning_curve_at_its_first_peak() -> None:
    curves = [[0.2, 0.8, 0.1, 0.5], [0.0, 0.4, 0.4, 0.6]]
    held = [[0.2, 0.8, 0.8, 0.8], [0.0, 0.4, 0.4, 0.6]]
    assert learning_curves.libero_forward_transfer(curves) == pytest.approx(np.mean(held))


def test_libero_area_under_curve_averages_learning_and_every_later_stage() -> None:
    curves = [[0.5, 1.0], [0.0, 1.0], [0.8, 0.8]]
    by_hand = np.mean([(0.75 + 0.5 + 0.7) / 3, (0.5 + 0.9) / 2, 0.8])
    assert learning_curves.libero_area_under_curve(MATRIX, curves) == pytest.approx(by_hand)
    with pytest.raises(ConfigurationError, match="one learning curve a task"):
        learning_curves.libero_area_under_curve(MATRIX, curves[:2])


def test_continual_world_normalises_the_gain_by_the_room_that_single_task_training_left() -> None:
    curves = [[0.5, 1.0], [0.0, 0.5], [1.0, 1.0]]
    alone = [[0.0, 1.0], [0.5, 0.5], [1.0, 1.0]]
    gains = learning_curves.continual_world_forward_transfer(curves, alone)
    assert gains[:2] == pytest.approx([(0.75 - 0.5) / 0.5, (0.25 - 0.5) / 0.5])
    assert np.isnan(gains[2])
    with pytest.raises(ConfigurationError, match="one single-task curve a task"):
        learning_curves.continual_world_forward_transfer(curves, alone[:1])


def test_without_holding_a_curve_at_its_peak_what_was_measured_is_averaged() -> None:
    curves = [[0.2, 0.8, 0.1, 0.5], [0.0, 0.4, 0.4, 0.6], [1.0, 1.0, 1.0, 1.0]]
    assert learning_curves.libero_forward_transfer(curves, held=False) == pytest.approx(np.mean(curves))
    by_hand = np.mean([(0.4 + 0.5 + 0.7) / 3, (0.35 + 0.9) / 2, 1.0])
    assert learning_curves.libero_area_under_curve(MATRIX, curves, held=False) == pytest.approx(by_hand)
    assert learning_curves.libero_area_under_curve(MATRIX, curves) > by_hand


def test_a_curve_of_noise_alone_gains_by_being_held_at_its_peak() -> None:
    """What the published formula adds to a policy that learned nothing more: its luck on the reported episodes."""
    curves = np.random.default_rng(0).binomial(20, 0.5, (200, 11)) / 20
    assert learning_curves.libero_forward_transfer(curves, held=False) == pytest.approx(0.5, abs=0.01)
    assert learning_curves.libero_forward_transfer(curves) > 0.58


def test_learning_curves_do_not_need_cells_above_the_diagonal() -> None:
    lower = MATRIX.copy()
    lower[0] = np.nan
    lower[1:][np.triu_indices(3, 1)] = np.nan
    expected = learning_curves.libero_area_under_curve(MATRIX)
    assert learning_curves.libero_area_under_curve(lower) == expected


def notebook(matrix: np.ndarray, curves: np.ndarray) -> dict[str, float]:
    """The arithmetic of LIBERO's notebook (quick_guide_algo, `compute_metric`), in our own words.

    Args:
        matrix: (K, K), after task i on task j.
        curves: (K, epochs), as they were measured.
    """
    tasks = len(matrix)
    held = []
    for curve in curves.tolist():
        first_peak = curve.index(max(curve))
        held.append(curve[:first_peak] + [curve[first_peak]] * (len(curve) - first_peak))
    transfer = sum(sum(curve) / len(curve) for curve in held) / tasks
    backward = area = 0.0
    for task in range(tasks):
        later = [matrix[stage, task] for stage in range(task + 1, tasks)]
        if later:
            backward += sum(matrix[task, task] - rate for rate in later) / len(later)
        area += (sum(later) + sum(held[task]) / len(held[task])) / (tasks - task)
    return {"fwt": transfer, "nbt": backward / tasks, "auc": area / tasks}


def test_on_a_thousand_random_matrices_liberos_three_numbers_are_those_of_its_notebook() -> None:
    generator = np.random.default_rng(0)
    for _ in range(1000):
        tasks, epochs = int(generator.integers(1, 13)), int(generator.integers(1, 12))
        matrix = generator.integers(0, 21, (tasks + 1, tasks)) / 20
        curves = generator.integers(0, 21, (tasks, epochs)) / 20
        expected = notebook(matrix[1:], curves)
        assert learning_curves.libero_forward_transfer(curves) == pytest.approx(expected["fwt"], abs=1e-12)
        assert learning_curves.libero_area_under_curve(matrix, curves) == pytest.approx(expected["auc"], abs=1e-12)
        assert metrics.negative_backward_transfer(matrix) == pytest.approx(expected["nbt"], abs=1e-12)
        if tasks > 1:
            corrected = metrics.negative_backward_transfer(matrix, count_last_task=False)
            assert corrected == pytest.approx(expected["nbt"] * tasks / (tasks - 1), abs=1e-12)
