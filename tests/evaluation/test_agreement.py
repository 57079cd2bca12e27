"""A thousand random matrices: our metrics against definitions of others, in loops, and against rliable's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from vla_cl.errors import ConfigurationError
from vla_cl.evaluation import (
    interquartile_mean,
    metrics,
    optimality_gap,
    performance_profile,
    probability_of_improvement,
    stratified_interval,
)

Results = dict[tuple[int, int], float]
"""Accuracy by (tasks learned, task), tasks counted from 1; 0 tasks learned is before training."""


def gem(results: Results, tasks: int) -> dict[str, float]:
    """Lopez-Paz and Ranzato, Gradient Episodic Memory, 2017, equations 2 to 4, with b_i the untrained accuracy."""
    found = {"final_average": 1 / tasks * sum(results[tasks, i] for i in range(1, tasks + 1))}
    if tasks > 1:
        share = 1 / (tasks - 1)
        found["backward_transfer"] = share * sum(results[tasks, i] - results[i, i] for i in range(1, tasks))
        found["forward_transfer"] = share * sum(results[i - 1, i] - results[0, i] for i in range(2, tasks + 1))
    return found


def riemannian_walk(results: Results, tasks: int) -> float:
    """Chaudhry et al., Riemannian Walk, 2018, equation 3, where a_lj is 0 for tasks that were not learned yet."""
    forgotten = 0.0
    for j in range(1, tasks):
        forgotten += max(results[learned, j] for learned in range(j, tasks)) - results[tasks, j]
    return forgotten / (tasks - 1)


class StreamMetrics:
    """Forgetting, backward and forward transfer as Avalanche's plug-ins keep them (avalanche.evaluation.metrics,
    Lomonaco et al., 2021): a first value of each experience, and the last one, compared as they come in.
    """

    def __init__(self) -> None:
        self.initial: dict[int, float] = {}
        self.previous: dict[int, float] = {}
        self.first: dict[int, float] = {}
        self.last: dict[int, float] = {}

    def update(self, trained_on: int, experience: int, accuracy: float) -> None:
        """One evaluation of an experience, after training on another (0: before any)."""
        if trained_on == 0:
            self.initial[experience] = accuracy
        if trained_on == experience - 1:
            self.previous[experience] = accuracy
        if trained_on == experience:
            self.first[experience] = accuracy
        elif trained_on > experience:
            self.last[experience] = accuracy

    def forgetting(self) -> float:
        """Accuracy right after training minus the last, averaged over what was trained on before."""
        return sum((self.first[each] - self.last[each] for each in self.last), 0.0) / len(self.last)

    def forward_transfer(self) -> float:
        """Accuracy after training on the experience before, minus the initial one, for all but the first."""
        gains = [self.previous[each] - self.initial[each] for each in self.previous if each > 1]
        return sum(gains, 0.0) / len(gains)


def test_average_accuracy_forgetting_and_transfer_agree_with_the_papers_and_with_avalanche() -> None:
    generator = np.random.default_rng(0)
    for _ in range(1000):
        tasks, episodes = int(generator.integers(1, 13)), int(generator.integers(1, 51))
        wins = generator.integers(0, episodes + 1, (tasks + 1, tasks))
        matrix = wins / episodes
        results = {
            (stage, task + 1): int(wins[stage, task]) / episodes for stage in range(tasks + 1) for task in range(tasks)
        }
        for name, expected in gem(results, tasks).items():
            assert getattr(metrics, name)(matrix) == pytest.approx(expected, abs=1e-12), name
        seen = [sum(results[i, j] for j in range(1, i + 1)) / i for i in range(1, tasks + 1)]
        assert metrics.mean_average_accuracy(matrix) == pytest.approx(sum(seen) / tasks, abs=1e-12)
        if tasks == 1:
            continue
        assert metrics.forgetting(matrix) == pytest.approx(riemannian_walk(results, tasks), abs=1e-12)
        stream = StreamMetrics()
        for (stage, task), accuracy in results.items():
            stream.update(stage, task, accuracy)
        assert metrics.backward_transfer(matrix) == pytest.approx(-stream.forgetting(), abs=1e-12)
        assert metrics.forward_transfer(matrix) == pytest.approx(stream.forward_transfer(), abs=1e-12)


def quartiles_cut(scores: list[float]) -> float:
    """The interquartile mean of Agarwal et al., 2021, section 4.1, as rliable has it: 25 % off at either end."""
    return float(stats.trim_mean(scores, 0.25))


def improvement(ours: list[list[float]], theirs: list[list[float]]) -> float:
    """P(X > Y) of the same, section 4.3: per task S(x, y) = 1, 1/2 or 0, over all pairs of runs; then over tasks."""
    of_tasks = []
    for mine, other in zip(zip(*ours, strict=True), zip(*theirs, strict=True), strict=True):
        better = sum(1.0 if x > y else 0.5 if x == y else 0.0 for x in mine for y in other)
        of_tasks.append(better / (len(mine) * len(other)))
    return sum(of_tasks) / len(of_tasks)


def test_aggregates_agree_with_rliables_definitions() -> None:
    generator = np.random.default_rng(1)
    for _ in range(1000):
        runs, others, tasks = (int(size) for size in generator.integers(1, 9, 3))
        scores = generator.integers(0, 21, (runs, tasks)) / 20
        rivals = generator.integers(0, 21, (others, tasks)) / 20
        optimum = float(generator.uniform(0.5, 1.0))
        flat = scores.ravel().tolist()
        assert interquartile_mean(scores) == pytest.approx(quartiles_cut(flat))
        short = sum(max(optimum - score, 0.0) for score in flat) / len(flat)
        assert optimality_gap(scores, optimum) == pytest.approx(short)
        assert probability_of_improvement(scores, rivals) == pytest.approx(
            improvement(scores.tolist(), rivals.tolist())
        )
        thresholds = generator.uniform(0, 1, 5)
        above = [sum(score > threshold for score in flat) / len(flat) for threshold in thresholds]
        assert performance_profile(scores, thresholds) == pytest.approx(above)


@pytest.mark.parametrize("shape", [(3, 5), (8, 10)])
def test_stratified_intervals_agree_with_rliables_bootstrap(shape: tuple[int, int]) -> None:
    """Its `StratifiedBootstrap`: an index of a run, drawn anew for every cell of (runs, tasks). Both draw at random, so
    ends differ by the noise of a quantile of 2,000 draws.
    """
    scores = np.random.default_rng(2).beta(2, 1, shape)
    runs = np.random.default_rng(4).integers(shape[0], size=(2000, *shape))
    drawn = [quartiles_cut(scores[each, np.arange(shape[1])].ravel().tolist()) for each in runs]
    low, high = np.quantile(drawn, [0.025, 0.975])
    found = stratified_interval(scores, interquartile_mean, np.random.default_rng(3), replicates=2000)
    assert found == pytest.approx((low, high), abs=0.08 * (high - low))


def test_aggregates_of_nothing_are_refused() -> None:
    for refused in (lambda: optimality_gap([]), lambda: interquartile_mean([]), lambda: performance_profile([], [0.5])):
        with pytest.raises(ConfigurationError, match="undefined"):
            refused()
    with pytest.raises(ConfigurationError, match=r"shape \(runs, tasks\)"):
        stratified_interval([0.5, 0.6], interquartile_mean, np.random.default_rng(0))
