"""Ten things that go wrong in a lab, each done to a real run: no row is lost, none counts twice, the message says why.

A run that was not disturbed (`undisturbed`) is the judge: whatever happened, the run that goes on ends with its
weights, its strategy's state and its episode rows, byte for byte.
"""

from __future__ import annotations

import ast
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import pytest

from tests.integration.conftest import Start, VlaCl, arguments, copy_of, environment, fingerprint, one_line

HERE = "tests/integration/test_fault_drills.py"
DRILLS = {
    "worker killed": (HERE, "test_a_killed_simulator_is_replaced_and_its_episodes_are_run_again"),
    "driver killed": (HERE, "test_a_killed_driver_takes_its_simulators_along_and_the_run_goes_on"),
    "node killed": ("tests/integration/test_grid.py", "test_a_run_whose_machine_goes_away_goes_on_on_another"),
    "disk full": (HERE, "test_a_full_disk_is_said_and_the_run_goes_on_with_room"),
    "corrupt checkpoint": (HERE, "test_a_checkpoint_with_a_changed_bit_is_refused_and_learned_again"),
    "corrupt HDF5": (HERE, "test_demonstrations_that_were_damaged_are_named_and_collected_again"),
    "clock skew": (HERE, "test_clocks_and_dates_of_files_change_nothing"),
    "duplicate run": (HERE, "test_of_two_processes_that_do_the_same_run_one_does_it"),
    "NaN policy": (HERE, "test_a_policy_that_becomes_nan_in_training_is_stopped_before_it_is_kept"),
    "NaN action": (HERE, "test_an_action_that_is_nan_fails_its_episode_by_name"),
    "simulator divergence": (HERE, "test_a_simulation_that_diverges_fails_its_episode_alone"),
}
"""Where each drill is. More moments and other kinds of runs: test_resume, test_federated, tests/evaluation/test_rollout
(a worker in the middle of an episode), tests/data/test_collect and test_integrity."""


@pytest.mark.parametrize("drill", DRILLS)
def test_every_drill_is_there(drill: str) -> None:
    file, name = DRILLS[drill]
    tree = ast.parse((Path(__file__).parents[2] / file).read_text(encoding="utf-8"))
    assert name in [each.name for each in tree.body if isinstance(each, ast.FunctionDef)]


