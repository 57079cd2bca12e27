"""What probes found of a run as one picture, for a paper or a page, in the colours of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vla_cl.errors import ConfigurationError
from vla_cl.evaluation.report.colours import RUN_COLOURS_LIGHT, rate_colour, text_colour
from vla_cl.evaluation.report.figures import FONT, MUTED, RULE, TEXT
from vla_cl.evaluation.report.heat_map import decimal
from vla_cl.evaluation.report.probes import read_probes
from vla_cl.evaluation.statistics import wilson_interval
from vla_cl.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CELL_WIDTH, CELL_HEIGHT = 0.82, 0.25
CURVE_WIDTH, CURVE_HEIGHT = 2.3, 1.5
GAP = 0.5
"""Inches."""


@dataclass(frozen=True)
class Curves:
    """Success over places on an axis, a line each."""

    title: str
    axis: str
    ticks: tuple[str, ...]
    lines: tuple[tuple[str, tuple[int, ...]], ...]
    episodes: int

    left, top, bottom = 0.45, 0.4, 0.5

    @property
    def size(self) -> tuple[float, float]:
        """Of the axes, in inches."""
        return CURVE_WIDTH, CURVE_HEIGHT

    def draw(self, axes: Axes) -> None:
        """Put the lines on axes."""
        for index, (name, successes) in enumerate(self.lines):
            rates = [count / self.episodes for count in successes]
            ends = [wilson_interval(count, self.episodes) for count in successes]
            colour = RUN_COLOURS_LIGHT[index]
            axes.fill_between(range(len(rates)), [float(e[0]) for e in ends], [float(e[1]) for e in ends],
                              color=colour, alpha=0.12, linewidth=0)  # fmt: skip
            axes.plot(rates, "o-" if index == 0 else "s--", color=colour, markersize=3.5, linewidth=1.4, label=name)
        axes.set_ylim(-0.04, 1.04)
        axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"], fontsize=8, color=MUTED)
        axes.set_xticks(range(len(self.ticks)), self.ticks, fontsize=8, color=MUTED)
        axes.set_xlabel(self.axis, fontsize=8, color=MUTED)
        axes.grid(axis="y", color=RULE, linewidth=0.6)
        axes.legend(fontsize=7, frameon=False, loc="best", handlelength=2.2)


@dataclass(frozen=True)
class Cells:
    """A coloured table of numbers from 0 to 1."""

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]

    top, bottom = 0.72, 0.1

    @property
    def left(self) -> float:
        """Room for the names of rows, in inches."""
        return 0.2 + 0.072 * max(map(len, self.rows))

    @property
    def size(self) -> tuple[float, float]:
        """Of the axes, in inches."""
        return CELL_WIDTH * len(self.columns), CELL_HEIGHT * len(self.rows)

    def draw(self, axes: Axes) -> None:
        """Put the cells on axes."""
        from matplotlib.patches import Rectangle

        for row, values in enumerate(self.values):
            for column, value in enumerate(values):
                corner = (column + 0.02, row + 0.05)
                if value is None:
                    axes.add_patch(Rectangle(corner, 0.96, 0.9, facecolor="#f6f7f9", edgecolor=RULE, hatch="////"))
                    continue
                colour = rate_colour(min(1.0, max(0.0, value)))
                axes.add_patch(Rectangle(corner, 0.96, 0.9, facecolor=colour, linewidth=0))
                axes.text(column + 0.5, row + 0.52, decimal(value), ha="center", va="center",
                          color=text_colour(colour), fontsize=8)  # fmt: skip
        axes.set_xlim(0, len(self.columns))
        axes.set_ylim(len(self.rows), 0)
        axes.xaxis.tick_top()
        names = [name.replace("-", "-\n", 1) for name in self.columns]
        axes.set_xticks([place + 0.5 for place in range(len(names))], names, fontsize=7.5, color=MUTED)
        axes.set_yticks([place + 0.5 for place in range(len(self.rows))], self.rows, fontsize=7.5, color=MUTED)


def save_probe_figure(run_folder: Path, path: Path, *, dots_per_inch: int = 160) -> Path:
    """Write recovery and scale curves, drift and routing of a run, as far as they were probed, as a PNG file.

    Args:
        run_folder: Whose probes were made.
        path: The file to write.
        dots_per_inch: Resolution.

    Returns:
        `path`.

    Raises:
        ConfigurationError: Nothing was found that can be drawn.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = [line for line in _panels(read_probes(run_folder)) if line]
    if not lines:
        raise ConfigurationError(f"no probe of {run_folder} found anything that can be drawn")
    heights = [max(panel.top + panel.size[1] + panel.bottom for panel in line) for line in lines]
    widths = [sum(panel.left + panel.size[0] + GAP for panel in line) for line in lines]
    width, height = max(widths), sum(heights)
    with rc_context({"font.family": FONT, "font.size": 9, "text.color": TEXT, "hatch.linewidth": 0.6}):
        figure = Figure(figsize=(width, height), dpi=dots_per_inch, facecolor="white")
        canvas = FigureCanvasAgg(figure)
        above = 0.0
        for line, tall in zip(lines, heights, strict=True):
            left = 0.0
            for panel in line:
                wide, high = panel.size
                bottom = height - above - panel.top - high
                place = ((left + panel.left) / width, bottom / height, wide / width, high / height)
                axes = figure.add_axes(place)
                panel.draw(axes)
                axes.tick_params(length=0)
                for spine in axes.spines.values():
                    spine.set_visible(False)
                figure.text(place[0], (height - above - 0.2) / height, panel.title, fontsize=10, fontweight="bold")
                left += panel.left + wide + GAP
            above += tall
        with atomic_path(Path(path)) as temporary:
            canvas.print_png(str(temporary), metadata={"Software": None})  # type: ignore[no-untyped-call]
    return Path(path)


