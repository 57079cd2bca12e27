"""Reading a run directory: what a report shows, in whatever state the run was left."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vla_cl.errors import ConfigurationError
from vla_cl.evaluation.matrix import count_matrices, interval_matrix, stopped_matrix, summarise
from vla_cl.evaluation.rows import EpisodeRow, read_rows

ZERO_SHOT = -1
"""The stage before the first task."""


@dataclass(frozen=True)
class LearnedTask:
    """One place in the sequence.

    Args:
        name: The task's name; a sequence may hold it more than once.
        instruction: What the robot is told.
        horizon: Steps until truncation.
    """

    name: str
    instruction: str
    horizon: int


@dataclass(frozen=True)
class Cell:
    """One cell of the success matrix: how often a task succeeded at a stage.

    Args:
        successes: Successful episodes.
        trials: All episodes, at least one.
        interval: Lower and upper end of the rate's 95 % interval; see `interval_matrix`.
        stopped: Whether its other episodes were left out early.
    """

    successes: int
    trials: int
    interval: tuple[float, float]
    stopped: bool = False

    @property
    def rate(self) -> float:
        """The success rate in [0, 1]."""
        return self.successes / self.trials


@dataclass(frozen=True)
class Video:
    """The last recorded rollout of a task.

    Args:
        path: An mp4 file.
        stage: The stage after which it was recorded.
        row: The episode that it shows, the stage's first; None if its row does not exist.
    """

    path: Path
    stage: int
    row: EpisodeRow | None


@dataclass(frozen=True)
class Run:
    """A run directory, read.

    Attributes:
        folder: Where it lies.
        label: Short name that tells it from the other runs of the same report.
        config: The resolved configuration.
        environment: Versions and platform; empty if never written.
        tasks: The sequence, T places.
        rows: Every evaluation episode so far.
        metrics: `summarise(rows, sequence)`: recomputed, never read from the disk.
        needs: What the strategy declares that it needs.
        training: Stage to logged (step, loss) pairs in order.
        ledger: One mapping a finished stage: what it stored and took.
        videos: Task name to its last recorded rollout.
    """

    folder: Path
    label: str
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    tasks: tuple[LearnedTask, ...]
    rows: tuple[EpisodeRow, ...]
    metrics: Mapping[str, Any]
    needs: Mapping[str, bool]
    training: Mapping[int, tuple[tuple[int, float], ...]]
    ledger: tuple[Mapping[str, Any], ...]
    videos: Mapping[str, Video]

    @property
    def sequence(self) -> tuple[str, ...]:
        """Names of the tasks in the order in which they are learned."""
        return tuple(task.name for task in self.tasks)

    @property
    def energy_of(self) -> tuple[str, ...]:
        """What of its machine told its energy."""
        named = self.environment.get("energy_of", ())
        return tuple(map(str, named)) if isinstance(named, list | tuple) else ()

    @property
    def asked_episodes(self) -> int | None:
        """Episodes of a cell that the protocol asks for; None where the configuration does not say."""
        evaluation = self.config.get("evaluation")
        episodes = evaluation.get("episodes") if isinstance(evaluation, Mapping) else None
        return episodes if isinstance(episodes, int) else None

    @property
    def completed_stages(self) -> int:
        """How many tasks were learned and evaluated."""
        return max((row.stage for row in self.rows), default=ZERO_SHOT) + 1

    def cells(self) -> list[list[Cell | None]]:
        """The success matrix with counts: T + 1 rows, the zero-shot row first, of T cells; None: not measured."""
        successes, trials = count_matrices(self.rows, self.sequence)
        intervals, stopped = interval_matrix(self.rows, self.sequence), stopped_matrix(self.rows, self.sequence)
        return [
            [
                Cell(
                    int(successes[row, task]),
                    int(trials[row, task]),
                    (float(intervals[row, task, 0]), float(intervals[row, task, 1])),
                    bool(stopped[row, task]),
                )
                if trials[row, task]
                else None
                for task in range(len(self.tasks))
            ]
            for row in range(len(self.tasks) + 1)
        ]


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Read run directories, labelled by strategy and, where that repeats, by what tells them apart.

    Raises:
        ConfigurationError: No folder was given, or one is not a run directory.
    """
    if not folders:
        raise ConfigurationError("no run was given; name at least one folder that `vla-cl run` wrote")
    configs = [_read_json(Path(folder), "config.json") for folder in folders]
    labels = _labels([Path(folder) for folder in folders], configs)
    return [
        _read_run(Path(folder), config, label) for folder, config, label in zip(folders, configs, labels, strict=True)
    ]


