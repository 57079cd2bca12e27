"""A self-contained `report.html` of one run, or of several side by side.

The page needs nothing but itself: style, charts and videos are inline, there is no script, and its content security
policy forbids to load anything else. It is a function of the run directories alone, so equal runs give equal reports.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vla_cl.evaluation.report.catalogue import LEDGER_BYTES, LEDGER_SECONDS
from vla_cl.evaluation.report.charts import run_swatch
from vla_cl.evaluation.report.colours import RUN_COLOURS_LIGHT
from vla_cl.evaluation.report.curves import loss_panels, mean_of_seen_tasks, success_panels
from vla_cl.evaluation.report.episodes import FilmedEpisode, failures, filmed_pairs
from vla_cl.evaluation.report.heat_map import DENSE_FROM, HeatRow, decimal, heat_map
from vla_cl.evaluation.report.pages import render_page
from vla_cl.evaluation.report.probes import probe_section
from vla_cl.evaluation.report.protocols import EARLY_STOP, protocol_differences, settings_of
from vla_cl.evaluation.report.runs import Run, Video, name_of, read_runs
from vla_cl.evaluation.report.tables import (
    MISSING,
    Line,
    ledger_lines,
    metric_lines,
    needs_line,
    number,
    setting_lines,
    stage_lines,
)
from vla_cl.files import write_text

FILE_NAME = "report.html"
HEADLINES = (
    ("learning_accuracy", "Learning accuracy", "right after each task"),
    ("final_average", "Final average", "all tasks, after the last"),
    ("forgetting", "Forgetting", "best before, minus final"),
)
"""Metrics that open the report: key, name, and what they say in a few words."""


def write_report(run_folders: Sequence[Path], output: Path) -> Path:
    """Write one HTML page about one or several run directories.

    What a run has not got (yet) is shown as missing: stages of an interrupted run, videos, training logs.

    Args:
        run_folders: Directories that an experiment wrote, in the order in which they appear.
        output: The file to write, or a folder that gets a `report.html`.

    Returns:
        The file written.

    Raises:
        ConfigurationError: No folder was given, or one is not a run directory.
        VlaClError: The file cannot be written.
    """
    runs = read_runs(run_folders)
    output = Path(output)
    if output.is_dir() or not output.suffix:
        output = output / FILE_NAME
    write_text(output, _render(runs))
    return output


@dataclass(frozen=True)
class RunView:
    """One run, as the template shows it."""

    label: str
    style: int
    swatch: str
    state: str
    headlines: tuple[tuple[str, str, str], ...]
    story: str
    heat_map: tuple[HeatRow, ...]
    dense: bool
    stages: list[Line]
    configuration: str


@dataclass(frozen=True)
class Clip:
    """One rollout's video: its run, its data as a URI ("" without one), and what became of it.

    `told` is the instruction, where it was another than the task's own; `before` is the same initial state right after
    the task was learned, where that was filmed and other tasks were learned since.
    """

    label: str
    swatch: str
    source: str
    outcome: str
    succeeded: bool | None
    when: str
    told: str
    before: FilmedEpisode | None = None


@dataclass(frozen=True)
class Film:
    """The last rollouts of one task, a clip a run."""

    task: str
    number: str
    instruction: str
    horizon: int
    clips: tuple[Clip, ...]


def _render(runs: Sequence[Run]) -> str:
    differences = protocol_differences(runs)
    metrics = metric_lines(runs, rank=not differences)
    return render_page(
        "template.html.j2",
        title=f"Continual learning on {_joined(_setting(run, 'suite') for run in runs)}",
        facts=_facts(runs),
        runs=[_run_view(run, index) for index, run in enumerate(runs)],
        episodes=_episodes(runs),
        stopping=_stopping(runs),
        interval="Wilson interval, or that of a confidence sequence where rollouts could stop early"
        if _watched(runs)
        else "Wilson interval",
        splits=" or ".join(dict.fromkeys(str(run.metrics["split"]) for run in runs if run.metrics["split"])),
        success=success_panels(runs),
        losses=loss_panels(runs),
        metrics=metrics,
        protocol_differences=differences,
        probes=probe_section(runs),
        needs=needs_line(runs),
        ledger=ledger_lines(runs),
        stage_columns=[*LEDGER_BYTES.values(), *LEDGER_SECONDS.values()],
        films=_films(runs),
        failures=[(run.label, run_swatch(index), failures(run)) for index, run in enumerate(runs)],
        differences=setting_lines([run.config for run in runs], differing=True) if len(runs) > 1 else [],
        versions=setting_lines([run.environment for run in runs], differing=False),
    )


def _watched(runs: Sequence[Run]) -> bool:
    """Whether early stopping was asked for in any."""
    return any(row.stopping for run in runs for row in run.rows)


def _episodes(runs: Sequence[Run]) -> str:
    counts = sorted({cell.trials for run in runs for row in run.cells() for cell in row if cell})
    return f"{counts[0]} to {counts[-1]}" if _watched(runs) and len(counts) > 1 else " or ".join(map(str, counts))


def _stopping(runs: Sequence[Run]) -> str:
    """What early stopping left out, in a sentence; "" where it was not asked for."""
    if not _watched(runs):
        return ""
    cells = [cell for run in runs for row in run.cells() for cell in row if cell]
    stopped = sum(cell.stopped for cell in cells)
    played = sum(cell.trials for cell in cells)
    rules = _joined(
        f"{key}={value}" for run in runs for key, value in settings_of(run.config).items() if key.startswith(EARLY_STOP)
    )
    return (
        f"Rollouts could be stopped early ({rules}): {stopped} of {len(cells)} cells were, and {played} episodes were "
        "played in all. Intervals hold whenever an evaluation stops; the rate of a cell that was stopped is, on "
        "average, a little too extreme."
    )


def _facts(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Suite, policy, ... as (name, value) pairs, in the order of the title block."""
    facts = [(key.capitalize(), _joined(_setting(run, key) for run in runs)) for key in ("suite", "policy", "strategy")]
    facts.append(("Order", _joined(_setting(run, "order") for run in runs)))
    facts.append(("Seed", _joined(_setting(run, "seed") for run in runs)))
    if any(_date(run) for run in runs):
        facts.append(("Date", _joined(_date(run) or MISSING for run in runs)))
    return facts


