"""Two processes that train together, against one at the same batch size: every strategy, kills included."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.strategies.conftest import make_policy
from tests.strategies.short_sequences import NAMES, OPTIONS, SEED
from vla_cl.config import compose
from vla_cl.data import WindowDataset
from vla_cl.errors import ConfigurationError
from vla_cl.needs import check_training
from vla_cl.policies import Policy
from vla_cl.strategies import STRATEGIES, Strategy, build_strategy
from vla_cl.tasks import find_task
from vla_cl.training import ALONE, Replicas, fit, training_processes

TWO = replace(OPTIONS, processes=2, batch_size=7, steps=3)
"""Rows that do not share out evenly."""
ROUNDING = 1e-2
"""Of the way that training went: what six steps of Adam make of sums in another order, mostly where gradients are 0 but
for rounding."""
SPLIT = [name for name in STRATEGIES if not STRATEGIES[name].whole_batches]


@pytest.fixture(scope="module")
def together() -> Iterator[Replicas]:
    with training_processes(TWO, "cpu", 1) as replicas:
        yield replicas


def small_policy() -> Policy:
    sizes = {"width": 32, "layers": 1, "heads": 2}
    return make_policy(backbone="lowdim_transformer", head_options={"width": 32, "layers": 1, "steps": 2}, **sizes)


def learned(name: str, data: list[WindowDataset], replicas: Replicas) -> tuple[Policy, Strategy]:
    policy, strategy = small_policy(), build_strategy(name, {}, SEED)
    for stage, windows in enumerate(data[:2]):
        strategy.begin_task(find_task(NAMES[stage]), policy, windows)
        fit(policy, windows, strategy, TWO, seed=SEED, stage=stage, replicas=replicas)
        strategy.end_task(find_task(NAMES[stage]), policy, windows)
    return policy, strategy


def numbers(tree: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every number of a tree of state, by its place."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from numbers(value, f"{path}/{key}")
    elif isinstance(tree, (list, tuple)):
        for index, value in enumerate(tree):
            yield from numbers(value, f"{path}/{index}")
    elif isinstance(tree, (Tensor, bool, int, float)):
        yield path, torch.as_tensor(tree)


def apart(one: Any, other: Any, start: Any = None) -> float:
    """The distance of two states as a share of how far the first has come from `start`, which is 0 unless it is given.
    Whatever is counted must be the same.
    """
    mine, others = dict(numbers(one)), dict(numbers(other))
    assert mine.keys() == others.keys()
    for path, values in mine.items():
        assert values.shape == others[path].shape, path
        if not values.is_floating_point():
            assert torch.equal(values, others[path]), path
    floats = [path for path, values in mine.items() if values.is_floating_point()]
    began = dict(numbers(start)) if start is not None else {path: torch.zeros_like(mine[path]) for path in floats}

    def norm(parts: list[Tensor]) -> float:
        return sum(float(part.double().square().sum()) for part in parts) ** 0.5

    come = norm([mine[path] - began[path] for path in floats if path in began])
    return norm([mine[path] - others[path] for path in floats]) / come if come else 0.0


@pytest.mark.parametrize("name", [*SPLIT, "replay+ewc"])
def test_two_processes_learn_what_one_does(name: str, data: list[WindowDataset], together: Replicas) -> None:
    alone, both = learned(name, data, ALONE), learned(name, data, together)
    assert apart(alone[0].state_dict(), both[0].state_dict(), small_policy().state_dict()) < ROUNDING
    assert apart(alone[1].state_dict(), both[1].state_dict()) < ROUNDING


def test_the_comparison_would_notice(data: list[WindowDataset]) -> None:
    half = Replicas()
    half.count = 2  # it computes its rows, and nobody adds the others
    alone, other = learned("sequential", data, ALONE), learned("sequential", data, half)
    assert apart(alone[0].state_dict(), other[0].state_dict(), small_policy().state_dict()) > 10 * ROUNDING


def test_a_process_trains_with_one_group_at_a_time(together: Replicas) -> None:
    with (
        pytest.raises(ConfigurationError, match="trains together with others already"),
        training_processes(TWO, "cpu", 1),
    ):
        pass


def test_strategies_that_must_see_whole_batches_are_refused_with_the_reason() -> None:
    for name in ("derpp", "replay+derpp"):
        words = ["suite=mw5", "policy=lowdim", f"strategy={name}", "training.processes=2", "device=cpu"]
        (config,) = compose(words)
        strategy = build_strategy(name, config.strategy_options, 0)
        with pytest.raises(
            ConfigurationError, match="several processes: it stores what the policy predicts of every row"
        ):
            check_training(config, strategy)
