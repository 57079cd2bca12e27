"""Soft prompts: what they do to a backbone's tokens, on every backbone that takes them, and which refuse them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.policies.adapted import BACKBONES as PIXELS
from tests.policies.adapted import backbone_policy, speaking
from tests.policies.conftest import CAMERAS, RANGES, make_batch
from tests.policies.vlms import CONFIGS, FolderOf, policy_from, saved_once
from vla_cl.data import Statistics
from vla_cl.errors import ConfigurationError
from vla_cl.policies import Context, Policy, PolicyConfig, PolicyFeatures, build_policy
from vla_cl.policies.soft_prompts import SoftPrompts, check_prompts, expect_prompts, prompted

ROWS, LENGTH = 3, 4
BATCH = make_batch(ROWS)
SEEDS = [4, 5, 6]
TRUNKS = ("lowdim_transformer", "compact", "vit", "pretrained_compact")
TAKING = (*TRUNKS, "hf_vlm")


def make(backbone: str, *, history: int = 1, **changes: Any) -> Policy:
    """A policy whose head says something, on any backbone."""
    if backbone != "lowdim_transformer" and history == 1:
        return backbone_policy(backbone, **changes)
    privileged = backbone == "lowdim_transformer"
    parts = {"backbone": backbone, "backbone_options": {"instruction_encoder": "learned"}}
    config = PolicyConfig(
        **{**(parts if privileged else PIXELS[backbone]), **changes},
        pixels=not privileged,
        privileged=privileged,
        execute=4,
        history=history,
    )
    features = PolicyFeatures(4, 4, () if privileged else CAMERAS, 64, 39 * privileged, history)
    policy = build_policy(config, features, 0)
    policy.set_statistics(
        Statistics.from_ranges({name: RANGES[name] for name in RANGES if privileged or name[0] == "a"})
    )
    return speaking(policy)


def drawn(policy: Policy, rows: int = ROWS, *, seed: int = 0, length: int = LENGTH) -> Tensor:
    width = check_prompts(policy)
    return torch.randn(rows, length, width, generator=torch.Generator().manual_seed(seed))


def prefixes(policy: Policy, rows: int = ROWS) -> SoftPrompts:
    values = drawn(policy, rows, seed=9)
    layers = range(policy.backbone.prefix_layers)
    return SoftPrompts(prefixes={layer: (drawn(policy, rows, seed=layer), values) for layer in layers})


@torch.no_grad()
def context(policy: Policy, prompts: SoftPrompts | None) -> Context:
    with prompted(policy, prompts):
        return policy.context(BATCH.observation)


# --- what they do ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", TAKING)
def test_prompts_change_what_is_done_but_not_what_a_context_looks_like(backbone: str) -> None:
    policy = make(backbone)
    plain, before = context(policy, None), policy.act(BATCH.observation, SEEDS)
    prompts = SoftPrompts(drawn(policy))
    seen = context(policy, prompts)
    assert seen.tokens.shape == plain.tokens.shape
    assert ((seen.tokens - plain.tokens).flatten(1).abs().amax(dim=1) > 1e-4).all()
    with prompted(policy, prompts):
        acted = policy.act(BATCH.observation, SEEDS)
    assert ((acted - before).flatten(1).abs().amax(dim=1) > 1e-6).all()
    assert torch.equal(policy.act(BATCH.observation, SEEDS), before)


@pytest.mark.parametrize("backbone", TAKING)
def test_each_row_sees_its_own_prompts(backbone: str) -> None:
    policy = make(backbone)
    prompts = SoftPrompts(drawn(policy)) if backbone == "hf_vlm" else replace(prefixes(policy), tokens=drawn(policy))
    together = context(policy, prompts).tokens
    for row in range(ROWS):
        this = slice(row, row + 1)
        assert prompts.tokens is not None
        alone = SoftPrompts(prompts.tokens[this], {n: (k[this], v[this]) for n, (k, v) in prompts.prefixes.items()})
        with prompted(policy, alone), torch.no_grad():
            assert torch.allclose(policy.context(BATCH.observation[this]).tokens, together[this], atol=1e-5)


def test_prompts_are_tokens_that_are_dropped_behind_the_trunk() -> None:
    policy = make("lowdim_transformer")
    backbone: Any = policy.backbone
    prompts, entered = drawn(policy), []
    hook = backbone.layers[0].register_forward_pre_hook(lambda layer, inputs: entered.append(inputs[0]))
    seen = context(policy, SoftPrompts(prompts))
    hook.remove()
    (hidden,) = entered
    assert torch.equal(hidden[:, :LENGTH], prompts)
    with torch.no_grad():
        for layer in backbone.layers:
            hidden = layer(hidden)
        assert torch.equal(backbone.norm(hidden)[:, LENGTH:], seen.tokens)


def test_a_prefix_is_keys_and_values_that_attention_also_sees() -> None:
    """Against attention written out for one head."""
    policy = make("lowdim_transformer", backbone_options={"instruction_encoder": "learned", "heads": 1, "layers": 2})
    layer: Any = policy.backbone.layers[1]  # type: ignore[index]
    hidden, keys, values = drawn(policy, length=5), drawn(policy, seed=1), drawn(policy, seed=2)
    with torch.no_grad():
        normed = layer.attention_norm(hidden)
        own_keys, own_values = layer.attention.memory(normed).chunk(2, dim=-1)
        scores = layer.attention.queries(normed) @ torch.cat([keys, own_keys], dim=1).transpose(1, 2)
        weights = (scores / hidden.shape[-1] ** 0.5).softmax(dim=-1)
        attended = hidden + layer.attention.output(weights @ torch.cat([values, own_values], dim=1))
        expected = attended + layer.mlp(attended)
        assert torch.allclose(layer.prefixed(hidden, keys, values), expected, atol=1e-5)


@pytest.mark.parametrize("backbone", TRUNKS)
def test_a_prefix_that_projects_a_prompt_acts_as_the_prompt_does_in_that_layer(backbone: str) -> None:
    policy = make(backbone)
    last: Any = policy.backbone.layers[-1]  # type: ignore[index]
    index, prompt, entered = policy.backbone.prefix_layers - 1, drawn(policy), []
    hook = last.register_forward_pre_hook(lambda layer, inputs: entered.append(inputs[0]))
    context(policy, None)
    hook.remove()
    with torch.no_grad():
        keys, values = last.attention.memory(last.attention_norm(prompt)).chunk(2, dim=-1)
        beside = last(torch.cat([prompt, entered[0]], dim=1))[:, LENGTH:]
    seen = context(policy, SoftPrompts(prefixes={index: (keys, values)}))
    assert torch.allclose(seen.tokens, policy.backbone.norm(beside), atol=1e-5)  # type: ignore[operator]


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> FolderOf:
    return saved_once(tmp_path_factory.mktemp("models"))


@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
@pytest.mark.parametrize("family", CONFIGS)
def test_a_language_model_reads_prompts_before_everything_else(
    family: str, attention: str, folder_of: FolderOf
) -> None:
    """Against the language model itself on the longer sequence, counted from 0: rotary positions are relative."""
    policy = policy_from(folder_of(family), attention=attention, proprioception="none")
    backbone: Any = policy.backbone
    prompts = drawn(policy) * 0.3
    seen = context(policy, SoftPrompts(prompts))
    with torch.no_grad():
        embeddings, mask = backbone._prefix(BATCH.observation)
        mask = F.pad(mask, (LENGTH, 0), value=True)
        positions = mask.long().cumsum(dim=1) - mask.long()
        length = mask.shape[1]
        visible = torch.ones(length, length).bool()
        visible = (visible.tril() if attention == "causal" else visible) & mask[:, None, None]
        hidden, _ = backbone.language.run(torch.cat([prompts, embeddings], dim=1), visible, positions)
    real = mask[:, LENGTH:]
    assert torch.allclose(seen.tokens[real], hidden[:, LENGTH:][real], atol=2e-4)
    assert not torch.allclose(seen.tokens[real], context(policy, None).tokens[real], atol=1e-2)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    ("head", "options"),
    [
        ("flow", {"network": "expert", "noise_samples": 3, "steps": 2}),
        ("regression", {"network": "decoder"}),
        ("tokens", {"decoder": "backbone"}),
    ],
)
def test_a_head_that_reads_the_language_models_layers_sees_what_prompts_did_there(
    head: str, options: dict[str, Any], checkpointing: bool
) -> None:
    sizes = {"architecture": "tiny_smolvlm", "prompt_tokens": 16, "gradient_checkpointing": checkpointing}
    policy = speaking(backbone_policy("hf_vlm", head=head, head_options=options, backbone_options=sizes))
    learned = drawn(policy).requires_grad_()
    noise = policy.head.sample_noise(ROWS, torch.Generator().manual_seed(1))
    with prompted(policy, SoftPrompts(learned)):
        output = policy.imitate(BATCH, noise)
        output.loss.sum().backward()
    assert all(keys.shape[2] == output.context.tokens.shape[1] for keys, _ in output.context.layers)
    assert ((output.loss - policy.imitate(BATCH, noise).loss).abs() > 1e-5).all()
    assert learned.grad is not None and (learned.grad.flatten(1).abs().amax(dim=1) > 0).all()


@pytest.mark.parametrize("backbone", ["lowdim_transformer", "compact", "vit"])
def test_every_moment_of_a_history_sees_its_rows_prompts(backbone: str) -> None:
    policy = make(backbone, history=3)
    past = tuple(make_batch(ROWS, seed=seed).observation for seed in (7, 8))
    observation = replace(BATCH.observation, past=past)
    prompts = replace(prefixes(policy), tokens=drawn(policy))
    assert prompts.tokens is not None
    with torch.no_grad(), prompted(policy, prompts):
        together = policy.context(observation).tokens
    for row in range(ROWS):
        this = slice(row, row + 1)
        alone = SoftPrompts(prompts.tokens[this], {n: (k[this], v[this]) for n, (k, v) in prompts.prefixes.items()})
        with torch.no_grad(), prompted(policy, alone):
            assert torch.allclose(policy.context(observation[this]).tokens, together[this], atol=1e-5)


@pytest.mark.parametrize("backbone", ["lowdim_transformer", "compact", "hf_vlm"])
def test_gradients_reach_prompts(backbone: str) -> None:
    policy = make(backbone)
    policy.requires_grad_(False)
    noise = policy.head.sample_noise(ROWS, torch.Generator().manual_seed(1))
    learned, way = drawn(policy).requires_grad_(), drawn(policy, seed=3)

    def loss(prompts: Tensor) -> Tensor:
        with prompted(policy, SoftPrompts(prompts)):
            return policy.imitate(BATCH, noise).loss.sum()

    loss(learned).backward()
    with torch.no_grad():
        step = 1e-2 * way
        slope = (loss(learned + step) - loss(learned - step)) / 2e-2
    assert learned.grad is not None
    assert float((learned.grad * way).sum()) == pytest.approx(float(slope), rel=0.05, abs=1e-3)
    assert all(each.grad is None for each in policy.parameters())


def test_prompts_work_under_bfloat16() -> None:
    policy = make("lowdim_transformer")
    prompts = replace(prefixes(policy), tokens=drawn(policy))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = context(policy, prompts).tokens
    assert torch.allclose(rounded.float(), context(policy, prompts).tokens, atol=0.1)


def test_the_innermost_prompts_hold_and_the_outer_ones_come_back() -> None:
    policy = make("lowdim_transformer")
    plain = context(policy, None).tokens
    one, two = SoftPrompts(drawn(policy)), SoftPrompts(drawn(policy, seed=1))
    first, second = context(policy, one).tokens, context(policy, two).tokens
    with torch.no_grad(), prompted(policy, one):
        with prompted(policy, two):
            assert torch.equal(policy.context(BATCH.observation).tokens, second)
        with pytest.raises(KeyError), prompted(policy, None):
            assert torch.equal(policy.context(BATCH.observation).tokens, plain)
            raise KeyError
        assert torch.equal(policy.context(BATCH.observation).tokens, first)
    assert policy.backbone.soft_prompts is None


# --- cached features -------------------------------------------------------------------------------------------

FROZEN = {"freeze_vision": True, "freeze_connector": True, "freeze_text": True}


@pytest.mark.parametrize("proprioception", ["prefix", "context", "none"])
def test_a_frozen_language_model_names_no_features_once_it_expects_prompts(proprioception: str) -> None:
    sizes = {"architecture": "tiny_smolvlm", "prompt_tokens": 16, "proprioception": proprioception, **FROZEN}
    policy = backbone_policy("hf_vlm", backbone_options=sizes)
    features = policy.backbone.perceive(BATCH.observation)
    assert policy.backbone.fingerprint() and features
    plain = context(policy, None).tokens
    expect_prompts(policy)
    assert policy.backbone.fingerprint() == "" and not policy.backbone.perceive(BATCH.observation)
    assert torch.allclose(context(policy, None).tokens, plain, atol=1e-5)
    assert not torch.allclose(context(policy, SoftPrompts(drawn(policy))).tokens, plain, atol=1e-3)
    with pytest.raises(ConfigurationError, match="is to see soft prompts here; give it images"):
        policy.context(replace(BATCH.observation, features=features))


def test_features_that_are_made_before_the_trunk_are_as_good_with_prompts() -> None:
    policy = make("pretrained_compact")
    named = policy.backbone.fingerprint()
    expect_prompts(policy)
    assert policy.backbone.fingerprint() == named != ""
    prompts = SoftPrompts(drawn(policy))
    features = policy.backbone.perceive(BATCH.observation)
    with torch.no_grad(), prompted(policy, prompts):
        recalled = policy.context(replace(BATCH.observation, features=features, pixels={})).tokens
    assert torch.equal(recalled, context(policy, prompts).tokens)


# --- mistakes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backbone", "changes"),
    [
        ("lowdim", {}),
        ("resnet", {"backbone": "resnet_film", "backbone_options": {"channels": 8, "blocks": 1, "stages": 1}}),
        ("compact", {"backbone_options": {"layers": 0}}),
    ],
)
def test_a_backbone_without_a_transformer_refuses_prompts(backbone: str, changes: dict[str, Any]) -> None:
    policy = backbone_policy("lowdim" if backbone == "lowdim" else "compact", **changes)
    message = "takes no prompts: it has no transformer layers"
    for refuse in (check_prompts, expect_prompts):
        with pytest.raises(ConfigurationError, match=message):
            refuse(policy)
    with pytest.raises(ConfigurationError, match=message), prompted(policy, SoftPrompts(torch.zeros(3, 1, 8))):
        pass


def test_a_language_model_takes_no_prefixes_in_its_layers() -> None:
    policy = make("hf_vlm")
    with pytest.raises(ConfigurationError, match="takes prompts in its input alone"):
        check_prompts(policy, prefixes=True)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (SoftPrompts(torch.zeros(3, 4, 5)), r"soft prompts must be \(rows, prompts, 128\).*got \(3, 4, 5\)"),
        (SoftPrompts(torch.zeros(3, 128)), r"got \(3, 128\)"),
        (
            SoftPrompts(torch.zeros(3, 1, 128), {0: (torch.zeros(2, 1, 128), torch.zeros(2, 1, 128))}),
            "all for as many rows",
        ),
        (SoftPrompts(prefixes={3: (torch.zeros(3, 1, 128),) * 2}), "in layers 0 to 2, got .* in layer 3"),
        (SoftPrompts(prefixes={0: (torch.zeros(3, 1, 128), torch.zeros(3, 2, 128))}), "as many keys as values"),
        (SoftPrompts(torch.zeros(2, 1, 128)), "soft prompts are for 2 rows, got 3 observations"),
        (SoftPrompts(prefixes={0: (torch.zeros(2, 1, 128),) * 2}), "soft prompts are for 2 rows"),
    ],
)
def test_prompts_that_cannot_be_used_are_told_in_one_line(prompts: SoftPrompts, message: str) -> None:
    policy = make("lowdim_transformer")
    with pytest.raises(ConfigurationError, match=message), prompted(policy, prompts):
        policy.context(BATCH.observation)
    assert policy.backbone.soft_prompts is None
