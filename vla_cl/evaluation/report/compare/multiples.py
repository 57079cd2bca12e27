"""Small multiples: a curve a strategy before the others in grey, and a curve a strategy and task."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from vla_cl.evaluation.report.charts import binned
from vla_cl.evaluation.report.curves import mean_of_seen_tasks
from vla_cl.evaluation.report.heat_map import decimal
from vla_cl.evaluation.report.runs import Run

WIDTH, HEIGHT = 220, 118
LEFT, RIGHT, TOP, BOTTOM = 24, 10, 8, 18
"""Size of a panel and of its margins, in SVG units."""

SPARK_WIDTH, SPARK_HEIGHT, SPARK_MARGIN = 108, 40, 4
"""Size of a task's curve, and of its margin on all sides."""

LOSS_BINS = 20

Curve = tuple[float | None, ...]


@dataclass(frozen=True)
class Numbered:
    """A run with its number in the page."""

    index: int
    run: Run


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """The mean of curves of equal length, point by point; None where one of them has none."""
    if len({len(curve) for curve in curves}) != 1:
        return ()
    return tuple(_mean(values) for values in zip(*curves, strict=True))


def seen_curves(members: Sequence[Numbered]) -> dict[int, Curve]:
    """Of each run, the mean success on the tasks learned so far after each task (T,), by the run's number."""
    return {member.index: tuple(mean_of_seen_tasks(member.run)) for member in members}


def others(rows: Mapping[int, Sequence[Numbered]], identifier: str) -> Markup:
    """The mean curves of all strategies, to be drawn in grey behind each panel.

    Args:
        rows: Index of the strategy to its runs.
        identifier: That `forgetting_panel` is given.
    """
    stages = _stages(rows)
    lines = []
    for row, members in rows.items():
        curve = mean_curve(list(seen_curves(members).values()))
        lines += [f'<polyline data-row="{row}" points="{points}"/>' for points in _segments(curve, *_places(stages))]
    return Markup(
        f'<svg class="shared" aria-hidden="true" width="0" height="0"><defs><g id="{identifier}">{"".join(lines)}</g>'
        "</defs></svg>"
    )


def forgetting_panel(members: Sequence[Numbered], label: str, stages: int, identifier: str) -> Markup:
    """One strategy: the mean over its runs, each run, and the others in grey.

    Args:
        members: The strategy's runs.
        label: Its name.
        stages: T, of the longest sequence of all panels.
        identifier: Of `others`.
    """
    x, y = _places(stages)
    curves = seen_curves(members)
    mean = mean_curve(list(curves.values()))
    told = ", ".join("not measured" if value is None else decimal(value) for value in mean)
    spoken = f"{label}, mean success on the tasks learned so far, after each task: {told}"
    parts = [f'<svg class="multiple" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(spoken)}">']
    for value, text in ((0.0, "0"), (0.5, ".5"), (1.0, "1")):
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 5}" y="{y(value) + 3.5:.1f}" text-anchor="end">{text}</text>')
    every = max(1, math.ceil(stages / 10))
    parts += [
        f'<text class="tick" x="{x(stage):.1f}" y="{HEIGHT - 4}" text-anchor="middle">{stage}</text>'
        for stage in range(1, stages + 1, every)
    ]
    parts.append(f'<use href="#{identifier}" class="others of-row"/>')
    for index, curve in curves.items():
        parts += [f'<polyline class="single" data-run="{index}" points="{p}"/>' for p in _segments(curve, x, y)]
    parts.append('<g class="of-row">')
    parts += [f'<polyline class="mean" points="{points}"/>' for points in _segments(mean, x, y)]
    for stage, rate in enumerate(mean, start=1):
        if rate is not None:
            title = f"<title>after task {stage}: {decimal(rate)}</title>"
            parts.append(f'<circle class="mark" cx="{x(stage):.1f}" cy="{y(rate):.1f}" r="3">{title}</circle>')
    parts.append("</g></svg>")
    return Markup("".join(parts))


def success_spark(members: Sequence[Numbered], task: str) -> Markup:
    """Success on one task over the stages, zero-shot first: each run, and the mean where all learn in one order."""
    curves = {member.index: _task_curve(member.run, task) for member in members}
    learned = {member.index: _learned(member.run, task) for member in members}
    longest = max((len(curve) for curve in curves.values()), default=1)
    mean = mean_curve(list(curves.values())) if len(set(learned.values())) == 1 else ()
    ends = [curve[-1] for curve in curves.values() if curve]
    average = _mean(ends) if ends else None
    end = "not measured" if average is None else decimal(average)
    return _spark(curves, learned, mean, longest - 1, f"at the end {end}", end)


