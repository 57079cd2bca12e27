"""Intervals and aggregates against closed forms, against scipy, and against simulated coverage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from vla_cl.errors import ConfigurationError
from vla_cl.evaluation import (
    bootstrap_interval,
    interquartile_mean,
    performance_profile,
    probability_of_improvement,
    student_interval,
    studentised_interval,
    wilson_interval,
)


def test_wilson_interval_of_twenty_failures_reaches_a_sixth() -> None:
    z2 = stats.norm.ppf(0.975) ** 2
    low, high = wilson_interval(0, 20)
    assert low == 0.0
    assert high == pytest.approx(z2 / (20 + z2))
    assert high == pytest.approx(0.16, abs=0.002)


def test_wilson_interval_of_half_of_twenty_is_about_a_fifth_wide_on_each_side() -> None:
    low, high = wilson_interval(10, 20)
    assert (high - 0.5, 0.5 - low) == pytest.approx((0.2, 0.2), abs=0.01)


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.999])
def test_wilson_interval_agrees_with_scipy_on_every_count(confidence: float) -> None:
    for trials in (1, 2, 7, 20, 50):
        successes = np.arange(trials + 1)
        low, high = wilson_interval(successes, trials, confidence)
        for count in successes:
            expected = stats.binomtest(int(count), trials).proportion_ci(confidence, method="wilson")
            assert (low[count], high[count]) == pytest.approx((expected.low, expected.high), abs=1e-12)
        assert (low <= successes / trials).all()
        assert (high >= successes / trials).all()


def test_wilson_interval_of_no_trials_is_nan_and_impossible_counts_are_refused() -> None:
    low, high = wilson_interval([0, 3], [0, 4])
    assert np.isnan([low[0], high[0]]).all()
    assert np.isfinite([low[1], high[1]]).all()
    for successes, trials in ((5, 4), (-1, 4), (0, -1)):
        with pytest.raises(ConfigurationError, match="between 0 and the number of trials"):
            wilson_interval(successes, trials)
    with pytest.raises(ConfigurationError, match="confidence"):
        wilson_interval(1, 2, 95)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 10, 41])
def test_interquartile_mean_agrees_with_scipys_trimmed_mean(size: int) -> None:
    values = np.random.default_rng(size).normal(size=size)
    assert interquartile_mean(values) == pytest.approx(stats.trim_mean(values, 0.25))


def test_interquartile_mean_ignores_an_outlier_and_not_a_hole() -> None:
    assert interquartile_mean([[0.4, 0.5], [0.6, 1e9]]) == pytest.approx(0.55)
    assert np.isnan(interquartile_mean([0.1, float("nan"), 0.3]))


def test_bootstrap_interval_of_a_mean_matches_its_standard_error() -> None:
    values = np.random.default_rng(0).normal(size=400)
    low, high = bootstrap_interval(values, np.mean, np.random.default_rng(1), replicates=4000)
    half_width = 1.96 * values.std() / np.sqrt(400)
    assert (low, high) == pytest.approx((values.mean() - half_width, values.mean() + half_width), abs=0.01)


def test_bootstrap_treats_the_sequence_as_the_independent_unit() -> None:
    generator = np.random.default_rng(0)
    ability = generator.uniform(size=(8, 1, 1))
    outcomes = (generator.uniform(size=(8, 5, 20)) < ability).astype(float)
    low, high = bootstrap_interval(outcomes, np.mean, np.random.default_rng(1), replicates=500)
    flat_low, flat_high = bootstrap_interval(outcomes.ravel(), np.mean, np.random.default_rng(1), replicates=500)
    assert high - low > 2 * (flat_high - flat_low)


def test_bootstrap_keeps_the_strata_that_are_not_resampled() -> None:
    outcomes = np.broadcast_to(np.array([0.0, 1.0])[None, :, None], (4, 2, 3))
    fixed = bootstrap_interval(outcomes, np.mean, np.random.default_rng(0), resampled_axes=(0, 2), replicates=50)
    assert fixed == (0.5, 0.5)
    free = bootstrap_interval(outcomes, np.mean, np.random.default_rng(0), replicates=200)
    assert free[0] < 0.5 < free[1]


def test_a_vectorised_statistic_gives_the_interval_of_one_at_a_time() -> None:
    values = np.random.default_rng(0).normal(size=(6, 4, 10)) + np.arange(6)[:, None, None]

    def means(samples: np.ndarray) -> np.ndarray:
        return samples.mean(axis=(1, 2, 3))

    for axes in (None, (0, 2)):
        one = bootstrap_interval(values, np.mean, np.random.default_rng(1), resampled_axes=axes, replicates=4000)
        generator = np.random.default_rng(2)
        many = bootstrap_interval(values, means, generator, resampled_axes=axes, replicates=20_001, vectorised=True)
        assert many == pytest.approx(one, abs=0.08)


def test_bootstrap_is_a_function_of_its_generator() -> None:
    values = np.arange(12.0).reshape(3, 4)
    intervals = [bootstrap_interval(values, np.mean, np.random.default_rng(5), replicates=100) for _ in range(2)]
    assert intervals[0] == intervals[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"confidence": 1.0}, "confidence"), ({"replicates": 0}, "replicates"), ({"resampled_axes": (3,)}, "axes")],
)
def test_bootstrap_refuses_what_makes_no_sense(arguments: dict, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        bootstrap_interval(np.ones((2, 2)), np.mean, np.random.default_rng(0), **arguments)


def test_students_interval_agrees_with_scipy_and_covers_the_mean_of_three_values() -> None:
    values = np.random.default_rng(0).normal(2, 3, size=(2000, 3))
    low, high = np.array([student_interval(each) for each in values]).T
    error = stats.sem(values[0])
    expected = stats.t.interval(0.95, 2, loc=values[0].mean(), scale=error)
    assert (low[0], high[0]) == pytest.approx(expected)
    assert ((low <= 2) & (high >= 2)).mean() == pytest.approx(0.95, abs=0.015)
    assert np.isnan(student_interval([1.0])).all()
    for wrong in ([], [[1.0, 2.0]]):
        with pytest.raises(ConfigurationError, match="shape"):
            student_interval(wrong)


def test_the_studentised_interval_of_a_normal_resampling_is_students() -> None:
    """Samples that are normal in fact have Student's pivot, whatever their variance."""
    source = np.random.default_rng(0)
    values = source.normal(2, 3, 6)
    for spread in (0.5, 3.0):
        resampled = source.normal(values.mean(), spread, (200_000, 6))
        found = studentised_interval(values, resampled)
        assert found == pytest.approx(student_interval(values), rel=0.02)


