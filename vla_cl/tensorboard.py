"""What a run shows in TensorBoard: scalars, pictures of the success matrix, hyper-parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vla_cl.config import flatten
from vla_cl.evaluation import success_matrix
from vla_cl.evaluation.report.figures import success_matrix_figure
from vla_cl.evaluation.rows import EpisodeRow
from vla_cl.training import TrainingRow


class TensorBoardLog:
    """Writes one run's events.

    Args:
        folder: Where the event files go (`<run>/tensorboard`).
        steps_per_stage: Optimiser steps of a task; the horizontal axis counts steps over the whole sequence.
    """

    def __init__(self, folder: Path, steps_per_stage: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(log_dir=str(folder))
        self.steps_per_stage = steps_per_stage

    def training(self, stage: int, row: TrainingRow) -> None:
        """The scalars of one row of the training log."""
        step = stage * self.steps_per_stage + row.step
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
        """Hyper-parameters beside the metrics they led to."""
        plain = {key: value for key, value in flatten(config).items() if isinstance(value, (bool, int, float, str))}
        names = ("learning_accuracy", "final_average", "forgetting", "backward_transfer")
        numbers = {f"results/{name}": metrics[name] for name in names if metrics[name] is not None}
        self.writer.add_hparams(plain, numbers, run_name=".")

    def close(self) -> None:
        """Flush and close the event file."""
        self.writer.close()
