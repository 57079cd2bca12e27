"""Metrics written for many matrices at once: what a metric reads of a sequence, and what it makes of success rates.

They are those of `vla_cl.evaluation.metrics` under the same names, in the form that a bootstrap needs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Outcomes = NDArray[np.float64]
"""Success of each episode (T + 1, T, E), rows and columns as in a success matrix; nan where none was played."""


def _final(outcomes: Outcomes) -> Outcomes:
    final: Outcomes = outcomes[-1]
    return final[..., None]


def _learned(outcomes: Outcomes) -> Outcomes:
    tasks = np.arange(outcomes.shape[1])
    learned: Outcomes = outcomes[tasks + 1, tasks]
    return learned[..., None]


def _before_learning(outcomes: Outcomes) -> Outcomes:
    """Of each task but the first, its episodes before any training and just before its own: (T - 1, E, 2)."""
    tasks = np.arange(1, outcomes.shape[1])
    return np.stack([outcomes[0, tasks], outcomes[tasks, tasks]], axis=-1)


def _since_learning(outcomes: Outcomes) -> Outcomes:
    """Of each task but the last, its episodes at all stages from the one that taught it: (T - 1, E, T)."""
    tasks = outcomes.shape[1]
    past = np.arange(tasks)[None, :] < np.arange(tasks - 1)[:, None]
    return np.where(past[:, None, :], np.nan, np.moveaxis(outcomes[1:, : tasks - 1], 0, 2))


def _mean(rates: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of success rates (..., tasks, 1)."""
    means: NDArray[np.float64] = rates.mean(axis=(-2, -1))
    return means


def _mean_gain(rates: NDArray[np.float64]) -> NDArray[np.float64]:
    """Later minus earlier, of rates (..., tasks, 2), averaged."""
    gains: NDArray[np.float64] = (rates[..., 1] - rates[..., 0]).mean(axis=-1)
    return gains


def _mean_drop(rates: NDArray[np.float64]) -> NDArray[np.float64]:
    """Best rate before the last stage minus the last, of rates (..., tasks, stages), averaged."""
    drops: NDArray[np.float64] = (np.nanmax(rates[..., :-1], axis=-1) - rates[..., -1]).mean(axis=-1)
    return drops


@dataclass(frozen=True)
class Formula:
    """A metric in two steps.

    Args:
        read: What it reads of a sequence's outcomes: (tasks, E, stages).
        reduce: What it makes of success rates (..., tasks, stages): (...) values of sequences.
        lowest: The least value that it can have; the largest is 1.
        of_no_tasks: Its value where it reads no task.
        since_learning: Whether it reads each task only from the stage that taught it.
    """

    read: Callable[[Outcomes], Outcomes]
    reduce: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    lowest: float = -1.0
    of_no_tasks: float | None = None
    since_learning: bool = False

    def is_measured(self, cells: Outcomes) -> bool:
        """Whether every cell that it reads was, of outcomes (sequences, tasks, E, stages)."""
        measured = ~np.isnan(cells[:, :, 0])
        if not self.since_learning:
            return bool(measured.all())
        tasks, stages = measured.shape[1:]
        return bool(measured[:, np.arange(stages) >= np.arange(tasks)[:, None]].all())


FORMULAS = {
    "final_average": Formula(_final, _mean, lowest=0.0),
    "forgetting": Formula(_since_learning, _mean_drop, of_no_tasks=0.0, since_learning=True),
    "forward_transfer": Formula(_before_learning, _mean_gain),
    "learning_accuracy": Formula(_learned, _mean, lowest=0.0),
}
