"""What perturbations cost a policy: success under each, held against the same initial states without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from vla_cl.errors import ConfigurationError
from vla_cl.evaluation.rows import EpisodeRow
from vla_cl.evaluation.statistics import check_confidence, wilson_interval


@dataclass(frozen=True)
class Cost:
    """Success under one condition, over all tasks.

    Args:
        condition: What was different.
        success_rate: Over all episodes of all tasks.
        interval: Of it (Wilson), lower and upper end.
        drop: Success without, minus success with it; in [-1, 1].
        drop_interval: Of the drop, lower and upper end; see `paired_difference_interval`.
        tasks: Success rate of each task.
        episodes: Of all tasks together.
    """

    condition: str
    success_rate: float
    interval: tuple[float, float]
    drop: float
    drop_interval: tuple[float, float]
    tasks: dict[str, float]
    episodes: int


def costs_of(conditions: Mapping[str, Sequence[EpisodeRow]], confidence: float = 0.95) -> list[Cost]:
    """What each condition costs.

    Args:
        conditions: Rows by name of a condition. The first is what the others are held against, itself included.
        confidence: Of the intervals, in (0, 1).

    Raises:
        ConfigurationError: A condition has other episodes than the first one.
    """
    reference = {_state(row): row.success for row in next(iter(conditions.values()), ())}
    costs = []
    for name, rows in conditions.items():
        outcomes = {_state(row): row.success for row in rows}
        if outcomes.keys() != reference.keys() or len(outcomes) != len(rows) or not rows:
            raise ConfigurationError(
                f"the episodes under {name!r} do not start in the initial states of those that they are compared with"
            )
        lost = sum(reference[state] and not success for state, success in outcomes.items())
        won = sum(success and not reference[state] for state, success in outcomes.items())
        low, high = wilson_interval(sum(outcomes.values()), len(rows), confidence)
        costs.append(
            Cost(
                condition=name,
                success_rate=sum(outcomes.values()) / len(rows),
                interval=(float(low), float(high)),
                drop=(lost - won) / len(rows),
                drop_interval=paired_difference_interval(lost, won, len(rows), confidence),
                tasks={task: _rate(rows, task) for task in dict.fromkeys(row.task for row in rows)},
                episodes=len(rows),
            )
        )
    return costs


def paired_difference_interval(lost: int, won: int, pairs: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of the difference of two success rates that were measured in pairs.

    Agresti and Min, Simple improved confidence intervals for comparing matched proportions, Statistics in Medicine
    2005: Wald's interval after half a pair was added to each of the four cells. So it has a width also where all pairs
    agree. Pairs are taken to be independent, which those of one task and of another are, given a policy.

    Args:
        lost: Pairs of which only the first succeeded.
        won: Pairs of which only the second succeeded.
        pairs: All of them.
        confidence: Coverage in (0, 1).

    Returns:
        Lower and upper end of first minus second, in [-1, 1].

    Raises:
        ConfigurationError: The counts do not fit together.
    """
    check_confidence(confidence)
    if min(lost, won) < 0 or lost + won > pairs or pairs < 1:
        raise ConfigurationError(f"{lost} lost and {won} won cannot be among {pairs} pairs")
    count, difference = pairs + 2.0, float(lost - won)
    spread = np.sqrt(lost + won + 1.0 - difference**2 / count) / count
    half_width = NormalDist().inv_cdf(0.5 + confidence / 2) * spread
    centre = difference / count
    return max(-1.0, float(centre - half_width)), min(1.0, float(centre + half_width))


def _state(row: EpisodeRow) -> tuple[int, str, str, int, int]:
    """What two rows must have in common to be compared."""
    return row.stage, row.task, row.split, row.episode, row.seed


def _rate(rows: Sequence[EpisodeRow], task: str) -> float:
    outcomes = [row.success for row in rows if row.task == task]
    return sum(outcomes) / len(outcomes)
