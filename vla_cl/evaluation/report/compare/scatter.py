"""What a strategy's success costs: scatter plots as SVG, with a Pareto front that the page's script draws."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from vla_cl.evaluation.report.charts import Axis, mark
from vla_cl.evaluation.report.tables import human_bytes

WIDTH, HEIGHT = 540, 350
LEFT, RIGHT, TOP, BOTTOM = 46, 18, 14, 42
"""Size of a plot and of its margins, in SVG units."""

MOST_TICKS = 7

_SECONDS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 18000, 36000, 86400, 172800, 432000)


@dataclass(frozen=True)
class Dot:
    """One strategy, or one run of it, in a plot.

    Args:
        row: Index of the strategy.
        run: Index of the run; None for the mean over all of the strategy's.
        cost: Bytes or seconds, at least 0.
        value: The final average.
        interval: Around the value, or None.
        label: Its name.
        description: All of it in words.
        style: Decides the shape of the mark.
    """

    row: int
    run: int | None
    cost: float
    value: float
    interval: tuple[float, float] | None
    label: str
    description: str
    style: int


@dataclass(frozen=True)
class CostAxis:
    """A logarithmic axis on which 0 has a place of its own, left of everything.

    Args:
        axis: In units of `place`.
        zero: Where 0 is.
    """

    axis: Axis
    zero: float

    def place(self, cost: float) -> float:
        """Where a cost lies on the axis."""
        return math.log10(cost) if cost > 0 else self.zero


def bytes_axis(costs: Sequence[float]) -> CostAxis:
    """An axis for sizes, with ticks at powers of ten, or at 1, 2 and 5 times those where they are few."""
    steps = (1, 2, 5) if _decades(costs) < 2 else (1,)
    candidates = [(step * 10.0**decade, _short_bytes(step * 10.0**decade)) for decade in range(16) for step in steps]
    return _cost_axis(costs, candidates)


def seconds_axis(costs: Sequence[float]) -> CostAxis:
    """An axis for durations, with ticks at round numbers of seconds, minutes, hours and days."""
    return _cost_axis(costs, [(float(seconds), _short_seconds(seconds)) for seconds in _SECONDS])


def scatter(dots: Sequence[Dot], costs: CostAxis, title: str, cost_title: str) -> Markup:
    """Final average over cost. Every dot is a link to its line of the table; the script moves the focus among them.

    Args:
        dots: What to draw.
        costs: The horizontal axis.
        title: What the plot says, for people who hear it.
        cost_title: Name of the horizontal axis.
    """
    axis = costs.axis

    def x(place: float) -> float:
        return LEFT + (place - axis.low) / (axis.high - axis.low) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - value * (HEIGHT - TOP - BOTTOM)

    parts = [f'<svg class="scatter" viewBox="0 0 {WIDTH} {HEIGHT}" role="group" aria-label="{escape(title)}">']
    for value in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 7}" y="{y(value) + 3.5:.1f}" text-anchor="end">{value:g}</text>')
    for place, label in axis.ticks:
        ends = f'x1="{x(place):.1f}" x2="{x(place):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"'
        parts.append(f'<line class="grid" {ends}/>')
        parts.append(
            f'<text class="tick" x="{x(place):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">'
            f"{escape(label)}</text>"
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="axis" x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{escape(cost_title)}</text>')
    parts.append(f'<text class="axis" x="{LEFT}" y="9" text-anchor="start">final average</text>')
    parts.append('<polyline class="front" points=""/>')
    parts += [_dot(dot, x(costs.place(dot.cost)), y) for dot in dots]
    parts.append("</svg>")
    return Markup("".join(parts))


def _dot(dot: Dot, at: float, y: Callable[[float], float]) -> str:
    place = f'data-run="{dot.run}" class="point of-run"' if dot.run is not None else 'class="point of-row"'
    target = f"row-{dot.row}" if dot.run is None else f"run-{dot.run}"
    whisker = ""
    if dot.interval:
        low, high = (y(end) for end in dot.interval)
        whisker = f'<line class="whisker" x1="{at:.1f}" x2="{at:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>'
    return (
        f'<a href="#{target}" {place} data-row="{dot.row}" data-x="{at:.1f}" data-y="{y(dot.value):.1f}" '
        f'tabindex="-1" aria-label="{escape(dot.description)}"><title>{escape(dot.description)}</title>{whisker}'
        f"{mark(dot.style, at, y(dot.value), '')}"
        f'<text class="label" x="{at + 7:.1f}" y="{y(dot.value) + 3.5:.1f}">{escape(dot.label)}</text></a>'
    )


def _cost_axis(costs: Sequence[float], candidates: Sequence[tuple[float, str]]) -> CostAxis:
    positive = [math.log10(cost) for cost in costs if cost > 0]
    low, high = (min(positive), max(positive)) if positive else (0.0, 0.0)
    margin = max(0.08, 0.06 * (high - low))
    zero = low - max(0.35, 0.15 * (high - low))
    with_zero = len(positive) < len(costs)
    start, end = (zero if with_zero else low) - margin, high + margin
    inside = [(math.log10(cost), label) for cost, label in candidates if low - margin <= math.log10(cost) <= end]
    every = max(1, math.ceil(len(inside) / MOST_TICKS))
    ticks = inside[::-1][::every][::-1] if positive else []
    return CostAxis(Axis(start, end, ((zero, "0"), *ticks) if with_zero else tuple(ticks)), zero)


def _decades(costs: Sequence[float]) -> float:
    positive = [cost for cost in costs if cost > 0]
    return math.log10(max(positive) / min(positive)) if positive else 0.0


def _short_bytes(count: float) -> str:
    number, unit = human_bytes(count).split(" ")
    return f"{float(number):g} {unit}"


def _short_seconds(seconds: int) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length and seconds % length == 0:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"
