"""The command line, run as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.fork_server import ForkServer

CommandLine = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def executable() -> str:
    """The installed console script."""
    return str(Path(sys.executable).with_name("vla-cl"))


@pytest.fixture(scope="session")
def vla_cl_in(fork_server: ForkServer) -> CommandLine:
    """Run `vla-cl WORD...` in a folder and return what it printed and its status."""

    def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
        return fork_server.run(words, folder, os.environ, timeout=300)

    return run


@pytest.fixture
def vla_cl(vla_cl_in: CommandLine, tmp_path: Path) -> CommandLine:
    """The same in an empty folder."""
    return partial(vla_cl_in, tmp_path)
