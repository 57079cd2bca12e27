"""The section of a report about probes: verdicts, recovery and scale curves, drift a layer, whose parameters acted."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from markupsafe import Markup

from vla_cl.evaluation.report.charts import Axis, Point, Series, line_panel, rate_axis, run_swatch
from vla_cl.evaluation.report.colours import rate_colour, text_colour
from vla_cl.evaluation.report.curves import Panel
from vla_cl.evaluation.report.heat_map import decimal
from vla_cl.evaluation.report.runs import Run
from vla_cl.evaluation.report.tables import MISSING
from vla_cl.evaluation.routing_metrics import NOBODY, summarise_routing
from vla_cl.evaluation.statistics import wilson_interval

FOLDER = "probes"
"""Where a run keeps what probes found."""
VERDICT_COLUMNS = (
    "Right after",
    "In the end",
    "Back at scale",
    "Relearned in",
    "Learned at first in",
    "Steps saved",
    "So it is",
)


@dataclass(frozen=True)
class ProbeCell:
    """One coloured cell; `text` is "" where nothing was measured."""

    text: str
    description: str
    background: str = ""
    foreground: str = ""
    framed: bool = False


@dataclass(frozen=True)
class ProbeRow:
    """One row of a coloured table."""

    title: str
    cells: tuple[ProbeCell, ...]


@dataclass(frozen=True)
class ProbeTable:
    """A coloured table with the names of its columns."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[ProbeRow, ...]


@dataclass(frozen=True)
class ProbeView:
    """What was found of one run, as the template shows it."""

    label: str
    swatch: Markup
    verdicts: list[tuple[str, list[str]]]
    recovery: list[Panel]
    scales: list[Panel]
    drift: ProbeTable | None
    routing: ProbeTable | None
    routing_summary: str
    verdict_columns: tuple[str, ...] = VERDICT_COLUMNS
    recovery_names: tuple[tuple[Markup, str], ...] = (
        (run_swatch(0), "forgotten, relearned"),
        (run_swatch(1), "learned for the first time"),
    )
    scale_names: tuple[tuple[Markup, str], ...] = (
        (run_swatch(0), "the task"),
        (run_swatch(1), "the task learned last"),
    )


def read_probes(folder: Path) -> dict[str, dict[str, Any]]:
    """What probes found of a run, by probe: its tasks. Files that cannot be read are left out."""
    found = {}
    for path in sorted((Path(folder) / FOLDER).glob("*.json")):
        try:
            found[path.stem] = dict(json.loads(path.read_text(encoding="utf-8"))["tasks"])
        except (ValueError, KeyError, TypeError):
            continue
    return found


def probe_section(runs: Sequence[Run]) -> Markup:
    """The section, empty where nothing was probed."""
    from jinja2 import Environment, StrictUndefined  # here, because the command line should start without it

    views = [_view(run, index, found) for index, run in enumerate(runs) if (found := read_probes(run.folder))]
    if not views:
        return Markup("")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    source = files(__package__).joinpath("probes.html.j2").read_text(encoding="utf-8")
    return Markup(environment.from_string(source).render(runs=views))


def _view(run: Run, index: int, found: Mapping[str, Mapping[str, Any]]) -> ProbeView:
    routing = found.get("routing", {})
    drift = {task: each for task, each in found.get("drift", {}).items() if each["stages"]}
    summary = {key: value for key, value in summarise_routing(routing).items() if value is not None} if routing else {}
    told = ", ".join(f"{key.replace('_', ' ')} {decimal(value)}" for key, value in summary.items())
    return ProbeView(
        label=run.label,
        swatch=run_swatch(index),
        verdicts=[(task, _verdict(each)) for task, each in found.get("verdicts", {}).items()],
        recovery=[_recovery_panel(task, each) for task, each in found.get("recovery", {}).items()],
        scales=[_scale_panel(task, each) for task, each in found.get("scale", {}).items()],
        drift=_drift_table(drift) if drift else None,
        routing=_routing_table(routing) if routing else None,
        routing_summary=f" In all: {told}." if told else "",
    )


