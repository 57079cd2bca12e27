"""HiDe: which layers are specific, and what adapters of several tasks add there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.strategies.routed import learn, observations, small_policy, snapshot, speak, three_tasks
from vla_cl.errors import ConfigurationError
from vla_cl.policies.adapters import delta_weights, mixture
from vla_cl.policies.representation import linear_cka
from vla_cl.strategies.hide import HiDe, layer_features
from vla_cl.strategies.routing import Anchor, anchor_similarities

OPTIONS: dict[str, Any] = {"rank": 4, "samples": 24}


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_layers_are_compared_on_the_same_windows_and_the_least_alike_are_specific(tmp_path: Path) -> None:
    tasks, policy = three_tasks(tmp_path), small_policy()
    strategy = HiDe(HiDe.Options(**OPTIONS, threshold=0.0), 0)
    learn(strategy, policy, tasks)
    assert strategy.pairs == 3  # base and first adapter; base and second adapter, the two adapters
    layers = policy.adapters[strategy.adapters[0]].modules
    assert set(strategy.alignment) == set(layers)
    assert all(0.0 <= value <= 1.0 for value in strategy.alignment.values())
    assert len(strategy.specific) == 1
    one, other = layers[2], layers[5]
    strategy.alignment = dict.fromkeys(layers, 0.95) | {one: 0.4, other: 0.8}
    strategy.options.threshold = 0.9
    assert set(strategy.specific) == {one, other}
    strategy.options.threshold = 0.5
    assert strategy.specific == [one]


def test_features_of_layers_are_those_of_the_route(tmp_path: Path) -> None:
    tasks, policy = three_tasks(tmp_path), small_policy()
    strategy = HiDe(HiDe.Options(**OPTIONS), 0)
    learn(strategy, policy, tasks[:2])
    (adapter,) = strategy.adapters
    speak(policy, adapter)
    layers = policy.adapters[adapter].modules
    base, again, adapted = (
        layer_features(policy, route, layers, tasks[0][1], range(12), 0) for route in ({}, {}, {adapter: 1.0})
    )
    assert all(features.shape[0] == 12 for features in base.values())
    assert all(torch.equal(base[layer], again[layer]) for layer in layers)
    assert linear_cka(base[layers[0]], adapted[layers[0]]) < 0.999
    assert not any(module._forward_hooks for module in policy.modules())


def test_general_layers_add_the_sum_of_products_and_specific_ones_the_weighed_sum(tmp_path: Path) -> None:
    tasks, policy = three_tasks(tmp_path), small_policy()
    strategy = HiDe(HiDe.Options(**OPTIONS, fusion=0.5), 0)
    learn(strategy, policy, tasks)
    first, second = strategy.adapters
    speak(policy, first)
    speak(policy, second, std=0.3)
    layers = policy.adapters[first].modules
    strategy.alignment = dict.fromkeys(layers, 0.99) | {layers[-1]: 0.1}
    observation, _ = observations(tasks, 1)
    route = strategy.route(observation)
    assert route is not None
    changes = delta_weights(policy, first), delta_weights(policy, second)
    features = [Anchor.of(policy, data, [len(data) - 1]) for _, data in tasks]
    similar = anchor_similarities(
        torch.stack([each.text for each in features]),
        torch.stack([each.seen for each in features]),
        list(strategy.anchors.values()),
    )
    weights = torch.softmax(similar / 0.1, dim=1)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(3))
    with mixture(policy, route), torch.no_grad():
        for layer in (layers[0], layers[-1]):
            module: Any = policy.get_submodule(layer)
            x = normal(3, module.in_features)
            parts = [x @ change[layer].T for change in changes]
            added = (
                0.5 * parts[0] + 0.5 * parts[1]
                if layer == layers[0]
                else weights[:, 1:2] * parts[0] + weights[:, 2:3] * parts[1]
            )
            torch.testing.assert_close(module(x), module.base_layer(x) + added, atol=1e-5, rtol=1e-4)


def test_separable_tasks_are_told_apart(tmp_path: Path) -> None:
    tasks, policy = three_tasks(tmp_path), small_policy()
    strategy = HiDe(HiDe.Options(**OPTIONS, threshold=1.0), 0)
    learn(strategy, policy, tasks)
    observation, expected = observations(tasks)
    route: Any = strategy.route(observation)
    first, second = (next(iter(route[name].values())) for name in strategy.adapters)
    weights = torch.stack([1 - first - second, first, second], dim=1)
    assert weights.argmax(dim=1).tolist() == expected


def test_earlier_adapters_and_the_base_are_bit_identical_after_later_tasks(tmp_path: Path) -> None:
    tasks, policy = three_tasks(tmp_path), small_policy()
    strategy = HiDe(HiDe.Options(**OPTIONS), 0)
    learn(strategy, policy, tasks[:2])
    before = snapshot(policy)
    learn(strategy, policy, tasks[2:], 2)
    after = snapshot(policy)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert len(after) > len(before)


@pytest.mark.parametrize("options", [{"threshold": 1.5}, {"fusion": 0.0}, {"temperature": 0.0}, {"samples": 1}])
def test_unusable_options_are_named(options: dict[str, Any]) -> None:
    ((key, value),) = options.items()
    with pytest.raises(ConfigurationError, match=f"strategy.{key} .*got {value}"):
        HiDe(HiDe.Options(**options), 0)


def test_by_default_general_layers_take_the_mean_of_all_adapters(tmp_path: Path) -> None:
    tasks, policy = three_tasks(tmp_path), small_policy()
    strategy = HiDe(HiDe.Options(**OPTIONS), 0)
    learn(strategy, policy, tasks)
    layers = policy.adapters[strategy.adapters[0]].modules
    strategy.alignment = dict.fromkeys(layers, 0.99) | {layers[-1]: 0.1}
    route = strategy.route(observations(tasks, 1)[0])
    assert route is not None and len(route) == len(strategy.adapters) == 2, "the first task trained the base"
    for weights in route.values():
        assert isinstance(weights, dict)
        assert {weights[layer] for layer in layers[:-1]} == {0.5}