def _setting(run: Run, key: str) -> str:
    return name_of(run.config.get(key, "")) or MISSING


def _date(run: Run) -> str:
    """The day on which the run was made, by its own account; "" where it does not say."""
    for source in (run.environment, run.config):
        for key in ("date", "started", "created"):
            if source.get(key):
                return str(source[key])[:10]
    return ""


def _joined(values: Iterable[Any]) -> str:
    return ", ".join(dict.fromkeys(str(value) for value in values)) or MISSING


def _run_view(run: Run, index: int) -> RunView:
    from omegaconf import OmegaConf

    done, planned = run.completed_stages, len(run.tasks)
    values = [(key, title, gloss, number(run.metrics.get(key))) for key, title, gloss in HEADLINES]
    return RunView(
        label=run.label,
        style=index % len(RUN_COLOURS_LIGHT),
        swatch=run_swatch(index),
        state="" if done >= planned else f"unfinished: {done} of {planned} tasks learned and evaluated",
        headlines=tuple(
            (title, MISSING if value is None else decimal(value), gloss) for _, title, gloss, value in values
        ),
        story=_story(run),
        heat_map=heat_map(run),
        dense=planned >= DENSE_FROM,
        stages=stage_lines(run),
        configuration=OmegaConf.to_yaml(OmegaConf.create(dict(run.config))),
    )


def _story(run: Run) -> str:
    """What happened in a run, in a sentence or two of numbers."""
    learned, final, forgetting = (number(run.metrics.get(key)) for key, _, _ in HEADLINES)
    if learned is None or final is None:
        return _unfinished_story(run)
    text = (
        f"succeeds in {decimal(learned)} of episodes right after learning each task, "
        f"and in {decimal(final)} on all {len(run.tasks)} tasks at the end"
    )
    if forgetting is None or len(run.tasks) == 1:
        return text + "."
    text += f": forgetting {decimal(forgetting)}."
    cells = run.cells()
    drops = [
        (start.rate - end.rate, task, start.rate, end.rate)
        for task in range(len(run.tasks) - 1)
        if (start := cells[task + 1][task]) and (end := cells[-1][task])
    ]
    drop, task, before, after = max(drops)
    if drop > 0:
        text += f" The largest drop is {run.sequence[task]}, from {decimal(before)} to {decimal(after)}."
    return text


def _unfinished_story(run: Run) -> str:
    done = run.completed_stages
    text = f"has been tried after {done} of {len(run.tasks)} tasks, so not all of its metrics are defined"
    so_far = mean_of_seen_tasks(run)[done - 1] if done else None
    return text + (f"; it now succeeds in {decimal(so_far)} on the tasks learned." if so_far is not None else ".")


def _films(runs: Sequence[Run]) -> list[Film]:
    films = []
    for name in dict.fromkeys(name for run in runs for name in run.sequence):
        task = next(task for run in runs for task in run.tasks if task.name == name)
        clips = tuple(
            _clip(run, index, run.videos.get(name), task.instruction)
            for index, run in enumerate(runs)
            if name in run.sequence
        )
        places = {run.sequence.index(name) + 1 for run in runs if name in run.sequence}
        place = str(places.pop()) if len(places) == 1 else ""
        films.append(Film(name, place, task.instruction, task.horizon, clips))
    return films


def _clip(run: Run, index: int, video: Video | None, instruction: str) -> Clip:
    if video is None:
        return Clip(run.label, run_swatch(index), "", "no video recorded", None, "", "")
    data = base64.b64encode(video.path.read_bytes()).decode("ascii")
    when = f"after task {video.stage + 1}" if video.stage >= 0 else "zero-shot"
    if video.row is None:
        outcome, succeeded = "outcome not recorded", None
    elif video.row.success:
        outcome, succeeded = f"success in {video.row.steps} steps", True
    else:
        reason = f" ({video.row.failure})" if video.row.failure else ""
        outcome, succeeded = f"failure after {video.row.steps} steps{reason}", False
    told = video.row.instruction if video.row and video.row.instruction != instruction else ""
    source = f"data:video/mp4;base64,{data}"
    before = next((pair.before for pair in filmed_pairs(run) if pair.after.path == video.path), None)
    return Clip(run.label, run_swatch(index), source, outcome, succeeded, when, told, before)
