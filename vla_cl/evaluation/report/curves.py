"""The curves of a report: success over stages, and training losses, for runs on shared axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from vla_cl.evaluation.report.charts import (
    Point,
    Series,
    binned,
    line_panel,
    logarithmic_axis,
    rate_axis,
    stage_axis,
    step_axis,
)
from vla_cl.evaluation.report.heat_map import decimal
from vla_cl.evaluation.report.runs import Cell, Run


@dataclass(frozen=True)
class Panel:
    """A chart with its heading.

    Args:
        title: What it shows.
        number: Place of the task in the sequence, as text; "" for none.
        chart: The SVG.
    """

    title: str
    number: str
    chart: Markup


def success_panels(runs: Sequence[Run]) -> list[Panel]:
    """One panel for the mean over the tasks learned so far, then one a task: success at every stage."""
    stages = max(len(run.tasks) for run in runs)
    axes = stage_axis(stages), rate_axis()
    seen = [Series(index, _segments(_seen_points(run))) for index, run in enumerate(runs)]
    panels = [Panel("Mean over tasks learned so far", "", line_panel(seen, *axes, _spoken(runs, seen, "mean success")))]
    for name in dict.fromkeys(name for run in runs for name in run.sequence):
        series = [
            Series(index, _segments(_task_points(run, name)), _places(run, name)) for index, run in enumerate(runs)
        ]
        chart = line_panel(series, *axes, _spoken(runs, series, f"success on {name}"))
        panels.append(Panel(name, _number(runs, name), chart))
    return panels


def loss_panels(runs: Sequence[Run]) -> list[Panel]:
    """One panel a stage that has a log: its training loss, on a logarithmic axis that all panels share."""
    curves = [{stage: curve for stage, points in run.training.items() if (curve := _curve(points))} for run in runs]
    losses = [loss for run in curves for curve in run.values() for _, loss in curve]
    if not losses:
        return []
    last = max(step for run in curves for curve in run.values() for step, _ in curve)
    axes = step_axis(math.ceil(last)), logarithmic_axis(losses)
    panels = []
    for stage in sorted({stage for curve in curves for stage in curve}):
        series = [
            Series(index, (tuple(Point(step, math.log10(loss)) for step, loss in run[stage]),))
            for index, run in enumerate(curves)
            if stage in run
        ]
        names = dict.fromkeys(run.sequence[stage] for run in runs if stage < len(run.tasks))
        title = " / ".join(names)
        chart = line_panel(series, *axes, f"training loss while learning task {stage + 1}, {title}", marks=False)
        panels.append(Panel(title, str(stage + 1), chart))
    return panels


def mean_of_seen_tasks(run: Run) -> list[float | None]:
    """Mean success on the tasks learned so far after each task (T,); None where one of them was not measured."""
    means: list[float | None] = []
    for stage, row in enumerate(run.cells()[1:]):
        rates = [cell.rate for cell in row[: stage + 1] if cell]
        means.append(sum(rates) / len(rates) if len(rates) == stage + 1 else None)
    return means


def _seen_points(run: Run) -> list[Point | None]:
    return [
        None if mean is None else Point(stage, mean, None, f"{run.label}, after task {stage}: {decimal(mean)}")
        for stage, mean in enumerate(mean_of_seen_tasks(run), start=1)
    ]


def _task_points(run: Run, name: str) -> list[Point | None]:
    if name not in run.sequence:
        return []
    column = run.sequence.index(name)
    return [_cell_point(row[column], stage, run.label) for stage, row in enumerate(run.cells())]


def _cell_point(cell: Cell | None, stage: int, label: str) -> Point | None:
    if cell is None:
        return None
    low, high = cell.interval
    when = f"after task {stage}" if stage else "zero-shot"
    numbers = f"{cell.successes}/{cell.trials} = {decimal(cell.rate)} [{decimal(low)}, {decimal(high)}]"
    return Point(stage, cell.rate, cell.interval, f"{label}, {when}: {numbers}")


def _segments(points: Sequence[Point | None]) -> tuple[tuple[Point, ...], ...]:
    """Runs of measured points."""
    segments: list[list[Point]] = [[]]
    for point in points:
        if point is not None:
            segments[-1].append(point)
        elif segments[-1]:
            segments.append([])
    return tuple(tuple(segment) for segment in segments if segment)


def _places(run: Run, name: str) -> tuple[float, ...]:
    return tuple(float(place) for place, other in enumerate(run.sequence, start=1) if other == name)


def _number(runs: Sequence[Run], name: str) -> str:
    """The task's place or places, where all runs agree on them."""
    places = {_places(run, name) for run in runs if name in run.sequence}
    return ", ".join(f"{place:.0f}" for place in places.pop()) if len(places) == 1 else ""


def _curve(points: Sequence[tuple[int, float]]) -> list[tuple[float, float]]:
    """A stage's losses that a logarithmic axis can show, averaged in bins."""
    return binned([(step, loss) for step, loss in points if loss > 0 and math.isfinite(loss)])


def _spoken(runs: Sequence[Run], series: Sequence[Series], what: str) -> str:
    """A chart in words: where each run ends."""
    ends = [f"{runs[line.style].label} {decimal(line.points[-1][-1].y)}" for line in series if line.points]
    return f"{what} over the stages; last: {', '.join(ends) or 'nothing measured'}"
