"""Grids of runs on a real Ray: their table, what a kill or a failure does to it, and that nothing is left behind."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import TINY, VlaCl, command, environment
from vla_cl.cli.main import main

SMALL = ("suite=mw5", "length=1", "policy=lowdim", *TINY, "evaluation.zero_shot=false", "evaluation.episodes=1")


Finished = tuple[Path, "subprocess.CompletedProcess[str]"]


def line(output: Path, demonstrations: Path, *overrides: str) -> list[str]:
    return [
        "grid",
        *SMALL,
        "strategy=sequential,replay",
        "seed=0,1",
        f"output={output}",
        f"data={demonstrations}",
        *overrides,
    ]


def table_of(output: Path) -> Any:
    """What the table says, without what depends on the clock."""
    table = json.loads((output / "grid.json").read_text())
    for row in table["rows"]:
        row["costs"] = {key: value for key, value in row["costs"].items() if "seconds" not in key}
    return table


def folders_of(output: Path) -> list[Path]:
    return sorted(path for path in output.iterdir() if path.is_dir() and path.name != "logs")


def weights_of(folder: Path) -> str:
    return hashlib.sha256((folder / "checkpoints/stage_00/model.safetensors").read_bytes()).hexdigest()


def descendants(process: int) -> set[int]:
    """Processes that a process started, and those that these started, whatever their group."""
    try:
        started = [int(each) for each in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return set()
    return set(started).union(*(descendants(each) for each in started))


def is_alive(process: int) -> bool:
    """Whether a process does anything yet; one that only waits to be reaped has no command line."""
    try:
        return bool(Path(f"/proc/{process}/cmdline").read_bytes())
    except OSError:
        return False


def wait_for(
    reached: Callable[[], bool], what: str, process: subprocess.Popen[Any] | None = None, seconds: float = 900
) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert process is None or process.poll() is None, f"the grid ended before {what}"
        assert time.monotonic() < deadline, f"{what} did not happen in {seconds} s"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, demonstrations: Path) -> Finished:
    """A grid of two strategies and two seeds, and what the command said."""
    output = tmp_path_factory.mktemp("grid")
    words = command(*line(output, demonstrations))
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=1800, cwd=output)
    assert done.returncode == 0, done.stderr
    return output, done


def test_a_grid_averages_the_seeds_of_each_strategy(finished: Finished) -> None:
    output, done = finished
    assert len(folders_of(output)) == 4
    rows = table_of(output)["rows"]
    assert [(row["strategy"], len(row["runs"])) for row in rows] == [("sequential", 2), ("replay", 2)]
    for row in rows:
        results = [json.loads((output / run / "metrics.json").read_text())["final_average"] for run in row["runs"]]
        assert row["metrics"]["final_average"]["values"] == results
        assert row["metrics"]["final_average"]["mean"] == sum(results) / 2
        assert row["metrics"]["forward_transfer"]["mean"] is None
    assert rows[0]["costs"]["strategy_bytes"] == 0 < rows[1]["costs"]["strategy_bytes"]
    markdown = (output / "grid.md").read_text().splitlines()
    assert len(markdown) == 4 and len({text.count("|") for text in markdown}) == 1
    assert [text.split("|")[1].strip() for text in markdown] == ["Strategy", "---", "sequential", "replay"]
    assert len((output / "grid.csv").read_text().splitlines()) == 3
    assert re.search(r"^sequential +2 ", done.stdout, re.MULTILINE) and "grid.md" in done.stdout


def test_what_a_run_says_carries_its_name_and_is_kept(finished: Finished) -> None:
    output, done = finished
    for folder in folders_of(output):
        assert f"{folder.name}: training window-close: " in done.stderr
        assert f"{folder.name} done; " in done.stderr
        assert "training window-close" in (output / "logs" / f"{folder.name}.log").read_text()
    assert "Traceback" not in done.stderr and "ray" not in done.stderr.lower()


def without_rank(row: dict[str, Any]) -> dict[str, Any]:
    """A row of a table but for its place among the others."""
    return {key: value for key, value in row.items() if not key.startswith("rank")}


def test_a_grid_that_shares_runs_does_them_once(finished: Finished, demonstrations: Path) -> None:
    output, _ = finished
    before = {path: path.stat().st_mtime_ns for path in output.glob("*/metrics.json")}
    logs = {path: path.read_text() for path in output.glob("logs/*")}
    rows = table_of(output)["rows"]
    assert main(line(output, demonstrations, "strategy=replay")) == 0
    assert [without_rank(row) for row in table_of(output)["rows"]] == [without_rank(row) for row in rows[1:]]
    assert {path: path.stat().st_mtime_ns for path in output.glob("*/metrics.json")} == before
    assert {path: path.read_text() for path in output.glob("logs/*")} == logs
    assert main(line(output, demonstrations)) == 0
    assert table_of(output)["rows"] == rows


def test_a_grid_whose_driver_is_killed_goes_on_to_the_same_table(
    tmp_path: Path, finished: Finished, demonstrations: Path, vla_cl: VlaCl
) -> None:
    words = line(tmp_path, demonstrations, "strategy=replay", "seed=0")
    process = subprocess.Popen(command(*words), env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: any(tmp_path.glob("*/checkpoints/training/stage_00/step_*")), "training", process)
    process.kill()  # and its runs, which it started, end by themselves
    process.wait()
    resumed = vla_cl(*words, timeout=1800)
    assert resumed.returncode == 0, resumed.stderr
    assert main(line(finished[0], demonstrations, "strategy=replay", "seed=0")) == 0
    assert table_of(tmp_path) == table_of(finished[0])
    (folder,) = folders_of(tmp_path)
    assert weights_of(folder) == weights_of(finished[0] / folder.name)


FALLIBLE = """
import os
import signal
from pathlib import Path