def rows(run: Path, stage: str = "stage_*") -> list[dict[str, Any]]:
    """All episode rows of a run."""
    files = sorted(run.glob(f"episodes/{stage}.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def wait_for(reached: Callable[[], Any], process: Any, seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert process.poll() is None, "the run ended before the moment of the drill"
        assert time.monotonic() < deadline, "the moment of the drill did not come"
        time.sleep(0.005)


def simulators(process: int) -> list[int]:
    """The processes that simulate evaluation episodes for a run."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [int(each) for each in children if b"vla_cl.envs.worker" in Path(f"/proc/{each}/cmdline").read_bytes()]


def is_alive(process: int) -> bool:
    """Whether a process does anything yet; one that only waits to be reaped has no command line."""
    try:
        return bool(Path(f"/proc/{process}/cmdline").read_bytes())
    except OSError:
        return False


# --- processes and machines ------------------------------------------------------------------------------------------


def test_a_killed_simulator_is_replaced_and_its_episodes_are_run_again(
    tmp_path: Path, demonstrations: Path, expected: dict[str, str], start: Start
) -> None:
    process = start(*arguments(tmp_path, demonstrations), folder=tmp_path)
    wait_for(lambda: (tmp_path / "run/checkpoints/stage_00").exists(), process)
    (simulator,) = simulators(process.pid)
    os.kill(simulator, signal.SIGKILL)
    _, errors = process.communicate(300)
    assert process.returncode == 0, errors
    assert re.search(r"a simulator process died; running \d of its episodes again", errors)
    assert fingerprint(tmp_path / "run") == expected


def test_a_killed_driver_takes_its_simulators_along_and_the_run_goes_on(
    tmp_path: Path, demonstrations: Path, undisturbed: Path, expected: dict[str, str], start: Start, vla_cl: VlaCl
) -> None:
    """And the ledger counts what went into the result, once: neither the time nor the energy while the run was dead."""
    counter = tmp_path / "powercap/intel-rapl:0/energy_uj"
    counter.parent.mkdir(parents=True)
    for name, text in (("name", "package-0"), ("max_energy_range_uj", "1000000000000"), ("energy_uj", "0")):
        (counter.parent / name).write_text(text)
    measured = {**environment(), "VLA_CL_POWERCAP": str(tmp_path / "powercap")}
    line, run = arguments(tmp_path, demonstrations), tmp_path / "run"

    process = start(*line, folder=tmp_path, environment=measured)
    wait_for(lambda: any(run.glob("checkpoints/training/stage_01/step_*")), process)
    (simulator,) = simulators(process.pid)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 60
    while is_alive(simulator):
        assert time.monotonic() < deadline, "a simulator goes on although its run was killed"
        time.sleep(0.05)
    *_, state = sorted(run.glob("checkpoints/training/stage_01/step_*/training.json"))
    kept = json.loads(state.read_text())["spent"]
    counter.write_text("900000000")

    resumed = start(*line, folder=tmp_path, environment=measured)
    _, errors = resumed.communicate(300)
    assert resumed.returncode == 0, errors
    assert fingerprint(run) == expected
    ledger, before = (json.loads((folder / "ledger.json").read_text()) for folder in (run, undisturbed))
    assert [entry["stage"] for entry in ledger] == [-1, 0, 1]
    timed = ("seconds", "joules", "milliseconds")
    for mine, theirs in zip(ledger, before, strict=True):
        assert mine.keys() == theirs.keys()
        assert all(mine[key] == theirs[key] for key in mine if not key.endswith(timed))
    assert ledger[-1]["train_seconds"] > kept["seconds"] > 0
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["ledger"]["train_joules"] == metrics["ledger"]["evaluate_joules"] == 0.0
    assert metrics["ledger"]["evaluate_steps"] == sum(row["steps"] for row in rows(run, "*"))
    assert metrics["ledger"]["collect_steps"] > 0 and metrics["ledger"]["acting_seconds"] > 0
    assert json.loads((run / "environment.json").read_text())["energy_of"] == ["package-0"]
    assert "not measured" in (undisturbed / "report.html").read_text()
    assert "package-0" in (run / "report.html").read_text()


def test_of_two_processes_that_do_the_same_run_one_does_it(
    tmp_path: Path, demonstrations: Path, expected: dict[str, str], start: Start
) -> None:
    line = arguments(tmp_path, demonstrations)
    both = [start(*line, folder=tmp_path) for _ in range(2)]
    said = {process.wait(300): process.communicate()[1] for process in both}
    assert sorted(said) == [0, 2], said
    assert f"error: {tmp_path / 'run'} is being run by another process; wait for it" in said[2]
    assert fingerprint(tmp_path / "run") == expected
    assert len({(row["stage"], row["task"], row["episode"]) for row in rows(tmp_path / "run", "*")}) == 15


CLOCK = """
import time
from pathlib import Path

offset = float(Path(__file__).with_name("offset").read_text())
seconds, nanoseconds = time.time, time.time_ns
time.time = lambda: seconds() + offset
time.time_ns = lambda: nanoseconds() + int(offset * 1e9)
"""
"""A clock that is wrong by what a file says."""


@pytest.mark.parametrize("days", [-1, 1], ids=["back a day", "forward a day"])
def test_clocks_and_dates_of_files_change_nothing(
    days: int, tmp_path: Path, demonstrations: Path, expected: dict[str, str], start: Start, vla_cl: VlaCl
) -> None:
    (tmp_path / "clock.py").write_text(CLOCK)
    (tmp_path / "offset").write_text("0")
    line = [*arguments(tmp_path, demonstrations, "length=2"), "--plugin", str(tmp_path / "clock.py")]
    run = tmp_path / "run"
    process = start(*line, folder=tmp_path)
    wait_for(lambda: any(run.glob("checkpoints/training/stage_01/step_*")), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    date = json.loads((run / "environment.json").read_text())["date"]
    (tmp_path / "offset").write_text(str(86400 * days))
    for path in run.rglob("*"):
        os.utime(path, (moment := path.stat().st_mtime - 2 * 86400 * days, moment))
    finished = vla_cl(*line)
    assert finished.returncode == 0, finished.stderr
    assert fingerprint(run) == expected
    assert json.loads((run / "environment.json").read_text())["date"] == date
    ledger = json.loads((run / "ledger.json").read_text())
    assert all(0 <= value < 3600 for entry in ledger for key, value in entry.items() if key.endswith("seconds"))


# --- disks and files -------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB: enough to begin a run, too little for its second checkpoint."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)]).returncode:
        pytest.skip("mounting a small file system takes root")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_is_said_and_the_run_goes_on_with_room(
    vla_cl: VlaCl, tiny_disk: Path, demonstrations: Path, expected: dict[str, str]
) -> None:
    line = one_line(vla_cl(*arguments(tiny_disk, demonstrations)))
    assert "space" in line
    assert not list(tiny_disk.rglob("*.partial"))
    subprocess.run(["mount", "-o", "remount,size=200m", str(tiny_disk)], check=True)
    finished = vla_cl(*arguments(tiny_disk, demonstrations))
    assert finished.returncode == 0, finished.stderr
    assert fingerprint(tiny_disk / "run") == expected
    assert (tiny_disk / "run/report.html").exists()


def flip_bit(path: Path, position: int) -> None:
    """Change one bit of a file, as an old disk does."""
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", ["a changed bit", "cut short"])
def test_a_checkpoint_with_a_changed_bit_is_refused_and_learned_again(
    damage: str, tmp_path: Path, undisturbed: Path, expected: dict[str, str], demonstrations: Path, vla_cl: VlaCl
) -> None:
    run = copy_of(undisturbed, tmp_path)
    weights = run / "checkpoints/stage_01/model.safetensors"
    if damage == "a changed bit":
        flip_bit(weights, weights.stat().st_size - 10)  # in the weights: any reader takes them for good
    else:
        weights.write_bytes(weights.read_bytes()[:1000])
    damaged = weights.read_bytes()
    for words in (("evaluate", str(run), "--episodes", "1"), arguments(tmp_path, demonstrations)):
        line = one_line(vla_cl(*words))
        assert f"checkpoint {run / 'checkpoints/stage_01'} is damaged (model.safetensors" in line
        assert "delete the folder and run again" in line
    assert weights.read_bytes() == damaged, "nothing is deleted that somebody may want to look at"
    subprocess.run(["rm", "-r", str(weights.parent)], check=True)
    finished = vla_cl(*arguments(tmp_path, demonstrations))
    assert finished.returncode == 0, finished.stderr
    assert fingerprint(run) == expected


def test_demonstrations_that_were_damaged_are_named_and_collected_again(
    tmp_path: Path, demonstrations: Path, expected: dict[str, str], vla_cl: VlaCl
) -> None:
    copies = tmp_path / "demonstrations"
    subprocess.run(["cp", "-a", str(demonstrations), str(copies)], check=True)
    line, files = arguments(tmp_path, copies), [next(copies.rglob(f"{name}-*.hdf5")) for name in TASKS]
    files[0].write_bytes(files[0].read_bytes()[:5000])
    with h5py.File(files[1]) as file:
        place = file["data/demo_0/actions"].id.get_offset()
    flip_bit(files[1], place + 2)
    told = one_line(vla_cl(*line))
    assert str(files[0]) in told and "truncated" in told and "delete it and collect again" in told
    files[0].unlink()
    told = one_line(vla_cl(*line))
    assert str(files[1]) in told and "changed after it was written" in told and "delete it and collect again" in told
    files[1].unlink()
    finished = vla_cl(*line)
    assert finished.returncode == 0, finished.stderr
    found = fingerprint(tmp_path / "run")
    assert found.keys() == expected.keys()
    differing = {Path(name).name for name in found if found[name] != expected[name]}
    assert differing == {"strategy.json", "checksums.json"}, "its memory says where the demonstrations lie, and no more"


TASKS = ("window-close", "faucet-close")


# --- numbers ---------------------------------------------------------------------------------------------------------


POISONED = """
import math
from pathlib import Path

from vla_cl.strategies import STRATEGIES
from vla_cl.strategies.replay import Replay

PLACE = Path(__file__).parent


@STRATEGIES.decorator("poisoned")
class Poisoned(Replay):
    def begin_task(self, task, policy, data):
        super().begin_task(task, policy, data)
        self.seen = 0

    def gradients(self, parameters):
        self.seen += 1
        if self.stage == 1 and self.seen == 15 and (PLACE / "gradient").exists():
            next(iter(parameters.values())).grad.fill_(math.nan)
        super().gradients(parameters)

    def decide(self, observation, actions):
        actions = super().decide(observation, actions)
        if self.stage == 1 and (PLACE / "action").exists():
            for row, episode in enumerate(observation.episode):
                if episode.endswith("/1"):
                    actions[row, 0, 2] = math.nan
        return actions
"""
"""Replay, into whose second task NaN falls: the gradient of one step, or what the policy does in one episode."""


@pytest.fixture
def poisoned(tmp_path: Path) -> tuple[str, ...]:
    (tmp_path / "poisoned.py").write_text(POISONED)
    return ("strategy=poisoned", "--plugin", str(tmp_path / "poisoned.py"))


def test_a_policy_that_becomes_nan_in_training_is_stopped_before_it_is_kept(
    tmp_path: Path, demonstrations: Path, poisoned: tuple[str, ...], expected: dict[str, str], vla_cl: VlaCl
) -> None:
    (tmp_path / "gradient").touch()
    line = [*arguments(tmp_path, demonstrations), *poisoned]
    told = one_line(vla_cl(*line))
    assert "the gradient norm is nan at step 15 of stage 1 (faucet-close), whose batch is windows" in told
    assert "lower training.learning_rate or training.clip; the checkpoint of step 10 is kept" in told
    (tmp_path / "gradient").unlink()
    finished = vla_cl(*line)
    assert finished.returncode == 0, finished.stderr
    assert fingerprint(tmp_path / "run") == expected


def test_an_action_that_is_nan_fails_its_episode_by_name(
    tmp_path: Path,
    demonstrations: Path,
    poisoned: tuple[str, ...],
    undisturbed: Path,
    expected: dict[str, str],
    vla_cl: VlaCl,
) -> None:
    (tmp_path / "action").touch()
    finished = vla_cl(*arguments(tmp_path, demonstrations), *poisoned)
    assert finished.returncode == 0, finished.stderr
    found = fingerprint(tmp_path / "run")
    assert {name for name in found if found[name] != expected[name]} == {"episodes/stage_01.jsonl"}
    for row, usual in zip(rows(tmp_path / "run", "stage_01"), rows(undisturbed, "stage_01"), strict=True):
        if row["episode"] == 1:
            usual |= {"success": False, "steps": 0, "failure": "action not finite"}
        assert row == usual
    for task in TASKS:
        assert f"stage 1, task {task}: in 1 of 3 episodes the policy's action was not finite" in finished.stderr


DIVERGING = """
from dataclasses import replace

from vla_cl.envs import BACKENDS, MetaWorldEnv
from vla_cl.tasks import get_suite
from vla_cl.tasks.suite import register_suite


class DivergingEnv(MetaWorldEnv):
    def reset_simulation(self, seed):
        super().reset_simulation(seed)
        self.meta_world.began_at = float(seed)  # part of the state: episodes take turns in an environment

    def simulate(self, action):
        if self.meta_world.began_at == 2_000_001 and self.elapsed_steps == 12:
            self.data.qvel[:] = 1e12  # what a bad contact leads to
        return super().simulate(action)


BACKENDS.register("diverging", DivergingEnv)


@register_suite("diverging")
def diverging():
    suite = get_suite("mw5")
    return replace(suite, name="diverging", tasks=tuple(replace(task, backend="diverging") for task in suite.tasks))
"""
"""mw5, where one initial state of the test split leads to what MuJoCo cannot integrate."""


def test_a_simulation_that_diverges_fails_its_episode_alone(
    tmp_path: Path, demonstrations: Path, undisturbed: Path, vla_cl: VlaCl
) -> None:
    (tmp_path / "diverging.py").write_text(DIVERGING)
    words = ("suite=diverging", "length=1", "--plugin", str(tmp_path / "diverging.py"))
    finished = vla_cl(*arguments(tmp_path, tmp_path / "demonstrations"), *words)
    assert finished.returncode == 0, finished.stderr
    assert "window-close-v3 became unstable at step 12; the episode ends" in finished.stderr
    assert "MuJoCo: " in finished.stderr
    for stage in ("zero_shot", "stage_00"):
        usual = [row for row in rows(undisturbed, stage) if row["task"] == "window-close"]
        assert [row["episode"] for row in usual] == [0, 1, 2]
        usual[1] |= {"success": False, "steps": 13, "failure": "unstable"}
        assert rows(tmp_path / "run", stage) == usual
