"""How sure a number is: intervals of success rates, and of means over runs.

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


def check_confidence(confidence: float) -> None:
    """Refuse a coverage that is not in (0, 1).

    Raises:
        ConfigurationError: It is not.
    """
    if not 0 < confidence < 1:
        raise ConfigurationError(f"confidence must lie between 0 and 1, got {confidence}")


def checked_counts(successes: ArrayLike, trials: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Numbers of successes and of trials, broadcast against each other.

    Raises:
        ConfigurationError: Counts are negative, or successes exceed trials.
    """
    k, n = np.broadcast_arrays(np.asarray(successes, np.float64), np.asarray(trials, np.float64))
    if (k < 0).any() or (n < 0).any() or (k > n).any():
        raise ConfigurationError("successes must lie between 0 and the number of trials")
    return k, n


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
    check_confidence(confidence)
    k, n = checked_counts(successes, trials)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        centre = (k + z**2 / 2) / (n + z**2)
        half_width = z / (n + z**2) * np.sqrt(k * (n - k) / n + z**2 / 4)
    # At the ends the closed form is 0 and 1 exactly; rounding must not leave the interval short of the estimate.
    low = np.where(k == 0, 0.0, np.clip(centre - half_width, 0.0, 1.0))
    high = np.where(k == n, 1.0, np.clip(centre + half_width, 0.0, 1.0))
    return np.where(n > 0, low, np.nan), np.where(n > 0, high, np.nan)


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

    check_confidence(confidence)
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ConfigurationError(f"an interval of a mean needs values of shape (n,), got {array.shape}")
    if array.size == 1:
        return float("nan"), float("nan")
    half_width = student.ppf(0.5 + confidence / 2, array.size - 1) * array.std(ddof=1) / np.sqrt(array.size)
    return float(array.mean() - half_width), float(array.mean() + half_width)


def studentised_interval(values: ArrayLike, resampled: ArrayLike, confidence: float = 0.95) -> tuple[float, float]:
    """Symmetric bootstrap-t interval of the mean of independent values: Student's, with its quantile from the data.

    The bootstrap says how |mean of a sample - mean| / (standard error of that sample) is distributed, in place of
    Student's t. As both parts of it are of the same sample, it does not matter that a nested bootstrap, which varies
    values within sequences a second time, is wider than the truth; the percentile interval is then too wide where what
    is resampled within sequences varies much, and too narrow for few sequences.

    Ours: no standard error counts as less than 0.3 of what the resampling within sequences alone gives to it. Few
    sequences agree by chance, and so do the sequences of many samples, whose pivot would then be beyond all bounds.

    Args:
        values: (n,), n of at least 2: of a metric, one a sequence.
        resampled: (replicates, n) bootstrap samples of them, resampled within sequences, too.
        confidence: Coverage in (0, 1).

    Returns:
        Lower and upper end, symmetric about the mean; infinite where so many samples have no spread that the quantile
        is. Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 12.5; Hall, On Symmetric Bootstrap
        Confidence Intervals, JRSS B 1988; Hesterberg, What Teachers Should Know About the Bootstrap, 2015, section 5.
    """
    check_confidence(confidence)
    array, samples = np.asarray(values, np.float64), np.asarray(resampled, np.float64)
    if array.ndim != 1 or array.size < 2 or samples.ndim != 2 or samples.shape[1] != array.size or not samples.size:
        raise ConfigurationError(
            f"values have shape (n,), n of at least 2, and samples of them (replicates, n); got {array.shape} and "
            f"{samples.shape}"
        )
    mean, root = array.mean(), np.sqrt(array.size)
    least = _LEAST_SHARE * np.sqrt(max(samples.var() - array.var(), 0.0)) / root
    error = max(array.std(ddof=1) / root, least)
    off = np.abs(samples.mean(axis=1) - mean)
    off[off < _NO_SPREAD] = 0.0
    errors = np.maximum(samples.std(axis=1, ddof=1) / root, least)
    pivots = np.divide(off, errors, out=np.where(off == 0, 0.0, np.inf), where=errors > _NO_SPREAD)
    quantile = np.quantile(pivots, confidence, method="inverted_cdf")  # which is defined among infinities, too
    half_width = quantile * error if quantile and error > _NO_SPREAD else 0.0
    return float(mean - half_width), float(mean + half_width)


_LEAST_SHARE = 0.3
"""Chosen among 0, 0.3, 0.5, 0.7 and 1 by what intervals cover and how wide they are, see docs/evaluation.md."""

_NO_SPREAD = 1e-12
"""Of success rates: less is rounding."""

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
    check_confidence(confidence)
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
