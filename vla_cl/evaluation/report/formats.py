"""The table of a comparison as text: for people, for Markdown, for LaTeX, for programs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vla_cl.errors import ConfigurationError
from vla_cl.evaluation.estimates import ESTIMATED_METRICS, Estimate
from vla_cl.evaluation.report.catalogue import METRICS
from vla_cl.evaluation.report.comparison import Costs, Row
from vla_cl.evaluation.report.heat_map import decimal
from vla_cl.evaluation.report.tables import MISSING, human_bytes, human_seconds
from vla_cl.files import write_json, write_text

FORMATS = ("md", "tex", "csv", "json")
"""Endings of the files that `write_comparison` writes."""

_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", MISSING: "--", "\N{MINUS SIGN}": "$-$",
}  # fmt: skip


def table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells as text for people. A column that no row can fill is left out.

    Rows that were not measured alike carry different letters, and are ranked apart.
    """
    titles = {metric.key: metric.title for metric in METRICS}
    columns: list[tuple[str, list[str]]] = [("Strategy", [row.label for row in rows])]
    if len({row.group for row in rows}) > 1:
        columns.append(("Protocol", [protocol_letter(row.group) for row in rows]))
    columns.append(("Runs", [str(len(row.runs)) for row in rows]))
    columns += [(titles[key], [interval_text(row.metrics[key]) for row in rows]) for key in ESTIMATED_METRICS]
    if any(row.rank and row.rank.among > 1 for row in rows):
        columns.append(("Rank", [rank_text(row) for row in rows]))
    for key, (title, text) in COSTS.items():
        values = [getattr(row.costs, key) for row in rows]
        if any(value is not None for value in values):
            columns.append((title, [MISSING if value is None else text(value) for value in values]))
    return [title for title, _ in columns], [
        list(cells) for cells in zip(*(cells for _, cells in columns), strict=True)
    ]


COSTS: dict[str, tuple[str, Callable[[float], str]]] = {
    "strategy_bytes": ("Stored", human_bytes),
    "extra_parameters": ("Extra parameters", lambda value: f"{value:,.0f}"),
    "extra_passes": ("Extra passes", lambda value: f"{value:.3g}"),
    "acting_passes": ("Acting passes", lambda value: f"{value:.3g}"),
    "train_seconds": ("Training", human_seconds),
    "acting_milliseconds": ("Acting", lambda value: f"{value:.3g} ms"),
}
"""Title and way of writing of each of `Costs`."""


def protocol_letter(group: int) -> str:
    """The name of a group of rows that were measured alike: A, B, ..., Z, AA, ..."""
    letters = ""
    group += 1
    while group:
        group, rest = divmod(group - 1, 26)
        letters = chr(ord("A") + rest) + letters
    return letters


def interval_text(value: Estimate) -> str:
    """A mean with its interval."""
    if value.mean is None or value.low is None or value.high is None:
        return MISSING
    return f"{decimal(value.mean)} [{decimal(value.low)}, {decimal(value.high)}]"


def rank_text(row: Row) -> str:
    """A rank with its interval."""
    rank = row.rank
    return MISSING if rank is None else f"{rank.place:g} [{round(rank.low, 1):g}, {round(rank.high, 1):g}]"


def as_text(rows: Sequence[Row], ending: str) -> str:
    """The table in one of `FORMATS`.

    Raises:
        ConfigurationError: There is no such format.
    """
    writers: dict[str, Callable[[Sequence[Row]], str]] = {
        "md": as_markdown,
        "tex": as_latex,
        "csv": as_csv,
        "json": lambda rows: json.dumps(as_json(rows), indent=2, allow_nan=False) + "\n",
    }
    if ending not in writers:
        raise ConfigurationError(f"a table is written as {', '.join(writers)}, not as {ending!r}")
    return writers[ending](rows)


def as_markdown(rows: Sequence[Row]) -> str:
    """A table in Markdown, numbers to the right."""
    headings, cells = table(rows)
    rule = ["---", *("---:" for _ in headings[1:])]
    lines = [headings, rule, *([cell.replace("|", "\\|") for cell in line] for line in cells)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def as_latex(rows: Sequence[Row]) -> str:
    """A `tabular` with the rules of the package booktabs, numbers to the right, every text escaped."""
    headings, cells = table(rows)
    lines = [" & ".join(map(_latex, line)) + r" \\" for line in (headings, *cells)]
    columns = "l" + "r" * (len(headings) - 1)
    return "\n".join(
        [
            r"% \usepackage{booktabs}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


def as_csv(rows: Sequence[Row]) -> str:
    """One line a row, every number exact, empty where it is not known."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    ends = ("mean", "low", "high", "student_low", "student_high")
    writer.writerow(
        [
            *("strategy", "protocol", "runs"),
            *(f"{key}_{end}" for key in ESTIMATED_METRICS for end in ends),
            *("rank", "rank_low", "rank_high"),
            *Costs.__annotations__,
        ]
    )
    for row in rows:
        numbers = [getattr(row.metrics[key], end) for key in ESTIMATED_METRICS for end in ends]
        numbers += [row.rank.place, row.rank.low, row.rank.high] if row.rank else [None] * 3
        numbers += list(asdict(row.costs).values())
        told = [row.label, protocol_letter(row.group), len(row.runs)]
        writer.writerow([*told, *("" if value is None else repr(value) for value in numbers)])
    return text.getvalue()


def as_json(rows: Sequence[Row]) -> dict[str, Any]:
    """Everything, with each run's own values."""
    return {
        "confidence": 0.95,
        "low and high": "studentised bootstrap: sequence, then task, then episode; of a single run, percentile",
        "rank": "by final average, of the rows of the same protocol; low and high from the same bootstrap",
        "student_low and student_high": "Student's interval over the runs' values",
        "rows": [
            {
                "strategy": row.label,
                "protocol": protocol_letter(row.group),
                "runs": list(row.runs),
                "metrics": {key: asdict(value) for key, value in row.metrics.items()},
                "rank": asdict(row.rank) if row.rank else None,
                "costs": asdict(row.costs),
            }
            for row in rows
        ],
    }


def write_comparison(rows: Sequence[Row], path: Path, **more: Any) -> None:
    """Write `path` with the endings of `FORMATS`.

    Args:
        rows: Of the table.
        path: Without an ending.
        more: Further entries of the JSON file.
    """
    if not rows:
        raise ConfigurationError("there is no finished run to put into a table")
    write_json(path.with_suffix(".json"), {**as_json(rows), **more})
    for ending in ("md", "tex", "csv"):
        write_text(path.with_suffix(f".{ending}"), as_text(rows, ending))
