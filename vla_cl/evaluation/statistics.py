"""How sure a number is: intervals of success rates, and robust aggregates over runs.

The independent unit of continual learning is one whole sequence (a seed and an order): tasks of a sequence share a
policy, and episodes of a cell share a checkpoint. So intervals over runs resample sequences first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vla_cl.errors import ConfigurationError


def wilson_interval(
    successes: ArrayLike, trials: ArrayLike, confidence: float = 0.95
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Wilson's score interval of a success rate, without continuity correction.

    Unlike the textbook's (Wald's) it is never empty: 0 of 20 gives [0, 0.16].

    Args:
        successes: Numbers of successes, any shape.
        trials: Numbers of trials, broadcast against `successes`.
        confidence: Coverage in (0, 1).

    Returns:
        Lower and upper ends, each of the broadcast shape and in [0, 1]; nan where there were no trials. Wilson,
        Probable inference, the law of succession, and statistical inference, JASA 1927.

    Raises:
        ConfigurationError: Counts are negative, successes exceed trials, or `confidence` is not in (0, 1).
    """
    if not 0 < confidence < 1:
        raise ConfigurationError(f"confidence must lie between 0 and 1, got {confidence}")
    k, n = np.broadcast_arrays(np.asarray(successes, np.float64), np.asarray(trials, np.float64))
    if (k < 0).any() or (n < 0).any() or (k > n).any():
        raise ConfigurationError("successes must lie between 0 and the number of trials")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        centre = (k + z**2 / 2) / (n + z**2)
        half_width = z / (n + z**2) * np.sqrt(k * (n - k) / n + z**2 / 4)
    # At the ends the closed form is 0 and 1 exactly; rounding must not leave the interval short of the estimate.
    low = np.where(k == 0, 0.0, np.clip(centre - half_width, 0.0, 1.0))
    high = np.where(k == n, 1.0, np.clip(centre + half_width, 0.0, 1.0))
    return np.where(n > 0, low, np.nan), np.where(n > 0, high, np.nan)


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


def student_interval(values: ArrayLike, confidence: float = 0.95) -> tuple[float, float]:
    """Student's interval of the mean of independent values: of a metric, one a sequence.

    It needs no assumption on what a value is made of, and holds for few of them, if their distribution is not far from
    normal.

    Args:
        values: (n,), n of at least 2.
        confidence: Coverage in (0, 1).

    Returns:
        Lower and upper end, symmetric about the mean; nan for a single value. Student, The probable error of a mean,
        Biometrika 1908.
    """
    from scipy.stats import t as student  # here: it is slow to import

    if not 0 < confidence < 1:
        raise ConfigurationError(f"confidence must lie between 0 and 1, got {confidence}")
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ConfigurationError(f"an interval of a mean needs values of shape (n,), got {array.shape}")
    if array.size == 1:
        return float("nan"), float("nan")
    half_width = student.ppf(0.5 + confidence / 2, array.size - 1) * array.std(ddof=1) / np.sqrt(array.size)
    return float(array.mean() - half_width), float(array.mean() + half_width)


_ELEMENTS_TOGETHER = 2_000_000
"""Of arrays that are resampled at once: 16 MB."""


def bootstrap_interval(
    values: ArrayLike,
    statistic: Callable[[NDArray[np.float64]], Any],
    generator: np.random.Generator,
    *,
    resampled_axes: Sequence[int] | None = None,
    replicates: int = 2000,
    confidence: float = 0.95,
    vectorised: bool = False,
) -> tuple[float, float]:
    """Percentile interval of a statistic under a nested bootstrap.

    Axes are resampled with replacement from the outermost to the innermost, independently within each outer draw:
    values of shape (sequences, tasks, episodes) give the bootstrap sequence -> task -> episode. An axis left out of
    `resampled_axes` is a fixed stratum: `resampled_axes=(0, 2)` keeps the set of tasks.

    Args:
        values: Outcomes; axis 0 is the independent unit.
        statistic: Function of an array of the same shape, which returns one number.
        generator: Source of the draws.
        resampled_axes: Axes to resample; all by default.
        replicates: Number of bootstrap samples.
        confidence: Coverage in (0, 1).
        vectorised: Whether `statistic` takes a leading axis of replicates, and returns one number for each: faster.

    Returns:
        Lower and upper end. Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    if not 0 < confidence < 1:
        raise ConfigurationError(f"confidence must lie between 0 and 1, got {confidence}")
    if replicates < 1:
        raise ConfigurationError(f"replicates must be at least 1, got {replicates}")
    array = np.asarray(values, np.float64)
    if array.size == 0 or array.ndim == 0:
        raise ConfigurationError(f"nothing to resample in an array of shape {array.shape}")
    axes = set(range(array.ndim) if resampled_axes is None else resampled_axes)
    if not axes <= set(range(array.ndim)):
        raise ConfigurationError(f"cannot resample axes {sorted(axes)} of an array with {array.ndim}")
    if vectorised:
        together = max(1, _ELEMENTS_TOGETHER // array.size)
        counts = [min(together, replicates - start) for start in range(0, replicates, together)]
        inner = {axis + 1 for axis in axes}
        repeated = (np.broadcast_to(array, (count, *array.shape)) for count in counts)
        samples = np.concatenate([statistic(_resample(each, inner, generator)) for each in repeated])
    else:
        samples = np.array([statistic(_resample(array, axes, generator)) for _ in range(replicates)])
    tail = (1 - confidence) / 2
    low, high = np.quantile(samples, [tail, 1 - tail])
    return float(low), float(high)


def _resample(array: NDArray[np.float64], axes: set[int], generator: np.random.Generator) -> NDArray[np.float64]:
    """One nested bootstrap sample of `array`."""
    for axis, length in enumerate(array.shape):
        if axis in axes:
            shape = array.shape[: axis + 1]
            draws = generator.integers(length, size=shape).reshape(shape + (1,) * (array.ndim - axis - 1))
            array = np.take_along_axis(array, draws, axis)
    return array


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
