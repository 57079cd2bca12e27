"""Continual-learning metrics as pure functions of the success matrix.

The success matrix R has shape (T + 1, T) and entries in [0, 1]. Column j is the j-th task of the sequence. Row 0 was
measured before any training (zero-shot), row i + 1 right after task i, so that the diagonal "success on task i after
learning task i" is `R[i + 1, i]`. Formulas below index stages as papers do: R_ij is the success on task j after
learning task i, counted from 0, R_-1,j is the zero-shot row, and R_ij is stored at `R[i + 1, j]`.

A cell that was not measured is nan. A metric reads only the cells of its formula, and is nan when one of those is: a
mean over the cells that happen to be there would be another metric. What is undefined is nan as well, except that a
single task cannot be forgotten: `forgetting` and `backward_transfer` of T = 1 are 0.

Every function raises `ConfigurationError` for a matrix of another shape, or with entries outside [0, 1].
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vla_cl.errors import ConfigurationError

Matrix = NDArray[np.float64]


def as_success_matrix(values: ArrayLike) -> Matrix:
    """`values` as a success matrix (T + 1, T)."""
    matrix = np.asarray(values, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[1] < 1 or matrix.shape[0] != matrix.shape[1] + 1:
        raise ConfigurationError(f"a success matrix has shape (T + 1, T), row 0 being zero-shot; got {matrix.shape}")
    return as_rates(matrix, "a success matrix")


def as_rates(values: ArrayLike, what: str) -> Matrix:
    """`values` as success rates, in [0, 1] or nan."""
    rates = np.asarray(values, dtype=np.float64)
    outside = rates[(rates < 0) | (rates > 1) | np.isinf(rates)]
    if outside.size:
        raise ConfigurationError(f"{what} holds success rates in [0, 1], got {outside[0]:g}")
    return rates


def learned_rates(matrix: Matrix) -> NDArray[np.float64]:
    """The diagonal R_ii (T,): success on each task right after learning it."""
    return np.diagonal(matrix[1:])


def final_average(matrix: ArrayLike) -> float:
    """Mean success over all tasks after the last one: mean_j R_T-1,j.

    Args:
        matrix: Success matrix (T + 1, T).

    Returns:
        A number in [0, 1]. "Average accuracy" (ACC) of Lopez-Paz and Ranzato, GEM, NeurIPS 2017.
    """
    return float(as_success_matrix(matrix)[-1].mean())


def learning_accuracy(matrix: ArrayLike) -> float:
    """Mean success on each task right after learning it: mean_i R_ii.

    Args:
        matrix: Success matrix (T + 1, T).

    Returns:
        A number in [0, 1]. Riemer et al., Learning to Learn without Forgetting (MER), ICLR 2019.
    """
    return float(learned_rates(as_success_matrix(matrix)).mean())


def mean_average_accuracy(matrix: ArrayLike) -> float:
    """Success on the tasks seen so far, averaged over the stages: mean_i mean_{j <= i} R_ij.

    Args:
        matrix: Success matrix (T + 1, T).

    Returns:
        A number in [0, 1]. "Average incremental accuracy" of Rebuffi et al., iCaRL, CVPR 2017.
    """
    rows = as_success_matrix(matrix)[1:]
    return float(np.mean([row[: stage + 1].mean() for stage, row in enumerate(rows)]))


def backward_transfer(matrix: ArrayLike) -> float:
    """What later tasks did to earlier ones: mean_{j < T-1} (R_T-1,j - R_jj). Negative: forgetting.

    Args:
        matrix: Success matrix (T + 1, T).

    Returns:
        A number in [-1, 1]; 0 for a single task. "BWT" of Lopez-Paz and Ranzato, GEM, NeurIPS 2017.
    """
    matrix = as_success_matrix(matrix)
    if matrix.shape[1] == 1:
        return 0.0
    return float((matrix[-1] - learned_rates(matrix))[:-1].mean())


def forgetting(matrix: ArrayLike) -> float:
    """Loss from the best that each task ever was: mean_{j < T-1} (max_{j <= l < T-1} R_lj - R_T-1,j).

    Args:
        matrix: Success matrix (T + 1, T).

    Returns:
        A number in [-1, 1], negative when old tasks improve; 0 for a single task. Chaudhry et al., Riemannian Walk,
        ECCV 2018, equation 3.
    """
    matrix = as_success_matrix(matrix)
    tasks = matrix.shape[1]
    if tasks == 1:
        return 0.0
    return float(np.mean([matrix[task + 1 : -1, task].max() - matrix[-1, task] for task in range(tasks - 1)]))


def forward_transfer(matrix: ArrayLike) -> float:
    """What earlier tasks gave a task before it was trained on: mean_{j > 0} (R_j-1,j - R_-1,j).

    It reads the zero-shot row and the first diagonal above the main one, which an evaluation measures only when asked
    to (`zero_shot`, `upper_triangle`).

    Args:
        matrix: Success matrix (T + 1, T).

    Returns:
        A number in [-1, 1]; nan for a single task. "FWT" of Lopez-Paz and Ranzato, GEM, NeurIPS 2017, with the
        untrained policy's success in place of their random baseline.
    """
    matrix = as_success_matrix(matrix)
    if matrix.shape[1] == 1:
        return float("nan")
    before_training = np.diagonal(matrix)[1:]
    return float((before_training - matrix[0, 1:]).mean())


def negative_backward_transfer(matrix: ArrayLike, count_last_task: bool = True) -> float:
    """LIBERO's NBT: (1/K) sum_k 1/(K-k) sum_{t > k} (R_kk - R_tk), tasks counted from 1, K = T. Higher is worse.

    Args:
        matrix: Success matrix (T + 1, T).
        count_last_task: The last task, which nothing follows, has no transfer. LIBERO's code counts it as 0 and still
            divides by K (True); other published numbers divide by K - 1 (False). The second is K / (K - 1) times the
            first: name the formula with the number.

    Returns:
        A number in [-1, 1]; 0 for a single task. Liu et al., LIBERO, NeurIPS 2023, section 3.
    """
    rows = as_success_matrix(matrix)[1:]
    tasks = rows.shape[1]
    if tasks == 1:
        return 0.0
    drops = [rows[task, task] - rows[task + 1 :, task].mean() for task in range(tasks - 1)]
    return float(np.sum(drops) / (tasks if count_last_task else tasks - 1))


def plasticity_loss(matrix: ArrayLike, reference: ArrayLike) -> NDArray[np.float64]:
    """What having a past costs when learning: reference_k - R_kk for each task.

    Args:
        matrix: Success matrix (T + 1, T).
        reference: Success (T,) of a policy trained on each task alone, or on all jointly.

    Returns:
        (T,) numbers in [-1, 1]; positive where the sequence learned the task less well. "Intransigence" of Chaudhry
        et al., Riemannian Walk, ECCV 2018.
    """
    learned = learned_rates(as_success_matrix(matrix))
    rates = as_rates(reference, "the reference")
    if rates.shape != learned.shape:
        raise ConfigurationError(f"the reference holds one success rate a task: got {rates.shape}, not {learned.shape}")
    return rates - learned


def language_sensitivity(canonical: ArrayLike, other: ArrayLike) -> NDArray[np.float64]:
    """How much of a task's success hangs on its words: canonical_k - other_k for each task.

    Args:
        canonical: Success (T,) of a policy that is told what to do.
        other: The same from the same initial states, told something else: another task's instruction ("swapped"),
            nothing ("dropped"), or the same in other words ("paraphrased", "held_out").

    Returns:
        (T,) numbers in [-1, 1]. Under wrong words or none, 0 is a policy that does not listen, and the canonical
        success one that needs them; under other words for the same, 0 is what one hopes for.
    """
    rates, others = as_rates(canonical, "the canonical success"), as_rates(other, "the other success")
    if rates.ndim != 1 or rates.shape != others.shape:
        raise ConfigurationError(f"there must be one success rate a task: got {rates.shape} and {others.shape}")
    return rates - others


def stability(matrix: ArrayLike) -> NDArray[np.float64]:
    """What is left of each task in the end: R_T-1,k / R_kk.

    Args:
        matrix: Success matrix (T + 1, T).

    Returns:
        (T,) numbers, 1 when nothing was lost, above 1 where later tasks helped; nan where the task was never learned.
    """
    matrix = as_success_matrix(matrix)
    learned = learned_rates(matrix)
    return np.divide(matrix[-1], learned, out=np.full(learned.shape, np.nan), where=learned > 0)


def recovery_steps(steps: ArrayLike, successes: ArrayLike, target: float) -> float:
    """How much fine-tuning brings a forgotten task back: the first training step with success of at least `target`.

    Args:
        steps: Training steps (E,) at which success was measured, ascending.
        successes: Success rates (E,) there.
        target: What counts as back, usually R_kk.

    Returns:
        A number of steps; infinity when the target was not reached.
    """
    rates = as_rates(successes, "a recovery curve")
    at = np.asarray(steps, dtype=np.float64)
    if at.shape != rates.shape or at.ndim != 1 or (np.diff(at) <= 0).any():
        raise ConfigurationError(f"a recovery curve needs ascending steps, one a success rate; got {at} and {rates}")
    reached = np.flatnonzero(rates >= target)
    return float(at[reached[0]]) if reached.size else float("inf")
