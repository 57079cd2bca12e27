"""The folder of one run: what is in it, what of it is complete, and how a killed run finds its place again."""

from __future__ import annotations

import fcntl
import importlib.metadata
import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vla_cl.config import ExperimentConfig, flatten, to_dict
from vla_cl.errors import CheckpointError, ConfigurationError, FolderInUseError
from vla_cl.evaluation import EpisodeRow, read_rows, write_rows
from vla_cl.files import remove_partial_files, write_json, write_text
from vla_cl.ledger import Ledger
from vla_cl.policies import Policy
from vla_cl.strategies import Strategy
from vla_cl.tasks import Task
from vla_cl.training import (
    IntervalCheckpoints,
    TrainingRow,
    atomic_folder,
    check_folder,
    load_tree,
    remove_partial_folders,
    save_tree,
)

_PACKAGES = ("vla_cl", "torch", "transformers", "mujoco", "gymnasium", "metaworld", "robosuite", "numpy", "h5py")


class RunFolder:
    """One run on disk.

        config.json  environment.json  sequence.json     what was run, with what
        checkpoints/stage_00/                            policy and strategy after each task (of those that a
                                                         federation learns at once, after the last)
        checkpoints/training/stage_00/                   the latest state inside the task in progress
        training/stage_00.jsonl                          loss, step by step
        episodes/zero_shot.jsonl  episodes/stage_00.jsonl one row an episode
        videos/stage_00/<task>.mp4  tensorboard/         to look at
        ledger.json  metrics.json  report.html           what each stage took, results
        probes/drift.json  probes/recovery.json ...      what `vla-cl probe` found, after the run

    A stage's checkpoint folder and a stage's episode file appear whole or not at all; what is there is complete.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.ledger = Ledger(self.path / "ledger.json")

    @contextmanager
    def opened(
        self, config: ExperimentConfig, sequence: Sequence[Task], energy_of: Sequence[str] = ()
    ) -> Iterator[None]:
        """Create the folder, or go on in it, alone.

        Args:
            config: The experiment.
            sequence: Its tasks.
            energy_of: What of this machine tells its energy.

        Raises:
            ConfigurationError: It belongs to another configuration.
            FolderInUseError: Another process is running it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with self.locked():
            self._check_identity(config)
            for folder in (self.path, self.path / "episodes", self.path / "training"):
                folder.mkdir(exist_ok=True)
                remove_partial_files(folder)
            remove_partial_folders(self.path / "checkpoints")
            write_json(self.path / "config.json", {**to_dict(config), **config.dataset_identity()})
            write_json(self.path / "environment.json", _environment(self._first_date(), energy_of))
            write_json(
                self.path / "sequence.json",
                [{"name": task.name, "instruction": task.instruction, "horizon": task.horizon} for task in sequence],
            )
            yield

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Work in the folder, which must exist, alone.

        Raises:
            FolderInUseError: Another process does.
        """
        with open(self.path / ".lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise FolderInUseError(f"{self.path} is being run by another process; wait for it") from None
            yield

    def is_finished(self, config: ExperimentConfig) -> bool:
        """Whether all of this run is there, up to its report.

        Raises:
            ConfigurationError: The folder belongs to another configuration.
        """
        self._check_identity(config)
        return (self.path / "metrics.json").exists() and (self.path / "report.html").exists()

    def _first_date(self) -> str:
        """When the run was first started, in UTC: the same after a restart, so that a report can be drawn again."""
        path = self.path / "environment.json"
        stored = json.loads(path.read_text()).get("date") if path.exists() else None
        return stored or datetime.now(UTC).isoformat(timespec="seconds")

    def _check_identity(self, config: ExperimentConfig) -> None:
        path = self.path / "config.json"
        if not path.exists():
            return
        stored = {"training.processes": 1} | flatten(json.loads(path.read_text()))  # which older runs do not say
        wanted = flatten({**to_dict(config), **config.dataset_identity()})
        places = {"output", "data", "name", "dataset", "dataset_instructions"}
        places |= {"collection.processes", "evaluation.processes", "evaluation.workers", "federation.backend"}
        if not config.evaluation.early_stop.asked_for:
            places.add("evaluation.early_stop.error")  # without a rule it means nothing
        for key in sorted((stored.keys() | wanted.keys()) - places):
            if not key.startswith("assets.") and stored.get(key) != wanted.get(key):
                raise ConfigurationError(
                    f"{self.path} was run with {key}={stored.get(key)}, not {wanted.get(key)}; choose another name"
                )

    # --- stages --------------------------------------------------------------------------------------------

    def interval_checkpoints(self, stage: int) -> IntervalCheckpoints:
        """Where the training of a stage keeps its latest state."""
        return IntervalCheckpoints(self.path / "checkpoints" / "training" / f"stage_{stage:02d}")

    def is_trained(self, stage: int) -> bool:
        """Whether the stage's checkpoint is there."""
        return self.checkpoint(stage).is_dir()

    def checkpoint(self, stage: int) -> Path:
        """The folder of a stage's checkpoint."""
        return self.path / "checkpoints" / f"stage_{stage:02d}"

    def store(
        self, stage: int, policy: Policy, strategy: Strategy, clients: Mapping[int, Mapping[str, Any]] | None = None
    ) -> None:
        """Write a stage's checkpoint, then drop the interval ones.

        Args:
            stage: That is complete.
            policy: After it.
            strategy: After it.
            clients: The states of the strategies of a federation's clients.
        """
        with atomic_folder(self.checkpoint(stage)) as folder:
            policy.save_pretrained(folder)
            save_tree(strategy.state_dict(), folder, "strategy")
            for client, state in (clients or {}).items():
                save_tree(state, folder, f"client_{client}")
        self.interval_checkpoints(stage).clear()

    def restore(self, stage: int, fresh: Policy, strategy: Strategy) -> Policy:
        """The policy of a stage's checkpoint, as far as strategies have let it grow by then; the strategy is loaded in
        place.

        Args:
            stage: Of the checkpoint.
            fresh: An untrained policy of this run, which says what it is configured as, and the device.
            strategy: Of this run.

        Raises:
            CheckpointError: It is damaged, or belongs to another policy.
        """
        check_folder(self.checkpoint(stage))
        saved = Policy.from_pretrained(self.checkpoint(stage))
        if (saved.config, saved.features) != (fresh.config, fresh.features):
            raise CheckpointError(f"checkpoint {self.checkpoint(stage)} holds another policy than this run configures")
        strategy.load_state_dict(load_tree(self.checkpoint(stage), "strategy"))
        return saved.to(next(fresh.parameters()).device)

    def client_states(self, stage: int) -> dict[int, dict[str, Any]]:
        """The states of the strategies of a federation's clients in a stage's checkpoint."""
        names = sorted(path.stem for path in self.checkpoint(stage).glob("client_*.json"))
        return {int(name.removeprefix("client_")): load_tree(self.checkpoint(stage), name) for name in names}

    # --- rows ----------------------------------------------------------------------------------------------

    def episodes_path(self, stage: int) -> Path:
        """The file of a stage's episode rows; stage -1 is the zero-shot row."""
        name = "zero_shot" if stage < 0 else f"stage_{stage:02d}"
        return self.path / "episodes" / f"{name}.jsonl"

    def store_rows(self, stage: int, rows: Sequence[EpisodeRow]) -> None:
        """Write a stage's episode rows."""
        write_rows(self.episodes_path(stage), rows)

    def rows(self) -> list[EpisodeRow]:
        """All episode rows so far, by stage."""
        folder = self.path / "episodes"
        paths = [folder / "zero_shot.jsonl", *sorted(folder.glob("stage_*.jsonl"))]
        return [row for path in paths if path.exists() for row in read_rows(path)]

    def training_log(self, stage: int) -> TrainingLog:
        """The training log of a stage."""
        return TrainingLog(self.path / "training" / f"stage_{stage:02d}.jsonl")

    def video_folder(self, stage: int) -> Path:
        """Where a stage's videos go."""
        return self.path / "videos" / (f"stage_{stage:02d}" if stage >= 0 else "zero_shot")


class TrainingLog:
    """The rows of one stage's training. A resumed training first drops those that it is about to write again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.begun = False

    def add(self, row: TrainingRow) -> None:
        """Append a row; at the first one, rows of the same or a later step, from before a kill, give way."""
        if not self.begun:
            write_text(self.path, "".join(f"{line}\n" for line in self._lines_before(row.step)))
            self.begun = True
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row.as_dict()) + "\n")

    def _lines_before(self, step: int) -> list[str]:
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        return [line for line in lines if line.endswith("}") and json.loads(line)["step"] < step]  # a kill cuts a line


def _environment(date: str, energy_of: Sequence[str]) -> dict[str, Any]:
    versions: dict[str, str | None] = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "date": date,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": len(os.sched_getaffinity(0)),
        "energy_of": list(energy_of),
        "packages": versions,
    }
