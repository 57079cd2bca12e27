"""The command line as a user runs it: a process of its own, in a folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

TINY = (
    "collection.episodes=3",
    "training.steps=40",
    "training.batch_size=16",
    "training.warmup_steps=5",
    "training.log_every=10",
    "training.checkpoint_every=10",
    "evaluation.episodes=2",
    "evaluation.slots=2",
    "evaluation.videos=0",
)
"""Overrides that make a run of seconds: real simulators, real files, little of each."""

VlaCl = Callable[..., "subprocess.CompletedProcess[str]"]


def command(*arguments: str) -> list[str]:
    """The argument vector of `vla-cl ...`, with the interpreter that runs the tests."""
    return [sys.executable, "-m", "vla_cl.cli.main", *arguments]


def environment() -> dict[str, str]:
    """One thread, no colours, no line wrapping: output that can be compared."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "200"}


@pytest.fixture(scope="session")
def demonstrations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of demonstrations that the runs of one test session share."""
    return tmp_path_factory.mktemp("demonstrations")


@pytest.fixture
def vla_cl(tmp_path: Path) -> VlaCl:
    """Runs the command line in `tmp_path` and returns its exit status and output."""

    def run(*arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(*arguments), cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=timeout
        )

    return run
