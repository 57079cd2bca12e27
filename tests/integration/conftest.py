"""The command line as a user runs it: a process of its own, in a folder of its own."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.fork_server import ForkedCommand, ForkServer

TINY = (
    "collection.episodes=3",
    "collection.processes=1",
    "training.steps=40",
    "training.batch_size=16",
    "training.warmup_steps=5",
    "training.log_every=10",
    "training.checkpoint_every=10",
    "evaluation.episodes=2",
    "evaluation.slots=2",
    "evaluation.horizon=50",
    "evaluation.processes=1",
    "evaluation.videos=0",
)
"""Overrides that make a run of seconds: real simulators, real files, little of each."""

VlaCl = Callable[..., "subprocess.CompletedProcess[str]"]
Start = Callable[..., ForkedCommand]


def command(*arguments: str) -> list[str]:
    """The argument vector of `vla-cl ...`, with the interpreter that runs the tests."""
    return [sys.executable, "-m", "vla_cl.cli.main", *arguments]


def environment() -> dict[str, str]:
    """One thread, no colours, no line wrapping, no energy: output that can be compared."""
    plain = {"OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "200", "VLA_CL_POWERCAP": "/nowhere"}
    return {**os.environ, **plain}


def one_line(finished: subprocess.CompletedProcess[str]) -> str:
    """The single error line of a failed command."""
    assert finished.returncode == 2, finished.stderr
    assert "Traceback" not in finished.stderr
    (line,) = [line for line in finished.stderr.splitlines() if line.startswith("error: ")]
    return line


def fingerprint(run: Path) -> dict[str, str]:
    """Checksums of everything that must not depend on a kill: weights, strategy state and episode rows."""
    kept = [*run.glob("checkpoints/stage_*/**/*"), *run.glob("episodes/*.jsonl")]
    kept = [path for path in kept if path.is_file()]
    return {str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(kept)}


def copy_of(run: Path, output: Path) -> Path:
    """The same run, in another folder."""
    output.mkdir(exist_ok=True)
    return Path(shutil.copytree(run, output / "run"))


def arguments(output: Path, demonstrations: Path, *more: str) -> list[str]:
    """A run of two tasks whose strategy has a memory, of which tests of kills and faults know how it ends."""
    smaller = ("training.steps=30", "evaluation.episodes=3")
    places = ("name=run", f"output={output}", f"data={demonstrations}")
    return ["run", "suite=mw5", "length=2", "policy=lowdim", "strategy=replay", *TINY, *smaller, *places, *more]


def kill_when(reached: Callable[[], bool], start: Start, line: list[str], folder: Path) -> None:
    """Start a command and kill all of its session with SIGKILL as soon as `reached()`."""
    process = start(*line, folder=folder)
    deadline = time.monotonic() + 600  # slow machines, too
    while not reached():
        assert process.poll() is None, "the run ended before the moment at which it was to be killed"
        assert time.monotonic() < deadline, "the run never reached the moment at which it was to be killed"
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def kill_at_each(moments: Mapping[str, Callable[[Path], bool]], start: Start, line: list[str], folder: Path) -> None:
    """Start the command that does `folder / "run"` again and again, and kill it at each moment, in their order."""
    for reached in moments.values():
        kill_when(lambda reached=reached: reached(folder / "run"), start, line, folder)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, demonstrations: Path, vla_cl_in: VlaCl) -> Path:
    """The folder of a run of `arguments` to which nothing happened."""
    output = tmp_path_factory.mktemp("undisturbed")
    finished = vla_cl_in(output, *arguments(output, demonstrations))
    assert finished.returncode == 0, finished.stderr
    return output / "run"


@pytest.fixture(scope="session")
def expected(undisturbed: Path) -> dict[str, str]:
    """Its weights, strategy states and rows."""
    found = fingerprint(undisturbed)
    assert {"checkpoints/stage_01/model.safetensors", "episodes/zero_shot.jsonl", "episodes/stage_01.jsonl"} <= set(
        found
    )
    return found


@pytest.fixture(scope="session")
def demonstrations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of demonstrations that the runs of one test session share."""
    return tmp_path_factory.mktemp("demonstrations")


@pytest.fixture(scope="session")
def start(fork_server: ForkServer) -> Start:
    """Starts `vla-cl ...` in a folder, in a fork of a process that has its imports behind it."""
    usual = environment()

    def start(*arguments: str, folder: Path, environment: Mapping[str, str] | None = None) -> ForkedCommand:
        return fork_server.start(arguments, folder, usual if environment is None else environment)

    return start


@pytest.fixture(scope="session")
def vla_cl_in(fork_server: ForkServer) -> VlaCl:
    """Runs the command line in a folder and returns its exit status and output.

    Commands that start interpreters themselves (`grid`, `--jobs`) run in a fresh one, as a user's do.
    """

    def run(folder: Path, *arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        if arguments[0] == "grid" or "--jobs" in arguments:
            return subprocess.run(
                command(*arguments), cwd=folder, env=environment(), capture_output=True, text=True, timeout=timeout
            )
        return fork_server.run(arguments, folder, environment(), timeout)

    return run


@pytest.fixture
def vla_cl(tmp_path: Path, vla_cl_in: VlaCl) -> VlaCl:
    """Runs the command line in `tmp_path` and returns its exit status and output."""
    return lambda *arguments, **more: vla_cl_in(tmp_path, *arguments, **more)