from vla_cl.errors import ConfigurationError
from vla_cl.strategies import STRATEGIES, Strategy

PLACE = Path(__file__).parent


@STRATEGIES.decorator("killed")
class Killed(Strategy):
    # its process, or its machine, is killed once in the middle of a task
    victim = "getpid"
    steps_seen = 0

    def after_step(self, parameters):
        self.steps_seen += 1
        first = PLACE / f"{type(self).__name__}-first-step"
        kill = PLACE / f"{type(self).__name__}-killed"
        if not first.exists():
            first.write_text("")
        if kill.exists() and first.read_text() == "":
            first.write_text(str(self.steps_seen))
        if self.steps_seen == 25 and not kill.exists():
            kill.touch()
            os.kill(getattr(os, self.victim)(), signal.SIGKILL)
            signal.pause()

    def state_dict(self):
        return {**super().state_dict(), "steps_seen": self.steps_seen}

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.steps_seen = state["steps_seen"]


@STRATEGIES.decorator("unplugged")
class Unplugged(Killed):
    victim = "getppid"


@STRATEGIES.decorator("refusing")
class Refusing(Strategy):
    def begin_task(self, task, policy, data):
        raise ConfigurationError("this policy is too small for strategy 'refusing'")


@STRATEGIES.decorator("broken")
class Broken(Strategy):
    def begin_task(self, task, policy, data):
        raise RuntimeError("nothing\\nto be done")
"""
"""Strategies that end a run in every way, and are sequential otherwise."""


@pytest.fixture
def fallible(tmp_path: Path) -> Path:
    path = tmp_path / "fallible.py"
    path.write_text(FALLIBLE)
    return path


def test_runs_that_fail_leave_the_others_alone_and_a_killed_one_is_resumed(
    tmp_path: Path,
    fallible: Path,
    finished: Finished,
    demonstrations: Path,
    vla_cl: VlaCl,
) -> None:
    output = tmp_path / "runs"
    overrides = ("seed=0", "strategy=refusing,broken,killed", "--plugin", str(fallible), "--retries", "1")
    done = vla_cl(*line(output, demonstrations, *overrides), timeout=1800)
    assert done.returncode == 1
    assert "2 of 3 runs failed:" in done.stderr
    listed = done.stderr.split("2 of 3 runs failed:")[1].splitlines()
    assert re.fullmatch(
        r"  mw5-lowdim-refusing-\S+: this policy is too small for strategy 'refusing' \(log: .*\)", listed[1]
    )
    assert re.fullmatch(r"  mw5-lowdim-broken-\S+: RuntimeError: nothing to be done \(log: .*\)", listed[2])
    logs = {path.name.split("-")[2]: path.read_text() for path in output.glob("logs/*.log")}
    starts = {name: text.count("started on") for name, text in logs.items()}
    assert starts == {"refusing": 1, "broken": 2, "killed": 2}
    assert "Traceback" in logs["broken"] and "Traceback" not in logs["refusing"]
    assert "process was killed" in done.stderr
    assert (tmp_path / "Killed-first-step").read_text() == "21", "it goes on from the checkpoint of step 20"
    (row,) = table_of(output)["rows"]
    assert row["strategy"] == "killed"
    assert [entry["run"].split("-")[2] for entry in table_of(output)["failed"]] == ["refusing", "broken"]
    sequential = next(folder for folder in folders_of(finished[0]) if "-sequential-seed0-" in folder.name)
    assert weights_of(output / row["runs"][0]) == weights_of(sequential)


NODES = """
import sys
import ray
from ray.cluster_utils import Cluster
from vla_cl.ray_session import patience