def _verdict(found: Mapping[str, Any]) -> list[str]:
    kept = found["outcome"] == "kept"
    scale = MISSING if not found["scaled"] else "none" if found["scale"] is None else f"{found['scale']:g}"
    return [
        decimal(found["former"] / found["episodes"]),
        decimal(found["final"] / found["episodes"]),
        scale,
        MISSING if kept else _steps(found["relearned"], found["steps"]),
        MISSING if kept else _steps(found["first"], found["steps"]),
        MISSING if found["savings"] is None else decimal(found["savings"]),
        found["outcome"],
    ]


def _steps(steps: int | None, tried: int | None) -> str:
    """So many steps, more than were tried, or nothing."""
    if tried is None:
        return MISSING
    return f"over {tried}" if steps is None else f"{steps}"


def _recovery_panel(task: str, found: Mapping[str, Any]) -> Panel:
    """Success over steps of fine-tuning, evenly spaced, of the forgotten task and of the task when it was new."""
    steps, episodes = found["steps"], found["episodes"]
    lines = [_series(0, found["relearned"], episodes, [f"after {step} steps" for step in steps])]
    if found["first"]:
        lines.append(_series(1, found["first"], episodes, [f"new, after {step} steps" for step in steps]))
    axis = Axis(-0.25, len(steps) - 0.75, tuple((float(place), str(step)) for place, step in enumerate(steps)))
    return Panel(task, "", line_panel(lines, axis, rate_axis(), f"recovery of {task} over steps of fine-tuning"))


def _scale_panel(task: str, found: Mapping[str, Any]) -> Panel:
    scales, episodes = found["scales"], found["episodes"]
    lines = [
        _series(0, found["successes"], episodes, [f"scale {scale:g}" for scale in scales]),
        _series(1, found["newest_successes"], episodes, [f"{found['newest']}, scale {scale:g}" for scale in scales]),
    ]
    axis = Axis(-0.25, len(scales) - 0.75, tuple((float(place), f"{scale:g}") for place, scale in enumerate(scales)))
    return Panel(task, "", line_panel(lines, axis, rate_axis(), f"success on {task} over scales of what came since"))


def _series(style: int, successes: Sequence[int], episodes: int, names: Sequence[str]) -> Series:
    points = []
    for place, (count, name) in enumerate(zip(successes, names, strict=True)):
        low, high = (float(end) for end in wilson_interval(count, episodes))
        points.append(Point(place, count / episodes, (low, high), f"{name}: {count} of {episodes}"))
    return Series(style, (tuple(points),))


def _drift_table(tasks: Mapping[str, Mapping[str, Any]]) -> ProbeTable:
    layers = list(dict.fromkeys(layer for each in tasks.values() for layer in each["layers"]))
    rows = tuple(
        ProbeRow(layer, tuple(_drift_cell(task, layer, each) for task, each in tasks.items())) for layer in layers
    )
    return ProbeTable("Drift of layers", tuple(tasks), rows)


def _drift_cell(task: str, layer: str, found: Mapping[str, Any]) -> ProbeCell:
    if layer not in found["layers"]:
        return ProbeCell("", f"{layer} on {task}: not measured")
    place = found["layers"].index(layer)
    stages = [
        f"after task {stage + 1} {decimal(unbiased[place])} (plain {decimal(plain[place])})"
        for stage, unbiased, plain in zip(found["stages"], found["unbiased_cka"], found["cka"], strict=True)
    ]
    value = found["unbiased_cka"][-1][place]
    return _coloured(value, f"{layer} on {task}: {', '.join(stages)}")


def _routing_table(tasks: Mapping[str, Mapping[str, Any]]) -> ProbeTable:
    columns = list(dict.fromkeys([*tasks, *(name for each in tasks.values() for name in each["confusion"])]))
    rows = []
    for task, each in tasks.items():
        cells = []
        for name in columns:
            share = each["confusion"].get(name, 0.0)
            whose = f"parameters of {name}" if name != NOBODY else "parameters of no task"
            cells.append(_coloured(share, f"{task}: {whose} acted most in {share:.0%} of decisions", name == task))
        rows.append(ProbeRow(task, tuple(cells)))
    return ProbeTable("Whose parameters acted", tuple(name or "no task" for name in columns), tuple(rows))


def _coloured(value: float, description: str, framed: bool = False) -> ProbeCell:
    background = rate_colour(min(1.0, max(0.0, value)))
    return ProbeCell(decimal(value), description, background, text_colour(background), framed)
