"""What a run shows in TensorBoard while it goes on: scalars, pictures of the success matrix; and its hyper-parameters.

`tensorboard --logdir RUN` shows one run, `--logdir` of a grid's folder all of its runs, with a table of
hyper-parameters beside results.
"""

from __future__ import annotations

import shutil
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vla_cl.config import flatten
from vla_cl.evaluation import success_matrix
from vla_cl.evaluation.report.figures import success_matrix_figure
from vla_cl.evaluation.rows import EpisodeRow
from vla_cl.training import TrainingRow

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FLUSH_SECONDS = 10
"""At most so old is what a reader sees."""

RESULTS = "results"
"""Folder of hyper-parameters and results: a run of its own for TensorBoard, whose scalars are the table's columns."""

SHOWN_RESULTS = (
    "final_average",
    "forgetting",
    "learning_accuracy",
    "backward_transfer",
    "forward_transfer",
    "zero_shot_average",
    "seconds",
)
"""Of `metrics.json`, where they were measured."""

PLACES = ("output", "data", "name", "device", "plugins", "assets", "threads")
"""Settings that say where a run was made, and are no hyper-parameters."""


class TensorBoardLog:
    """Writes one run's events.

    Args:
        folder: Where the event files go (`<run>/tensorboard`).
        steps_per_stage: Optimiser steps of a task; the horizontal axis counts steps over the whole sequence.
    """

    def __init__(self, folder: Path, steps_per_stage: int) -> None:
        self.folder = Path(folder)
        self.steps_per_stage = steps_per_stage
        self.trained_from: int | None = None

    @cached_property
    def writer(self) -> SummaryWriter:
        """The event file, begun with the first event. What a killed process wrote of steps that are trained again gives
        way.
        """
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(self.folder), purge_step=self.trained_from, flush_secs=FLUSH_SECONDS)

    def training(self, stage: int, row: TrainingRow) -> None:
        """The scalars of one row of the training log."""
        step = stage * self.steps_per_stage + row.step
        self.trained_from = step if self.trained_from is None else self.trained_from
        for name in ("loss", "imitation_loss", "gradient_norm", "learning_rate"):
            self.writer.add_scalar(f"training/{name}", getattr(row, name), step)

    def evaluation(self, stage: int, rows: list[EpisodeRow], sequence: list[str]) -> None:
        """Success rates after a stage, and the matrix so far as a picture."""
        step = (stage + 1) * self.steps_per_stage
        outcomes: dict[str, list[bool]] = {}
        for row in rows:
            if row.stage == stage:
                outcomes.setdefault(row.task, []).append(row.success)
        for task, successes in outcomes.items():
            rate = sum(successes) / len(successes)
            self.writer.add_scalar(f"success/{task}", rate, step)
        picture = success_matrix_figure({"success": success_matrix(rows, sequence)}, sequence)
        self.writer.add_image("success_matrix", picture, step, dataformats="HWC")
        self.writer.flush()

    def results(self, config: dict[str, Any], metrics: dict[str, Any]) -> None:
        """Hyper-parameters beside the metrics they led to, in place of what was said of them before.

        No run describes the whole experiment: its columns are what TensorBoard finds in the runs below its `--logdir`,
        so a grid of strategies with different options makes one table.

        Args:
            config: The resolved configuration.
            metrics: The content of `metrics.json`.
        """
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        shutil.rmtree(self.folder / RESULTS, ignore_errors=True)
        plain = {
            key: value
            for key, value in flatten(config).items()
            if isinstance(value, (bool, int, float, str)) and key.split(".")[0] not in PLACES
        }
        numbers = {name: metrics[name] for name in SHOWN_RESULTS if metrics.get(name) is not None}
        _, start, end = hparams(plain, {})  # type: ignore[no-untyped-call]
        with SummaryWriter(str(self.folder / RESULTS)) as writer:
            writer.file_writer.add_summary(start)
            writer.file_writer.add_summary(end)
            for name, number in numbers.items():
                writer.add_scalar(name, number)

    def close(self) -> None:
        """Flush and close the event file, if there is one."""
        if "writer" in self.__dict__:
            self.writer.close()
