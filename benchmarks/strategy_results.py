"""Pictures of a grid's table: strategies in order of what they reach, or a replay budget's curve.

    vla-cl grid suite=mw5 policy=lowdim_transformer strategy=a,b,c seed=0,1,2 output=table ...
    python benchmarks/strategy_results.py table/grid.json docs/images/strategies.png

    vla-cl grid suite=mw5 policy=lowdim_transformer strategy=replay strategy.fraction=0,0.01,0.1,1 output=budget ...
    python benchmarks/strategy_results.py budget/grid.json docs/images/replay_budget.png --option fraction

Bars are the table's 95 % intervals. The last line of the output is JSON: the final averages that were drawn.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

BLUE, ORANGE, INK, GREY = "#0072b2", "#c14f00", "#1a202c", "#a0aec0"
REFERENCES = ("sequential", "joint")


def final(row: dict[str, Any]) -> float:
    """A row's final average."""
    return float(row["metrics"]["final_average"]["mean"])


def bars(row: dict[str, Any], metric: str) -> tuple[float, list[list[float]]]:
    """A row's mean, and how far its interval reaches to both sides, as matplotlib takes it."""
    value = row["metrics"][metric]
    mean = float(value["mean"])
    return mean, [[max(0.0, mean - value["low"])], [max(0.0, value["high"] - mean)]]


def draw_strategies(rows: list[dict[str, Any]]) -> Figure:
    """One line a strategy, the best on top: its final average, and what it had learned of each task at first."""
    rows = sorted(rows, key=final)
    figure = Figure(figsize=(8, 1.2 + 0.24 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    for place, row in enumerate(rows):
        learned, _ = bars(row, "learning_accuracy")
        mean, interval = bars(row, "final_average")
        axes.plot([mean, learned], [place, place], color=GREY, linewidth=1, zorder=1)
        axes.scatter(learned, place, marker="D", s=22, facecolor="white", edgecolor=ORANGE, zorder=2)
        axes.errorbar(mean, place, xerr=interval, fmt="o", color=BLUE, markersize=5, capsize=2, linewidth=1, zorder=3)
    for row in rows:
        if row["strategy"] in REFERENCES:
            axes.axvline(final(row), color=GREY, linestyle=":", linewidth=1, zorder=0)
    axes.set_yticks(range(len(rows)), [row["strategy"] for row in rows])
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel("success rate")
    axes.scatter([], [], marker="D", s=22, facecolor="white", edgecolor=ORANGE, label="right after learning each task")
    axes.errorbar([], [], xerr=[], fmt="o", color=BLUE, capsize=2, label="on all tasks in the end, 95 % interval")
    figure.legend(loc="outside upper left", ncols=2, frameon=False)
    return figure


def draw_option(rows: list[dict[str, Any]], option: str) -> Figure:
    """What is reached and forgotten, over the values of one of the strategy's options, evenly spaced."""
    valued = {float(re.search(rf"{option}=([\d.e-]+)", row["strategy"])[1]): row for row in rows}  # type: ignore[index]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    named = (
        ("final_average", "final average", BLUE, "o", -0.08),
        ("learning_accuracy", "learning accuracy", INK, "D", 0.0),
        ("forgetting", "forgetting", ORANGE, "s", 0.08),
    )
    for metric, name, colour, marker, aside in named:
        points = [bars(valued[value], metric) for value in sorted(valued)]
        means = [mean for mean, _ in points]
        errors = [[interval[side][0] for _, interval in points] for side in (0, 1)]
        places = [place + aside for place in range(len(points))]
        axes.errorbar(places, means, yerr=errors, fmt=f"-{marker}", color=colour, capsize=3, label=name)
    axes.set_xticks(range(len(valued)), [f"{100 * value:g} %" for value in sorted(valued)])
    axes.set_xlabel(f"share of each task's demonstrations that is kept ({option})")
    axes.set_ylim(-0.25, 1.05)
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.set_ylabel("success rate")
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    return figure


def main() -> None:
    """Draw."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("table", type=Path, help="grid.json of a grid")
    parser.add_argument("picture", type=Path)
    parser.add_argument("--option", help="of the strategy, whose values are the horizontal axis")
    options = parser.parse_args()
    rows = json.loads(options.table.read_text(encoding="utf-8"))["rows"]
    figure = draw_option(rows, options.option) if options.option else draw_strategies(rows)
    FigureCanvasAgg(figure)
    figure.savefig(options.picture, dpi=130)
    print(json.dumps({row["strategy"]: round(final(row), 3) for row in rows}))


if __name__ == "__main__":
    main()
