"""Low-rank adapters come, act, go and leave nothing behind, on every backbone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.policies.adapted import BACKBONES, adapt, backbone_policy
from tests.policies.conftest import make_batch, make_policy
from vla_cl.config import compose
from vla_cl.errors import ConfigurationError, UnknownNameError
from vla_cl.policies import Policy
from vla_cl.policies.adapters import (
    AdapterOptions,
    adapter_names,
    adapter_parameters,
    add_adapter,
    delta_weights,
    factors,
    fold,
    freeze_adapter,
    freeze_base,
    merge,
    remove_adapter,
    set_active,
    unfreeze_adapter,
    unmerge,
)

SEEDS = [0, 1, 2]
OBSERVATION = make_batch(3).observation


def acts(policy: Policy) -> Tensor:
    return policy.act(OBSERVATION, SEEDS)


def state(policy: Policy) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in policy.state_dict().items()}


# --- coming and going ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_new_adapter_changes_nothing_until_it_is_trained_and_nothing_once_it_is_gone(backbone: str) -> None:
    policy = backbone_policy(backbone)
    before, weights = acts(policy), state(policy)
    trained = {name: each.requires_grad for name, each in policy.named_parameters()}
    generator = torch.random.get_rng_state()
    add_adapter(policy, "lora_0", AdapterOptions(rank=3), seed=5)
    assert torch.equal(torch.random.get_rng_state(), generator)
    assert torch.equal(acts(policy), before)
    assert adapter_names(policy) == policy.active_adapters == ("lora_0",)
    with torch.no_grad():
        for factor in factors(policy, "lora_0").values():
            factor.up.normal_(std=0.1)
    assert not torch.allclose(acts(policy), before, atol=1e-3)
    remove_adapter(policy, "lora_0")
    assert torch.equal(acts(policy), before)
    assert state(policy).keys() == weights.keys()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in state(policy).items())
    assert {name: each.requires_grad for name, each in policy.named_parameters()} == trained
    assert adapter_names(policy) == policy.active_adapters == ()


def test_an_adapter_is_a_function_of_its_seed_and_name() -> None:
    drawn = []
    for name, seed in (("a", 1), ("a", 1), ("a", 2), ("b", 1)):
        policy = make_policy(backbone="lowdim")
        torch.rand(3)  # what was drawn before does not matter
        add_adapter(policy, name, seed=seed)
        drawn.append(torch.cat([factor.down.flatten() for factor in factors(policy, name).values()]))
        assert all(not factor.up.any() for factor in factors(policy, name).values())
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2]) and not torch.equal(drawn[0], drawn[3])


def test_a_linear_layer_computes_what_the_paper_says() -> None:
    policy = make_policy(backbone="lowdim")
    adapt(policy, "a", 1, rank=3, alpha=6.0, targets=r"mlp\.blocks\.0\.1")
    adapt(policy, "b", 2, rank=2, alpha=1.0, targets=r"mlp\.blocks\.0\.1")
    (module,) = policy.adapters["a"].modules
    layer = policy.get_submodule(module)
    x = torch.randn(5, 256)
    a, b = factors(policy, "a")[module], factors(policy, "b")[module]
    assert (a.scale, b.scale) == (2.0, 0.5)
    expected = F.linear(x, layer.base_layer.weight, layer.base_layer.bias)
    expected = expected + 6 / 3 * x @ a.down.T @ a.up.T + 1 / 2 * x @ b.down.T @ b.up.T
    assert torch.allclose(layer(x), expected, atol=1e-5)
    assert torch.allclose(delta_weights(policy, "a")[module], 2 * a.up @ a.down, atol=1e-6)


def test_a_convolution_is_adapted_like_the_linear_map_that_it_is() -> None:
    policy = backbone_policy("compact")
    adapt(policy, "a", rank=3, targets=r"encoder\.streams\.0\.convolutions\..*")
    assert len(policy.adapters["a"].modules) == 2
    with_adapter = acts(policy)
    x = torch.randn(2, 32, 6, 6)
    for module, delta in delta_weights(policy, "a").items():
        layer = policy.get_submodule(module)
        base = layer.base_layer
        assert torch.allclose(layer(x), F.conv2d(x, base.weight + delta, base.bias, padding=1), atol=1e-4)
    merge(policy)
    assert torch.allclose(acts(policy), with_adapter, atol=1e-5)


# --- targets -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backbone", "targets", "wanted"),
    [
        ("compact", "auto", {"layers.0.attention.queries", "layers.1.mlp.3"}),
        ("compact", "attention", {"layers.0.attention.queries", "layers.1.attention.memory"}),
        ("compact", "linear", {"instruction_token", "encoder.projections.0", "layers.0.mlp.1"}),
        ("lowdim", "auto", {"mlp.blocks.0.1", "mlp.blocks.1.3"}),
        ("hf_vlm", "auto", {"model.text_model.layers.0.self_attn.q_proj", "model.text_model.layers.3.mlp.down_proj"}),
        ("hf_vlm", "attention", {"model.text_model.layers.3.self_attn.o_proj"}),
        ("hf_vlm", r".*vision.*q_proj", {"model.vision_model.encoder.layers.0.self_attn.q_proj"}),
    ],
)
def test_targets_mean_layers(backbone: str, targets: str, wanted: set[str]) -> None:
    policy = backbone_policy(backbone)
    add_adapter(policy, "a", AdapterOptions(rank=2, targets=targets))
    found = {module.removeprefix("backbone.") for module in policy.adapters["a"].modules}
    assert wanted <= found
    assert all("attn" in name or "attention" in name for name in found) or targets != "attention"
    assert not any("vision" in name for name in found) or "vision" in targets
    assert all(isinstance(policy.get_submodule(f"backbone.{name}").base_layer, nn.Linear) for name in found)
    if backbone == "hf_vlm" and targets == "auto":
        assert len(found) == 4 * 7


def test_every_adapted_layer_of_policy_and_head_matters() -> None:
    policy = backbone_policy("compact", head_options={"network": "transformer", "width": 32, "layers": 1, "steps": 2})
    batch, before = make_batch(3), acts(policy)
    add_adapter(policy, "a", AdapterOptions(rank=2, targets="linear", head=True))
    assert any(module.startswith("head.") for module in policy.adapters["a"].modules)
    policy.loss(batch, torch.Generator().manual_seed(0)).sum().backward()
    for module, factor in factors(policy, "a").items():
        assert factor.up.grad is not None and factor.up.grad.any(), module
    assert torch.equal(acts(policy), before)


def test_a_layer_whose_weights_others_share_is_left_alone() -> None:
    policy = make_policy(backbone="lowdim")
    first, second = policy.backbone.mlp.blocks[0], policy.backbone.mlp.blocks[1]
    second[1].weight = first[1].weight
    add_adapter(policy, "a")
    assert policy.adapters["a"].modules == ("backbone.mlp.blocks.0.3", "backbone.mlp.blocks.1.3")


# --- several -------------------------------------------------------------------------------------------------


def test_several_adapters_add_up_and_are_switched_apart() -> None:
    policy = backbone_policy("compact")
    base = acts(policy)
    adapt(policy, "one", 1, rank=2)
    one = acts(policy)
    adapt(policy, "two", 2, rank=4, targets="linear", head=True)
    both = acts(policy)
    assert policy.active_adapters == ("one", "two")
    set_active(policy, ["one"])
    assert torch.equal(acts(policy), one)
    set_active(policy, [])
    assert torch.equal(acts(policy), base)
    set_active(policy, ["two", "one"])
    assert torch.equal(acts(policy), both)
    for name in ("one", "two"):
        fold(policy, name)
    assert torch.allclose(acts(policy), both, atol=1e-5)
    assert not torch.allclose(both, one, atol=1e-3)


def test_switching_leaves_what_is_trained_alone_and_the_other_way_round() -> None:
    policy = make_policy(backbone="lowdim")
    policy.head.requires_grad_(False)
    adapt(policy, "one", 1)
    freeze_adapter(policy, "one")
    adapt(policy, "two", 2)
    set_active(policy, ["one"])
    one, two = adapter_parameters(policy, "one"), adapter_parameters(policy, "two")
    assert not any(each.requires_grad for each in one.values()) and all(each.requires_grad for each in two.values())
    assert not any(each.requires_grad for each in policy.head.parameters())
    assert policy.backbone.state_projection.weight.requires_grad
    unfreeze_adapter(policy, "one")
    assert all(each.requires_grad for each in one.values()) and policy.active_adapters == ("one",)
    named = dict(policy.named_parameters())
    assert all(named[name] is each for name, each in {**one, **two}.items())
    assert {name for name in named if "lora_" in name} == {*one, *two}


# --- merging -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", BACKBONES)
def test_merging_keeps_what_the_policy_does_and_can_be_undone(backbone: str) -> None:
    policy = backbone_policy(backbone)
    adapt(policy, "one", 1, rank=2)
    adapt(policy, "two", 2, rank=3, targets="linear", head=True, std=0.02)
    before, weights = acts(policy), state(policy)
    merge(policy)
    assert torch.allclose(acts(policy), before, atol=1e-5)
    merged = state(policy)
    merge(policy)
    merge(policy, ["one"])
    assert all(torch.equal(tensor, merged[name]) for name, tensor in state(policy).items()), "merged twice"
    unmerge(policy)
    assert all(torch.allclose(tensor, weights[name], atol=1e-6) for name, tensor in state(policy).items())
    assert torch.allclose(acts(policy), before, atol=1e-5)
    unmerge(policy)


def test_what_is_merged_acts_alone() -> None:
    policy = backbone_policy("compact")
    adapt(policy, "one", 1, rank=2, targets="attention")
    one = acts(policy)
    adapt(policy, "two", 2, rank=2)
    both = acts(policy)
    merge(policy, ["one"])
    assert torch.allclose(acts(policy), one, atol=1e-5)
    unmerge(policy)
    assert torch.allclose(acts(policy), both, atol=1e-5)


def test_a_merged_policy_refuses_what_would_go_wrong(tmp_path: Path) -> None:
    policy = make_policy(backbone="lowdim")
    adapt(policy, "one")
    merge(policy)
    refused = [
        lambda: add_adapter(policy, "two"),
        lambda: remove_adapter(policy, "one"),
        lambda: set_active(policy, []),
        lambda: fold(policy, "one"),
        lambda: policy.act(OBSERVATION, SEEDS, {"one": 0.5}),
        lambda: policy.save_pretrained(tmp_path / "policy"),
    ]
    for call in refused:
        with pytest.raises(ConfigurationError, match="while one are merged; call unmerge first") as caught:
            call()
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "policy").exists()


def test_folding_adds_a_part_of_the_change_for_good() -> None:
    policy = make_policy(backbone="lowdim")
    weights = state(policy)
    adapt(policy, "one", rank=2)
    change = delta_weights(policy, "one")
    fold(policy, "one", weight=0.25)
    assert adapter_names(policy) == ()
    folded = state(policy)
    assert folded.keys() == weights.keys()
    for name, tensor in folded.items():
        expected = weights[name] + 0.25 * change.get(name.removesuffix(".weight"), torch.zeros(()))
        assert torch.allclose(tensor, expected, atol=1e-7), name
    assert any(not torch.equal(tensor, weights[name]) for name, tensor in folded.items())


# --- training ------------------------------------------------------------------------------------------------


def test_a_configuration_adapts_the_backbone_and_trains_the_head() -> None:
    policy = make_policy(backbone="lowdim", adapter={"rank": 4, "alpha": 8.0})
    assert policy.config.adapter == {"rank": 4, "alpha": 8.0, "targets": "auto", "head": False}
    assert policy.active_adapters == ("default",) and policy.adapters["default"].rank == 4
    trained = {name for name, each in policy.named_parameters() if each.requires_grad}
    assert trained == {name for name, _ in policy.named_parameters() if "lora_" in name or name.startswith("head.")}
    whole = make_policy(backbone="lowdim", adapter={"head": True})
    assert {name for name, each in whole.named_parameters() if each.requires_grad} == set(
        adapter_parameters(whole, "default")
    )


def test_lora_on_a_language_model_trains_the_proprioception_token_along() -> None:
    policy = backbone_policy("hf_vlm", adapter={"rank": 2})
    trained = {name for name, each in policy.backbone.named_parameters() if each.requires_grad}
    assert {name for name in trained if "lora_" not in name} == {
        f"proprioception.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")
    }
    assert sum("lora_" in name for name in trained) == 2 * 4 * 7


def test_training_moves_adapters_and_leaves_the_frozen_rest_bit_for_bit() -> None:
    policy = backbone_policy("lowdim")
    adapt(policy, "old", 1)
    freeze_base(policy, head=True)
    freeze_adapter(policy, "old")
    add_adapter(policy, "new", AdapterOptions(rank=4), seed=2)
    before, batch = state(policy), make_batch(6)
    optimiser = torch.optim.AdamW(
        (each for each in policy.parameters() if each.requires_grad), lr=3e-3, weight_decay=0.1
    )
    losses = []
    for step in range(40):
        loss = policy.loss(batch, torch.Generator().manual_seed(step % 4)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    moved = {name for name, tensor in state(policy).items() if not torch.equal(tensor, before[name])}
    assert moved == set(adapter_parameters(policy, "new"))
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4])


def test_adapters_work_under_bfloat16_and_on_bfloat16_weights() -> None:
    policy = backbone_policy(
        "hf_vlm", backbone_options={**BACKBONES["hf_vlm"]["backbone_options"], "dtype": "bfloat16"}
    )
    exact, batch = acts(policy), make_batch(3)
    add_adapter(policy, "a", AdapterOptions(rank=2))
    assert torch.equal(acts(policy), exact)
    assert all(each.dtype == torch.float32 for each in adapter_parameters(policy, "a").values())
    with torch.autocast("cpu", torch.bfloat16):
        loss = policy.loss(batch, torch.Generator().manual_seed(0))
    assert loss.dtype == torch.float32
    loss.sum().backward()
    gradients = [each.grad for each in adapter_parameters(policy, "a").values()]
    assert all(each is not None and each.isfinite().all() for each in gradients)
    adapt(policy, "b", 1, rank=2)
    changed = acts(policy)
    merge(policy)
    assert torch.allclose(acts(policy), changed, atol=0.1)


# --- mistakes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "option rank of adapter must be at least 1, got 0"),
        ({"alpha": 0.0}, "option alpha of adapter must be positive, got 0.0"),
        ({"targets": "layers.(0"}, r"must be auto, attention, linear or a regular expression, got 'layers.\(0'"),
        ({"targets": "nothing"}, "option targets='nothing' of adapter names no .* layer .* has, for instance, "),
        ({"targets": "encoder.streams.0.stem"}, "names no .* layer"),
        ({"targets": "layers"}, "names no .* layer"),
    ],
)
def test_options_that_cannot_be_used_are_told_in_one_line(options: dict[str, object], message: str) -> None:
    policy = backbone_policy("compact")
    with pytest.raises(ConfigurationError, match=message) as caught:
        add_adapter(policy, "a", AdapterOptions(**options))
    assert "\n" not in str(caught.value) and adapter_names(policy) == ()


@pytest.mark.parametrize("name", ["", "a.b", "a/b", "..", "ä", "keys", "forward"])
def test_a_name_that_is_no_folder_or_no_key_is_refused(name: str) -> None:
    policy = make_policy(backbone="lowdim")
    with pytest.raises(ConfigurationError, match="an adapter's name has letters"):
        add_adapter(policy, name)


def test_names_that_are_taken_or_unknown_are_told() -> None:
    policy = make_policy(backbone="lowdim")
    add_adapter(policy, "task_1")
    with pytest.raises(ConfigurationError, match="already has an adapter 'task_1'"):
        add_adapter(policy, "task_1")
    for call in (remove_adapter, adapter_parameters, factors, delta_weights, fold, freeze_adapter):
        with pytest.raises(UnknownNameError, match="adapter 'task_2' is not registered; did you mean 'task_1'"):
            call(policy, "task_2")
    for several in (set_active, merge):
        with pytest.raises(UnknownNameError, match="adapter 'task_2'"):
            several(policy, ["task_1", "task_2"])
    assert policy.active_adapters == ("task_1",)


def test_a_run_configures_an_adapter_and_an_unknown_field_is_named() -> None:
    (config,) = compose(["suite=mw5", "policy=lowdim", "policy.adapter.rank=8", "policy.adapter.head=true"])
    assert config.policy.adapter == {"rank": 8, "head": True}
    with pytest.raises(UnknownNameError, match=r"option of policy.adapter 'ranks' .*; did you mean 'rank'"):
        make_policy(backbone="lowdim", adapter={"ranks": 8})
