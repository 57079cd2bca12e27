"""Success matrices, small enough for a hundred of them on a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vla_cl.evaluation.report.compare.multiples import Numbered
from vla_cl.evaluation.report.heat_map import DENSE_FROM, decimal
from vla_cl.evaluation.report.runs import Cell


@dataclass(frozen=True)
class MatrixCell:
    """One cell.

    Args:
        percent: The success rate in percent, rounded; None where nothing was measured.
        text: The rate, "" where nothing was measured.
        description: Counts, for who points at the cell; "" in long sequences, whose pages would grow too large.
        learned: Whether the task had just been learned.
    """

    percent: int | None
    text: str
    description: str
    learned: bool


@dataclass(frozen=True)
class Matrix:
    """A success matrix: of one run, or the mean of a strategy's runs of one order.

    Args:
        run: Number of the run; None for a mean.
        runs: Numbers of the runs of a mean.
        told: Order and seed.
        tasks: The sequence.
        rows: T + 1 of them, the zero-shot row first.
    """

    run: int | None
    runs: tuple[int, ...]
    told: str
    tasks: tuple[str, ...]
    rows: tuple[tuple[MatrixCell, ...], ...]


def matrices(members: Sequence[Numbered]) -> list[Matrix]:
    """The mean over the runs of each order, and each run's own."""
    by_order: dict[tuple[str, ...], list[Numbered]] = {}
    for member in members:
        by_order.setdefault(member.run.sequence, []).append(member)
    found = []
    for sequence, group in by_order.items():
        order = str(group[0].run.config.get("order", ""))
        told = f"order {order}, " if len(by_order) > 1 else ""
        seeds = [str(member.run.config.get("seed", "")) for member in group]
        all_cells = [member.run.cells() for member in group]
        found.append(
            Matrix(
                None,
                tuple(member.index for member in group),
                f"{told}mean of {len(group)} runs" if len(group) > 1 else f"{told}1 run",
                sequence,
                _rows(all_cells, [f"seed {seed}" for seed in seeds]),
            )
        )
        found += [
            Matrix(member.index, (member.index,), f"{told}seed {seed}", sequence, _rows([cells], [""]))
            for member, seed, cells in zip(group, seeds, all_cells, strict=True)
        ]
    return found


def _rows(
    matrices: Sequence[Sequence[Sequence[Cell | None]]], names: Sequence[str]
) -> tuple[tuple[MatrixCell, ...], ...]:
    tasks = len(matrices[0][0])
    return tuple(
        tuple(_cell([matrix[stage][task] for matrix in matrices], names, stage, task, tasks) for task in range(tasks))
        for stage in range(tasks + 1)
    )


def _cell(cells: Sequence[Cell | None], names: Sequence[str], stage: int, task: int, tasks: int) -> MatrixCell:
    known = [(name, cell) for name, cell in zip(names, cells, strict=True) if cell]
    if len(known) < len(cells):
        return MatrixCell(None, "", "", stage == task + 1)
    rate = sum(cell.rate for _, cell in known) / len(known)
    text = decimal(rate) if rate >= 0.995 else decimal(rate).removeprefix("0")
    counts = ", ".join(f"{name} {cell.successes}/{cell.trials}".strip() for name, cell in known)
    return MatrixCell(round(100 * rate), text, counts if tasks < DENSE_FROM else "", stage == task + 1)
