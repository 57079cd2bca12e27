"""Runs put side by side, a row for what they have in common: the table of a grid."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vla_cl.errors import ConfigurationError
from vla_cl.evaluation.estimates import ESTIMATED_METRICS, Estimate, episode_outcomes, estimate
from vla_cl.evaluation.report.protocols import PROTOCOL, protocol_groups, settings_of
from vla_cl.evaluation.report.ranks import Rank, final_average_samples, ranks
from vla_cl.evaluation.report.runs import Run, name_of, read_runs
from vla_cl.evaluation.report.tables import (
    MISSING,
    last_entry,
    total_of_entries,
)
from vla_cl.seeding import numpy_generator

REPEATED = ("seed", "order")
"""What tells the runs of a row apart: each is a sequence of its own."""

_PLACES = ("output", "data", "name", "dataset", "assets", "plugins")
_SHARED = (*PROTOCOL, "collection.", "training.", "dataset_", "federation.")


@dataclass(frozen=True)
class Costs:
    """What a strategy costs, averaged over the runs of a row; None where no run says it.

    Args:
        strategy_bytes: What it keeps after the last task.
        extra_parameters: What it added to the policy by then.
        extra_passes: Forward passes of a training step besides the policy's own.
        acting_passes: Forward passes of a decision.
        train_seconds: Over all tasks.
        acting_milliseconds: Of a decision, where it was measured.
    """

    strategy_bytes: float | None
    extra_parameters: float | None
    extra_passes: float | None
    acting_passes: float | None
    train_seconds: float | None
    acting_milliseconds: float | None


@dataclass(frozen=True)
class Row:
    """What is known of one configuration after all of its seeds and orders.

    Args:
        label: The strategy, and what else tells this row from the others.
        members: Its runs.
        metrics: By name; see `ESTIMATED_METRICS`.
        costs: See `Costs`.
        group: Rows of one number were measured alike, counted from 0 in order of appearance.
        rank: Among the rows of its group, by final average; None where that was not measured.
        final_averages: The bootstrap samples behind the rank, paired with those of the other rows of the group.
    """

    label: str
    members: tuple[Run, ...]
    metrics: Mapping[str, Estimate]
    costs: Costs
    group: int = 0
    rank: Rank | None = None
    final_averages: tuple[float, ...] = ()

    @property
    def runs(self) -> tuple[str, ...]:
        """Names of the runs' folders."""
        return tuple(run.folder.name for run in self.members)


def finished_runs(folders: Sequence[Path]) -> tuple[list[Path], list[tuple[Path, str]]]:
    """The finished runs in folders, each once, in order.

    Args:
        folders: Of runs, or of folders that hold runs.

    Returns:
        Folders of finished runs; and of the others, with the reason why each is left out.

    Raises:
        ConfigurationError: A folder is no run and holds none, or no run is finished.
    """
    runs: dict[Path, None] = {}
    for folder in map(Path, folders):
        inside = (
            [folder]
            if (folder / "config.json").is_file()
            else sorted(path.parent for path in folder.glob("*/config.json"))
        )
        if not inside:
            raise ConfigurationError(
                f"{folder} is not a run and holds none; name folders that `vla-cl run` or `vla-cl grid` wrote"
            )
        runs.update(dict.fromkeys(inside))
    finished = [run for run in runs if (run / "metrics.json").is_file()]
    if not finished:
        raise ConfigurationError(f"none of the {len(runs)} runs is finished; give the command that made them again")
    return finished, [(run, "it is not finished") for run in runs if run not in set(finished)]


