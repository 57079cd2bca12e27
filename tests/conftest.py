"""What every test relies on: one thread a process, no network, and skips with their reason."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fork_server import ForkServer

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not any(item.get_closest_marker("gpu") for item in items):
        return
    import torch

    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(scope="session")
def fork_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    """Starts commands without their seconds of imports."""
    server = ForkServer(tmp_path_factory.mktemp("output"), dict(os.environ))
    yield server
    server.close()


@pytest.fixture(scope="session")
def libero_root() -> Path:
    """Folder of LIBERO's task files, initial states and assets; tests that need it skip where it is not."""
    named = os.environ.get("VLA_CL_LIBERO_ROOT")
    beside = Path(__file__).resolve().parents[2] / "shared" / "libero"
    root = Path(named) if named else beside
    if not (root / "bddl_files").is_dir():
        pytest.skip(f"LIBERO's files are not in {root}; set VLA_CL_LIBERO_ROOT")
    os.environ["VLA_CL_LIBERO_ROOT"] = str(root)
    return root
