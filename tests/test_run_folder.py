"""A training log across kills: every step once, whatever the kill left behind."""

from __future__ import annotations

import json
from pathlib import Path

from vla_cl.run_folder import TrainingLog
from vla_cl.training import TrainingRow


def row(step: int, loss: float = 1.0) -> TrainingRow:
    return TrainingRow(step, loss, loss, gradient_norm=1.0, learning_rate=0.1, seconds=1.0)


def steps_and_losses(path: Path) -> list[tuple[int, float]]:
    return [(entry["step"], entry["loss"]) for entry in map(json.loads, path.read_text().splitlines())]


def test_a_resumed_log_replaces_the_rows_that_are_trained_again(tmp_path: Path) -> None:
    path = tmp_path / "training" / "stage_00.jsonl"
    before = TrainingLog(path)
    for step in (10, 20, 30):
        before.add(row(step))
    after = TrainingLog(path)
    after.add(row(20, loss=2.0))
    after.add(row(30, loss=2.0))
    assert steps_and_losses(path) == [(10, 1.0), (20, 2.0), (30, 2.0)]


def test_half_a_line_from_a_kill_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "stage_00.jsonl"
    TrainingLog(path).add(row(10))
    with open(path, "a") as file:
        file.write('{"step": 20, "lo')
    TrainingLog(path).add(row(20))
    assert steps_and_losses(path) == [(10, 1.0), (20, 1.0)]
