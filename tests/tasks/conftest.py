"""Suites that exist for one test only."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import gymnasium
import pytest

from vla_cl.tasks import SUITES, TaskSuite, register_suite


@pytest.fixture
def add_suite() -> Iterator[Callable[[TaskSuite], None]]:
    """A function that registers a suite until the test ends."""
    list(SUITES)  # entry points are loaded now, not within the test
    suites, identifiers = dict(SUITES._things), set(gymnasium.registry)

    def add(suite: TaskSuite) -> None:
        register_suite(suite.name)(lambda: suite)

    yield add
    SUITES._things.clear()
    SUITES._things.update(suites)
    for identifier in set(gymnasium.registry) - identifiers:
        del gymnasium.registry[identifier]
