"""Two methods on the same initial states: whether they differ by more than chance.

Episode k of a task starts in the same state for every policy, so episodes come in pairs, and what makes a state hard
cancels. Which test applies depends on the question. `mcnemar_test` compares two trained policies, and takes episodes
for independent; it says nothing of what another seed would give. `permutation_test` compares two methods by whole
sequences, paired by seed and order, and needs at least six of them to fall below .05.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vla_cl.errors import ConfigurationError
from vla_cl.evaluation.rows import EpisodeRow

EXACT_UP_TO = 16
"""Pairs whose 65,536 signs are all tried."""


@dataclass(frozen=True)
class McNemar:
    """What became of pairs of episodes.

    Args:
        pairs: How many there are.
        only_first: Of them, in how many the first policy alone succeeded.
        only_second: In how many the second alone did.
        p_value: Probability of so lopsided a split among those that differ, or a more lopsided one, if either policy
            were as likely to be the one that succeeds.
    """

    pairs: int
    only_first: int
    only_second: int
    p_value: float


def mcnemar_test(first: ArrayLike, second: ArrayLike) -> McNemar:
    """Exact two-sided McNemar test of paired outcomes: the sign test of those pairs that differ.

    Args:
        first: Whether each episode of the first policy succeeded, any shape.
        second: The same of the second, from the same initial states, in the same order.

    Returns:
        Counts and p-value; p is 1 where no pair differs. McNemar, Note on the sampling error of the difference between
        correlated proportions, Psychometrika 1947; exact by the binomial distribution.

    Raises:
        ConfigurationError: Shapes differ, there are no pairs, or an outcome is neither 0 nor 1.
    """
    from scipy.stats import binomtest  # here: it is slow to import

    ours, theirs = np.asarray(first), np.asarray(second)
    if ours.shape != theirs.shape or not ours.size:
        raise ConfigurationError(f"outcomes come in pairs, got shapes {ours.shape} and {theirs.shape}")
    if not np.isin([ours, theirs], (0, 1)).all():
        raise ConfigurationError("an outcome is 0 or 1; leave out pairs of which an episode was not played")
    only_first, only_second = int((ours > theirs).sum()), int((theirs > ours).sum())
    differing = only_first + only_second
    p_value = float(binomtest(only_first, differing, 0.5).pvalue) if differing else 1.0
    return McNemar(ours.size, only_first, only_second, p_value)


def permutation_test(differences: ArrayLike, generator: np.random.Generator, permutations: int = 100_000) -> float:
    """Two-sided sign-flipping test that paired differences are symmetric about 0.

    If two methods are alike, each pair could as well have come out the other way round. The p-value is the share of all
    ways in which the mean difference would be at least as far from 0 as it is. It is exact for up to `EXACT_UP_TO`
    pairs, which cannot give less than 2 / 2^n: .25 for three pairs, .03 for six. Beyond, signs are drawn, and the
    observed ones counted among them, so that the test still keeps its level.

    Args:
        differences: (n,) of a metric, one a pair of sequences.
        generator: Source of the signs that are drawn for many pairs.
        permutations: How many are drawn.

    Returns:
        A number in (0, 1]. Fisher, The Design of Experiments, 1935, section 21.

    Raises:
        ConfigurationError: There are no differences, or one is not finite.
    """
    values = np.asarray(differences, np.float64)
    if values.ndim != 1 or not values.size or not np.isfinite(values).all():
        raise ConfigurationError(f"a permutation test needs finite differences of shape (n,), got {values}")
    if permutations < 1:
        raise ConfigurationError(f"permutations must be at least 1, got {permutations}")
    observed = abs(values.sum()) * (1 - 1e-12)  # sums in another order may differ by rounding
    if values.size <= EXACT_UP_TO:
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=values.size)))
        return float((np.abs(signs @ values) >= observed).mean())
    at_least = 1
    for begin in range(0, permutations, 10_000):
        drawn = generator.choice((1.0, -1.0), size=(min(10_000, permutations - begin), values.size))
        at_least += int((np.abs(drawn @ values) >= observed).sum())
    return at_least / (permutations + 1)


def paired_outcomes(
    rows: Iterable[EpisodeRow], others: Iterable[EpisodeRow]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The outcomes of those episodes that were played in both of two evaluations.

    Args:
        rows: Of one policy, or of one run at several stages.
        others: Of another, under the same protocol.

    Returns:
        Two arrays (pairs,), by stage, task and episode.

    Raises:
        ConfigurationError: No episode occurs in both, or one of them began differently: in another initial state.
    """
    first, second = ({(row.stage, row.task, row.episode): row for row in each} for each in (rows, others))
    shared = sorted(first.keys() & second.keys())
    if not shared:
        raise ConfigurationError("the two evaluations share no episode: neither stage nor task nor number")
    for key in shared:
        for what in ("split", "seed"):
            ours, theirs = getattr(first[key], what), getattr(second[key], what)
            if ours != theirs:
                stage, task, episode = key
                raise ConfigurationError(
                    f"episode {episode} of {task!r} after stage {stage} is no pair: its {what} is {ours!r} in one "
                    f"evaluation and {theirs!r} in the other; evaluate both under one protocol"
                )
    return np.array([first[key].success for key in shared]), np.array([second[key].success for key in shared])
