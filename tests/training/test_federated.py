"""Who learns which task when, and from which episodes."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.strategies.conftest import make_dataset
from vla_cl.errors import ConfigurationError
from vla_cl.training.federated import FederationOptions, dealt_windows, episode_shares


def test_without_clients_every_task_is_a_stage_of_its_own() -> None:
    options = FederationOptions()
    assert options.stages(3) == [(0,), (1,), (2,)]
    assert options.learners((1,)) == [(0, 1)]


def test_tasks_go_to_the_clients_in_turn() -> None:
    options = FederationOptions(clients=2)
    assert options.stages(5) == [(0, 1), (2, 3), (4,)]
    assert options.learners((2, 3)) == [(0, 2), (1, 3)]
    assert options.learners((4,)) == [(0, 4)]


def test_the_same_task_goes_to_every_client() -> None:
    options = FederationOptions(clients=3, deal="same")
    assert options.stages(2) == [(0,), (1,)]
    assert options.learners((1,)) == [(0, 1), (1, 1), (2, 1)]


@pytest.mark.parametrize(("steps", "rounds"), [(10, 1), (10, 3), (7, 7), (2000, 10)])
def test_rounds_cover_the_steps_without_gap(steps: int, rounds: int) -> None:
    bounds = [FederationOptions(rounds=rounds).bounds(each, steps) for each in range(rounds)]
    assert bounds[0][0] == 0 and bounds[-1][1] == steps
    assert all(before[1] == after[0] for before, after in itertools.pairwise(bounds))
    assert {last - first for first, last in bounds} <= {steps // rounds, steps // rounds + 1}


@pytest.mark.parametrize("concentration", [None, 0.01, 1.0, 100.0])
def test_shares_are_disjoint_and_complete_and_never_empty(concentration: float | None) -> None:
    for seed in range(20):
        shares = episode_shares(11, 4, concentration, seed)
        assert sorted(itertools.chain(*shares)) == list(range(11)) and all(shares)
        assert shares == episode_shares(11, 4, concentration, seed)


def test_shares_are_the_more_equal_the_higher_the_concentration() -> None:
    def spread(concentration: float | None) -> float:
        sizes = [[len(share) for share in episode_shares(104, 4, concentration, seed)] for seed in range(50)]
        return float(np.mean(np.var(np.array(sizes), axis=1)))

    # shares beyond one each are Dirichlet: var p_i = (1/4)(3/4) / (4 c + 1), of 100 episodes
    assert spread(None) == 0.0
    assert spread(1.0) == pytest.approx(100**2 * (3 / 16) / 5, rel=0.35)
    assert spread(100.0) == pytest.approx(100**2 * (3 / 16) / 401, rel=0.35)


def test_too_few_episodes_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="clients=3 cannot share 2 episodes"):
        episode_shares(2, 3, None, 0)


def test_windows_are_dealt_by_episode(tmp_path: Path) -> None:
    data = make_dataset(tmp_path, "task", episodes=6)
    options = FederationOptions(clients=2, deal="same")
    parts = [dealt_windows(data, client, options, seed=3) for client in (0, 1)]
    assert sum(map(len, parts)) == len(data)
    assert sorted(np.concatenate([part.episodes for part in parts]).tolist()) == list(range(6))
    assert dealt_windows(data, 1, FederationOptions(clients=2), seed=3) is data


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clients": -1}, "clients must be .*got -1"),
        ({"rounds": 0}, "rounds must be .*got 0"),
        ({"deal": "cards"}, "deal must be turns or same, got 'cards'"),
        ({"concentration": 0.0}, "concentration must be above 0, got 0.0"),
        ({"backend": "mpi"}, "backend must be process or ray, got 'mpi'"),
    ],
)
def test_unusable_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=f"federation.{message}"):
        FederationOptions(**options)
