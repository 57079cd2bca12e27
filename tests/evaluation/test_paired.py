"""Tests of pairs, against scipy, against all permutations, and their level under simulation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from vla_cl.errors import ConfigurationError
from vla_cl.evaluation import EpisodeRow, mcnemar_test, paired_outcomes, permutation_test


def generator() -> np.random.Generator:
    return np.random.default_rng(0)


def test_mcnemar_counts_pairs_that_differ_and_has_the_p_value_of_the_sign_test() -> None:
    first = np.array([1] * 12 + [0] * 3 + [1] * 20 + [0] * 5, bool)
    second = np.array([0] * 12 + [1] * 3 + [1] * 20 + [0] * 5, bool)
    found = mcnemar_test(first, second)
    assert (found.pairs, found.only_first, found.only_second) == (40, 12, 3)
    assert found.p_value == pytest.approx(2 * stats.binom.cdf(3, 15, 0.5))
    assert mcnemar_test(second, first).p_value == found.p_value
    assert mcnemar_test(first.reshape(5, 8), second.reshape(5, 8)) == found
    assert mcnemar_test(first, first).p_value == 1.0


def test_mcnemar_keeps_its_level_and_finds_a_real_difference() -> None:
    source = generator()
    easy = source.uniform(0.1, 0.9, (300, 40))  # each initial state has its own rate, the same for both policies
    alike = [mcnemar_test(*(source.random((2, 40)) < rates)).p_value for rates in easy]
    assert np.mean(np.array(alike) <= 0.05) <= 0.05
    luck = source.random((2, 300, 40))
    unlike = [mcnemar_test(a < r, b < 0.3 * r).p_value for a, b, r in zip(*luck, easy, strict=True)]
    assert np.mean(np.array(unlike) <= 0.05) > 0.8


def test_outcomes_that_are_no_pairs_are_refused() -> None:
    for first, second in (([1, 0], [1]), ([], [])):
        with pytest.raises(ConfigurationError, match="in pairs"):
            mcnemar_test(first, second)
    with pytest.raises(ConfigurationError, match="0 or 1"):
        mcnemar_test([1, float("nan")], [0, 1])


@pytest.mark.parametrize("size", [2, 3, 6, 11])
def test_the_permutation_test_agrees_with_scipys_over_all_signs(size: int) -> None:
    differences = np.random.default_rng(size).normal(0.3, 1, size)
    expected = stats.permutation_test(
        (differences, np.zeros(size)), lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples", vectorized=True, n_resamples=np.inf,
    )  # fmt: skip
    assert permutation_test(differences, generator()) == pytest.approx(expected.pvalue)


def test_few_pairs_cannot_give_a_small_p_value() -> None:
    for pairs in (1, 2, 3, 6):
        assert permutation_test(np.linspace(0.3, 0.4, pairs), generator()) == 2 / 2**pairs
    assert permutation_test(np.zeros(5), generator()) == 1.0


def test_signs_that_are_drawn_give_what_all_of_them_would() -> None:
    differences = np.random.default_rng(3).normal(0.25, 1, 17)
    signs = 1.0 - 2 * (np.arange(2**17)[:, None] >> np.arange(17) & 1)
    expected = (np.abs(signs @ differences) >= abs(differences.sum()) - 1e-9).mean()
    assert permutation_test(differences, generator(), permutations=40_000) == pytest.approx(expected, abs=0.01)
    assert permutation_test(np.full(60, 0.1), generator(), permutations=999) == 1 / 1000, "never 0"


@pytest.mark.parametrize("differences", [[], [0.1, float("nan")], [[0.1]]])
def test_differences_that_are_no_numbers_are_refused(differences: list) -> None:
    with pytest.raises(ConfigurationError, match="finite differences"):
        permutation_test(differences, generator())


def rows(successes: list[bool], task: str = "push", stage: int = 0) -> list[EpisodeRow]:
    return [
        EpisodeRow(stage, task, "test", episode, 100 + episode, "", success, 5)
        for episode, success in enumerate(successes)
    ]


def test_episodes_are_paired_by_stage_task_and_initial_state() -> None:
    first = rows([True, False, True], "reach") + rows([False, True])
    second = rows([True, True, False, False]) + rows([False, False], "reach")
    ours, theirs = paired_outcomes(first, second)
    assert ours.tolist() == [False, True, True, False]
    assert theirs.tolist() == [True, True, False, False]


def test_episodes_of_other_initial_states_are_no_pairs() -> None:
    with pytest.raises(ConfigurationError, match="share no episode"):
        paired_outcomes(rows([True]), rows([True], "reach"))
    elsewhere = [replace(row, seed=7) for row in rows([True])]
    with pytest.raises(ConfigurationError, match="episode 0 of 'push' after stage 0 is no pair: its seed is 100"):
        paired_outcomes(rows([True]), elsewhere)
    with pytest.raises(ConfigurationError, match="its split is 'test'"):
        paired_outcomes(rows([True]), [replace(row, split="selection") for row in rows([True])])
