"""Phase-balanced replay: where episodes are cut, how memory is shared, and how risks decide what is drawn."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from vla_cl.data import WindowDataset
from vla_cl.errors import ConfigurationError
from vla_cl.policies import Policy
from vla_cl.strategies.phaser import Phaser, risk_probabilities
from vla_cl.strategies.phases import change_points, equal_shares, window_phases
from vla_cl.tasks import Task


def strategy_of(**options: Any) -> Phaser:
    return Phaser(Phaser.Options(**options), 0)


def learned(policy: Policy, tasks: list[Task], datasets: list[WindowDataset], **options: Any) -> Phaser:
    strategy = strategy_of(**options)
    for task, data in zip(tasks[:-1], datasets[:-1], strict=True):
        strategy.begin_task(task, policy, data)
        strategy.end_task(task, policy, data)
    strategy.begin_task(tasks[-1], policy, datasets[-1])
    return strategy


def spread(signal: np.ndarray, cuts: tuple[int, ...]) -> float:
    parts = np.split(signal, cuts)
    return sum(float(((part - part.mean(axis=0)) ** 2).sum()) for part in parts)


def test_change_points_are_the_best_of_all_cuts() -> None:
    signal = np.random.default_rng(0).normal(size=(12, 2)).cumsum(axis=0)
    found = change_points(signal, 3)
    best = min(itertools.combinations(range(1, 12), 2), key=lambda cuts: spread(signal, cuts))
    assert tuple(np.flatnonzero(np.diff(found)) + 1) == best


def test_a_piecewise_constant_signal_is_cut_where_it_jumps() -> None:
    signal = np.repeat([[0.0, 1.0], [1.0, 1.0], [1.0, -1.0], [0.0, 0.0]], [7, 20, 4, 9], axis=0)
    np.testing.assert_array_equal(change_points(signal, 4), np.repeat(range(4), [7, 20, 4, 9]))


def test_no_outlier_is_a_phase_and_the_shortest_episodes_have_phases() -> None:
    signal = np.zeros((40, 1))
    signal[11] = 1000.0
    assert np.bincount(change_points(signal, 2)).min() >= 5
    assert change_points(signal[:3], 4).tolist() == [0, 1, 2]


def test_every_episode_is_cut_by_itself(datasets: list[WindowDataset]) -> None:
    for segmentation in ("time", "change_points"):
        phases = window_phases(datasets[0], 3, segmentation)
        assert phases.shape == (len(datasets[0]),)
        for episode in range(len(datasets[0].episode_lengths)):
            mine = phases[datasets[0].window_episodes == episode]
            assert (np.diff(mine) >= 0).all() and set(mine) == {0, 1, 2}


@pytest.mark.parametrize(
    ("available", "budget", "shares"),
    [
        ([10, 10, 10], 9, [3, 3, 3]),
        ([10, 10, 10], 10, [4, 3, 3]),
        ([1, 10, 10], 9, [1, 4, 4]),
        ([1, 2, 10], 12, [1, 2, 9]),
        ([1, 2, 3], 99, [1, 2, 3]),
        ([5, 5], 0, [0, 0]),
        ([0, 5], 1, [0, 1]),
    ],
)
def test_phases_share_the_memory_equally(available: list[int], budget: int, shares: list[int]) -> None:
    assert equal_shares(np.array(available), budget).tolist() == shares


def test_a_short_phase_is_kept_as_well_as_a_long_one(
    policy: Policy, tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    strategy = learned(policy, tasks, datasets, count=12, phases=3)
    kept = np.bincount(strategy._cells())
    assert kept.tolist() == [4, 4, 4, 4, 4, 4]  # two tasks of three phases


def test_risks_decide_by_the_closed_form() -> None:
    probabilities = risk_probabilities(np.array([0.0, 0.2, 0.4]), temperature=0.5)
    weights = np.exp([0.0, 1.0, 2.0])
    np.testing.assert_allclose(probabilities, weights / weights.sum())
    np.testing.assert_allclose(risk_probabilities(np.array([0.0, 2e9, 4e9]), 0.5), probabilities)  # scale is no matter
    np.testing.assert_allclose(risk_probabilities(np.zeros(4), 0.5), np.full(4, 0.25))
    assert risk_probabilities(np.array([0.0, 1.0]), 1e-3).tolist() == [0.0, 1.0]


def test_the_risk_is_the_rise_of_the_loss_since_it_was_learned(
    policy: Policy, tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    strategy = learned(policy, tasks, datasets, phases=2, fraction=1.0, refresh=2)
    batch = datasets[2].batch(range(8))
    strategy.batch(batch)
    assert set(strategy.risks.values()) == {0.0}  # the weights are what they were
    with torch.no_grad():
        for parameter in policy.head.parameters():
            parameter += 0.1
    strategy.batch(batch)
    assert set(strategy.risks.values()) == {0.0}  # not measured again yet
    strategy.batch(batch)
    now = strategy._losses(list(strategy.learned))
    assert len(now) == 4
    for cell, loss in strategy.learned.items():
        assert strategy.risks[cell] == pytest.approx(max(0.0, now[cell] - loss))
    assert max(strategy.risks.values()) > 0


def test_the_cell_at_risk_is_replayed(policy: Policy, tasks: list[Task], datasets: list[WindowDataset]) -> None:
    strategy = learned(policy, tasks, datasets, phases=2, fraction=1.0, temperature=0.01)
    strategy.risks = dict.fromkeys(strategy.learned, 0.0) | {3: 1.0}  # the second task's second phase
    rows = strategy._drawn(50, np.random.default_rng(0))
    assert set(strategy._cells()[rows]) == {3}
    assert set(strategy.memory.owners[rows]) == {1}
    assert len(set(rows)) > 1


def test_a_share_of_the_batch_is_replayed(policy: Policy, tasks: list[Task], datasets: list[WindowDataset]) -> None:
    strategy = learned(policy, tasks, datasets, ratio=0.25)
    batch = strategy.batch(datasets[2].batch(range(16)))
    assert len(batch) == 16
    assert sum(text == "do task-2" for text in batch.observation.instruction) == 12
    assert strategy.extra_passes == pytest.approx(8 * 8 / (100 * 16))


def test_a_task_that_comes_again_is_kept_once(policy: Policy, tasks: list[Task], datasets: list[WindowDataset]) -> None:
    strategy = learned(policy, [*tasks[:2], tasks[0]], [*datasets[:2], datasets[0]], count=8)
    strategy.end_task(tasks[0], policy, datasets[0])
    assert len(strategy.memory) == 16 == len(strategy.phases)
    assert set(strategy.learned) == set(strategy._cells().tolist())


@pytest.mark.parametrize(
    "options",
    [
        {"fraction": 2.0},
        {"ratio": -1.0},
        {"count": -1},
        {"phases": 0},
        {"refresh": 0},
        {"probes": 0},
        {"segmentation": "mood"},
        {"temperature": 0.0},
    ],
)
def test_unusable_options_are_named(options: dict[str, Any]) -> None:
    (key, value), *_ = options.items()
    with pytest.raises(ConfigurationError, match=f"strategy.{key} .*got {value!r}"):
        strategy_of(**options)
