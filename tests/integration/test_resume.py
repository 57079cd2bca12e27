"""Killed at any moment and started again with the same command, a run ends as if it had never been killed."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.conftest import (
    TINY,
    Start,
    VlaCl,
    arguments,
    command,
    copy_of,
    environment,
    fingerprint,
    kill_at_each,
    one_line,
)

MOMENTS: dict[str, Callable[[Path], bool]] = {
    "while collecting or building": lambda run: (run / "config.json").exists(),
    "inside the first task's training": lambda run: any(run.glob("checkpoints/training/stage_00/step_*")),
    "between training and its evaluation": lambda run: (run / "checkpoints/stage_00").exists(),
    "inside the second task's training": lambda run: any(run.glob("checkpoints/training/stage_01/step_*")),
    "before the last evaluation is written": lambda run: (run / "checkpoints/stage_01").exists(),
}


def test_a_run_that_is_killed_again_and_again_ends_with_the_same_weights_and_rows(
    tmp_path: Path, demonstrations: Path, expected: dict[str, str], start: Start, vla_cl: VlaCl
) -> None:
    line = arguments(tmp_path, demonstrations)
    kill_at_each(MOMENTS, start, line, tmp_path)
    finished = vla_cl(*line)
    assert finished.returncode == 0, finished.stderr
    assert fingerprint(tmp_path / "run") == expected
    assert not list((tmp_path / "run").rglob("*.partial"))


GROWING = """
from vla_cl.policies.adapters import AdapterOptions, add_adapter, fold, freeze_adapter, freeze_base, set_active
from vla_cl.strategies import STRATEGIES, Strategy


@STRATEGIES.decorator("growing")
class Growing(Strategy):
    # the first task trains all; each later one an adapter of its own; that of the task before goes into the base
    def begin_task(self, task, policy, data):
        super().begin_task(task, policy, data)
        if self.stage:
            freeze_base(policy)
            add_adapter(policy, f"task_{self.stage}", AdapterOptions(rank=4), self.seed)

    def end_task(self, task, policy, data):
        if self.stage == 1:
            freeze_adapter(policy, "task_1")
        elif self.stage == 2:
            fold(policy, "task_1")

    def route(self, observation):
        return {f"task_{self.stage}": 0.5} if self.stage > 0 else {}
"""
"""A strategy whose policy grows and shrinks, as a user's own file."""


def growing_arguments(folder: Path, demonstrations: Path) -> list[str]:
    (folder / "growing.py").write_text(GROWING)
    smaller = ("length=3", "evaluation.zero_shot=false", "evaluation.episodes=1")
    return [*arguments(folder, demonstrations), "strategy=growing", *smaller, f"plugins=[{folder / 'growing.py'}]"]


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory, demonstrations: Path, vla_cl_in: VlaCl) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("grown")
    finished = vla_cl_in(folder, *growing_arguments(folder, demonstrations))
    assert finished.returncode == 0, finished.stderr
    found = fingerprint(folder / "run")
    adapters = {name.split("/adapters/")[0][-2:] + name.split("/adapters/")[1] for name in found if "adapters" in name}
    files = ("adapter_config.json", "adapter_model.safetensors")
    assert adapters == {f"{place}/{file}" for place in ("01task_1", "02task_2") for file in files}
    return found


def test_a_killed_run_whose_policy_grows_ends_the_same(
    tmp_path: Path,
    demonstrations: Path,
    grown: dict[str, str],
    start: Start,
    vla_cl: VlaCl,
) -> None:
    line = growing_arguments(tmp_path, demonstrations)
    moments = {
        "between two adapters": lambda run: (run / "checkpoints/stage_01").exists(),
        "inside the second adapter's training": lambda run: any(run.glob("checkpoints/training/stage_02/step_*")),
    }
    kill_at_each(moments, start, line, tmp_path)
    finished = vla_cl(*line)
    assert finished.returncode == 0, finished.stderr
    assert fingerprint(tmp_path / "run") == grown


