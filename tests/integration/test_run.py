"""Whole experiments through the command line: what they write, and how strategies relate to each other."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.integration.conftest import TINY, VlaCl

Run = Callable[..., Path]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, demonstrations: Path, vla_cl_in: VlaCl) -> Run:
    """The folder of a finished run of two tasks with such overrides, which is made once. Not to be changed."""
    finished: dict[tuple[str, ...], Path] = {}

    def run(*overrides: str) -> Path:
        if overrides not in finished:
            output = tmp_path_factory.mktemp("runs")
            words = ("suite=mw5", "length=2", "policy=lowdim", *TINY, *overrides)
            done = vla_cl_in(output, "run", *words, f"output={output}", f"data={demonstrations}", "name=run")
            assert done.returncode == 0, done.stderr
            finished[overrides] = output / "run"
        return finished[overrides]

    return run


def weights(folder: Path, stage: int) -> dict[str, object]:
    tensors = load_file(folder / f"checkpoints/stage_{stage:02d}/model.safetensors")
    return {name: tensor.tolist() for name, tensor in tensors.items()}


@pytest.mark.parametrize("strategy", ["sequential", "replay", "ewc", "joint", "single_task"])
def test_every_strategy_runs_to_its_report(strategy: str, run: Run) -> None:
    folder = run(f"strategy={strategy}")
    metrics = json.loads((folder / "metrics.json").read_text())
    for name in ("learning_accuracy", "final_average", "forgetting", "backward_transfer"):
        assert -1.0 <= metrics[name] <= 1.0
    assert metrics["seconds"] > 0
    assert len(metrics["success_matrix"]) == 3 and all(len(row) == 2 for row in metrics["success_matrix"])
    rows = [json.loads(line) for line in (folder / "episodes/stage_01.jsonl").read_text().splitlines()]
    assert {row["task"] for row in rows} == {"window-close", "faucet-close"} and len(rows) == 4
    assert {row["seed"] for row in rows} == {2_000_000, 2_000_001}, "evaluation starts from the test states"
    report = (folder / "report.html").read_text()
    assert "window-close" in report and strategy in report
    assert list((folder / "tensorboard").iterdir())


def test_replay_without_a_budget_is_sequential(run: Run) -> None:
    none = run("strategy=replay", "strategy.count=0", "evaluation.zero_shot=false")
    some = run("strategy=replay", "strategy.fraction=1", "evaluation.zero_shot=false")
    sequential = run("strategy=sequential")
    assert weights(none, 1) == weights(sequential, 1)
    assert weights(some, 0) == weights(sequential, 0)
    assert weights(some, 1) != weights(sequential, 1)


def test_ewc_without_strength_is_sequential_and_with_it_stays_closer(run: Run) -> None:
    def moved(folder: Path) -> float:
        first, second = (load_file(folder / f"checkpoints/stage_0{stage}/model.safetensors") for stage in (0, 1))
        return float(sum(((second[name] - first[name]).float() ** 2).sum() for name in first))

    off = run("strategy=ewc", "strategy.strength=0", "evaluation.zero_shot=false")
    strong = run("strategy=ewc", "strategy.strength=1e6", "evaluation.zero_shot=false")
    sequential = run("strategy=sequential")
    assert weights(off, 1) == weights(sequential, 1)
    assert moved(strong) < 0.7 * moved(sequential)


def test_joint_training_on_one_task_is_single_task_training(run: Run) -> None:
    joint = run("length=1", "strategy=joint", "evaluation.zero_shot=false")
    single = run("length=1", "strategy=single_task", "evaluation.zero_shot=false")
    assert weights(joint, 0) == weights(single, 0)


def test_single_task_training_does_not_depend_on_what_came_before(run: Run) -> None:
    """The second task is learned from the initial weights: learning rates, batches and noise are the stage's own."""
    folder = run("strategy=single_task")
    state = load_file(folder / "checkpoints/stage_01/strategy.safetensors")
    start = load_file(folder / "checkpoints/stage_00/strategy.safetensors")
    assert all(tensor.equal(start[name]) for name, tensor in state.items())


def test_a_sweep_side_by_side_gives_the_numbers_of_runs_one_after_another(
    vla_cl: VlaCl, run: Run, tmp_path: Path, demonstrations: Path
) -> None:
    places = (f"output={tmp_path / 'runs'}", f"data={demonstrations}")
    sweep = ("suite=mw5", "length=1", "policy=lowdim", "strategy=sequential,replay", "--jobs", "2")
    finished = vla_cl("run", *sweep, *places, *TINY)
    assert finished.returncode == 0, finished.stderr
    assert (tmp_path / "runs/report.html").exists()
    folders = {path.name.split("-")[2]: path for path in (tmp_path / "runs").iterdir() if path.is_dir()}
    assert sorted(folders) == ["replay", "sequential"]
    alone = run("strategy=sequential")
    assert weights(alone, 0) == weights(folders["sequential"], 0)
    rows = "episodes/stage_00.jsonl"
    assert (alone / rows).read_text() == (folders["sequential"] / rows).read_text()


def test_the_upper_triangle_is_measured_when_asked(run: Run) -> None:
    folder = run("strategy=sequential", "evaluation.upper_triangle=true")
    matrix = json.loads((folder / "metrics.json").read_text())["success_matrix"]
    assert all(value is not None for row in matrix for value in row)
