"""DMPEL: coefficients of a library of frozen experts, and a router that is retrained from stored coefficients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.strategies.routed import learn, observations, small_policy, snapshot, speak, three_tasks
from vla_cl.errors import ConfigurationError
from vla_cl.policies.adapters import delta_weights
from vla_cl.strategies.dmpel import DMPEL, CoefficientRouter, router_queries

OPTIONS: dict[str, Any] = {"rank": 4, "samples": 24, "hidden": 32}
SEEDS = list(range(24))


@pytest.mark.parametrize(("experts", "acting"), [(1, 1), (2, 2), (3, 3), (7, 3)])
def test_so_many_experts_act_and_at_first_each_with_its_share(experts: int, acting: int) -> None:
    router = CoefficientRouter(5, 16, experts, 3)
    coefficients = router(torch.randn(6, 5))
    assert coefficients.shape == (6, experts)
    assert ((coefficients > 0).sum(dim=1) == acting).all()
    every = 2 * router.layers(torch.randn(6, 5)).sigmoid()
    assert torch.allclose(every.mean(), torch.tensor(1 / acting), atol=0.15)
    x = torch.randn(6, 5)
    largest = (2 * router.layers(x).sigmoid()).sort(dim=1, descending=True).values[:, :acting]
    torch.testing.assert_close(router(x).sort(dim=1, descending=True).values[:, :acting], largest)


def test_layers_add_the_experts_by_their_coefficients(tmp_path: Path) -> None:
    tasks, policy = three_tasks(tmp_path), small_policy()
    strategy = DMPEL(DMPEL.Options(**OPTIONS), 0)
    learn(strategy, policy, tasks)
    for name in strategy.adapters:
        speak(policy, name)
    observation, _ = observations(tasks, 1)
    assert strategy.router is not None
    coefficients = strategy.router(router_queries(policy, observation))
    layer = policy.adapters["task_1"].modules[-1]
    module: Any = policy.get_submodule(layer)
    x = torch.randn(3, module.in_features)
    first, second = (delta_weights(policy, name)[layer] for name in strategy.adapters)
    expected = module.base_layer(x) + coefficients[:, :1] * (x @ first.T) + coefficients[:, 1:] * (x @ second.T)
    with strategy.acting_pass(observation):
        torch.testing.assert_close(module(x), expected, atol=1e-5, rtol=1e-4)


def test_a_task_trains_its_expert_and_the_router_and_nothing_else(tmp_path: Path) -> None:
    tasks, policy = three_tasks(tmp_path), small_policy()
    strategy = DMPEL(DMPEL.Options(**OPTIONS, replay_epochs=0), 0)
    learn(strategy, policy, tasks[:2])
    before = snapshot(policy)
    task, data = tasks[2]
    strategy.begin_task(task, policy, data)
    assert strategy.router is not None
    fresh = snapshot(strategy.router)
    learn(strategy, policy, tasks[2:], 2)  # begins the task again, from the same router
    after = snapshot(policy)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all("task_2" in name or "task_3" in name for name in after.keys() - before.keys())
    moved = {name for name, value in snapshot(strategy.router).items() if not torch.equal(value, fresh[name])}
    assert moved == set(fresh)


def test_gradients_reach_the_router_through_the_experts(tmp_path: Path) -> None:
    tasks, policy = three_tasks(tmp_path), small_policy()
    strategy = DMPEL(DMPEL.Options(**OPTIONS), 0)
    learn(strategy, policy, tasks[:2])
    speak(policy, "task_1")
    batch = tasks[1][1].batch(range(4))
    assert strategy.router is not None
    strategy.router.zero_grad()
    with strategy.training_pass(batch):
        policy.loss(batch, torch.Generator().manual_seed(0)).sum().backward()
    assert all(each.grad is not None and each.grad.any() for each in strategy.router.parameters())


def test_the_router_starts_anew_with_one_more_output(tmp_path: Path) -> None:
    tasks, policy = three_tasks(tmp_path), small_policy()
    strategy = DMPEL(DMPEL.Options(**OPTIONS), 0)
    learn(strategy, policy, tasks[:1])
    assert not strategy.modules()
    assert strategy.extra_passes == 0.0
    for stage, outputs in ((1, 1), (2, 2)):
        learn(strategy, policy, tasks[stage : stage + 1], stage)
        assert strategy.router is not None
        assert len(strategy.router.layers[-1].bias) == outputs
    assert strategy.extra_passes == 1.0


def test_coefficient_replay_brings_the_router_back_to_what_it_said(tmp_path: Path) -> None:
    tasks = three_tasks(tmp_path)

    def error(epochs: int) -> float:
        policy = small_policy()
        strategy = DMPEL(DMPEL.Options(**OPTIONS, replay_epochs=epochs, replay_rate=3e-3), 0)
        learn(strategy, policy, tasks)
        assert strategy.router is not None
        stored = [(queries, F.pad(told, (0, 2 - told.shape[1]))) for queries, told in strategy.pairs.values()]
        with torch.no_grad():
            return float(torch.cat([strategy.router(queries) - told for queries, told in stored]).square().mean())

    without, long = error(0), error(60)
    assert long < 0.1 * without


def test_pairs_of_the_task_that_trained_the_base_say_that_no_expert_acts(tmp_path: Path) -> None:
    tasks, policy = three_tasks(tmp_path), small_policy()
    strategy = DMPEL(DMPEL.Options(**OPTIONS, replay_epochs=80, replay_rate=3e-3), 0)
    learn(strategy, policy, tasks)
    observation, expected = observations(tasks)
    route: Any = strategy.route(observation)
    acting = torch.stack(list(route.values())).sum(dim=0).detach()
    of_base = torch.tensor(expected) == 0
    assert float(acting[of_base].mean()) < 0.25 * float(acting[~of_base].mean())
    assert [told.shape for _, told in strategy.pairs.values()] == [(24, 0), (24, 1), (24, 2)]


def test_a_restored_router_says_the_same(tmp_path: Path) -> None:
    tasks, policy = three_tasks(tmp_path), small_policy()
    strategy = DMPEL(DMPEL.Options(**OPTIONS), 0)
    learn(strategy, policy, tasks)
    restored = DMPEL(DMPEL.Options(**OPTIONS), 0)
    restored.load_state_dict(strategy.state_dict())
    restored.bind(policy)
    observation, _ = observations(tasks)
    one, two = strategy.route(observation), restored.route(observation)
    assert one is not None
    assert two is not None
    assert all(torch.equal(torch.as_tensor(one[name]), torch.as_tensor(two[name])) for name in one)


@pytest.mark.parametrize(
    "options", [{"top": 0}, {"hidden": 0}, {"samples": 0}, {"replay_epochs": -1}, {"replay_rate": 0.0}]
)
def test_unusable_options_are_named(options: dict[str, Any]) -> None:
    ((key, value),) = options.items()
    with pytest.raises(ConfigurationError, match=f"strategy.{key} .*got {value}"):
        DMPEL(DMPEL.Options(**options), 0)
