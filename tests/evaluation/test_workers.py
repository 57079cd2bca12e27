"""Simulators on a real Ray cluster: the rows, queries and images of processes here, whatever is killed."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.evaluation.test_rollout import Recorder, roll, sometimes_expert
from vla_cl.envs import EnvironmentPool, EnvironmentSpec, EpisodeStart, ObservationOptions
from vla_cl.errors import ConfigurationError, UnknownNameError
from vla_cl.evaluation import EpisodeRow, EvaluationOptions
from vla_cl.evaluation.workers import simulators
from vla_cl.tasks import Task

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed (pip install 'vla_cl[ray]')"
)
FAILING = str(Path(__file__).parents[1] / "envs" / "plugin_backend.py")


@pytest.fixture(scope="module")
def remote() -> Iterator[EnvironmentPool]:
    """Two actors on a cluster of this machine."""
    with simulators(EvaluationOptions(workers="ray", processes=2)) as pool:
        yield pool


def test_killed_actors_change_no_row_and_no_query(
    remote: EnvironmentPool, pool: EnvironmentPool, window_close: Task
) -> None:
    options = EvaluationOptions(episodes=5, slots=4)

    def evaluate(simulated_in: EnvironmentPool, deaths: dict[int, int]) -> tuple[list[EpisodeRow], list[Any]]:
        """Rows and queries of a rollout in which process deaths[q] is killed before the q-th query is answered."""

        def kill(query: int) -> None:
            if query in deaths:
                os.kill(simulated_in.process_ids()[deaths[query]], signal.SIGKILL)

        controller = Recorder(sometimes_expert(), 1, before=kill)
        rows = roll(controller, window_close, simulated_in, options)
        return rows, [(seeds, each.environment_state.tolist()) for each, seeds in controller.batches]  # type: ignore[union-attr]

    here = evaluate(pool, {})
    assert [row.episode for row in here[0]] == list(range(5))
    assert evaluate(remote, {}) == here
    before = remote.process_ids()
    assert evaluate(remote, {1: 0, 20: 1, 40: 0}) == here, "none lost, none twice"
    assert set(remote.process_ids().values()).isdisjoint(before.values())


def test_what_is_seen_and_filmed_there_is_what_is_seen_and_filmed_here(
    remote: EnvironmentPool, pool: EnvironmentPool, window_close: Task
) -> None:
    spec = window_close.environment_spec(ObservationOptions(cameras=("corner2",), image_size=64, privileged=True))
    actions = np.random.default_rng(0).uniform(-1, 1, (6, 4)).astype(np.float32)

    def played(simulated_in: EnvironmentPool) -> list[Any]:
        seen = simulated_in.start({3: EpisodeStart(spec, seed=4, record_every=2)})[3]
        return [seen, vars(simulated_in.advance({3: actions})[3])]

    there, here = played(remote), played(pool)
    np.testing.assert_equal(there, here)
    assert there[0]["pixels"]["corner2"].flags.writeable, "an array of its own, as from a process here"


def test_an_error_there_is_raised_here_as_it_is(remote: EnvironmentPool) -> None:
    arguments = {"task": "reach-v3", "error": "own"}
    broken = EnvironmentSpec("failing", arguments, observation=ObservationOptions(()), plugins=(FAILING,))
    remote.start({0: EpisodeStart(broken, seed=0)})
    with pytest.raises(UnknownNameError, match="gripper 'left' is not registered"):
        remote.advance({0: np.zeros((3, 4), np.float32)})


def test_places_that_are_none_are_refused() -> None:
    for workers in ("remote", "10.0.0.1", ""):
        with pytest.raises(ConfigurationError, match=r"evaluation\.workers must be local, ray, or the HOST:PORT"):
            EvaluationOptions(workers=workers)