def _panels(found: Mapping[str, Mapping[str, Any]]) -> list[Sequence[Curves | Cells]]:
    """A line a task, recovery and scales, and one of tables."""
    recovery, scales = found.get("recovery", {}), found.get("scale", {})
    curves = [
        [
            *([_recovery(task, recovery[task])] if task in recovery else []),
            *([_scales(task, scales[task])] if task in scales else []),
        ]
        for task in dict.fromkeys([*recovery, *scales])
    ]
    tables = []
    drift = {task: each for task, each in found.get("drift", {}).items() if each["stages"]}
    if drift:
        layers = tuple(dict.fromkeys(layer for each in drift.values() for layer in each["layers"]))
        values = tuple(tuple(_last(each, layer) for each in drift.values()) for layer in layers)
        tables.append(Cells("Likeness of layers, then and in the end", layers, tuple(drift), values))
    if routing := found.get("routing", {}):
        columns = list(dict.fromkeys([*routing, *(name for each in routing.values() for name in each["confusion"])]))
        shares = tuple(tuple(each["confusion"].get(name, 0.0) for name in columns) for each in routing.values())
        tables.append(
            Cells("Whose parameters acted", tuple(routing), tuple(name or "no task" for name in columns), shares)
        )
    return [*curves, tables]


def _recovery(task: str, found: Mapping[str, Any]) -> Curves:
    lines = [("relearned", found["relearned"]), ("learned at first", found["first"])]
    return Curves(
        title=task,
        axis="steps of fine-tuning",
        ticks=tuple(map(str, found["steps"])),
        lines=tuple((name, tuple(successes)) for name, successes in lines if successes),
        episodes=found["episodes"],
    )


def _scales(task: str, found: Mapping[str, Any]) -> Curves:
    lines: Sequence[tuple[str, Sequence[int]]] = (
        (task, found["successes"]),
        (found["newest"], found["newest_successes"]),
    )
    return Curves(
        title=task,
        axis="scale of what was learned since",
        ticks=tuple(f"{scale:g}" for scale in found["scales"]),
        lines=tuple((name, tuple(successes)) for name, successes in lines),
        episodes=found["episodes"],
    )


def _last(found: Mapping[str, Any], layer: str) -> float | None:
    known = found["layers"]
    return found["unbiased_cka"][-1][known.index(layer)] if layer in known else None
