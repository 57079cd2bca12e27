"""Metrics over several sequences, with intervals: what is known of a strategy after all of its seeds and orders.

One whole sequence is the independent unit. Its tasks share a policy, the episodes of a cell share a checkpoint, and
stages share initial states. So an interval resamples sequences, then tasks within each, then episodes within each
task; an episode keeps its outcomes at all stages, which start in the same initial state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vla_cl.errors import ConfigurationError
from vla_cl.evaluation.matrix import count_matrices
from vla_cl.evaluation.rows import EpisodeRow
from vla_cl.evaluation.statistics import bootstrap_interval, student_interval

Outcomes = NDArray[np.float64]
"""Success of each episode (T + 1, T, E), rows and columns as in a success matrix; nan where nothing was measured."""


@dataclass(frozen=True)
class Estimate:
    """A metric over sequences.

    Args:
        mean: Of the sequences' values; None where a cell of the formula was not measured.
        low: Lower end of the bootstrap's interval.
        high: Upper end.
        student_low: Lower end of Student's interval over the sequences' values; None for fewer than two.
        student_high: Upper end.
        values: Of the metric, one a sequence.
    """

    mean: float | None
    low: float | None
    high: float | None
    student_low: float | None
    student_high: float | None
    values: tuple[float, ...]


def episode_outcomes(rows: Iterable[EpisodeRow], sequence: Sequence[str]) -> Outcomes:
    """The outcome of every episode by stage, task and initial state.

    Args:
        rows: Episodes of one run, in any order.
        sequence: The T task names in the order of learning; one that recurs fills each of its columns.

    Returns:
        (T + 1, T, E), E being the most episodes that a cell has; see `Outcomes`.

    Raises:
        ConfigurationError: As `count_matrices`.
    """
    rows = list(rows)
    count_matrices(rows, sequence)  # raises for rows that do not go into one matrix
    episodes = 1 + max((row.episode for row in rows), default=0)
    outcomes = np.full((len(sequence) + 1, len(sequence), episodes), np.nan)
    for row in rows:
        for column, task in enumerate(sequence):
            if task == row.task:
                outcomes[row.stage + 1, column, row.episode] = row.success
    return outcomes


def _final(outcomes: Outcomes) -> Outcomes:
    final: Outcomes = outcomes[-1]
    return final[..., None]


def _learned(outcomes: Outcomes) -> Outcomes:
    tasks = np.arange(outcomes.shape[1])
    learned: Outcomes = outcomes[tasks + 1, tasks]
    return learned[..., None]


def _before_learning(outcomes: Outcomes) -> Outcomes:
    tasks = np.arange(1, outcomes.shape[1])
    gained: Outcomes = outcomes[tasks, tasks] - outcomes[0, tasks]
    return gained[..., None]


def _since_learning(outcomes: Outcomes) -> Outcomes:
    """Of each task but the last, its episodes at all stages from the one that taught it: (T - 1, E, T)."""
    tasks = outcomes.shape[1]
    past = np.arange(tasks)[None, :] < np.arange(tasks - 1)[:, None]
    return np.where(past[:, None, :], np.nan, np.moveaxis(outcomes[1:, : tasks - 1], 0, 2))


def _mean(rates: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of success rates (replicates, sequences, tasks, 1)."""
    means: NDArray[np.float64] = rates.mean(axis=(1, 2, 3))
    return means


def _mean_drop(rates: NDArray[np.float64]) -> NDArray[np.float64]:
    """Best rate before the last stage minus the last, of rates (replicates, sequences, tasks, stages), averaged."""
    drops: NDArray[np.float64] = (np.nanmax(rates[..., :-1], axis=-1) - rates[..., -1]).mean(axis=(1, 2))
    return drops


@dataclass(frozen=True)
class _Formula:
    """A metric in two steps.

    Args:
        read: What it reads of a sequence's outcomes: (tasks, E, stages).
        reduce: What it makes of success rates (replicates, sequences, tasks, stages), one number a replicate.
        of_no_tasks: Its value where it reads no task.
    """

    read: Callable[[Outcomes], Outcomes]
    reduce: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    of_no_tasks: float | None = None


_FORMULAS = {
    "final_average": _Formula(_final, _mean),
    "forgetting": _Formula(_since_learning, _mean_drop, of_no_tasks=0.0),
    "forward_transfer": _Formula(_before_learning, _mean),
    "learning_accuracy": _Formula(_learned, _mean),
}

ESTIMATED_METRICS = tuple(_FORMULAS)
"""Names of `vla_cl.evaluation.metrics` that `estimate` knows."""


def estimate(
    metric: str,
    sequences: Sequence[Outcomes],
    generator: np.random.Generator,
    *,
    replicates: int = 2000,
    confidence: float = 0.95,
) -> Estimate:
    """A metric's mean over sequences, with the percentile interval of a bootstrap sequence -> task -> episode.

    A sequence's value is that of the function of the same name in `vla_cl.evaluation.metrics`. With one sequence, the
    interval says how much tasks and episodes matter, and nothing of what another seed would give. With a few sequences
    it is rough: too wide where they agree, since tasks are resampled although suites fix them, and too narrow where
    they do not. Student's interval over the sequences' values covers as often as it says, and is wide for two or three.

    Args:
        metric: One of `ESTIMATED_METRICS`.
        sequences: One array a sequence, all of the same shape; see `episode_outcomes`.
        generator: Source of the bootstrap's draws.
        replicates: Number of bootstrap samples.
        confidence: Coverage in (0, 1).

    Raises:
        ConfigurationError: There is no sequence, shapes differ, or an argument makes no sense.
    """
    if metric not in _FORMULAS:
        raise ConfigurationError(f"metric must be one of {', '.join(ESTIMATED_METRICS)}, got {metric!r}")
    if len({outcomes.shape for outcomes in sequences}) != 1:
        shapes = ", ".join(str(outcomes.shape) for outcomes in sequences) or "none"
        raise ConfigurationError(f"sequences must have one shape (stages, tasks, episodes), got {shapes}")
    formula = _FORMULAS[metric]
    cells = np.stack([formula.read(outcomes) for outcomes in sequences])
    if not cells.shape[1]:
        value = formula.of_no_tasks
        return Estimate(value, value, value, value, value, () if value is None else (value,) * len(sequences))

    def statistic(samples: NDArray[np.float64]) -> NDArray[np.float64]:
        return formula.reduce(samples.mean(axis=3))

    if not _is_measured(metric, cells):
        return Estimate(None, None, None, None, None, ())
    values = tuple(float(statistic(each[None, None])[0]) for each in cells)
    low, high = bootstrap_interval(
        cells,
        statistic,
        generator,
        resampled_axes=(0, 1, 2),
        replicates=replicates,
        confidence=confidence,
        vectorised=True,
    )
    student_low, student_high = student_interval(values, confidence) if len(values) > 1 else (None, None)
    return Estimate(float(np.mean(values)), low, high, student_low, student_high, values)


def _is_measured(metric: str, cells: NDArray[np.float64]) -> bool:
    """Whether every cell of the formula was; `_since_learning` leaves out what its formula does."""
    if metric != "forgetting":
        return not np.isnan(cells).any()
    stages = cells.shape[-1]
    needed = np.arange(stages)[None, :] >= np.arange(stages - 1)[:, None]
    return not np.isnan(np.moveaxis(cells, 2, -1)[:, needed]).any()
