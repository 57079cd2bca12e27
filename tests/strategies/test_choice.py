"""What strategies say of their own routing: who acts, and whose that is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.strategies.routed import NAMES, learn, observations, small_policy, three_tasks
from vla_cl.data import ObservationBatch
from vla_cl.strategies import STRATEGIES, build_strategy
from vla_cl.strategies.choice import Choice

SMALL: dict[str, dict[str, Any]] = {
    "clare": {"discriminator_steps": 20, "samples": 16},
    "clmoe": {"rank": 4, "experts": 2, "samples": 16},
    "dmpel": {"rank": 2, "samples": 16},
    "hide": {"rank": 2, "samples": 16},
    "disco": {"rank": 2},
    "mrlora": {"rank": 2},
    "coda_prompt": {"components": 2},
}
ROUTING = ("clare", "clmoe", "coda_prompt", "disco", "dmpel", "dualprompt", "hide", "l2p", "modalprompt", "mrlora")
SURE = ("clmoe", "disco", "hide", "mrlora")
"""Those whose choice needs no training: instructions and states alone tell the tasks apart."""


def learned(name: str, folder: Path, tasks: int = 3) -> tuple[Any, ObservationBatch, list[int]]:
    policy, known = small_policy(), three_tasks(folder)[:tasks]
    strategy = build_strategy(name, SMALL.get(name, {}), 0)
    learn(strategy, policy, known)
    seen, rows = observations(known)
    return strategy, seen, rows


@pytest.mark.parametrize("name", ROUTING)
def test_a_choice_is_one_weight_for_each_row_and_part(name: str, tmp_path: Path) -> None:
    strategy, seen, rows = learned(name, tmp_path)
    with torch.no_grad():
        choice = strategy.choice(seen)
    assert choice is not None
    assert choice.weights.shape == (len(seen), len(choice.parts)) and len(choice.owners) == len(choice.parts)
    assert bool((choice.weights >= 0).all()) and bool(choice.weights.isfinite().all())
    assert {task for owners in choice.owners for task in owners} <= set(NAMES)
    if name in SURE:
        heaviest = choice.weights.argmax(dim=1).tolist()
        assert [NAMES[row] in choice.owners[part] for row, part in zip(rows, heaviest, strict=True)] == [True] * len(
            rows
        )
    again = build_strategy(name, SMALL.get(name, {}), 0)
    again.load_state_dict(strategy.state_dict())
    again.bind(strategy.policy)
    with torch.no_grad():
        torch.testing.assert_close(again.choice(seen).weights, choice.weights)


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_before_any_task_nothing_is_chosen(name: str) -> None:
    strategy = build_strategy(name, {}, 0)
    strategy.bind(small_policy())
    observation = ObservationBatch(("go",), torch.zeros(1, 4), {}, torch.zeros(1, 39))
    assert strategy.choice(observation) is None


def test_of_several_strategies_the_one_that_routes_is_asked(tmp_path: Path) -> None:
    policy, known = small_policy(), three_tasks(tmp_path)
    strategy = build_strategy("replay+mrlora", {"mrlora": {"rank": 2}}, 0)
    learn(strategy, policy, known)
    choice = strategy.choice(observations(known)[0])
    assert choice is not None and choice.parts == NAMES


def test_where_no_adapter_acts_the_base_does() -> None:
    weights: dict[str, Tensor] = {"task_1": torch.tensor([0.0, 0.9, 0.4]), "task_2": torch.tensor([0.0, 0.3, 0.2])}
    owners: dict[str, str | None] = {"a": None, "b": "task_1", "c": "task_2", "d": "task_2"}
    choice = Choice.among_adapters(owners, weights)
    assert choice.parts == ("base", "task_1", "task_2")
    assert choice.owners == (("a",), ("b",), ("c", "d"))
    torch.testing.assert_close(choice.weights, torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.9, 0.3], [0.4, 0.4, 0.2]]))
    assert Choice.among_adapters({"b": "task_1"}, {"task_1": torch.ones(3)}).parts == ("task_1",)
