"""`vla-cl serve` in a process of its own, and `vla-cl evaluate --server` against it, on real Meta-World tasks."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.conftest import CommandLine
from vla_cl.checkpoint import load_checkpoint
from vla_cl.cli.main import main
from vla_cl.data import Statistics
from vla_cl.evaluation import PolicyController, PolicyServer, RemoteController, confidence_sequence, read_rows
from vla_cl.policies import PolicyConfig, PolicyFeatures, build_policy

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
Evaluate = Callable[..., tuple[int, str]]

RUN = (
    "run",
    "suite=mw3",
    "order=1",
    "length=2",
    "policy=lowdim",
    "strategy=sequential",
    "name=run",
    "collection.episodes=1",
    "training.steps=2",
    "training.batch_size=4",
    "training.warmup_steps=1",
    "evaluation.episodes=1",
    "evaluation.slots=1",
    "evaluation.videos=0",
    "evaluation.zero_shot=false",
)
FEW = ("--episodes", "2", "--horizon", "40", "--processes", "1", "--seed", "4")


@pytest.fixture(scope="module")
def run(vla_cl_in: CommandLine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two tasks, hardly trained."""
    folder = tmp_path_factory.mktemp("served")
    vla_cl_in(folder, *RUN).check_returncode()
    return folder / "runs" / "run"


