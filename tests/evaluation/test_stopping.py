"""Early stopping: its error rate exactly and by simulation, what it saves, and that only the order counts."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.special import beta

from vla_cl.errors import ConfigurationError
from vla_cl.evaluation import EarlyStop, EpisodeRow, confidence_sequence, interval_matrix, summarise, wilson_interval
from vla_cl.evaluation.stopping import EpisodesInOrder


def test_the_ends_of_a_confidence_sequence_are_where_the_mixture_ratio_reaches_its_bound() -> None:
    for trials in (1, 3, 20):
        for successes in range(trials + 1):

            def excess(rate: float, k: int = successes, n: int = trials) -> float:
                likelihood = rate**k * (1 - rate) ** (n - k)
                return float(beta(k + 0.5, n - k + 0.5) / beta(0.5, 0.5) - 20 * likelihood)

            low, high = confidence_sequence(successes, trials)
            estimate = successes / trials
            assert low == pytest.approx(brentq(excess, 0, estimate) if successes else 0.0, abs=1e-9)
            assert high == pytest.approx(brentq(excess, estimate, 1) if successes < trials else 1.0, abs=1e-9)


def test_a_confidence_sequence_is_wider_than_wilsons_interval_and_symmetric() -> None:
    successes = np.arange(21)
    low, high = confidence_sequence(successes, 20)
    wilson_low, wilson_high = wilson_interval(successes, 20)
    assert (low <= wilson_low).all() and (high >= wilson_high).all()
    assert low == pytest.approx(1 - high[::-1])
    assert confidence_sequence(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize("rate", [0.02, 0.3, 0.5, 0.8, 0.97])
@pytest.mark.parametrize("error", [0.05, 0.2])
def test_the_probability_of_ever_leaving_the_truth_out_is_at_most_the_error(rate: float, error: float) -> None:
    """Exactly, over all ways in which 60 episodes can go: paths end where an interval first leaves the truth out."""
    alive = np.array([1.0])
    for trials in range(1, 61):
        alive = np.append(alive * (1 - rate), 0.0) + np.append(0.0, alive * rate)
        low, high = confidence_sequence(np.arange(trials + 1), trials, 1 - error)
        alive[(rate < low) | (rate > high)] = 0.0
    assert 1 - alive.sum() <= error


RULES = [
    EarlyStop(threshold=0.5),
    EarlyStop(threshold=0.8, error=0.1),
    EarlyStop(width=0.5),
    EarlyStop(threshold=0.3, width=0.4),
]


def first_met(rule: EarlyStop, episodes: int) -> np.ndarray:
    """Whether a rule is met, by trials and successes (episodes + 1, episodes + 1)."""
    trials, successes = np.mgrid[: episodes + 1, : episodes + 1]
    return np.asarray(rule.is_met(np.minimum(successes, trials), trials))


@pytest.mark.parametrize("rule", RULES)
def test_of_four_thousand_simulated_cells_no_more_than_the_error_end_with_a_wrong_interval(rule: EarlyStop) -> None:
    cells, episodes = 4000, 50
    generator = np.random.default_rng(0)
    rates = np.concatenate([generator.uniform(0, 1, cells // 2), np.full(cells // 2, (rule.threshold or 0.5) - 1e-9)])
    wins = np.cumsum(generator.random((cells, episodes)) < rates[:, None], axis=1)
    met = first_met(rule, episodes)[np.arange(1, episodes + 1), wins]
    played = np.where(met.any(axis=1), met.argmax(axis=1) + 1, episodes)
    successes = wins[np.arange(cells), played - 1]
    low, high = confidence_sequence(successes, played, 1 - rule.error)
    wrong = (rates < low) | (rates > high)
    for half in (wrong[: cells // 2], wrong[cells // 2 :]):
        assert half.mean() <= rule.error
    if rule.threshold is not None:  # a cell told to be above the threshold is not below, nor the other way round
        assert ((low > rule.threshold) & (rates < rule.threshold)).mean() <= rule.error
        assert ((high < rule.threshold) & (rates > rule.threshold)).mean() <= rule.error
    assert played.mean() < episodes


def test_stopping_by_looking_at_wilsons_interval_would_be_wrong_more_often() -> None:
    """Why a confidence sequence: at the threshold, a fifth and more of cells would be told to differ from it."""
    generator = np.random.default_rng(0)
    trials = np.arange(1, 51)
    wins = np.cumsum(generator.random((4000, 50)) < 0.5, axis=1)
    low, high = wilson_interval(wins, trials[None, :])
    assert ((low > 0.5) | (high < 0.5))[:, 4:].any(axis=1).mean() > 0.2


def test_clear_cells_are_decided_in_a_fraction_of_their_episodes() -> None:
    rule = EarlyStop(threshold=0.5)
    decided = [
        next(trials for trials in range(1, 51) if rule.is_met(successes(trials), trials))
        for successes in (lambda trials: trials, lambda trials: 0)
    ]
    assert decided == [7, 7]
    trials = np.arange(1, 51)
    assert not rule.is_met(trials // 2, trials).any()
    width = EarlyStop(width=0.4)
    assert next(trials for trials in range(1, 51) if width.is_met(trials, trials)) < 12
    assert not width.is_met(10, 20), "half of twenty is known to .4 only by an interval that nobody chose by looking"


def test_by_default_nothing_is_stopped_and_senseless_rules_are_refused() -> None:
    assert not EarlyStop().asked_for
    assert not EarlyStop().is_met(np.arange(51), 50).any()
    for key, value in (("threshold", 0.0), ("threshold", 1.5), ("width", -0.1), ("width", 1.0), ("error", 0.0)):
        with pytest.raises(ConfigurationError, match=rf"early_stop\.{key} must lie between 0 and 1, got {value}"):
            EarlyStop(**{key: value})
    for successes, trials in ((2, 1), (-1, 3)):
        with pytest.raises(ConfigurationError, match="between 0 and the number of trials"):
            confidence_sequence(successes, trials)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.booleans(), min_size=1, max_size=30), st.randoms(use_true_random=False), st.sampled_from(RULES))
def test_how_many_episodes_count_does_not_depend_on_the_order_in_which_they_end(
    outcomes: list[bool], random: object, rule: EarlyStop
) -> None:
    wins = list(itertools.accumulate(outcomes))
    expected = next((n for n in range(1, len(wins) + 1) if rule.is_met(wins[n - 1], n)), None)
    ended = list(enumerate(outcomes))
    random.shuffle(ended)  # type: ignore[attr-defined]
    in_order = EpisodesInOrder(rule)
    found = None
    for episode in ended:
        found = found or in_order.enough([episode])
    assert found == expected
    assert EpisodesInOrder(rule).enough(ended) == expected


def test_a_success_that_ends_before_an_earlier_episode_is_not_looked_at_alone() -> None:
    in_order = EpisodesInOrder(EarlyStop(threshold=0.5))
    assert in_order.enough((episode, True) for episode in range(1, 15)) is None
    assert in_order.enough([(0, True)]) == 7


def rows_of(stage: int, task: str, outcomes: list[bool], stopping: list[str]) -> list[EpisodeRow]:
    return [
        EpisodeRow(stage, task, "test", episode, episode, "", success, 5, stopping=told)
        for episode, (success, told) in enumerate(zip(outcomes, stopping, strict=True))
    ]


def test_cells_of_a_watched_evaluation_have_the_interval_that_holds_whenever_it_stops() -> None:
    rows = rows_of(0, "push", [True] * 7, ["watched"] * 6 + ["stopped"])
    rows += rows_of(1, "push", [True, False] * 5, ["watched"] * 10)
    rows += rows_of(1, "reach", [True] * 10, [""] * 10)
    intervals = interval_matrix(rows, ["push", "reach"])
    assert intervals[1, 0] == pytest.approx(np.stack(confidence_sequence(7, 7)))
    assert intervals[2, 0] == pytest.approx(np.stack(confidence_sequence(5, 10)))
    assert intervals[2, 1] == pytest.approx(np.stack(wilson_interval(10, 10)))
    assert np.isnan(intervals[0]).all() and np.isnan(intervals[1, 1]).all()
    told = summarise(rows, ["push", "reach"])
    assert told["stopped_early"] == [[False, False], [True, False], [False, False]]
    assert told["episodes"] == [[0, 0], [7, 0], [10, 10]]
    assert told["final_average"] == pytest.approx(0.75)
