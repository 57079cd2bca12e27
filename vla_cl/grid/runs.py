"""The runs of a grid: what each is, where it stands, and how its folder tells how far it got."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from vla_cl.config import ExperimentConfig
from vla_cl.errors import ConfigurationError
from vla_cl.evaluation.options import LOCAL
from vla_cl.tasks import get_suite


class State(StrEnum):
    """Where a run of a grid stands."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class Outcome(StrEnum):
    """How an attempt at a run ended."""

    DONE = "done"
    REFUSED = "refused"
    """Its configuration, data or disk stops it: another attempt would end the same."""
    BROKEN = "broken"
    """Something went wrong that may go right from its last checkpoint."""
    BUSY = "busy"
    """Another process is running it."""


@dataclass
class GridRun:
    """One run of a grid.

    Args:
        config: What is run; its folder is the run's identity.
        log: File that takes what the run's process writes.
        state: Where it stands.
        attempts: How often it was started by this grid.
        reason: Why it failed, or was started again, in one line.
    """

    config: ExperimentConfig
    log: Path
    state: State = State.WAITING
    attempts: int = 0
    reason: str = ""

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.config.folder.name


@dataclass(frozen=True)
class RunProgress:
    """How far a run is.

    Args:
        tasks: How many it learns.
        stage: Index of the task in progress; -1 before the first.
        step: Training steps of that task so far, as often as they are logged.
        doing: "training", "evaluating" or "reporting".
    """

    tasks: int
    stage: int
    step: int
    doing: str

    def __str__(self) -> str:
        if self.stage < 0:
            return f"{self.doing} before the first of {self.tasks} tasks"
        step = f", step {self.step}" if self.doing == "training" else ""
        return f"{self.doing} task {self.stage + 1} of {self.tasks}{step}"


def grid_runs(configs: Sequence[ExperimentConfig]) -> list[GridRun]:
    """The runs that configurations describe, each once.

    Runs share the cores, so each simulates where it runs, in one process unless it asks for more, and the clients of a
    federation work one after another. No number depends on either.

    Raises:
        ConfigurationError: Different configurations share a folder.
    """
    runs: dict[Path, GridRun] = {}
    for config in configs:
        processes = config.evaluation.processes or 1
        config = replace(config, evaluation=replace(config.evaluation, processes=processes, workers=LOCAL))
        config = replace(config, federation=replace(config.federation, backend="process"))
        known = runs.get(config.folder)
        if known is not None and known.config.identity() != config.identity():
            raise ConfigurationError(f"name={config.name} gives different runs one folder; leave it out of a grid")
        log = Path(config.output) / "logs" / f"{config.folder.name}.log"
        runs.setdefault(config.folder, GridRun(config, log))
    return list(runs.values())


def progress_of(config: ExperimentConfig) -> RunProgress:
    """How far a run is, as its folder tells: from any process, at any time, also after a restart."""
    folder = config.folder
    tasks = len(get_suite(config.suite).sequence(config.order, config.length))
    learned = [stage for stage in range(tasks) if (folder / "checkpoints" / f"stage_{stage:02d}").is_dir()]
    last = max(learned, default=-1)
    evaluated = last >= 0 or config.evaluation.zero_shot
    if evaluated and not (folder / "episodes" / f"{_stage_name(last)}.jsonl").exists():
        return RunProgress(tasks, last, config.training.steps if learned else 0, "evaluating")
    if last == tasks - 1:
        return RunProgress(tasks, last, config.training.steps, "reporting")
    return RunProgress(tasks, last + 1, _last_step(folder / "training" / f"{_stage_name(last + 1)}.jsonl"), "training")


def _stage_name(stage: int) -> str:
    return "zero_shot" if stage < 0 else f"stage_{stage:02d}"


_TAIL = 4096  # bytes, more than a row of a training log


def _last_step(path: Path) -> int:
    """The step of the last whole row of a training log; 0 where there is none."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return 0
    for line in reversed(lines):
        try:
            return int(json.loads(line)["step"])
        except (json.JSONDecodeError, KeyError, TypeError):  # the first line of the tail, or one that is being written
            continue
    return 0