def started():
    with patience(ray):
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        for _ in range(2):
            cluster.add_node(num_cpus=1)
    return cluster

for attempt in range(5):
    try:
        cluster = started()
        break
    except Exception as error:  # on a machine that is too busy
        print(error, file=sys.stderr)
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""


@pytest.fixture
def two_nodes() -> Iterator[tuple[str, dict[str, str]]]:
    """The address of a cluster of two nodes that take a run each, and the environment of its users."""
    alone = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
    users = {**environment(), **alone, "RAY_USAGE_STATS_ENABLED": "0"}
    cluster = subprocess.Popen(
        [sys.executable, "-c", NODES], env=users, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert cluster.stdout is not None
    yield cluster.stdout.readline().strip(), users
    cluster.communicate(timeout=60)


def test_a_run_whose_machine_goes_away_goes_on_on_another(
    tmp_path: Path, fallible: Path, finished: Finished, demonstrations: Path, two_nodes: tuple[str, dict[str, str]]
) -> None:
    address, users = two_nodes
    overrides = ("seed=0", "strategy=unplugged", "--plugin", str(fallible), "--address", address)
    words = command(*line(tmp_path / "runs", demonstrations, *overrides))
    done = subprocess.run(words, env=users, capture_output=True, text=True, timeout=1800, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "Unplugged-first-step").read_text() == "21", "it goes on from the checkpoint of step 20"
    assert "waiting: its process was killed" in done.stderr
    (folder,) = folders_of(tmp_path / "runs")
    assert (tmp_path / "runs" / "logs" / f"{folder.name}.log").read_text().count("started on") == 2
    sequential = next(each for each in folders_of(finished[0]) if "-sequential-seed0-" in each.name)
    assert weights_of(folder) == weights_of(sequential)
    (row,) = table_of(tmp_path / "runs")["rows"]
    alone = json.loads((sequential / "metrics.json").read_text())
    assert {name: row["metrics"][name]["values"] for name in ("final_average", "learning_accuracy")} == {
        name: [alone[name]] for name in ("final_average", "learning_accuracy")
    }


def test_an_interrupt_ends_every_process_and_says_how_to_go_on(tmp_path: Path, demonstrations: Path) -> None:
    words = command(*line(tmp_path, demonstrations, "training.steps=100000", "strategy=sequential"))
    process = subprocess.Popen(
        words, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_for(lambda: any(tmp_path.glob("*/checkpoints/training/stage_00/step_*")), "training", process)
    started = descendants(process.pid)
    assert len(started) > 4, "Ray's own processes, and a run"
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run the same command again" in errors and "Traceback" not in errors
    wait_for(lambda: not any(is_alive(each) for each in started), "the end of all processes", seconds=30)


def test_mistakes_are_told_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for overrides, told in (
        (("strategy=replay,repaly",), "did you mean 'replay'"),
        (("strategy=replay,ewc", "strategy.fraction=0.1"), "fraction"),
        (("strategy=sequential,replay", "name=one"), "name=one gives different runs one folder"),
        (("strategy=sequential", "--address", "auto", "--cores", "2"), "--cores"),
    ):
        assert main(["grid", "suite=mw5", "policy=lowdim", "output=runs", *overrides]) == 2
        errors = capsys.readouterr().err
        assert told in errors and errors.count("\n") == 1
        assert not (tmp_path / "runs").exists()


def test_without_ray_one_line_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.chdir(tmp_path)
    assert main(["grid", "suite=mw5", "policy=lowdim", "strategy=sequential"]) == 2
    expected = "vla-cl grid needs Ray; install it with: pip install 'vla_cl[ray]', or use vla-cl run --jobs"
    assert capsys.readouterr().err == f"error: {expected}\n"
    assert not list(tmp_path.iterdir())
