"""CLARE: layers grow where data is new to them, and apply the adapter of what they recognise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.strategies.conftest import make_dataset
from tests.strategies.routed import NAMES, TRAINING, learn, observations, small_policy, snapshot
from vla_cl.data import WindowDataset
from vla_cl.errors import ConfigurationError
from vla_cl.strategies.clare import CLARE, is_novel
from vla_cl.strategies.expandable import BASE, Bottleneck, Discriminator, ExpandableLayer, feed_forward_layers
from vla_cl.tasks import Task, find_task
from vla_cl.training import fit

OPTIONS: dict[str, Any] = {
    "discriminator_steps": 100,
    "discriminator_rate": 1e-2,
    "samples": 64,
    "width": 8,
    "hidden": 4,
}
SEEDS = list(range(24))
STATES = ((0.0, 0.3), (0.35, 0.65), (0.7, 1.0))


def three_tasks(folder: Path) -> list[tuple[Task, WindowDataset]]:
    """Tasks whose states lie apart."""
    return [
        (find_task(name), make_dataset(folder, name, episodes=4, seed=seed, states=states))
        for seed, (name, states) in enumerate(zip(NAMES, STATES, strict=True))
    ]


def test_a_layer_is_expanded_if_no_discriminator_knows_its_input() -> None:
    assert is_novel([3.0, 9.0], 2.5)
    assert not is_novel([3.0, 2.0], 2.5)
    assert is_novel([], 2.5)


def test_errors_are_those_of_reconstructed_normalised_tokens_and_z_scores_relative_to_their_own() -> None:
    discriminator = Discriminator(6, 3, 0)
    x = torch.randn(4, 5, 6)
    normed = F.layer_norm(x, (6,))
    code = torch.relu(normed @ discriminator.encoder.weight.T + discriminator.encoder.bias)
    rebuilt = code @ discriminator.decoder.weight.T + discriminator.decoder.bias
    torch.testing.assert_close(discriminator.errors(x), ((rebuilt - normed) ** 2).mean(dim=(1, 2)))
    discriminator.mean.fill_(0.5)
    discriminator.deviation.fill_(0.25)
    assert discriminator.z_score(torch.tensor([0.9, 1.1])) == pytest.approx(2.0)


def test_each_row_gets_the_adapter_of_the_discriminator_that_errs_least() -> None:
    layer = ExpandableLayer(6, 6)
    torch.manual_seed(0)
    layer.adapters.extend([Bottleneck(6, 4, 6), Bottleneck(6, 4, 6)])
    for adapter in layer.adapters:
        torch.nn.init.normal_(adapter.up.weight)  # type: ignore[arg-type,union-attr]
    layer.discriminators.extend([Discriminator(6, 3, BASE), Discriminator(6, 3, 1), Discriminator(6, 3, 0)])
    x = torch.randn(40, 5, 6)
    errors = torch.stack([each.errors(x) for each in layer.discriminators])  # type: ignore[operator]
    added = layer.routed(x)
    chosen = errors.argmin(dim=0).tolist()
    assert set(chosen) == {0, 1, 2}
    for row, which in enumerate(chosen):
        adapter = (None, layer.adapters[1], layer.adapters[0])[which]
        expected = torch.zeros(5, 6) if adapter is None else adapter(x[row])
        torch.testing.assert_close(added[row], expected)


def test_layers_are_the_feed_forward_ones_of_trunk_and_head(tmp_path: Path) -> None:
    (_, data), *_ = three_tasks(tmp_path)
    policy, batch = small_policy(), data.batch([0])
    layers = feed_forward_layers(policy, "auto", True, batch)
    names = list(layers)
    assert names[:2] == ["backbone.layers.0.mlp", "backbone.layers.1.mlp"]
    assert names[2:]
    assert all(name.startswith("head.") for name in names[2:])
    assert list(feed_forward_layers(policy, "auto", False, batch)) == names[:2]
    assert list(feed_forward_layers(policy, r"backbone\.layers\.1\.mlp", True, batch)) == names[1:2]
    assert (layers[names[0]].inputs, layers[names[0]].outputs) == (16, 16)
    with pytest.raises(ConfigurationError, match=r"strategy\.layers='nothing' names no feed-forward layer"):
        feed_forward_layers(policy, "nothing", True, batch)


def test_a_new_distribution_expands_layers_and_a_repeated_one_only_the_first(tmp_path: Path) -> None:
    tasks, policy = three_tasks(tmp_path), small_policy()
    strategy = CLARE(CLARE.Options(**OPTIONS), 0)
    learn(strategy, policy, tasks[:2])
    first, *others = strategy.layers
    assert first in strategy.novel
    grown = {name: len(layer.adapters) for name, layer in strategy.layers.items()}
    adapter_of_second = dict(strategy.present)
    (tmp_path / "more").mkdir()
    more = make_dataset(tmp_path / "more", NAMES[1], episodes=4, seed=11, states=STATES[1])  # other draws
    strategy.begin_task(tasks[2][0], policy, more)  # it is called something else
    assert strategy.novel == []
    assert {name: len(layer.adapters) for name, layer in strategy.layers.items()} == {**grown, first: grown[first] + 1}
    assert {name: strategy.present[name] for name in others} == {name: adapter_of_second[name] for name in others}


def test_a_task_trains_what_it_adds_and_nothing_else(tmp_path: Path) -> None:
    tasks, policy = three_tasks(tmp_path), small_policy()
    strategy = CLARE(CLARE.Options(**OPTIONS), 0)
    learn(strategy, policy, tasks[:2])
    base = snapshot(policy)
    parts = {name: snapshot(layer) for name, layer in strategy.layers.items()}
    learn(strategy, policy, tasks[2:], 2)
    assert all(torch.equal(value, base[name]) for name, value in snapshot(policy).items())
    for name, layer in strategy.layers.items():
        now = snapshot(layer)
        assert all(torch.equal(now[key], value) for key, value in parts[name].items())
        assert not any(each.requires_grad for each in layer.parameters())
        assert len(layer.discriminators) == 3
    new = [name for name in strategy.novel if len(strategy.layers[name].adapters) > 1]
    assert new
    assert all(strategy.layers[name].adapters[-1].up.weight.any() for name in new)  # type: ignore[union-attr,operator]


def test_in_training_a_layer_adds_the_tasks_own_adapter(tmp_path: Path) -> None:
    tasks, policy = three_tasks(tmp_path), small_policy()
    strategy = CLARE(CLARE.Options(**OPTIONS), 0)
    learn(strategy, policy, tasks[:2])
    name = strategy.novel[0]
    layer, module = strategy.layers[name], policy.get_submodule(name)
    x = torch.randn(3, 5, layer.inputs)
    plain = module(x)
    with strategy.training_pass(tasks[1][1].batch(range(3))):
        torch.testing.assert_close(module(x), plain + layer.adapters[strategy.present[name]](x))
    assert torch.equal(module(x), plain)


def test_separable_tasks_are_recognised_when_acting(tmp_path: Path) -> None:
    tasks, policy = three_tasks(tmp_path), small_policy()
    strategy = CLARE(CLARE.Options(**{**OPTIONS, "discriminator_steps": 200}), 0)
    learn(strategy, policy, tasks)
    name = next(iter(strategy.layers))
    layer = strategy.layers[name]
    seen: list[torch.Tensor] = []
    handle = policy.get_submodule(name).register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    observation, expected = observations(tasks)
    with strategy.acting_pass(observation):
        policy.act(observation, SEEDS)
    handle.remove()
    owners = [int(each.adapter) for each in layer.discriminators]  # type: ignore[arg-type]
    assert owners == [BASE, 0, 1]
    assert layer.nearest(seen[0]).tolist() == [owners[task] for task in expected]


def test_with_pretrained_weights_the_first_task_expands_every_layer(tmp_path: Path) -> None:
    tasks, policy = three_tasks(tmp_path), small_policy()
    base = snapshot(policy)
    strategy = CLARE(CLARE.Options(**OPTIONS, first_task="adapter"), 0)
    learn(strategy, policy, tasks[:1])
    assert strategy.novel == list(strategy.layers)
    assert all(torch.equal(value, base[name]) for name, value in snapshot(policy).items())


def test_a_restored_strategy_acts_alike(tmp_path: Path) -> None:
    tasks, policy = three_tasks(tmp_path), small_policy()
    strategy = CLARE(CLARE.Options(**OPTIONS), 0)
    learn(strategy, policy, tasks)
    restored = CLARE(CLARE.Options(**OPTIONS), 0)
    restored.load_state_dict(strategy.state_dict())
    restored.bind(policy)
    observation, _ = observations(tasks)
    acted = []
    for each in (strategy, restored):
        with each.acting_pass(observation):
            acted.append(policy.act(observation, SEEDS))
    assert torch.equal(*acted)
    assert not torch.equal(policy.act(observation, SEEDS), acted[0])


def test_state_inside_a_task_is_taken_in_place(tmp_path: Path) -> None:
    tasks, policy = three_tasks(tmp_path), small_policy()
    strategy = CLARE(CLARE.Options(**OPTIONS), 0)
    learn(strategy, policy, tasks[:1])
    strategy.begin_task(tasks[1][0], policy, tasks[1][1])
    held = dict(strategy.layers[strategy.novel[0]].named_parameters())
    state = {name: value.clone() + 1 for name, value in strategy.layers[strategy.novel[0]].state_dict().items()}
    whole = strategy.state_dict()
    whole["layers"][strategy.novel[0]]["weights"] = state
    strategy.load_state_dict(whole)
    assert all(torch.equal(parameter, state[name]) for name, parameter in held.items())
    fit(policy, tasks[1][1], strategy, TRAINING, seed=0, stage=1)
    adapter = [name for name in held if name.startswith("adapters")]
    assert any(not torch.equal(held[name], state[name]) for name in adapter)


@pytest.mark.parametrize(
    "options",
    [
        {"width": 0},
        {"hidden": 0},
        {"discriminator_steps": -1},
        {"discriminator_rate": 0.0},
        {"samples": 1},
        {"first_task": "half"},
        {"layers": "("},
    ],
)
def test_unusable_options_are_named(options: dict[str, Any]) -> None:
    ((key, _),) = options.items()
    with pytest.raises(ConfigurationError, match=f"strategy.{key} must be .*, got "):
        CLARE(CLARE.Options(**options), 0)
