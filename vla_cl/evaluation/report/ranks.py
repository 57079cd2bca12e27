"""Who comes first, second, ... of strategies that were measured alike, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vla_cl.evaluation.estimates import episode_outcomes
from vla_cl.evaluation.report.runs import Run

REPLICATES = 500
"""Bootstrap samples behind the interval of a rank."""


@dataclass(frozen=True)
class Rank:
    """A place among others, 1 being the best; equal ones share the mean of their places.

    Args:
        place: By the mean over runs.
        low: The best place of the bootstrap's 95 % interval.
        high: The worst.
        among: How many are ranked.
    """

    place: float
    low: float
    high: float
    among: int


def final_average_samples(
    rows: Sequence[Sequence[Run]], generator: np.random.Generator, replicates: int = REPLICATES
) -> NDArray[np.float64]:
    """Bootstrap samples of the final average of several strategies, paired with each other.

    Sequences are drawn with replacement, tasks within each, and episodes within each task, as for an interval of one
    strategy; but every strategy gets the same draws. Runs are paired by seed and order where strategies have equally
    many of them, tasks by name, and episodes by initial state, so what a lucky draw gives to one it gives to all, and
    does not pass for a difference.

    Args:
        rows: The finished runs of each strategy, all of one protocol.
        generator: Source of the draws.
        replicates: Number of samples.

    Returns:
        (rows, replicates).
    """
    final = [np.stack([_final(run) for run in sorted(runs, key=_sequence)]) for runs in rows]
    samples = np.empty((len(rows), replicates))
    if not final:
        return samples
    runs, tasks, episodes = (max(each.shape[axis] for each in final) for axis in range(3))
    for replicate in range(replicates):
        sequence = generator.random(runs)
        task = generator.random((runs, tasks))
        episode = generator.random((runs, tasks, episodes))
        for row, outcomes in enumerate(final):
            count, width, depth = outcomes.shape
            cell = (_index(sequence[:count], count)[:, None], _index(task[:count, :width], width))
            played = (~np.isnan(outcomes)).sum(axis=2)[cell][:, :, None]  # fewer where rollouts were stopped early
            drawn = np.take_along_axis(outcomes[cell], _index(episode[:count, :width, :depth], played), axis=2)
            wins = np.where(np.arange(depth) < played, drawn, 0.0).sum(axis=2)
            samples[row, replicate] = (wins / played[:, :, 0]).mean()
    return samples


def ranks(means: ArrayLike, samples: NDArray[np.float64]) -> list[Rank]:
    """The rank of each strategy by a number that is better the higher it is.

    Args:
        means: (rows,).
        samples: Bootstrap samples of them (rows, replicates), see `final_average_samples`.
    """
    if not len(samples):
        return []
    from scipy.stats import rankdata  # here: it is slow to import

    places = rankdata(-np.asarray(means, np.float64))
    low, high = np.quantile(rankdata(-samples.round(9), axis=0), [0.025, 0.975], axis=1)
    return [
        Rank(float(place), float(best), float(worst), len(samples))
        for place, best, worst in zip(places, low, high, strict=True)
    ]


def _final(run: Run) -> NDArray[np.float64]:
    """Outcomes of the last stage (tasks by name, episodes)."""
    order = sorted(range(len(run.sequence)), key=lambda place: run.sequence[place])
    final: NDArray[np.float64] = episode_outcomes(run.rows, run.sequence, run.asked_episodes)[-1][order]
    return final


def _sequence(run: Run) -> tuple[str, int]:
    return str(run.config.get("order", "")), int(run.config.get("seed", 0))


def _index(draws: NDArray[np.float64], length: int | NDArray[np.int64]) -> NDArray[np.int64]:
    return (draws * length).astype(np.int64)
