"""The runs of a grid, and how far each is, as its folder tells."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vla_cl.cli.grid_progress import runs_table
from vla_cl.config import ExperimentConfig, compose
from vla_cl.errors import ConfigurationError
from vla_cl.grid import State, grid_runs, progress_of
from vla_cl.tasks import get_suite


def configs(folder: Path, *overrides: str) -> list[ExperimentConfig]:
    return compose(["suite=mw5", "policy=lowdim", "strategy=replay", "length=2", f"output={folder}", *overrides])


def test_each_configuration_is_one_run_in_one_simulator_process(tmp_path: Path) -> None:
    runs = grid_runs(configs(tmp_path, "seed=0,1,0"))
    assert [run.config.seed for run in runs] == [0, 1]
    assert [run.config.evaluation.processes for run in runs] == [1, 1]
    assert [run.name for run in runs] == [config.folder.name for config in configs(tmp_path, "seed=0,1")]
    assert runs[0].log == tmp_path / "logs" / f"{runs[0].name}.log"
    assert all(run.state is State.WAITING for run in runs)


def test_each_order_is_a_run_of_the_same_tasks(tmp_path: Path) -> None:
    runs = grid_runs(configs(tmp_path, "strategy=replay,ewc", "order=default,reversed", "seed=0,1", "length=null"))
    assert len({run.name for run in runs}) == len(runs) == 8
    orders = {
        run.config.order: [task.name for task in get_suite("mw5").sequence(run.config.order, run.config.length)]
        for run in runs
    }
    assert orders["reversed"] == orders["default"][::-1] and len(orders["default"]) == 5


def test_a_run_that_asks_for_simulator_processes_gets_them(tmp_path: Path) -> None:
    (run,) = grid_runs(configs(tmp_path, "evaluation.processes=3"))
    assert run.config.evaluation.processes == 3


def test_one_name_for_different_runs_is_refused(tmp_path: Path) -> None:
    assert len(grid_runs(configs(tmp_path, "name=one", "seed=0,0"))) == 1
    with pytest.raises(ConfigurationError, match="name=one gives different runs one folder"):
        grid_runs(configs(tmp_path, "name=one", "seed=0,1"))


def test_a_run_tells_how_far_it_is(tmp_path: Path) -> None:
    """A folder as a run leaves it, step by step."""
    (config,) = configs(tmp_path, "training.steps=100")
    log = config.folder / "training"
    for folder in ("training", "checkpoints", "episodes"):
        (config.folder / folder).mkdir(parents=True)
    assert str(progress_of(config)) == "evaluating before the first of 2 tasks"
    (config.folder / "episodes/zero_shot.jsonl").touch()
    assert str(progress_of(config)) == "training task 1 of 2, step 0"
    (log / "stage_00.jsonl").write_text("".join(json.dumps({"step": step, "loss": 0.1}) + "\n" for step in range(500)))
    assert progress_of(config).step == 499
    with open(log / "stage_00.jsonl", "a") as file:
        file.write('{"step": 500, "lo')  # it is being written
    assert progress_of(config).step == 499
    (config.folder / "checkpoints/stage_00").mkdir()
    assert str(progress_of(config)) == "evaluating task 1 of 2"
    (config.folder / "episodes/stage_00.jsonl").touch()
    assert str(progress_of(config)) == "training task 2 of 2, step 0"
    (config.folder / "checkpoints/stage_01").mkdir()
    (config.folder / "episodes/stage_01.jsonl").touch()
    assert str(progress_of(config)) == "reporting task 2 of 2"


def test_a_run_without_zero_shot_evaluation_begins_by_training(tmp_path: Path) -> None:
    (config,) = configs(tmp_path, "evaluation.zero_shot=false")
    assert str(progress_of(config)) == "training task 1 of 2, step 0"


def test_the_table_of_progress_shows_what_runs_and_counts_the_rest(tmp_path: Path) -> None:
    runs = grid_runs(configs(tmp_path, "seed=0,1,2,3"))
    runs[0].state, runs[1].state, runs[2].state = State.DONE, State.RUNNING, State.FAILED
    table = runs_table(runs)
    assert table.row_count == 1
    assert [str(next(iter(column.cells))) for column in table.columns] == [
        runs[1].name,
        "evaluating before the first of 2 tasks",
        "0",
    ]
    assert table.caption == "1 waiting, 1 running, 1 done, 1 failed"
