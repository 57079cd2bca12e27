"""Everything that `compare.html` shows, gathered for its template."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from markupsafe import Markup

from vla_cl.errors import ConfigurationError
from vla_cl.evaluation.report.catalogue import NEEDS
from vla_cl.evaluation.report.colours import rate_colour, text_colour
from vla_cl.evaluation.report.compare.matrices import Matrix, matrices
from vla_cl.evaluation.report.compare.multiples import (
    Numbered,
    forgetting_panel,
    loss_curve,
    loss_spark,
    others,
    success_spark,
)
from vla_cl.evaluation.report.compare.results import columns, groups
from vla_cl.evaluation.report.comparison import Row
from vla_cl.evaluation.report.episodes import Failures, Pair, failures, filmed_pairs
from vla_cl.evaluation.report.formats import as_text, protocol_letter
from vla_cl.evaluation.report.pages import inline_json, render_page
from vla_cl.evaluation.report.runs import Run, name_of
from vla_cl.evaluation.report.tables import MISSING, setting_lines
from vla_cl.files import write_text

FACETS = ("strategy", "policy", "suite", "order", "seed")
"""What runs can be chosen by, besides any text."""

UNTOLD = ("strategy.name", "seed", "order", "output", "data", "name")
"""Settings that the label tells, or that decide nothing."""

FILM_MEGABYTES = 30.0
MOST_FAILURES = 1000
DOWNLOADS = {"md": "text/markdown", "tex": "application/x-tex", "csv": "text/csv", "json": "application/json"}


@dataclass(frozen=True)
class RowView:
    """One strategy: what the small multiples show."""

    index: int
    label: str
    letter: str
    panel: Markup
    sparks: tuple[tuple[str, Markup, Markup], ...]
    matrices: tuple[Matrix, ...]
    needs: str
    settings: tuple[tuple[str, str], ...]


def write_compare_page(
    rows: Sequence[Row],
    path: Path,
    *,
    left_out: Sequence[tuple[str, str]] = (),
    film_megabytes: float = FILM_MEGABYTES,
) -> Path:
    """Write one HTML page about the runs of a table.

    Args:
        rows: Of `compare_runs`.
        path: The file to write.
        left_out: Names of runs that are not in the table, and why.
        film_megabytes: How much of the page may be films; what was forgotten comes first.

    Raises:
        ConfigurationError: There is no row.
        VlaClError: The file cannot be written.
    """
    if not rows:
        raise ConfigurationError("there is no finished run to compare")
    write_text(Path(path), _render(rows, left_out, film_megabytes))
    return Path(path)


def _render(written: Sequence[Row], left_out: Sequence[tuple[str, str]], film_megabytes: float) -> str:
    rows = [replace(row, label=row.label.replace(", strategy.", ", ")) for row in written]
    members = _numbered(rows)
    runs = [member.run for row in members.values() for member in row]
    labels = _run_labels(rows, members)
    owners = {member.index: row for row, each in members.items() for member in each}
    views = _row_views(rows, members)
    pairs, missing_pairs = _chosen_films(members, film_megabytes)
    failed = _failures(members)
    return render_page(
        "compare/compare.html.j2",
        styles=("style.css", "compare/compare.css"),
        script="compare/compare.js",
        title=f"Comparison on {_joined(name_of(run.config.get('suite', '')) for run in runs)}",
        facts=_facts(rows, runs),
        facets=_facets(runs),
        tasks=list(dict.fromkeys(name for run in runs for name in run.sequence)),
        columns=columns(),
        groups=groups(rows, members, labels),
        rows=views,
        stages=max(len(run.tasks) for run in runs),
        backgrounds=[
            others({row: members[row] for row in members if rows[row].group == group}, f"others-{group}")
            for group in sorted({row.group for row in rows})
        ],
        sequences=_sequences(runs),
        rates=[(rate, rate_colour(rate / 100), text_colour(rate_colour(rate / 100))) for rate in range(101)],
        with_loss=any(run.training for run in runs),
        pairs=pairs,
        missing_pairs=missing_pairs,
        failures=failed[:MOST_FAILURES],
        missing_failures=max(0, len(failed) - MOST_FAILURES),
        labels=labels,
        owners=owners,
        folders=[str(run.folder) for run in runs],
        left_out=left_out,
        downloads=[
            (ending, f"data:{kind};base64,{base64.b64encode(as_text(written, ending).encode()).decode('ascii')}")
            for ending, kind in DOWNLOADS.items()
        ],
        data=inline_json(_data(rows, views, members, labels)),
    )


def _numbered(rows: Sequence[Row]) -> dict[int, list[Numbered]]:
    members: dict[int, list[Numbered]] = {}
    count = 0
    for index, row in enumerate(rows):
        members[index] = [Numbered(count + place, run) for place, run in enumerate(row.members)]
        count += len(row.members)
    return members


def _run_labels(rows: Sequence[Row], members: Mapping[int, Sequence[Numbered]]) -> list[str]:
    """A name for each run: its row's, and the seed and the order where those tell it from others."""
    runs = [member.run for each in members.values() for member in each]
    told = [key for key in ("order", "seed") if len({str(run.config.get(key)) for run in runs}) > 1]
    return [
        ", ".join([rows[row].label, *(f"{key} {member.run.config.get(key, MISSING)}" for key in told)])
        for row, each in members.items()
        for member in each
    ]


