"""The installed command line, run as a user runs it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

CommandLine = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def executable() -> str:
    """The installed console script."""
    return str(Path(sys.executable).with_name("vla-cl"))


@pytest.fixture
def vla_cl(executable: str, tmp_path: Path) -> CommandLine:
    """Run `vla-cl WORD...` in an empty folder and return what it printed and its status."""

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [executable, *words], capture_output=True, text=True, cwd=tmp_path, timeout=300, check=False
        )

    return run
