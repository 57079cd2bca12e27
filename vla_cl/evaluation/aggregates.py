"""Robust aggregates over runs and tasks, after Agarwal et al., Deep RL at the Edge of the Statistical Precipice, 2021.

Scores have shape (runs, tasks): of success rates, say, one number for each run on each task.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vla_cl.errors import ConfigurationError
from vla_cl.evaluation.statistics import bootstrap_interval


def interquartile_mean(values: ArrayLike) -> float:
    """Mean of the middle half: the lowest and the highest floor(n / 4) of all values are left out.

    Args:
        values: Scores of any shape, flattened: runs x tasks.

    Returns:
        One number within the range of the values. Agarwal et al., Deep RL at the Edge of the Statistical Precipice,
        NeurIPS 2021.
    """
    ordered = np.sort(np.asarray(values, np.float64), axis=None)
    if ordered.size == 0:
        raise ConfigurationError("the interquartile mean of no values is undefined")
    cut = ordered.size // 4
    return float(ordered[cut : ordered.size - cut].mean()) if not np.isnan(ordered[-1]) else float("nan")


def optimality_gap(scores: ArrayLike, optimum: float = 1.0) -> float:
    """How far scores fall short of an optimum, those beyond it counted as reaching it.

    Args:
        scores: Scores of any shape, flattened: runs x tasks.
        optimum: What one would be content with, 1 for success rates.

    Returns:
        A number of at least 0, smaller being better. Agarwal et al., NeurIPS 2021.
    """
    flat = np.asarray(scores, np.float64)
    if flat.size == 0:
        raise ConfigurationError("the optimality gap of no scores is undefined")
    return float(optimum - np.minimum(flat, optimum).mean())


def stratified_interval(
    scores: ArrayLike,
    statistic: Callable[[NDArray[np.float64]], float],
    generator: np.random.Generator,
    *,
    replicates: int = 2000,
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval of an aggregate under a bootstrap of runs, drawn anew for each task.

    It takes a run's tasks for independent, as they are where each is learned from scratch. Those of a sequence share a
    policy: there it is too narrow, and `vla_cl.evaluation.estimates` is what to use.

    Args:
        scores: (runs, tasks).
        statistic: Function of such an array: `interquartile_mean`, say.
        generator: Source of the draws.
        replicates: Number of bootstrap samples.
        confidence: Coverage in (0, 1).

    Returns:
        Lower and upper end. Agarwal et al., NeurIPS 2021, section 4.
    """
    array = np.asarray(scores, np.float64)
    if array.ndim != 2 or not array.size:
        raise ConfigurationError(f"scores have shape (runs, tasks), got {array.shape}")
    return bootstrap_interval(
        array.T,
        lambda sample: statistic(sample.T),
        generator,
        resampled_axes=(1,),
        replicates=replicates,
        confidence=confidence,
    )


def performance_profile(scores: ArrayLike, thresholds: ArrayLike) -> NDArray[np.float64]:
    """Share of all runs and tasks that score above each threshold.

    Args:
        scores: Scores of any shape, flattened: runs x tasks.
        thresholds: (K,).

    Returns:
        (K,) shares in [0, 1], falling as the threshold rises. Agarwal et al., NeurIPS 2021.
    """
    flat = np.asarray(scores, np.float64).ravel()
    if flat.size == 0:
        raise ConfigurationError("the performance profile of no scores is undefined")
    shares: NDArray[np.float64] = (flat[None, :] > np.asarray(thresholds, np.float64)[:, None]).mean(axis=1)
    return shares


def probability_of_improvement(scores: ArrayLike, others: ArrayLike) -> float:
    """How often a run of the first method beats a run of the second on the same task, ties counted half.

    Args:
        scores: (runs, tasks) of one method.
        others: (other runs, tasks) of another.

    Returns:
        A number in [0, 1], averaged over tasks: the Mann-Whitney statistic. Agarwal et al., NeurIPS 2021.
    """
    first, second = np.asarray(scores, np.float64), np.asarray(others, np.float64)
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1] or not first.size or not second.size:
        raise ConfigurationError(
            f"scores have shape (runs, tasks) with the same tasks, got {first.shape}, {second.shape}"
        )
    difference = first[:, None, :] - second[None, :, :]
    return float((0.5 * (np.sign(difference) + 1)).mean())