@pytest.fixture
def evaluate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Evaluate]:
    """Runs `vla-cl evaluate` in this process; its status and what it complains of."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VLA_CL_SERVER_TOKEN", raising=False)
    handlers = list(logging.getLogger().handlers)

    def call(*words: str) -> tuple[int, str]:
        status = main(["evaluate", *words])
        return status, capfd.readouterr().err

    yield call
    logging.getLogger().handlers[:] = handlers


@contextmanager
def serving(executable: str, *words: str, token: str | None = None) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`vla-cl serve` on any free port: its address, and the process, which is interrupted at the end."""
    environment = {**os.environ, **({"VLA_CL_SERVER_TOKEN": token} if token else {})}
    process = subprocess.Popen(
        [executable, "serve", *words, "--port", "0", "--device", "cpu"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        yield line.rpartition(" ")[2].strip(), process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=30)


def test_rows_of_a_served_run_are_those_of_the_run_itself_byte_for_byte(
    executable: str, run: Path, evaluate: Evaluate, tmp_path: Path
) -> None:
    with serving(executable, str(run)) as (address, process):
        for name, words in {"learned": (), "other": ("--suite", "mw5", "--task", "push")}.items():
            assert evaluate(str(run), *words, *FEW, "--output", f"{name}-local.jsonl")[0] == 0
            status, complaint = evaluate("--server", address, *words, *FEW, "--output", f"{name}-remote.jsonl")
            assert status == 0, complaint
            rows = (tmp_path / f"{name}-remote.jsonl").read_bytes()
            assert rows == (tmp_path / f"{name}-local.jsonl").read_bytes()
        learned = [json.loads(line) for line in (tmp_path / "learned-remote.jsonl").read_text().splitlines()]
        tasks = list(dict.fromkeys(row["task"] for row in learned))
        config = json.loads((run / "config.json").read_text())
        assert len(tasks) == 2 == config["length"]
        assert {row["stage"] for row in learned} == {1}
        process.send_signal(signal.SIGINT)
        out, complaint = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in complaint
    assert complaint.splitlines()[-1] == "interrupted; run the same command again to go on"
    assert not out


def test_a_server_says_what_it_serves(executable: str, run: Path) -> None:
    with serving(executable, str(run)) as (address, _), RemoteController(address) as remote:
        served = remote.served
    assert served == load_checkpoint(run, device="cpu").served()
    assert (served.policy, served.suite, served.stage, len(served.tasks)) == ("lowdim", "mw3", 1, 2)
    earlier = load_checkpoint(run / "checkpoints" / "stage_00", device="cpu").served()
    assert earlier.fingerprint != served.fingerprint
    assert earlier.stage == 0


def test_the_documented_loop_runs(executable: str, run: Path, tmp_path: Path) -> None:
    with serving(executable, str(run)) as (address, _):
        loop = subprocess.run(
            [sys.executable, EXAMPLES / "remote_loop.py", address, "mw3/window-close"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert loop.returncode == 0, loop.stderr
    assert re.fullmatch(r"(success|failure) after \d+ steps\n", loop.stdout)


def test_the_token_of_the_environment_opens_a_server(
    executable: str, run: Path, evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = load_checkpoint(run, device="cpu").served().tasks[0]
    with serving(executable, str(run), token="s3cret") as (address, _):
        status, complaint = evaluate("--server", address, "--task", task, *FEW)
        assert (status, len(complaint.splitlines())) == (2, 1)
        assert "wants a token" in complaint
        monkeypatch.setenv("VLA_CL_SERVER_TOKEN", "s3cret")
        assert evaluate("--server", address, "--task", task, *FEW)[0] == 0


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ((), "either a checkpoint or --server"),
        (("nowhere", "--server", "ws://127.0.0.1:1"), "either a checkpoint or --server"),
        (("--server", "ws://127.0.0.1:1", "--device", "cpu"), "give it to vla-cl serve"),
        (("--server", "ws://127.0.0.1:1"), "no server at ws://127.0.0.1:1"),
        (("--server", "127.0.0.1:8765"), "reads like ws://host:8765"),
        (("--server", "ws://127.0.0.1:1", "--token", "two words"), "token must be"),
    ],
)
def test_a_mistake_is_one_line(evaluate: Evaluate, words: tuple[str, ...], complaint: str) -> None:
    status, told = evaluate(*words)
    assert status == 2
    (line,) = told.splitlines()
    assert line.startswith("error: ") and complaint in line


def test_nothing_to_serve_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "nowhere"]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "nowhere holds no checkpoint" in line


def test_a_suite_without_the_policys_camera_is_one_line(evaluate: Evaluate, tmp_path: Path) -> None:
    features = PolicyFeatures(action_dim=4, agent_pos_dim=4, cameras=("corner2", "robot0_eye_in_hand"))
    policy = build_policy(PolicyConfig(backbone_options={"width": 32, "layers": 1, "heads": 2}), features, seed=0)
    ranges = {"action": ((-1.0,) * 4, (1.0,) * 4), "agent_pos": ((-1.0,) * 4, (1.0,) * 4)}
    policy.set_statistics(Statistics.from_ranges(ranges))
    policy.save_pretrained(tmp_path / "saved")
    served = load_checkpoint(tmp_path / "saved", device="cpu").served()
    with PolicyServer(PolicyController(policy), served, port=0) as server:
        status, complaint = evaluate("--server", server.address)
        assert status == 2 and "say which tasks with --suite NAME" in complaint
        status, complaint = evaluate("--server", server.address, "--suite", "mw3", *FEW)
    assert status == 2
    assert "needs a camera that task" in complaint and "'robot0_eye_in_hand'" in complaint and "corner2" in complaint


def test_a_task_whose_success_is_clear_stops_early_and_says_so(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    few = ("--episodes", "12", "--horizon", "10", "--processes", "1", "--stop-at", "0.6")
    assert main(["evaluate", str(run), *few, "--json", "--output", "rows.jsonl"]) == 0
    told = json.loads(capfd.readouterr().out)
    rows = read_rows(Path("rows.jsonl"))
    for each in told:
        low, high = confidence_sequence(0, each["episodes"])
        assert each["stopped_early"] and 1 < each["episodes"] < 12 and each["successes"] == 0
        assert each["interval"] == pytest.approx([float(low), float(high)]) and high < 0.6
        of_task = [row.stopping for row in rows if row.task == each["task"]]
        assert of_task == ["watched"] * (each["episodes"] - 1) + ["stopped"]
    assert main(["evaluate", str(run), *few]) == 0
    assert f"0 of {told[0]['episodes']}, stopped" in capfd.readouterr().out
    assert main(["evaluate", str(run), "--stop-at", "2"]) == 2
    assert "early_stop.threshold must lie between 0 and 1, got 2.0" in capfd.readouterr().err


def test_whether_a_policy_listens_is_one_command(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    few = ("--episodes", "1", "--horizon", "10", "--processes", "1")
    assert main(["evaluate", str(run), "--language", *few, "--json", "--output", "rows.jsonl"]) == 0
    told = json.loads(capfd.readouterr().out)
    kinds = ["canonical", "paraphrased", "held_out", "swapped", "dropped"]
    assert list(told["success_rate"]) == list(told["sensitivity"]) == kinds and len(told["tasks"]) == 2
    assert told["sensitivity"]["canonical"] == [0.0, 0.0]
    rows = [json.loads(line) for line in Path("rows.jsonl").read_text().splitlines()]
    assert len(rows) == len(kinds) * 2
    said = [row["instruction"] for row in rows]
    assert said[:2] == said[6:8][::-1] and said[8:] == ["", ""]
    assert main(["evaluate", str(run), "--language", "--instructions", "swapped"]) == 2
    assert "give one of the two" in capfd.readouterr().err
    assert main(["evaluate", str(run), "--language", "--videos", "films"]) == 2
    assert "leave out --videos" in capfd.readouterr().err
