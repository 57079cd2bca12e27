"""Metrics that need success during a task's own training, besides the success matrix: LIBERO's, Continual World's.

A run measures success after each task and not within it; these are for curves that somebody measured, and for numbers
that are to be compared with published ones.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vla_cl.errors import ConfigurationError
from vla_cl.evaluation.metrics import Matrix, as_rates, as_success_matrix, learned_rates


def libero_forward_transfer(curves: ArrayLike, held: bool = True) -> float:
    """LIBERO's FWT: how well and how fast tasks are learned, mean_k mean_e c_kke.

    Args:
        curves: Success (T, E) on each task during its own training, at E equally spaced evaluations.
        held: Whether a curve is held at its first peak, as LIBERO's code does, which keeps the best checkpoint (True).
            The peak is chosen by the very episodes that are reported, so it is too high by chance alone, and more so
            for more evaluations; without it, the number is the mean of what was measured (False). Name the formula
            with the number.

    Returns:
        A number in [0, 1]. It is no transfer in GEM's sense: nothing is subtracted for what a task alone would reach.
        Liu et al., LIBERO, NeurIPS 2023, section 3.
    """
    return float(_learning(curves, held).mean())


def libero_area_under_curve(matrix: ArrayLike, curves: ArrayLike | None = None, held: bool = True) -> float:
    """LIBERO's AUC: (1/K) sum_k 1/(K-k+1) (FWT_k + sum_{t > k} R_tk), tasks counted from 1, K = T.

    Args:
        matrix: Success matrix (T + 1, T).
        curves: Learning curves (T, E) as in `libero_forward_transfer`. Without them FWT_k is R_kk, the curve of one
            evaluation.
        held: As in `libero_forward_transfer`.

    Returns:
        A number in [0, 1]. Liu et al., LIBERO, NeurIPS 2023, section 3.
    """
    matrix = as_success_matrix(matrix)
    rows, tasks = matrix[1:], matrix.shape[1]
    learning = _learning(learned_rates(matrix)[:, None] if curves is None else curves, held)
    if learning.shape[0] != tasks:
        raise ConfigurationError(f"there must be one learning curve a task: got {learning.shape[0]} for {tasks} tasks")
    areas = [np.append(rows[task + 1 :, task], learning[task]).mean() for task in range(tasks)]
    return float(np.mean(areas))


def _learning(curves: ArrayLike, held: bool) -> NDArray[np.float64]:
    """FWT_k of each task (T,)."""
    rates = _learning_curves(curves, "a set of learning curves")
    learning: NDArray[np.float64] = (_held_at_first_peak(rates) if held else rates).mean(axis=1)
    return learning


def continual_world_forward_transfer(curves: ArrayLike, single_task_curves: ArrayLike) -> NDArray[np.float64]:
    """Continual World's forward transfer of each task: (AUC_i - AUC_single_i) / (1 - AUC_single_i).

    Args:
        curves: Success (T, E) on each task during its own training within the sequence, at E equally spaced
            evaluations; AUC is their mean.
        single_task_curves: The same (T, E') of policies trained on each task alone.

    Returns:
        (T,) numbers of at most 1, unbounded below; nan where the single-task curve is 1 throughout. Continual World
        reports their mean. Wolczyk et al., Continual World, NeurIPS 2021, section 4.
    """
    area = _learning_curves(curves, "a set of learning curves").mean(axis=1)
    reference = _learning_curves(single_task_curves, "a set of single-task curves").mean(axis=1)
    if area.shape != reference.shape:
        raise ConfigurationError(f"there must be one single-task curve a task: got {len(reference)} for {len(area)}")
    room = 1.0 - reference
    return np.divide(area - reference, room, out=np.full(area.shape, np.nan), where=room > 0)


def _held_at_first_peak(curves: Matrix) -> Matrix:
    """Each curve (E,) up to its first maximum, and that maximum from there on."""
    peaks = np.argmax(curves, axis=1)
    past = np.arange(curves.shape[1]) > peaks[:, None]
    return np.where(past, curves.max(axis=1, keepdims=True), curves)


def _learning_curves(curves: ArrayLike, what: str) -> Matrix:
    """`curves` as (T, E) success rates."""
    rates = as_rates(curves, what)
    if rates.ndim != 2 or 0 in rates.shape:
        raise ConfigurationError(f"{what} has shape (tasks, evaluations), got {rates.shape}")
    return rates
