"""Line charts as SVG: pure functions from numbers to markup, drawn without scripts.

One kind of panel serves every curve of the report. Colours come from the page's style sheet by class, so that the same
markup follows light, dark and print.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from vla_cl.evaluation.report.colours import RUN_COLOURS_LIGHT

WIDTH, HEIGHT = 300, 172
LEFT, RIGHT, TOP, BOTTOM = 32, 10, 12, 22
"""Size of a panel and of its margins, in SVG units: about one CSS pixel each."""

COLOURS = len(RUN_COLOURS_LIGHT)


@dataclass(frozen=True)
class Point:
    """One measurement.

    Args:
        x: Position along the axis of the ticks.
        y: Value in the units of the y ticks.
        interval: Lower and upper end around y, or None.
        description: What a reader sees who points at the mark; a line without marks needs none.
    """

    x: float
    y: float
    interval: tuple[float, float] | None = None
    description: str = ""


@dataclass(frozen=True)
class Series:
    """One run's line.

    Args:
        style: Index of the run: decides colour, dash and mark.
        points: Segments that are joined by lines, in order; a gap between segments was not measured.
        learned_at: Positions at which this task was learned, each marked by a vertical line: neutral where all
            series share it, else in the run's colour.
    """

    style: int
    points: tuple[tuple[Point, ...], ...]
    learned_at: tuple[float, ...] = ()


@dataclass(frozen=True)
class Axis:
    """A linear axis.

    Args:
        low: Value at its start.
        high: Value at its end, above `low`.
        ticks: (value, label) pairs.
    """

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]


def line_panel(series: Sequence[Series], x_axis: Axis, y_axis: Axis, description: str, marks: bool = True) -> Markup:
    """One small chart.

    Args:
        series: What to draw, later ones on top.
        x_axis: Horizontal axis.
        y_axis: Vertical axis.
        description: What the chart says, for people who hear it.
        marks: Whether every point gets a mark of its own.

    Returns:
        An `<svg>` element that scales with its container.
    """

    def x(value: float) -> float:
        return LEFT + (value - x_axis.low) / (x_axis.high - x_axis.low) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (value - y_axis.low) / (y_axis.high - y_axis.low) * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg class="panel" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(description)}">',
    ]
    for value, label in y_axis.ticks:
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
        parts.append(
            f'<text class="tick" x="{LEFT - 6}" y="{y(value) + 3.5:.1f}" text-anchor="end">{escape(label)}</text>'
        )
    for value, label in x_axis.ticks:
        parts.append(
            f'<text class="tick" x="{x(value):.1f}" y="{HEIGHT - 6}" text-anchor="middle">{escape(label)}</text>'
        )
    for position in sorted({position for line in series for position in line.learned_at}):
        owners = [line.style for line in series if position in line.learned_at]
        colour = "" if len(owners) == len(series) else f" run-{owners[0] % COLOURS}"
        ends = f'x1="{x(position):.1f}" x2="{x(position):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"'
        parts.append(f'<line class="guide{colour}" {ends}/>')
    for line in series:
        parts.append(f'<g class="run-{line.style % COLOURS}">')
        for segment in line.points:
            parts += _band(segment, x, y)
            path = " ".join(f"{x(point.x):.1f},{y(point.y):.1f}" for point in segment)
            parts.append(f'<polyline class="{"line" if marks else "line fine"}" points="{path}"/>')
            if marks:
                parts += [mark(line.style, x(point.x), y(point.y), point.description) for point in segment]
        parts.append("</g>")
    parts.append("</svg>")
    return Markup("".join(parts))


def run_swatch(style: int) -> Markup:
    """The line and mark of a run, for legends and headings."""
    return Markup(
        f'<svg class="swatch run-{style % COLOURS}" viewBox="0 0 26 12" aria-hidden="true">'
        f'<line class="line" x1="1" x2="25" y1="6" y2="6"/>{mark(style, 13, 6, "")}</svg>'
    )


def stage_axis(stages: int) -> Axis:
    """The stages of a sequence of T tasks: 0 is zero-shot, i is after task i; long sequences get fewer labels."""
    every = max(1, math.ceil((stages + 1) / 11))
    ticks = tuple((float(stage), str(stage)) for stage in range(0, stages + 1, every))
    return Axis(-0.25, stages + 0.25, ticks)


def rate_axis() -> Axis:
    """Success rates from 0 to 1."""
    return Axis(0.0, 1.0, ((0.0, "0"), (0.5, "0.5"), (1.0, "1")))


def logarithmic_axis(values: Sequence[float]) -> Axis:
    """An axis of log10(value) that spans positive values, with ticks at round numbers.

    Args:
        values: At least one positive number; others are ignored.
    """
    logarithms = [math.log10(value) for value in values if value > 0 and math.isfinite(value)] or [0.0]
    low, high = min(logarithms), max(logarithms)
    margin = max(0.05, 0.05 * (high - low))
    low, high = low - margin, high + margin
    steps = (1,) if high - low > 2.0 else (1, 3) if high - low > 0.8 else (1, 2, 3, 5, 7)
    candidates = [
        (math.log10(step) + decade, _short(step * 10.0**decade))
        for decade in range(math.floor(low), math.ceil(high) + 1)
        for step in steps
    ]
    ticks = tuple(tick for tick in candidates if low <= tick[0] <= high)
    return Axis(low, high, ticks)


def step_axis(last: int) -> Axis:
    """Training steps from 0 to `last`, with two to five labels at round numbers."""
    last = max(last, 1)
    magnitude = 10.0 ** math.floor(math.log10(last))
    stride = next(step * magnitude for step in (0.25, 0.5, 1.0, 2.5) if last / (step * magnitude) <= 4.5)
    ticks = tuple((index * stride, _thousands(index * stride)) for index in range(int(last / stride) + 1))
    return Axis(0.0, float(last), ticks)


def binned(points: Sequence[tuple[int, float]], bins: int = 80) -> list[tuple[float, float]]:
    """Means over equal numbers of consecutive (step, loss) pairs, so that a long curve stays small and readable."""
    if len(points) <= bins:
        return [(float(step), value) for step, value in points]
    edges = [round(index * len(points) / bins) for index in range(bins + 1)]
    groups = [points[start:end] for start, end in itertools.pairwise(edges)]
    return [(sum(s for s, _ in group) / len(group), sum(v for _, v in group) / len(group)) for group in groups]


def _band(segment: Sequence[Point], x: Callable[[float], float], y: Callable[[float], float]) -> list[str]:
    """The intervals of a segment: an area, or a whisker where a point stands alone."""
    ends = [(x(point.x), y(point.interval[0]), y(point.interval[1])) for point in segment if point.interval]
    if len(ends) == 1:
        at, low, high = ends[0]
        return [f'<line class="whisker" x1="{at:.1f}" x2="{at:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>']
    outline = [(at, high) for at, _, high in ends] + [(at, low) for at, low, _ in reversed(ends)]
    corners = " ".join(f"{at:.1f},{value:.1f}" for at, value in outline)
    return [f'<polygon class="band" points="{corners}"/>'] if ends else []


def mark(style: int, x: float, y: float, description: str) -> str:
    """A circle, square, triangle or diamond of equal weight, by run, as SVG; described to whoever points at it."""
    shapes = (
        f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="3.4"',
        f'<rect class="mark" x="{x - 3:.1f}" y="{y - 3:.1f}" width="6" height="6"',
        f'<polygon class="mark" points="{x:.1f},{y - 4:.1f} {x - 3.8:.1f},{y + 2.9:.1f} {x + 3.8:.1f},{y + 2.9:.1f}"',
        f'<polygon class="mark" points="{x:.1f},{y - 4.4:.1f} {x + 4.4:.1f},{y:.1f} {x:.1f},{y + 4.4:.1f} '
        f'{x - 4.4:.1f},{y:.1f}"',
    )
    shape = shapes[style % len(shapes)]
    if not description:
        return shape + "/>"
    name = shape[1 : shape.index(" ")]
    return f"{shape}><title>{escape(description)}</title></{name}>"


def _short(value: float) -> str:
    return f"{value:g}" if value >= 1e-4 else f"{value:.0e}".replace("e-0", "e-")


def _thousands(value: float) -> str:
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"