def test_sequences_that_agree_by_chance_do_not_make_an_interval_endless_or_empty() -> None:
    """Standard errors are at least a share of what was resampled within sequences."""
    source = np.random.default_rng(0)
    for values in ([0.92, 0.88, 0.96], [0.8, 0.8, 0.8]):
        array = np.array(values)
        resampled = array[source.integers(3, size=(20_000, 3))] + source.choice([-0.1, 0.0, 0.1], (20_000, 3))
        low, high = studentised_interval(array, resampled)
        assert low + high == pytest.approx(2 * array.mean())
        assert 0.05 < high - array.mean() < 0.25


def test_the_studentised_interval_of_samples_without_spread_has_no_end_and_of_equal_ones_no_width() -> None:
    half = np.array([[0.4, 0.4], [0.6, 0.6]] * 50)
    assert studentised_interval([0.4, 0.6], half) == (-np.inf, np.inf)
    assert studentised_interval([1.0] * 3, np.ones((1000, 3))) == (1.0, 1.0)
    for values, samples in (([0.5], [[0.5]]), ([0.1, 0.2], [[0.1]]), ([0.1, 0.2], np.empty((0, 2)))):
        with pytest.raises(ConfigurationError, match="n of at least 2"):
            studentised_interval(values, samples)


def test_performance_profile_is_the_share_of_runs_above_each_threshold() -> None:
    profile = performance_profile([[0.1, 0.5], [0.5, 0.9]], [0.0, 0.1, 0.5, 0.9])
    assert profile == pytest.approx([1.0, 0.75, 0.25, 0.0])


def test_probability_of_improvement_is_the_mann_whitney_statistic() -> None:
    generator = np.random.default_rng(0)
    first, second = generator.integers(0, 5, (6, 1)).astype(float), generator.integers(0, 5, (9, 1)).astype(float)
    expected = stats.mannwhitneyu(first[:, 0], second[:, 0]).statistic / (6 * 9)
    assert probability_of_improvement(first, second) == pytest.approx(expected)
    assert probability_of_improvement(first, first) == pytest.approx(0.5)
