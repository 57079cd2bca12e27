"""MR-LoRA: the router's closed form, its accuracy, and that it decides once an episode."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.strategies.routed import learn, observations, small_policy, snapshot, speak, three_tasks
from vla_cl.errors import ConfigurationError
from vla_cl.strategies import mrlora
from vla_cl.strategies.mrlora import MRLoRA
from vla_cl.strategies.routing import chosen_route, opening_windows, ridge_classifier

OPTIONS: dict[str, Any] = {"rank": 4, "exemplars": 6}
SEEDS = list(range(24))


@pytest.mark.parametrize(("rows", "columns"), [(30, 5), (6, 40)])
def test_the_router_is_where_the_gradient_of_ridge_regression_vanishes(rows: int, columns: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    labels = torch.arange(rows) % 3
    weights = ridge_classifier(x, labels, 3, 0.1)
    target = torch.nn.functional.one_hot(labels, 3).double()
    gradient = x.T @ (x @ weights - target) + 0.1 * weights
    assert weights.shape == (columns, 3)
    assert float(gradient.abs().max()) < 1e-10


def test_separable_tasks_are_told_apart(tmp_path: Path) -> None:
    tasks, policy = three_tasks(tmp_path), small_policy()
    strategy = MRLoRA(MRLoRA.Options(**OPTIONS), 0)
    learn(strategy, policy, tasks)
    observation, expected = observations(tasks)
    assert strategy.choose(observation) == expected
    assert [len(each) for each in strategy.exemplars.values()] == [6, 6, 6]


def test_the_chosen_adapter_acts_alone(tmp_path: Path) -> None:
    tasks, policy = three_tasks(tmp_path), small_policy()
    strategy = MRLoRA(MRLoRA.Options(**OPTIONS), 0)
    learn(strategy, policy, tasks)
    for name in strategy.adapters:
        speak(policy, name)
    observation, expected = observations(tasks)
    with strategy.acting_pass(observation):
        acted = policy.act(observation, SEEDS)
    for task, name in enumerate([None, *strategy.adapters]):
        alone = policy.act(observation, SEEDS, {} if name is None else {name: 1.0})
        rows = [row for row, each in enumerate(expected) if each == task]
        torch.testing.assert_close(acted[rows], alone[rows])


def test_a_choice_holds_for_the_episode_whatever_is_seen_later(tmp_path: Path) -> None:
    tasks, policy = three_tasks(tmp_path), small_policy()
    strategy = MRLoRA(MRLoRA.Options(**OPTIONS), 0)
    learn(strategy, policy, tasks)
    observation, expected = observations(tasks, 1)
    named = replace(observation, episode=("a", "b", "c"))
    assert strategy.choose(named) == expected == [0, 1, 2]
    other = replace(observation[[1, 2, 0]], episode=("a", "b", "c"))  # each episode now looks like another task
    assert strategy.choose(other) == [0, 1, 2]
    assert strategy.choose(replace(other, episode=None)) == [1, 2, 0]
    assert strategy.choose(replace(other, episode=("a", "d", "c"))) == [0, 2, 2]
    learn(strategy, policy, tasks[2:], 3)
    assert strategy.choose(other) == [1, 2, 0]  # another router, other episodes


def test_only_so_many_episodes_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mrlora, "EPISODES", 2)
    tasks, policy = three_tasks(tmp_path), small_policy()
    strategy = MRLoRA(MRLoRA.Options(**OPTIONS), 0)
    learn(strategy, policy, tasks[:2])
    observation, _ = observations(tasks[:2], 2)
    strategy.choose(replace(observation, episode=("a", "b", "c", "a")))
    assert len(strategy.choices) == 2


def test_a_restored_router_chooses_alike_without_demonstrations(tmp_path: Path) -> None:
    tasks, policy = three_tasks(tmp_path), small_policy()
    strategy = MRLoRA(MRLoRA.Options(**OPTIONS), 0)
    learn(strategy, policy, tasks)
    restored = MRLoRA(MRLoRA.Options(**OPTIONS), 0)
    restored.load_state_dict(strategy.state_dict())
    restored.bind(policy)
    observation, expected = observations(tasks)
    assert restored.choose(observation) == expected
    assert torch.equal(torch.as_tensor(restored.router), torch.as_tensor(strategy.router))


def test_earlier_adapters_and_the_base_are_bit_identical_after_later_tasks(tmp_path: Path) -> None:
    tasks, policy = three_tasks(tmp_path), small_policy()
    strategy = MRLoRA(MRLoRA.Options(**OPTIONS), 0)
    learn(strategy, policy, tasks[:2])
    before = snapshot(policy)
    learn(strategy, policy, tasks[2:], 2)
    after = snapshot(policy)
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_exemplars_are_openings_of_episodes_as_far_as_there_are_some(tmp_path: Path) -> None:
    (_, data), *_ = three_tasks(tmp_path)
    openings = {0, *data.episode_lengths.cumsum()[:-1].tolist()}
    assert set(opening_windows(data, 4, 0)) == openings
    assert set(opening_windows(data, 2, 0)) < openings
    more = opening_windows(data, 10, 0)
    assert openings < set(more)
    assert len(set(more)) == 10


def test_rows_are_given_the_adapter_of_their_task() -> None:
    names = [None, "one", "two"]
    assert chosen_route([1, 1], names) == {"one": 1.0}
    assert chosen_route([0, 0], names) == {}
    route: Any = chosen_route([0, 2, 1, 2], names)
    assert {name: weight.tolist() for name, weight in route.items()} == {"one": [0, 0, 1, 0], "two": [0, 1, 0, 1]}


@pytest.mark.parametrize("options", [{"exemplars": 0}, {"ridge": 0.0}])
def test_unusable_options_are_named(options: dict[str, Any]) -> None:
    ((key, value),) = options.items()
    with pytest.raises(ConfigurationError, match=f"strategy.{key} .*got {value}"):
        MRLoRA(MRLoRA.Options(**options), 0)
