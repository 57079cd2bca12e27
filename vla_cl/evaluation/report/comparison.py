"""Runs put side by side, a row for what they have in common: the table of a grid, as JSON, Markdown and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vla_cl.errors import ConfigurationError
from vla_cl.evaluation.estimates import ESTIMATED_METRICS, Estimate, episode_outcomes, estimate
from vla_cl.evaluation.report.catalogue import METRICS
from vla_cl.evaluation.report.protocols import PROTOCOL
from vla_cl.evaluation.report.runs import Run, name_of, read_runs
from vla_cl.evaluation.report.tables import (
    MISSING,
    flattened,
    human_bytes,
    human_seconds,
    last_entry,
    total_of_entries,
)
from vla_cl.files import write_json, write_text
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
        runs: Names of the runs' folders.
        metrics: By name; see `ESTIMATED_METRICS`.
        costs: See `Costs`.
    """

    label: str
    runs: tuple[str, ...]
    metrics: Mapping[str, Estimate]
    costs: Costs


def compare_runs(folders: Sequence[Path], *, replicates: int = 2000) -> list[Row]:
    """Gather finished runs into rows: those that differ in nothing but seed and order share one.

    Args:
        folders: Of runs, in the order in which rows are to appear.
        replicates: Of the bootstrap behind the intervals.

    Raises:
        ConfigurationError: A folder is no run, or runs of a row were evaluated on different numbers of episodes.
    """
    grouped: dict[tuple[tuple[str, str], ...], list[Run]] = {}
    for run in read_runs(folders):
        grouped.setdefault(tuple(sorted(_settings(run.config).items())), []).append(run)
    labels = row_labels([dict(settings) for settings in grouped])
    rows = []
    for label, runs in zip(labels, grouped.values(), strict=True):
        outcomes = [episode_outcomes(run.rows, run.sequence) for run in runs]
        metrics = {
            metric: estimate(metric, outcomes, numpy_generator(0, "bootstrap", metric), replicates=replicates)
            for metric in ESTIMATED_METRICS
        }
        rows.append(Row(label, tuple(run.folder.name for run in runs), metrics, _costs(runs)))
    return rows


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
        for key, value in flattened(named)
        if key.split(".")[0] not in (*REPEATED, *_PLACES) and not key.endswith(".processes")
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


# --- formats ---------------------------------------------------------------------------------------------------


def table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells as text for people. A column that no row can fill is left out."""
    titles = {metric.key: metric.title for metric in METRICS}
    columns: list[tuple[str, list[str]]] = [
        ("Strategy", [row.label for row in rows]),
        ("Runs", [str(len(row.runs)) for row in rows]),
    ]
    columns += [(titles[key], [_interval(row.metrics[key]) for row in rows]) for key in ESTIMATED_METRICS]
    shown = {
        "strategy_bytes": ("Stored", human_bytes),
        "extra_parameters": ("Extra parameters", lambda value: f"{value:,.0f}"),
        "extra_passes": ("Extra passes", lambda value: f"{value:.3g}"),
        "acting_passes": ("Acting passes", lambda value: f"{value:.3g}"),
        "train_seconds": ("Training", human_seconds),
        "acting_milliseconds": ("Acting", lambda value: f"{value:.3g} ms"),
    }
    for key, (title, text) in shown.items():
        values = [getattr(row.costs, key) for row in rows]
        if any(value is not None for value in values):
            columns.append((title, [MISSING if value is None else text(value) for value in values]))
    return [title for title, _ in columns], [
        list(cells) for cells in zip(*(cells for _, cells in columns), strict=True)
    ]


def _interval(value: Estimate) -> str:
    if value.mean is None or value.low is None or value.high is None:
        return MISSING
    return f"{value.mean:.2f} [{value.low:.2f}, {value.high:.2f}]"


def as_markdown(rows: Sequence[Row]) -> str:
    """A table in Markdown, numbers to the right."""
    headings, cells = table(rows)
    rule = ["---", *("---:" for _ in headings[1:])]
    lines = [headings, rule, *([cell.replace("|", "\\|") for cell in line] for line in cells)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def as_csv(rows: Sequence[Row]) -> str:
    """One line a row, every number exact, empty where it is not known."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    ends = ("mean", "low", "high", "student_low", "student_high")
    writer.writerow(
        ["strategy", "runs", *(f"{key}_{end}" for key in ESTIMATED_METRICS for end in ends), *Costs.__annotations__]
    )
    for row in rows:
        numbers = [getattr(row.metrics[key], end) for key in ESTIMATED_METRICS for end in ends]
        numbers += list(asdict(row.costs).values())
        writer.writerow([row.label, len(row.runs), *("" if value is None else repr(value) for value in numbers)])
    return text.getvalue()


def as_json(rows: Sequence[Row]) -> dict[str, Any]:
    """Everything, with each run's own values."""
    return {
        "confidence": 0.95,
        "low and high": "percentile bootstrap: sequence, then task, then episode",
        "student_low and student_high": "Student's interval over the runs' values",
        "rows": [
            {
                "strategy": row.label,
                "runs": list(row.runs),
                "metrics": {key: asdict(value) for key, value in row.metrics.items()},
                "costs": asdict(row.costs),
            }
            for row in rows
        ],
    }


def write_comparison(rows: Sequence[Row], path: Path, **more: Any) -> None:
    """Write `path` with the endings .json, .md and .csv.

    Args:
        rows: Of the table.
        path: Without an ending.
        more: Further entries of the JSON file.
    """
    if not rows:
        raise ConfigurationError("there is no finished run to put into a table")
    write_json(path.with_suffix(".json"), {**as_json(rows), **more})
    write_text(path.with_suffix(".md"), as_markdown(rows))
    write_text(path.with_suffix(".csv"), as_csv(rows))