def compare_runs(folders: Sequence[Path], *, replicates: int = 2000) -> list[Row]:
    """Gather finished runs into rows: those that differ in nothing but seed and order share one.

    Args:
        folders: Of runs, in the order in which rows are to appear.
        replicates: Of the bootstrap behind the intervals.

    Raises:
        ConfigurationError: A folder is no run, or runs of a row were evaluated on different numbers of episodes.
    """
    runs = read_runs(folders)
    grouped: dict[tuple[tuple[str, str], ...], list[Run]] = {}
    for run in runs:
        grouped.setdefault(tuple(sorted(_settings(run.config).items())), []).append(run)
    protocols = dict(zip(map(id, runs), protocol_groups(runs), strict=True))
    numbers: dict[frozenset[int], int] = {}
    rows = []
    for label, members in zip(row_labels([dict(settings) for settings in grouped]), grouped.values(), strict=True):
        outcomes = [episode_outcomes(run.rows, run.sequence, run.asked_episodes) for run in members]
        metrics = {
            metric: estimate(metric, outcomes, numpy_generator(0, "bootstrap", metric), replicates=replicates)
            for metric in ESTIMATED_METRICS
        }
        alike = frozenset(protocols[id(run)] for run in members)
        group = numbers.setdefault(alike, len(numbers))
        rows.append(Row(label, tuple(members), metrics, _costs(members), group))
    return _ranked(rows)


def _ranked(rows: Sequence[Row]) -> list[Row]:
    """The rows with their ranks, each among those of its group whose final average was measured."""
    ranked = list(rows)
    for group in {row.group for row in rows}:
        places = [
            place
            for place, row in enumerate(rows)
            if row.group == group and row.metrics["final_average"].mean is not None
        ]
        samples = final_average_samples([rows[place].members for place in places], numpy_generator(0, "ranks"))
        means = [rows[place].metrics["final_average"].mean or 0.0 for place in places]
        for place, rank, sample in zip(places, ranks(means, samples), samples, strict=True):
            ranked[place] = replace(rows[place], rank=rank, final_averages=tuple(sample.tolist()))
    return ranked


def row_labels(settings: Sequence[Mapping[str, str]]) -> list[str]:
    """The strategy of each row, and every setting that must be known to read the table.

    A setting that decides how numbers are measured is named wherever rows differ in it; a strategy's or a policy's
    own option where rows of the same name do.

    Args:
        settings: Flat configurations, all different.
    """
    labels = []
    keys = list(dict.fromkeys(key for each in settings for key in each))
    for mine in settings:
        told = [mine.get("strategy.name", "")]
        if len({each.get("policy.name") for each in settings}) > 1:
            told.append(mine.get("policy.name", ""))
        for key in keys:
            alike = [each for each in settings if key.startswith(_SHARED) or _kin(key, each, mine)]
            if not key.endswith(".name") and len({each.get(key) for each in alike}) > 1:
                told.append(f"{key}={mine.get(key, MISSING)}")
        labels.append(", ".join(told))
    return labels


def _kin(key: str, one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Whether two rows have a setting in common to differ in: an option of one strategy says nothing of another."""
    names = ("strategy.name",) if key.startswith("strategy.") else ("policy.name",)
    return all(one.get(name) == other.get(name) for name in names)


def _settings(config: Mapping[str, Any]) -> dict[str, str]:
    """What the runs of a row have in common."""
    named = dict(config)
    for key in ("strategy", "policy"):
        if not isinstance(named.get(key), Mapping):
            named[key] = {"name": name_of(named.get(key, ""))}
    return {
        key: value
        for key, value in settings_of(named).items()
        if key.split(".")[0] not in (*REPEATED, *_PLACES) and not key.endswith((".processes", ".workers"))
    }


def _costs(runs: Sequence[Run]) -> Costs:
    def averaged(values: Iterable[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known else None

    return Costs(
        strategy_bytes=averaged(last_entry(run, "strategy_bytes") for run in runs),
        extra_parameters=averaged(last_entry(run, "extra_parameters") for run in runs),
        extra_passes=averaged(last_entry(run, "extra_passes") for run in runs),
        acting_passes=averaged(last_entry(run, "acting_passes") for run in runs),
        train_seconds=averaged(total_of_entries(run, "train_seconds") for run in runs),
        acting_milliseconds=averaged(last_entry(run, "acting_milliseconds") for run in runs),
    )