def test_interrupt_is_resumable_and_says_so(
    tmp_path: Path, demonstrations: Path, expected: dict[str, str], vla_cl: VlaCl
) -> None:
    line = arguments(tmp_path, demonstrations)
    process = subprocess.Popen(
        command(*line), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not any((tmp_path / "run").glob("checkpoints/training/stage_00/step_*")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run the same command again" in errors and "Traceback" not in errors
    assert vla_cl(*line).returncode == 0
    assert fingerprint(tmp_path / "run") == expected


def test_a_finished_run_changes_nothing_but_its_report(
    tmp_path: Path, demonstrations: Path, undisturbed: Path, expected: dict[str, str], vla_cl: VlaCl
) -> None:
    run = copy_of(undisturbed, tmp_path)
    (run / "report.html").unlink()
    assert vla_cl(*arguments(tmp_path, demonstrations)).returncode == 0
    assert fingerprint(run) == expected and (run / "report.html").exists()


def test_another_configuration_in_the_same_folder_is_refused(
    tmp_path: Path, demonstrations: Path, undisturbed: Path, expected: dict[str, str], vla_cl: VlaCl
) -> None:
    run = copy_of(undisturbed, tmp_path)
    assert "training.steps=30, not 31" in one_line(vla_cl(*arguments(tmp_path, demonstrations, "training.steps=31")))
    assert fingerprint(run) == expected


@pytest.mark.parametrize("everyone", [False, True], ids=["the parent alone", "its whole group, as a terminal does"])
def test_a_sweep_side_by_side_is_interrupted_as_one(everyone: bool, tmp_path: Path, demonstrations: Path) -> None:
    places = (f"output={tmp_path}", f"data={demonstrations}")
    sweep = ("run", "suite=mw5", "length=1", "policy=lowdim", "strategy=sequential,replay", "--jobs", "2")
    line = command(*sweep, *places, *TINY, "training.steps=100000", "evaluation.zero_shot=false")
    process = subprocess.Popen(
        line, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while len(list(tmp_path.glob("*/checkpoints/training/stage_00/step_*"))) < 2:
        assert process.poll() is None
        time.sleep(0.05)
    if everyone:
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run the same command again" in errors and "Traceback" not in errors


LOSING_INTERRUPTS = """
from vla_cl.strategies import STRATEGIES, Strategy

class Falling:
    def __del__(self):
        raise KeyboardInterrupt

@STRATEGIES.decorator("interrupted")
class Interrupted(Strategy):
    steps_seen = 0

    def after_step(self, parameters):
        self.steps_seen += 1
        if self.steps_seen == 5:
            Falling()
"""


def test_an_interrupt_that_falls_into_a_destructor_of_a_run_side_by_side_is_not_lost(
    vla_cl: VlaCl, tmp_path: Path, demonstrations: Path
) -> None:
    plugin = tmp_path / "interrupted.py"
    plugin.write_text(LOSING_INTERRUPTS)
    places = (f"output={tmp_path / 'runs'}", f"data={demonstrations}", "--plugin", str(plugin))
    sweep = ("run", "suite=mw5", "length=1", "policy=lowdim", "strategy=interrupted", "seed=0,1", "--jobs", "2")
    done = vla_cl(*sweep, *places, *TINY, "training.steps=100000", "evaluation.zero_shot=false", timeout=300)
    assert done.returncode == 130
    assert "run the same command again" in done.stderr and "Traceback" not in done.stderr


def test_killing_a_sweep_ends_the_runs_that_it_started(tmp_path: Path, demonstrations: Path) -> None:
    places = (f"output={tmp_path}", f"data={demonstrations}")
    sweep = ("run", "suite=mw5", "length=1", "policy=lowdim", "strategy=sequential,replay", "--jobs", "2")
    line = command(*sweep, *places, *TINY, "training.steps=100000", "evaluation.zero_shot=false")
    process = subprocess.Popen(line, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(list(tmp_path.glob("*/checkpoints/training/stage_00/step_*"))) < 2:
        assert process.poll() is None
        time.sleep(0.05)
    runs = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(runs) >= 2
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{run}").exists() for run in runs):
        assert time.monotonic() < deadline, "a run goes on although its sweep was killed"
        time.sleep(0.05)
