"""Metrics over several sequences, with intervals: what is known of a strategy after all of its seeds and orders.

One whole sequence is the independent unit. Its tasks share a policy, the episodes of a cell share a checkpoint, and
stages share initial states. So a bootstrap resamples sequences, then tasks within each, then episodes within each
task; an episode keeps its outcomes at all stages, which start in the same initial state.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vla_cl.errors import ConfigurationError
from vla_cl.evaluation.formulas import FORMULAS, Outcomes
from vla_cl.evaluation.matrix import count_matrices, stopped_matrix
from vla_cl.evaluation.rows import EpisodeRow
from vla_cl.evaluation.statistics import student_interval, studentised_interval

_ELEMENTS_TOGETHER = 2_000_000
"""Of outcomes that are drawn at once."""


@dataclass(frozen=True)
class Estimate:
    """A metric over sequences.

    Args:
        mean: Of the sequences' values; None where a cell of the formula was not measured.
        low: Lower end of the bootstrap's interval; see `estimate`.
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


def episode_outcomes(rows: Iterable[EpisodeRow], sequence: Sequence[str], episodes: int | None = None) -> Outcomes:
    """The outcome of every episode by stage, task and initial state.

    A cell of which an episode is missing was not measured, and all of it is nan, unless its rollouts were stopped
    early: then the episodes that were left out are.

    Args:
        rows: Episodes of one run, in any order.
        sequence: The T task names in the order of learning; one that recurs fills each of its columns.
        episodes: How many the protocol asks for; None is the most that a cell has.

    Returns:
        (T + 1, T, E), E being that number; see `Outcomes`.

    Raises:
        ConfigurationError: As `count_matrices`, or there are more episodes than were asked for.
    """
    rows = list(rows)
    _, played = count_matrices(rows, sequence)  # raises for rows that do not go into one matrix
    most = 1 + max((row.episode for row in rows), default=0)
    asked = most if episodes is None else episodes
    if most > asked:
        raise ConfigurationError(f"episode {most - 1} is beyond the {asked} episodes of the protocol")
    outcomes = np.full((len(sequence) + 1, len(sequence), asked), np.nan)
    for row in rows:
        for column, task in enumerate(sequence):
            if task == row.task:
                outcomes[row.stage + 1, column, row.episode] = row.success
    wanted = np.where(stopped_matrix(rows, sequence), played, asked)
    first_ones = ~np.isnan(np.where(np.arange(asked) < wanted[..., None], outcomes, 0.0)).any(axis=-1)
    return np.where((first_ones & (played == wanted))[..., None], outcomes, np.nan)


ESTIMATED_METRICS = tuple(FORMULAS)
"""Names of `vla_cl.evaluation.metrics` that `estimate` knows."""


def estimate(
    metric: str,
    sequences: Sequence[Outcomes],
    generator: np.random.Generator,
    *,
    replicates: int = 2000,
    confidence: float = 0.95,
) -> Estimate:
    """A metric's mean over sequences, with the interval of a bootstrap sequence -> task -> episode.

    A sequence's value is that of the function of the same name in `vla_cl.evaluation.metrics`. The interval is of the
    mean over all sequences that the same procedure would lead to, on the same tasks. It is studentised
    (`studentised_interval`), kept within the values that the metric can have, and holds its promise from three
    sequences on; with two it is wide. With one there is nothing to tell how much
    a seed matters: the interval is then the percentile interval over its tasks and episodes, and says how much those
    matter, and nothing of what another seed would give.

    Args:
        metric: One of `ESTIMATED_METRICS`.
        sequences: One array a sequence, all of the same shape; see `episode_outcomes`.
        generator: Source of the bootstrap's draws.
        replicates: Number of bootstrap samples.
        confidence: Coverage in (0, 1).

    Raises:
        ConfigurationError: There is no sequence, shapes differ, or an argument makes no sense.
    """
    return _estimated(metric, [sequences], generator, replicates, confidence)


def estimate_difference(
    metric: str,
    sequences: Sequence[Outcomes],
    others: Sequence[Outcomes],
    generator: np.random.Generator,
    *,
    replicates: int = 2000,
    confidence: float = 0.95,
) -> Estimate:
    """How much a metric differs between two methods whose sequences are paired, with the interval of `estimate`.

    Pairs share a seed, an order and the initial states of every episode, so what these make easy or hard cancels: the
    bootstrap draws the same pairs, tasks and episodes for both.

    Args:
        metric: One of `ESTIMATED_METRICS`.
        sequences: Of the first method; see `estimate`.
        others: Of the second, in the same order.
        generator: Source of the bootstrap's draws.
        replicates: Number of bootstrap samples.
        confidence: Coverage in (0, 1).

    Returns:
        Of the first method's value minus the second's.

    Raises:
        ConfigurationError: As of `estimate`, or there are not as many sequences of both.
    """
    if len(sequences) != len(others):
        raise ConfigurationError(f"sequences come in pairs, got {len(sequences)} and {len(others)}")
    return _estimated(metric, [sequences, others], generator, replicates, confidence)


