"""From episode rows to the success matrix, its intervals, and the metrics of a run.

Rows are the only input: whatever is reported can be recomputed from them at any time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_cl.errors import ConfigurationError
from vla_cl.evaluation import metrics
from vla_cl.evaluation.learning_curves import libero_area_under_curve
from vla_cl.evaluation.rows import EpisodeRow
from vla_cl.evaluation.statistics import wilson_interval
from vla_cl.evaluation.stopping import STOPPED, confidence_sequence


def count_matrices(rows: Iterable[EpisodeRow], sequence: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Successes and trials of every cell.

    A task that occurs several times in the sequence (CW20) is evaluated once a stage and fills each of its columns.

    Args:
        rows: Episodes in any order.
        sequence: The T task names in the order of learning.

    Returns:
        Two arrays (T + 1, T). Row 0 is the zero-shot row (stage -1), row i + 1 was measured after the i-th task.

    Raises:
        ConfigurationError: A row belongs to another sequence, occurs twice, or to another initial-state split or
            perturbation than the first row: numbers for selection and numbers to report must not mix.
    """
    if not sequence:
        raise ConfigurationError("a success matrix needs a sequence of at least one task")
    columns: dict[str, list[int]] = {}
    for column, task in enumerate(sequence):
        columns.setdefault(task, []).append(column)
    successes = np.zeros((len(sequence) + 1, len(sequence)), np.int64)
    trials = np.zeros_like(successes)
    seen: set[tuple[int, str, int]] = set()
    first: EpisodeRow | None = None
    for row in rows:
        first = first or row
        if row.task not in columns:
            raise ConfigurationError(f"an episode of task {row.task!r} does not belong to {', '.join(sequence)}")
        if not -1 <= row.stage < len(sequence):
            raise ConfigurationError(f"stage {row.stage} is out of range for a sequence of {len(sequence)} tasks")
        if row.split != first.split:
            raise ConfigurationError(
                f"episodes of the splits {first.split!r} and {row.split!r} do not go into one matrix"
            )
        if row.perturbation != first.perturbation:
            found = " and ".join(repr(each.perturbation or "none") for each in (first, row))
            raise ConfigurationError(f"episodes under the perturbations {found} do not go into one matrix")
        if (row.stage, row.task, row.episode) in seen:
            raise ConfigurationError(f"episode {row.episode} of {row.task!r} after stage {row.stage} occurs twice")
        seen.add((row.stage, row.task, row.episode))
        trials[row.stage + 1, columns[row.task]] += 1
        successes[row.stage + 1, columns[row.task]] += row.success
    return successes, trials


def success_matrix(rows: Iterable[EpisodeRow], sequence: Sequence[str]) -> NDArray[np.float64]:
    """Success rates (T + 1, T), float64; nan where nothing was measured. See `count_matrices`."""
    successes, trials = count_matrices(rows, sequence)
    return np.divide(successes, trials, out=np.full(successes.shape, np.nan), where=trials > 0)


def trial_matrix(rows: Iterable[EpisodeRow], sequence: Sequence[str]) -> NDArray[np.int64]:
    """Number of episodes behind each cell (T + 1, T). See `count_matrices`."""
    return count_matrices(rows, sequence)[1]


def interval_matrix(
    rows: Iterable[EpisodeRow], sequence: Sequence[str], confidence: float = 0.95
) -> NDArray[np.float64]:
    """Intervals (T + 1, T, 2) of the success rates, lower and upper end; nan where nothing was measured.

    A cell's is Wilson's; where early stopping was asked for, whether or not it stopped there, it is that of the
    confidence sequence, since Wilson's does not hold at a number of episodes that was chosen by looking.
    """
    rows = list(rows)
    successes, trials = count_matrices(rows, sequence)
    watched = trial_matrix([row for row in rows if row.stopping], sequence) > 0
    plain = np.stack(wilson_interval(successes, trials, confidence), axis=-1)
    anytime = np.stack(confidence_sequence(successes, trials, confidence), axis=-1)
    return np.where(watched[..., None], anytime, plain)


def stopped_matrix(rows: Iterable[EpisodeRow], sequence: Sequence[str]) -> NDArray[np.bool_]:
    """Whether the rollouts of each cell (T + 1, T) were stopped early. See `vla_cl.evaluation.stopping`."""
    return count_matrices([row for row in rows if row.stopping == STOPPED], sequence)[1] > 0


def summarise(rows: Iterable[EpisodeRow], sequence: Sequence[str]) -> dict[str, Any]:
    """The content of `metrics.json`, without seconds: metrics, success matrix, intervals, episodes a cell, and in which
    cells they were stopped early.

    Every metric is a number in [-1, 1], or None where a cell of its formula was not measured. The formulas are those
    of `vla_cl.evaluation.metrics`, under the same names. `tasks` labels the columns; row 0 of the matrices is
    zero-shot, row i + 1 after the i-th task.
    """
    rows = list(rows)
    matrix = success_matrix(rows, sequence)
    return {
        "tasks": list(sequence),
        "split": rows[0].split if rows else None,
        "learning_accuracy": _plain(metrics.learning_accuracy(matrix)),
        "final_average": _plain(metrics.final_average(matrix)),
        "mean_average_accuracy": _plain(metrics.mean_average_accuracy(matrix)),
        "forgetting": _plain(metrics.forgetting(matrix)),
        "backward_transfer": _plain(metrics.backward_transfer(matrix)),
        "forward_transfer": _plain(metrics.forward_transfer(matrix)),
        "negative_backward_transfer": _plain(metrics.negative_backward_transfer(matrix)),
        "negative_backward_transfer_without_last": _plain(metrics.negative_backward_transfer(matrix, False)),
        "libero_area_under_curve": _plain(libero_area_under_curve(matrix)),
        "zero_shot_average": _plain(matrix[0].mean()),
        "success_matrix": _plain(matrix),
        "intervals": _plain(interval_matrix(rows, sequence)),
        "confidence": 0.95,
        "episodes": trial_matrix(rows, sequence).tolist(),
        "stopped_early": stopped_matrix(rows, sequence).tolist(),
    }


def _plain(value: Any) -> Any:
    """Numbers and nested lists of them for JSON, with None for nan."""
    if isinstance(value, np.ndarray):
        return [_plain(each) for each in value]
    return None if math.isnan(value) else float(value)
