"""Ending the rollouts of a task as soon as they have told what was asked, with a known risk of being told wrong.

Looking at an ordinary interval after every episode, and stopping once it says what one hopes for, is wrong far more
often than the interval promises. A confidence sequence may be looked at after every episode: with the stated
probability, all of its intervals hold at once, so whichever one an evaluation ends with does.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vla_cl.errors import ConfigurationError
from vla_cl.evaluation.statistics import check_confidence, checked_counts

WATCHED, STOPPED = "watched", "stopped"
"""What an episode's row says of early stopping, where it was asked for: that the episode counted, or that it was the
last before the task's other episodes were left out."""

_HALVINGS = 60
"""Of a search for an interval's end, to the last digit."""


def confidence_sequence(
    successes: ArrayLike, trials: ArrayLike, confidence: float = 0.95
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The interval of a success rate that holds at all numbers of trials at once, hence at one chosen by looking.

    The rates p at which the mixture likelihood ratio B(k + 1/2, n - k + 1/2) / B(1/2, 1/2) / (p^k (1 - p)^(n - k)) is
    below 1 / (1 - confidence). At the true rate that ratio is a martingale which begins at 1, so by Ville's inequality
    it ever reaches that bound with a probability of at most 1 - confidence.

    Args:
        successes: Numbers k of successes, any shape.
        trials: Numbers n of trials, broadcast against `successes`.
        confidence: Coverage in (0, 1), of all the intervals of a growing number of trials together.

    Returns:
        Lower and upper ends, each of the broadcast shape and in [0, 1]; 0 and 1 where there were no trials. Robbins,
        Statistical methods related to the law of the iterated logarithm, Annals of Mathematical Statistics 1970; with
        Krichevsky and Trofimov's mixture, The performance of universal encoding, 1981.

    Raises:
        ConfigurationError: Counts are negative, successes exceed trials, or `confidence` is not in (0, 1).
    """
    check_confidence(confidence)
    k, n = checked_counts(successes, trials)
    estimate = np.divide(k, n, out=np.full(k.shape, 0.5), where=n > 0)
    ends = []
    for far in (0.0, 1.0):
        outside, inside = np.full(k.shape, far), estimate.copy()
        for _ in range(_HALVINGS):
            middle = (outside + inside) / 2
            out = _is_left_out(middle, k, n, confidence)
            outside, inside = np.where(out, middle, outside), np.where(out, inside, middle)
        ends.append(np.where(_is_left_out(np.full(k.shape, far), k, n, confidence), outside, far))
    return ends[0], ends[1]


def _is_left_out(rate: ArrayLike, successes: ArrayLike, trials: ArrayLike, confidence: float) -> NDArray[np.bool_]:
    """Whether a rate lies outside of the confidence sequence's interval."""
    from scipy.special import betaln, xlog1py, xlogy  # here: it is slow to import

    k, p = np.asarray(successes, np.float64), np.asarray(rate, np.float64)
    failures = np.asarray(trials, np.float64) - k
    ratio = betaln(k + 0.5, failures + 0.5) - betaln(0.5, 0.5) - xlogy(k, p) - xlog1py(failures, -p)
    return np.asarray(ratio >= -np.log1p(-confidence))


@dataclass
class EarlyStop:
    """The configuration group `evaluation.early_stop`: when a task's remaining episodes at a stage are left out.

    With neither rule all are played. With both, the first that is met ends it.

    Args:
        threshold: Stop once the success rate is surely above it or surely below it, in (0, 1): another method's
            success, or what counts as learned.
        width: Stop once the success rate is known this closely: as soon as its confidence sequence, from lower to
            upper end, is no wider, in (0, 1).
        error: The probability, at most, that a cell's confidence sequence ever leaves the true rate out, in (0, 1).

    Raises:
        ConfigurationError: A value cannot be used.
    """

    threshold: float | None = None
    width: float | None = None
    error: float = 0.05

    def __post_init__(self) -> None:
        for key in ("threshold", "width", "error"):
            value = getattr(self, key)
            if value is not None and not 0 < value < 1:
                raise ConfigurationError(f"evaluation.early_stop.{key} must lie between 0 and 1, got {value}")

    @property
    def asked_for(self) -> bool:
        """Whether there is a rule at all."""
        return self.threshold is not None or self.width is not None

    def is_met(self, successes: ArrayLike, trials: ArrayLike) -> NDArray[np.bool_]:
        """Whether a rule is met after so many successes in so many trials, any shape."""
        met = np.zeros(np.broadcast_shapes(np.shape(successes), np.shape(trials)), bool)
        if self.threshold is not None:
            met |= _is_left_out(self.threshold, successes, trials, 1 - self.error)
        if self.width is not None:
            low, high = confidence_sequence(successes, trials, 1 - self.error)
            met |= high - low <= self.width
        return met


class EpisodesInOrder:
    """The outcomes of a task's episodes, looked at in the order of their initial states, whichever ends first.

    A success ends sooner than a failure, so a look at the episodes that happen to be over would see too many
    successes. And what ends first may depend on the number of slots, which must not decide what is measured.

    Args:
        rule: When it is enough.
    """

    def __init__(self, rule: EarlyStop) -> None:
        self._rule = rule
        self._waiting: dict[int, bool] = {}
        self._successes = 0
        self._trials = 0

    def enough(self, ended: Iterable[tuple[int, bool]]) -> int | None:
        """Take note of episodes, each with whether it succeeded.

        Returns:
            How many episodes count, from the first on, as soon as a rule is met; None while none is.
        """
        self._waiting.update(ended)
        while self._trials in self._waiting:
            self._successes += self._waiting.pop(self._trials)
            self._trials += 1
            if self._rule.is_met(self._successes, self._trials):
                return self._trials
        return None