def _facts(rows: Sequence[Row], runs: Sequence[Run]) -> list[tuple[str, str]]:
    facts = [(key.capitalize(), _joined(name_of(run.config.get(key, "")) for run in runs)) for key in FACETS[1:]]
    return [*facts, ("Strategies", str(len(rows))), ("Runs", str(len(runs)))]


def _facets(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """The values that runs can be chosen by, of every setting in which they differ."""
    found = []
    for key in FACETS:
        values = {name_of(run.config.get(key, "")) for run in runs}
        if len(values) > 1:
            numeric = all(value.lstrip("-").isdigit() for value in values)
            found.append((key, sorted(values, key=int) if numeric else sorted(values)))
    return found


def _row_views(rows: Sequence[Row], members: Mapping[int, Sequence[Numbered]]) -> list[RowView]:
    stages = max(len(member.run.tasks) for each in members.values() for member in each)
    several = len({row.group for row in rows}) > 1
    losses = [
        math.log10(loss)
        for each in members.values()
        for member in each
        for task in dict.fromkeys(member.run.sequence)
        for _, loss in loss_curve(member.run, task)
    ]
    span = (min(losses), max(losses)) if losses else (0.0, 1.0)
    differing = setting_lines([row.members[0].config for row in rows], differing=True) if len(rows) > 1 else []
    views = []
    for index, row in enumerate(rows):
        told = [(line.title, line.entries[index].text) for line in differing if line.title not in UNTOLD]
        tasks = dict.fromkeys(task for member in members[index] for task in member.run.sequence)
        needs = [NEEDS.get(key, key) for key, value in row.members[0].needs.items() if value]
        views.append(
            RowView(
                index,
                row.label,
                protocol_letter(row.group) if several else "",
                forgetting_panel(members[index], row.label, stages, f"others-{row.group}"),
                tuple(
                    (task, success_spark(members[index], task), loss_spark(members[index], task, span))
                    for task in tasks
                ),
                tuple(matrices(members[index])),
                ", ".join(needs) or "nothing",
                tuple((key, value) for key, value in told if value != MISSING),
            )
        )
    return views


def _sequences(runs: Sequence[Run]) -> list[tuple[str, str, tuple[str, ...]]]:
    """Suite, order and tasks of each sequence that was learned."""
    found = {
        (name_of(run.config.get("suite", "")), str(run.config.get("order", "")), run.sequence): None for run in runs
    }
    return list(found)


def _chosen_films(
    members: Mapping[int, Sequence[Numbered]], megabytes: float
) -> tuple[list[tuple[str, list[tuple[int, Pair]]]], int]:
    """The pairs of films that the page has room for, by task, and how many it has not."""
    found = [(member.index, pair) for each in members.values() for member in each for pair in filmed_pairs(member.run)]
    chosen: list[tuple[int, Pair]] = []
    room = megabytes
    for index, pair in sorted(found, key=lambda each: (each[1].episode, not each[1].forgotten)):
        room -= pair.megabytes
        if room < 0:
            break
        chosen.append((index, pair))
    chosen.sort(key=lambda each: each[0])
    tasks = dict.fromkeys(pair.task for _, pair in found)
    grouped = [(task, [(index, pair) for index, pair in chosen if pair.task == task]) for task in tasks]
    return [(task, pairs) for task, pairs in grouped if pairs], len(found) - len(chosen)


def _failures(members: Mapping[int, Sequence[Numbered]]) -> list[tuple[int, Failures]]:
    found = [(member.index, each) for row in members.values() for member in row for each in failures(member.run)]
    return sorted(found, key=lambda each: (-len(each[1].lost), -len(each[1].never)))


def _data(
    rows: Sequence[Row],
    views: Sequence[RowView],
    members: Mapping[int, Sequence[Numbered]],
    labels: Sequence[str],
) -> dict[str, Any]:
    """What the script needs to filter and to rank."""
    told = [" ".join(f"{key}={value}" for key, value in view.settings) for view in views]
    runs = [(row, member) for row, each in members.items() for member in each]
    return {
        "runs": [
            {
                "row": row,
                **{key: name_of(member.run.config.get(key, "")) for key in FACETS},
                "text": f"{labels[member.index]} {member.run.folder.name} {told[row]}".lower(),
            }
            for row, member in runs
        ],
        "rows": [
            {
                "mean": row.metrics["final_average"].mean,
                "samples": [round(each * 10_000) for each in row.final_averages],
            }
            for row in rows
        ],
    }


def _joined(values: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(value or MISSING for value in values))
