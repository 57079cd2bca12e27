"""Routes: what a mixture of adapters does to a batch is what its adapters do to each row alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.policies.adapted import BACKBONES, adapt, backbone_policy, speaking
from tests.policies.conftest import RANGES, make_batch, make_policy
from tests.policies.vlms import CONFIGS, FolderOf, policy_from, saved_once
from vla_cl.data import Batch, ObservationBatch, Statistics
from vla_cl.errors import ConfigurationError, UnknownNameError
from vla_cl.policies import HEADS, Policy, PolicyConfig, PolicyFeatures, build_policy
from vla_cl.policies.adapters import delta_weights, factors, mixture, set_active

ROWS = 3
SEEDS = [4, 5, 6]
BATCH = make_batch(ROWS)
FIRST, SECOND = torch.tensor([0.3, 1.0, 0.0]), torch.tensor([-0.5, 0.0, 2.0])
ROUTE = {"one": FIRST, "two": SECOND}


def adapted(policy: Policy, **options: Any) -> Policy:
    adapt(policy, "one", 1, **{"rank": 2, "std": 0.05, **options})
    adapt(policy, "two", 2, **{"rank": 3, "std": 0.05, **options})
    return policy


def rows_alone(policy: Policy, observation: ObservationBatch) -> Tensor:
    """Each row acted on in a batch of its own, its weights numbers."""
    weights = zip(FIRST.tolist(), SECOND.tolist(), strict=True)
    return torch.cat(
        [
            policy.act(observation[row : row + 1], SEEDS[row : row + 1], {"one": one, "two": two})
            for row, (one, two) in enumerate(weights)
        ]
    )


def check_rows(policy: Policy, observation: ObservationBatch = BATCH.observation) -> None:
    """Rows mixed in one batch are what they are alone, and the weights matter to each."""
    mixed = policy.act(observation, SEEDS, ROUTE)
    assert torch.allclose(mixed, rows_alone(policy, observation), atol=1e-5)
    plain = policy.act(observation, SEEDS)
    assert ((mixed - plain).flatten(1).abs().amax(dim=1) > 1e-4).all()


# --- rows ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_row_of_a_mixture_is_what_it_is_alone_on_every_backbone(backbone: str) -> None:
    check_rows(adapted(backbone_policy(backbone), targets="linear", head=True))


HEAD_OPTIONS: dict[str, dict[str, Any]] = {
    "flow": {"network": "transformer", "width": 32, "layers": 1, "heads": 2, "steps": 2, "noise_samples": 3},
    "regression": {"network": "transformer", "width": 32, "layers": 1, "heads": 2},
    "vqbet": {"width": 32, "layers": 1, "temperature": 0.0, "autoencoder_steps": 20},
}


@pytest.mark.parametrize("head", sorted(HEADS))
def test_a_row_of_a_mixture_is_what_it_is_alone_under_every_head(head: str) -> None:
    policy = make_policy(head=head, head_options=HEAD_OPTIONS.get(head, {}), backbone_options={"layers": 1})
    actions = make_batch(200, seed=3).actions
    policy.head.prepare(policy.normalise_actions(actions), torch.Generator().manual_seed(0))
    adapted(speaking(policy), targets="linear", head=True)
    assert any(module.startswith("head.") for module in policy.adapters["one"].modules)
    noise = policy.head.sample_noise(ROWS, torch.Generator().manual_seed(1))
    with mixture(policy, ROUTE):
        mixed = policy.imitate(BATCH, noise)
    for row, (one, two) in enumerate(zip(FIRST.tolist(), SECOND.tolist(), strict=True)):
        this = slice(row, row + 1)
        with mixture(policy, {"one": one, "two": two}):
            alone = policy.imitate(BATCH[this], noise[this])
        assert torch.allclose(mixed.loss[this], alone.loss, rtol=1e-4, atol=1e-5)
        assert torch.allclose(mixed.context.tokens[this], alone.context.tokens, atol=1e-5)
    if head not in ("tokens", "fast"):  # a score that rounds otherwise is another token
        assert torch.allclose(
            policy.act(BATCH.observation, SEEDS, ROUTE), rows_alone(policy, BATCH.observation), atol=1e-4
        )


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> FolderOf:
    return saved_once(tmp_path_factory.mktemp("models"))


@pytest.mark.parametrize("family", CONFIGS)
def test_every_camera_of_a_row_sees_through_the_rows_adapters(family: str, folder_of: FolderOf) -> None:
    """The vision tower sees all cameras of all rows as one batch."""
    policy = policy_from(folder_of(family))
    check_rows(
        adapted(policy, targets=r"model\..*(vision|language|text).*(q_proj|fc1|projection_layer|up_proj)", std=0.2)
    )
    assert any("vision" in module for module in policy.adapters["one"].modules)


@pytest.mark.parametrize(
    ("head", "options"),
    [
        ("flow", {"network": "expert", "noise_samples": 3, "steps": 2}),
        ("regression", {"network": "decoder"}),
        ("tokens", {"decoder": "backbone"}),
    ],
)
def test_a_head_that_goes_on_in_the_language_model_keeps_its_rows(head: str, options: dict[str, Any]) -> None:
    policy = adapted(speaking(backbone_policy("hf_vlm", head=head, head_options=options)), head=True)
    noise = policy.head.sample_noise(ROWS, torch.Generator().manual_seed(1))
    with mixture(policy, ROUTE):
        mixed = policy.imitate(BATCH, noise).loss
    plain = policy.imitate(BATCH, noise).loss
    for row, (one, two) in enumerate(zip(FIRST.tolist(), SECOND.tolist(), strict=True)):
        this = slice(row, row + 1)
        with mixture(policy, {"one": one, "two": two}):
            assert torch.allclose(mixed[this], policy.imitate(BATCH[this], noise[this]).loss, rtol=1e-4, atol=1e-5)
    assert ((mixed - plain).abs() > 1e-4).all()


@pytest.mark.parametrize("backbone", ["compact", "vit", "lowdim"])
def test_every_moment_of_a_history_belongs_to_its_row(backbone: str) -> None:
    privileged = backbone == "lowdim"
    config = PolicyConfig(
        pixels=not privileged, privileged=privileged, history=3, execute=4, **BACKBONES[backbone], head="regression"
    )
    features = PolicyFeatures(
        4, 4, () if privileged else ("corner2", "gripperPOV"), environment_state_dim=39 * privileged, history=3
    )
    policy = speaking(build_policy(config, features, 0))
    policy.set_statistics(
        Statistics.from_ranges({name: RANGES[name] for name in RANGES if privileged or name[0] == "a"})
    )
    past = tuple(make_batch(ROWS, seed=seed).observation for seed in (7, 8))
    check_rows(adapted(policy, targets="linear", head=True), replace(BATCH.observation, past=past))


# --- weights -------------------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(st.lists(st.floats(-2, 2, width=32), min_size=2, max_size=2))
def test_a_weighted_mixture_is_the_weighted_sum_of_the_changes(weights: list[float]) -> None:
    policy = adapted(backbone_policy("lowdim"))
    one, two = delta_weights(policy, "one"), delta_weights(policy, "two")
    for module in one:
        layer = policy.get_submodule(module)
        x = torch.randn(4, 256, generator=torch.Generator().manual_seed(0))
        weight = layer.base_layer.weight + weights[0] * one[module] + weights[1] * two[module]
        with mixture(policy, {"one": weights[0], "two": torch.tensor(weights[1])}):
            assert torch.allclose(layer(x), x @ weight.T + layer.base_layer.bias, atol=1e-4)


def test_weights_of_one_are_the_active_adapters_and_no_weights_the_base() -> None:
    policy, observation = backbone_policy("compact"), BATCH.observation
    base = policy.act(observation, SEEDS)
    adapted(policy)
    both = policy.act(observation, SEEDS)
    assert torch.equal(policy.act(observation, SEEDS, {"one": 1.0, "two": 1}), both)
    assert torch.equal(policy.act(observation, SEEDS, {}), base)
    assert torch.equal(policy.act(observation, SEEDS, {"one": 0.0, "two": 0}), base)
    assert torch.allclose(
        policy.act(observation, SEEDS, {"one": torch.ones(3), "two": torch.tensor(1.0)}), both, atol=1e-6
    )
    set_active(policy, ["two"])
    two = policy.act(observation, SEEDS)
    assert torch.equal(policy.act(observation, SEEDS, {"two": 1.0}), two)
    assert torch.equal(policy.act(observation, SEEDS, {"one": 1.0, "two": 1.0}), both)
    assert torch.equal(policy.act(observation, SEEDS), two)


def test_weights_may_differ_from_layer_to_layer() -> None:
    policy = adapted(backbone_policy("lowdim"))
    one, two = delta_weights(policy, "one"), delta_weights(policy, "two")
    first, second, *others = one
    rows = torch.tensor([0.5, 0.0, -1.0, 2.0])
    expected = {
        first: lambda x: 0.25 * x @ one[first].T + x @ two[first].T,
        second: lambda x: rows[:, None] * (x @ one[second].T) + x @ two[second].T,
        **{name: (lambda x, name=name: x @ two[name].T) for name in others},
    }
    with mixture(policy, {"one": {first: 0.25, second: rows}, "two": 1.0}):
        for name, added in expected.items():
            layer = policy.get_submodule(name)
            x = torch.randn(4, layer.in_features, generator=torch.Generator().manual_seed(0))
            assert torch.allclose(layer(x), layer.base_layer(x) + added(x), atol=1e-5), name


def test_equal_weights_in_every_layer_are_one_weight() -> None:
    policy, observation = adapted(backbone_policy("lowdim")), BATCH.observation
    layered = {name: dict.fromkeys(policy.adapters[name].modules, weight) for name, weight in ROUTE.items()}
    assert torch.equal(policy.act(observation, SEEDS, layered), policy.act(observation, SEEDS, ROUTE))
    assert torch.equal(policy.act(observation, SEEDS, {"one": {}}), policy.act(observation, SEEDS, {}))


def test_gradients_reach_the_weights_of_a_route() -> None:
    policy = adapted(backbone_policy("lowdim"))
    noise = policy.head.sample_noise(ROWS, torch.Generator().manual_seed(1))
    weights = FIRST.clone().requires_grad_()

    def loss(weights: Tensor) -> Tensor:
        with mixture(policy, {"one": weights, "two": 1.0}):
            return policy.imitate(BATCH, noise).loss

    loss(weights).sum().backward()
    assert weights.grad is not None
    step = 1e-2
    for row in range(ROWS):
        moved = torch.zeros(ROWS)
        moved[row] = step
        with torch.no_grad():
            slope = (loss(weights + moved) - loss(weights - moved)).sum() / (2 * step)
        assert torch.allclose(weights.grad[row], slope, rtol=0.05, atol=1e-3)


def test_only_adapters_that_act_are_trained() -> None:
    policy = adapted(backbone_policy("lowdim"))
    with mixture(policy, {"two": 0.5}):
        policy.loss(BATCH, torch.Generator().manual_seed(0)).sum().backward()
    assert all(each.up.grad is None and each.down.grad is None for each in factors(policy, "one").values())
    assert all(each.up.grad is not None and each.up.grad.any() for each in factors(policy, "two").values())


def test_the_innermost_mixture_holds_and_the_outer_one_comes_back() -> None:
    policy, observation = adapted(backbone_policy("lowdim")), BATCH.observation
    plain, mixed = policy.act(observation, SEEDS), policy.act(observation, SEEDS, ROUTE)
    one = policy.act(observation, SEEDS, {"one": 1.0})
    with mixture(policy, ROUTE):
        assert torch.equal(policy.act(observation, SEEDS), mixed)
        assert torch.equal(policy.act(observation, SEEDS, {"one": 1.0}), one)
        with pytest.raises(KeyError), mixture(policy, {"one": 0.2}):
            raise KeyError
        assert torch.equal(policy.act(observation, SEEDS), mixed)
    assert torch.equal(policy.act(observation, SEEDS), plain)
    hooks = [len(module._forward_hooks) for module in policy.modules()]
    assert not any(hooks)


def test_mixtures_work_under_bfloat16() -> None:
    policy = adapted(backbone_policy("compact"))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = policy.act(BATCH.observation, SEEDS, ROUTE)
    assert mixed.dtype == torch.float32
    assert torch.allclose(mixed, policy.act(BATCH.observation, SEEDS, ROUTE), atol=0.1)


# --- mistakes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("route", "message"),
    [
        ("one", "a route is None or a mapping of adapters' names to weights, got 'one'"),
        ({"one": "1"}, "the weight of adapter 'one' must be a finite number, got '1'"),
        ({"one": True}, "must be a finite number, got True"),
        ({"one": float("nan")}, "must be a finite number, got nan"),
        ({"one": torch.ones(3, 2)}, r"floats of shape \(rows,\), got torch.float32 of shape \(3, 2\)"),
        ({"one": torch.ones(3, dtype=torch.long)}, "got torch.int64 of shape"),
        ({"one": torch.ones(3), "two": torch.ones(2)}, r"for as many rows each, got \[2, 3\]"),
        ({"one": torch.ones(2)}, "the route weighs adapters for 2 rows, got 3 observations"),
        ({"one": torch.ones(1)}, "the route weighs adapters for 1 rows, got 3 observations"),
    ],
)
def test_a_route_that_cannot_be_used_is_told_in_one_line(route: Any, message: str) -> None:
    policy = adapted(backbone_policy("lowdim"))
    plain = policy.act(BATCH.observation, SEEDS)
    with pytest.raises(ConfigurationError, match=message) as caught:
        policy.act(BATCH.observation, SEEDS, route)
    assert "\n" not in str(caught.value)
    assert torch.equal(policy.act(BATCH.observation, SEEDS), plain)


def test_an_unknown_adapter_and_a_policy_without_any_are_named() -> None:
    policy = adapted(backbone_policy("lowdim"))
    with pytest.raises(UnknownNameError, match=r"adapter 'three' is not registered; .*known: one, two"):
        policy.act(BATCH.observation, SEEDS, {"three": 1.0})
    with pytest.raises(UnknownNameError, match=r"layer of adapter 'one' 'backbone\.trunk' is not registered"):
        policy.act(BATCH.observation, SEEDS, {"one": {"backbone.trunk": 1.0}})
    bare = backbone_policy("lowdim")
    with pytest.raises(ConfigurationError, match="has no adapters"):
        bare.act(BATCH.observation, SEEDS, {"one": 1.0})
    assert torch.equal(bare.act(BATCH.observation, SEEDS, {}), bare.act(BATCH.observation, SEEDS))


def test_a_batch_that_is_not_the_routes_is_refused_in_training_too() -> None:
    policy = adapted(backbone_policy("lowdim"))
    part: Batch = BATCH[slice(0, 2)]
    with mixture(policy, ROUTE), pytest.raises(ConfigurationError, match="for 3 rows, got 2 observations"):
        policy.loss(part, torch.Generator().manual_seed(0))
