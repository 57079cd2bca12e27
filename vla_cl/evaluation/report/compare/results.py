"""The results of a comparison: a table, plots of success over cost, and ranks, for each protocol."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from vla_cl.evaluation.estimates import ESTIMATED_METRICS
from vla_cl.evaluation.report.catalogue import HIGHER, METRICS
from vla_cl.evaluation.report.compare.multiples import Numbered
from vla_cl.evaluation.report.compare.scatter import Dot, bytes_axis, scatter, seconds_axis
from vla_cl.evaluation.report.comparison import Row
from vla_cl.evaluation.report.formats import COSTS, interval_text, protocol_letter, rank_text
from vla_cl.evaluation.report.heat_map import decimal
from vla_cl.evaluation.report.protocols import protocol_differences
from vla_cl.evaluation.report.runs import name_of
from vla_cl.evaluation.report.tables import MISSING, last_entry, number, total_of_entries


@dataclass(frozen=True)
class Cell:
    """One number of the table: as shown, and as sorted."""

    text: str
    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Line:
    """A line of the table: a strategy, or one run."""

    row: int
    run: int | None
    label: str
    runs: int
    cells: tuple[Cell, ...]
    unit: str


@dataclass(frozen=True)
class Group:
    """Rows that were measured alike, with what may stand side by side only there."""

    letter: str
    told: tuple[tuple[str, str], ...]
    lines: tuple[Line, ...]
    ranked: tuple[tuple[int, str, Row], ...]
    by_bytes: Markup | None
    by_seconds: Markup | None


def columns() -> list[tuple[str, str, str]]:
    """Key, title and direction of the table's numbers: those of `Line.cells`."""
    known = {metric.key: metric for metric in METRICS}
    metrics = [(key, known[key].title, "↑" if known[key].direction == HIGHER else "↓") for key in ESTIMATED_METRICS]
    return [*metrics, ("rank", "Rank", "↓"), *((key, title, "") for key, (title, _) in COSTS.items())]


def groups(rows: Sequence[Row], members: Mapping[int, Sequence[Numbered]], labels: Sequence[str]) -> list[Group]:
    """The rows that were measured alike, together.

    Args:
        rows: Of the table.
        members: Index of each row to its runs.
        labels: Names of the runs.
    """
    found = []
    differences = protocol_differences([row.members[0] for row in rows])
    for group in sorted({row.group for row in rows}):
        mine = [index for index, row in enumerate(rows) if row.group == group]
        lines = [_row_line(index, rows[index]) for index in mine]
        lines += [_run_line(index, member, labels) for index in mine for member in members[index]]
        ranked = [(index, rows[index].label, rows[index]) for index in mine if rows[index].rank]
        ranked.sort(key=lambda each: each[2].rank.place if each[2].rank else math.inf)
        found.append(
            Group(
                protocol_letter(group),
                tuple((key, values[mine[0]]) for key, values in differences.items()),
                tuple(lines),
                tuple(ranked) if len(ranked) > 1 else (),
                _plot(rows, members, labels, mine, "strategy_bytes"),
                _plot(rows, members, labels, mine, "train_seconds"),
            )
        )
    return found


def _row_line(index: int, row: Row) -> Line:
    estimates = [row.metrics[key] for key in ESTIMATED_METRICS]
    cells = [Cell(interval_text(each), each.mean, each.low, each.high) for each in estimates]
    cells.append(Cell(rank_text(row), row.rank.place if row.rank else None))
    for key, (_, text) in COSTS.items():
        value = getattr(row.costs, key)
        cells.append(Cell(MISSING if value is None else text(value), value))
    return Line(index, None, row.label, len(row.runs), tuple(cells), "row")


def _run_line(index: int, member: Numbered, labels: Sequence[str]) -> Line:
    cells = []
    for key in ESTIMATED_METRICS:
        value = number(member.run.metrics.get(key))
        cells.append(Cell(MISSING if value is None else decimal(value), value))
    cells.append(Cell(MISSING, None))
    for key, (_, text) in COSTS.items():
        value = total_of_entries(member.run, key) if key == "train_seconds" else last_entry(member.run, key)
        cells.append(Cell(MISSING if value is None else text(value), value))
    return Line(index, member.index, labels[member.index], 1, tuple(cells), "run")


def _plot(
    rows: Sequence[Row],
    members: Mapping[int, Sequence[Numbered]],
    labels: Sequence[str],
    mine: Sequence[int],
    cost: str,
) -> Markup | None:
    """Final average over a cost, of means and of runs; None where nobody measured the cost."""
    policies = list(dict.fromkeys(name_of(row.members[0].config.get("policy", "")) for row in rows))
    title, text = COSTS[cost]
    dots = []
    for index in mine:
        row = rows[index]
        style = policies.index(name_of(row.members[0].config.get("policy", "")))
        value, spent = row.metrics["final_average"], getattr(row.costs, cost)
        if value.mean is not None and value.low is not None and value.high is not None and spent is not None:
            told = f"{row.label}: final average {interval_text(value)}, {title.lower()} {text(spent)}"
            dots.append(Dot(index, None, spent, value.mean, (value.low, value.high), row.label, told, style))
        for member in members[index]:
            mean = number(member.run.metrics.get("final_average"))
            spent = total_of_entries(member.run, cost) if cost == "train_seconds" else last_entry(member.run, cost)
            if mean is not None and spent is not None:
                label = labels[member.index]
                told = f"{label}: final average {decimal(mean)}, {title.lower()} {text(spent)}"
                dots.append(Dot(index, member.index, spent, mean, None, label, told, style))
    if not dots:
        return None
    spent_by_all = [dot.cost for dot in dots]
    if cost == "strategy_bytes":
        return scatter(dots, bytes_axis(spent_by_all), "Final average over stored bytes", "stored after the last task")
    return scatter(dots, seconds_axis(spent_by_all), "Final average over training time", "training time")
