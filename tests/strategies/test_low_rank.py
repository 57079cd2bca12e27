"""What strategies with adapters share, where every task has one: who trains which, and that they go on after a kill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.strategies.low_rank import TRAINING, build, equal, learn, learn_killed_inside, moved, small_policy
from vla_cl.data import WindowDataset
from vla_cl.errors import ConfigurationError
from vla_cl.tasks import Task
from vla_cl.training import fit

ADAPTED: list[tuple[str, dict[str, Any]]] = [
    ("sequential_lora", {}),
    ("sequential_lora", {"merge": True}),
    ("tail", {}),
    ("olora", {}),
    ("inflora", {}),
    ("keeplora", {}),
    ("sefe", {}),
]


@pytest.mark.parametrize(("name", "options"), ADAPTED)
def test_a_pretrained_policy_goes_on_after_a_kill_inside_its_first_task(
    name: str, options: dict[str, Any], tasks: list[Task], datasets: list[WindowDataset], tmp_path: Path
) -> None:
    def build_learner() -> tuple[Any, Any]:
        return small_policy(), build(name, first_task="adapter", **options)

    whole, strategy = build_learner()
    learn(strategy, whole, tasks[:2], datasets[:2])
    policy, other = learn_killed_inside(build_learner, tasks[0], datasets[0], tmp_path / "interval")
    learn(other, policy, tasks[1:2], datasets[1:2], first=1)
    assert equal(policy.state_dict(), whole.state_dict())
    assert equal(other.state_dict(), strategy.state_dict())
    assert policy.active_adapters == whole.active_adapters


@pytest.mark.parametrize(("name", "options"), ADAPTED)
def test_what_is_frozen_stays_bit_for_bit_and_what_trains_is_an_adapter(
    name: str, options: dict[str, Any], tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    policy, strategy = small_policy(), build(name, **options)
    learn(strategy, policy, tasks[:2], datasets[:2])
    strategy.begin_task(tasks[2], policy, datasets[2])
    trained = {key for key, parameter in policy.named_parameters() if parameter.requires_grad}
    present = strategy.owners[tasks[2].name]
    assert trained
    assert all(f".{present}.weight" in key for key in trained)
    before = {key: each.detach().clone() for key, each in policy.named_parameters()}
    fit(policy, datasets[2], strategy, TRAINING, seed=0, stage=2)
    assert moved(before, dict(policy.named_parameters())) <= trained


def test_layers_that_will_be_adapted_are_known_before_they_are(
    tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    policy, strategy = small_policy(), build("sequential_lora", targets="attention", head=False)
    expected = strategy.adapted_layers(policy)
    assert expected
    assert all(".attention." in layer for layer in expected)
    learn(strategy, policy, tasks[:2], datasets[:2])
    assert policy.adapters["shared"].modules == strategy.adapted_layers(policy) == expected


def test_two_strategies_that_both_add_adapters_are_refused(tasks: list[Task], datasets: list[WindowDataset]) -> None:
    policy, first, second = small_policy(), build("tail", first_task="adapter"), build("olora", first_task="adapter")
    first.begin_task(tasks[0], policy, datasets[0])
    with pytest.raises(ConfigurationError, match="one strategy with adapters at a time"):
        second.begin_task(tasks[0], policy, datasets[0])
