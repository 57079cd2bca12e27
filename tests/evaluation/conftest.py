"""Real Meta-World tasks and a pool of simulator processes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from vla_cl.envs import EnvironmentPool, ObservationOptions
from vla_cl.tasks import Task, find_task


@pytest.fixture(scope="session")
def privileged() -> ObservationOptions:
    """Numbers only, so that no test of the rollout's logic draws anything."""
    return ObservationOptions(cameras=(), privileged=True)


@pytest.fixture(scope="session")
def pool() -> Iterator[EnvironmentPool]:
    with EnvironmentPool(2) as shared:
        yield shared


@pytest.fixture(scope="session")
def window_close() -> Task:
    return find_task("mw5/window-close")