def _estimated(
    metric: str,
    methods: Sequence[Sequence[Outcomes]],
    generator: np.random.Generator,
    replicates: int,
    confidence: float,
) -> Estimate:
    """Of one method, or of the first minus the second."""
    if metric not in FORMULAS:
        raise ConfigurationError(f"metric must be one of {', '.join(ESTIMATED_METRICS)}, got {metric!r}")
    if replicates < 1:
        raise ConfigurationError(f"replicates must be at least 1, got {replicates}")
    if len({outcomes.shape for sequences in methods for outcomes in sequences}) != 1:
        shapes = ", ".join(str(outcomes.shape) for sequences in methods for outcomes in sequences) or "none"
        raise ConfigurationError(f"sequences must have one shape (stages, tasks, episodes), got {shapes}")
    formula = FORMULAS[metric]
    cells = [np.stack([formula.read(outcomes) for outcomes in sequences]) for sequences in methods]
    if not cells[0].shape[1]:
        value = formula.of_no_tasks
        return Estimate(value, value, value, value, value, () if value is None else (value,) * len(methods[0]))
    if not all(formula.is_measured(each) for each in cells):
        return Estimate(None, None, None, None, None, ())

    def difference(of_methods: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        return of_methods[0] if len(of_methods) == 1 else of_methods[0] - of_methods[1]

    array = difference([formula.reduce(_rates(each)) for each in cells])
    drawn = [
        difference([formula.reduce(rates) for rates in of_methods])
        for of_methods in _resampled_rates(cells, generator, replicates)
    ]
    resampled = np.concatenate(drawn)
    lowest = formula.lowest if len(methods) == 1 else formula.lowest - 1.0
    highest = 1.0 if len(methods) == 1 else 1.0 - formula.lowest
    values = tuple(map(float, array))
    if len(values) == 1:
        tail = (1 - confidence) / 2
        low, high = np.quantile(resampled[:, 0], [tail, 1 - tail])
        return Estimate(values[0], float(low), float(high), None, None, values)
    low, high = np.clip(studentised_interval(array, resampled, confidence), lowest, highest)
    return Estimate(float(array.mean()), float(low), float(high), *student_interval(values, confidence), values)


def _rates(cells: Outcomes) -> NDArray[np.float64]:
    """Success rates (..., stages) of outcomes (..., E, stages); nan where none was played."""
    trials = (~np.isnan(cells)).sum(axis=-2)
    return np.divide(np.nansum(cells, axis=-2), trials, out=np.full(trials.shape, np.nan), where=trials > 0)


def _resampled_rates(
    cells: Sequence[Outcomes], generator: np.random.Generator, replicates: int
) -> Iterator[list[NDArray[np.float64]]]:
    """Rates (some replicates, sequences, tasks, stages) of bootstrap samples, a part of the replicates at a time.

    Args:
        cells: Outcomes (sequences, tasks, E, stages) of each method, for all of which the same is drawn.
        generator: Source of the draws.
        replicates: Number of samples.
    """
    sequences, tasks, episodes, _ = cells[0].shape
    successes = [np.nan_to_num(each).astype(np.int8) for each in cells]
    trials = [(~np.isnan(each)).sum(axis=2) for each in cells]
    together = max(1, _ELEMENTS_TOGETHER // cells[0].size)
    for begin in range(0, replicates, together):
        count = min(together, replicates - begin)
        sequence = generator.integers(sequences, size=(count, sequences, 1))
        task = generator.integers(tasks, size=(count, sequences, tasks))
        place = generator.random((count, sequences, tasks, episodes, 1), np.float32)
        rates = []
        for outcome, played in zip(successes, trials, strict=True):
            of_cell = played[sequence, task][:, :, :, None, :]  # where cells have unlike numbers, as many of each
            index = (place * of_cell.astype(np.float32)).astype(np.intp)
            drawn = np.take_along_axis(outcome[sequence, task], index, axis=3)
            wins = np.where(np.arange(episodes)[:, None] < of_cell, drawn, 0).sum(axis=3)
            number = of_cell[:, :, :, 0]
            rates.append(np.divide(wins, number, out=np.full(number.shape, np.nan), where=number > 0))
        yield rates