def name_of(value: Any) -> str:
    """The name in a configuration entry, which is either a name or a mapping that holds one."""
    return str(value.get("name", "")) if isinstance(value, Mapping) else str(value)


def _read_run(folder: Path, config: Mapping[str, Any], label: str) -> Run:
    try:
        tasks = tuple(
            LearnedTask(str(entry["name"]), str(entry["instruction"]), int(entry["horizon"]))
            for entry in _read_json(folder, "sequence.json", list)
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(f"{folder}/sequence.json is not what a run writes ({error}); run it again") from error
    rows = _read_episodes(folder)
    stored_metrics = _read_json(folder, "metrics.json", optional=True)
    ledger = _read_json(folder, "ledger.json", list, optional=True)
    return Run(
        folder=folder,
        label=label,
        config=config,
        environment=_read_json(folder, "environment.json", optional=True),
        tasks=tasks,
        rows=rows,
        metrics=summarise(rows, [task.name for task in tasks]),
        needs=stored_metrics.get("strategy_needs") or config.get("strategy_needs") or {},
        training={
            stage: curve
            for stage in range(len(tasks))
            if (curve := _read_loss(folder / f"training/stage_{stage:02d}.jsonl"))
        },
        ledger=tuple(entry for entry in ledger if isinstance(entry, Mapping)),
        videos={task.name: video for task in tasks if (video := _last_video(folder, task.name, rows))},
    )


def _read_json(folder: Path, name: str, kind: type = dict, optional: bool = False) -> Any:
    path = folder / name
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        if optional:
            return kind()
        raise ConfigurationError(
            f"{folder} is not a run directory: it holds no {name}; name a folder that `vla-cl run` wrote"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not readable as JSON ({error}); run it again") from error
    if not isinstance(value, kind):
        raise ConfigurationError(f"{path} holds a {type(value).__name__}, not a {kind.__name__}; run it again")
    return value


def _read_episodes(folder: Path) -> tuple[EpisodeRow, ...]:
    rows: list[EpisodeRow] = []
    for path in (folder / "episodes").glob("*.jsonl"):
        try:
            rows += read_rows(path)
        except (json.JSONDecodeError, TypeError) as error:
            raise ConfigurationError(f"{path} holds a line that is not an episode row ({error})") from error
    return tuple(sorted(rows, key=lambda row: (row.stage, row.task, row.episode)))


def _read_loss(path: Path) -> tuple[tuple[int, float], ...]:
    """The (step, loss) pairs of a log that a killed run may have left with half a last line."""
    if not path.is_file():
        return ()
    points = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
            points.append((int(entry["step"]), float(entry["loss"])))
        except (json.JSONDecodeError, KeyError, TypeError, ValueError):
            continue
    return tuple(points)


def _last_video(folder: Path, task: str, rows: Sequence[EpisodeRow]) -> Video | None:
    """The video of a task's first episode at the latest stage that filmed one."""
    stages = {ZERO_SHOT: folder / "videos" / "zero_shot"}
    for path in (folder / "videos").glob("stage_*"):
        if path.name.removeprefix("stage_").isdigit():
            stages[int(path.name.removeprefix("stage_"))] = path
    for stage in sorted(stages, reverse=True):
        film = stages[stage] / f"{task}.mp4"
        if film.is_file():
            row = next((row for row in rows if (row.stage, row.task, row.episode) == (stage, task, 0)), None)
            return Video(film, stage, row)
    return None


def _labels(folders: Sequence[Path], configs: Sequence[Mapping[str, Any]]) -> list[str]:
    labels = [
        name_of(config.get("strategy", "")) or folder.name for folder, config in zip(folders, configs, strict=True)
    ]
    for key in ("policy", "suite", "order", "seed"):
        values = [name_of(config.get(key, "")) for config in configs]
        if len(set(labels)) < len(labels) and len(set(values)) > 1:
            labels = [f"{label}, {key} {value}" for label, value in zip(labels, values, strict=True)]
    if len(set(labels)) < len(labels):
        labels = [f"{label}, {folder.name}" for label, folder in zip(labels, folders, strict=True)]
    if len(set(labels)) < len(labels):
        labels = [f"{label} ({index})" for index, label in enumerate(labels, start=1)]
    return labels