def loss_spark(members: Sequence[Numbered], task: str, span: tuple[float, float]) -> Markup:
    """Training loss while one task is learned, on a logarithmic axis.

    Args:
        members: The strategy's runs.
        task: The task; of one that is learned twice, the first time.
        span: Logarithms of the lowest and the highest loss that the axis shows.
    """
    curves = {member.index: loss_curve(member.run, task) for member in members}
    low, high = span
    scaled = {
        index: tuple((math.log10(loss) - low) / max(high - low, 1e-9) for _, loss in curve)
        for index, curve in curves.items()
    }
    longest = max((len(curve) for curve in scaled.values()), default=1)
    ends = [curve[-1][1] for curve in curves.values() if curve]
    end = f"{sum(ends) / len(ends):.2g}" if ends else "no log"
    return _spark(scaled, {}, mean_curve(list(scaled.values())), max(longest - 1, 1), f"last loss {end}", end)


def loss_curve(run: Run, task: str) -> list[tuple[float, float]]:
    """The (step, loss) pairs of learning a task, few enough for a small picture."""
    if task not in run.sequence:
        return []
    points = run.training.get(run.sequence.index(task), ())
    return binned([(step, loss) for step, loss in points if loss > 0 and math.isfinite(loss)], LOSS_BINS)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


def _task_curve(run: Run, task: str) -> Curve:
    if task not in run.sequence:
        return ()
    column = run.sequence.index(task)
    return tuple(cell.rate if cell else None for cell in (row[column] for row in run.cells()))


def _learned(run: Run, task: str) -> tuple[int, ...]:
    return tuple(place for place, name in enumerate(run.sequence, start=1) if name == task)


def _spark(
    curves: Mapping[int, Curve], learned: Mapping[int, tuple[int, ...]], mean: Curve, last: int, spoken: str, end: str
) -> Markup:
    def x(place: float) -> float:
        return SPARK_MARGIN + place / max(last, 1) * (SPARK_WIDTH - 2 * SPARK_MARGIN)

    def y(value: float) -> float:
        return SPARK_HEIGHT - SPARK_MARGIN - value * (SPARK_HEIGHT - 2 * SPARK_MARGIN)

    parts = [f'<svg class="spark" viewBox="0 0 {SPARK_WIDTH} {SPARK_HEIGHT}" role="img" aria-label="{escape(spoken)}">']
    for value in (0.0, 1.0):
        ends = f'x1="{SPARK_MARGIN}" x2="{SPARK_WIDTH - SPARK_MARGIN}" y1="{y(value):.1f}" y2="{y(value):.1f}"'
        parts.append(f'<line class="grid" {ends}/>')
    places = set(learned.values())
    for index, stages in learned.items() if len(places) > 1 else [(None, next(iter(places), ()))]:
        owner = "" if index is None else f' data-run="{index}"'
        for stage in stages:
            ends = f'x1="{x(stage):.1f}" x2="{x(stage):.1f}" y1="{y(0):.1f}" y2="{y(1):.1f}"'
            parts.append(f'<line class="guide"{owner} {ends}/>')
    for index, curve in curves.items():
        parts += [
            f'<polyline class="single" data-run="{index}" points="{points}"/>' for points in _segments(curve, x, y, 0)
        ]
    parts += [f'<polyline class="mean of-row" points="{points}"/>' for points in _segments(mean, x, y, 0)]
    parts.append(f'</svg><span class="end of-row" aria-hidden="true">{escape(end)}</span>')
    return Markup("".join(parts))


def _stages(rows: Mapping[int, Sequence[Numbered]]) -> int:
    return max((len(member.run.tasks) for members in rows.values() for member in members), default=1)


def _places(stages: int) -> tuple[Callable[[float], float], Callable[[float], float]]:
    """Where a stage, counted from 1, and a rate lie in a panel."""

    def x(stage: float) -> float:
        return LEFT + 6 + (stage - 1) / max(stages - 1, 1) * (WIDTH - LEFT - RIGHT - 12)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - value * (HEIGHT - TOP - BOTTOM)

    return x, y


def _segments(curve: Curve, x: Callable[[float], float], y: Callable[[float], float], first: int = 1) -> list[str]:
    """The points of each stretch without a gap, its first at place `first`."""
    segments: list[list[str]] = [[]]
    for place, value in enumerate(curve, start=first):
        if value is not None:
            segments[-1].append(f"{x(place):.1f},{y(value):.1f}")
        elif segments[-1]:
            segments.append([])
    return [" ".join(segment) for segment in segments if segment]
