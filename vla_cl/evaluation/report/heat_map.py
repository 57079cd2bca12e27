"""The success matrix as a table of coloured cells, ready for the template."""

from __future__ import annotations

from dataclasses import dataclass

from vla_cl.evaluation.report.colours import rate_colour, text_colour
from vla_cl.evaluation.report.runs import Cell, Run

DENSE_FROM = 9
"""Sequences of at least so many tasks show rates without intervals, which stay a hover away."""


@dataclass(frozen=True)
class HeatCell:
    """One coloured cell.

    Args:
        rate: "0.90", or "" where nothing was measured.
        interval: "0.70 to 0.97", in short "0.70–0.97".
        description: The whole story of the cell in words.
        background: Colour of the cell.
        foreground: Colour of its text.
        learned: Whether the task had just been learned.
    """

    rate: str
    interval: str
    description: str
    background: str
    foreground: str
    learned: bool


@dataclass(frozen=True)
class HeatRow:
    """One stage of the matrix.

    Args:
        title: "zero-shot", or the task after which was measured.
        number: Place of that task in the sequence, from 1; 0 for zero-shot.
        cells: One a task of the sequence.
    """

    title: str
    number: int
    cells: tuple[HeatCell, ...]


def heat_map(run: Run) -> tuple[HeatRow, ...]:
    """The T + 1 rows of a run's success matrix, the zero-shot row first."""
    rows = []
    for stage, cells in enumerate(run.cells()):
        title = run.sequence[stage - 1] if stage else "zero-shot"
        when = f"after {stage} {title}" if stage else "before any training"
        heat = tuple(
            _heat_cell(cell, f"{name} {when}", learned=task + 1 == stage)
            for task, (name, cell) in enumerate(zip(run.sequence, cells, strict=True))
        )
        rows.append(HeatRow(title, stage, heat))
    return tuple(rows)


def decimal(value: float) -> str:
    """Two decimals, with a real minus sign: what every rate and metric of the report looks like."""
    text = f"{value:.2f}"
    return "0.00" if text == "-0.00" else text.replace("-", "\N{MINUS SIGN}")


def _heat_cell(cell: Cell | None, subject: str, learned: bool) -> HeatCell:
    if cell is None:
        return HeatCell("", "", f"{subject}: not measured", "", "", learned)
    low, high = (decimal(end) for end in cell.interval)
    stopped = ", stopped early" if cell.stopped else ""
    background = rate_colour(cell.rate)
    return HeatCell(
        rate=decimal(cell.rate),
        interval=f"{low}–{high}",
        description=f"{subject}: {cell.successes} of {cell.trials} episodes{stopped}, {decimal(cell.rate)} "
        f"[{low}, {high}]",
        background=background,
        foreground=text_colour(background),
        learned=learned,
    )
