"""Training a vision-language model in parts: freezing, what frozen weights see, checkpointing, precision."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.policies.conftest import make_batch
from tests.policies.vlms import CONFIGS, FolderOf, policy_from, save_vlm, saved_once
from vla_cl.data import Batch
from vla_cl.errors import ConfigurationError
from vla_cl.policies import Policy

FAMILIES = tuple(CONFIGS)
ALL_FROZEN = {"freeze_vision": True, "freeze_connector": True, "freeze_text": True}


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> FolderOf:
    return saved_once(tmp_path_factory.mktemp("models"))


def loss_of(policy: Policy, batch: Batch) -> Tensor:
    return policy.loss(batch, torch.Generator().manual_seed(0)).mean()


def gradients(policy: Policy, batch: Batch) -> dict[str, Tensor]:
    """Of the loss, and of the layers where the backbone gives them, as a head would that reads them."""
    policy.zero_grad()
    context = policy.context(batch.observation)
    weights = torch.Generator().manual_seed(1)
    total = loss_of(policy, batch)
    for pair in context.layers:
        total = total + sum((each * torch.randn(each.shape, generator=weights)).mean() for each in pair)
    total.backward()
    return {name: each.grad.clone() for name, each in policy.named_parameters() if each.grad is not None}


def part_of(name: str) -> str:
    """The part that a parameter of the model belongs to, by transformers' names."""
    if "vision_model." in name or "vision_tower." in name:
        return "vision"
    if "connector." in name or "multi_modal_projector." in name:
        return "connector"
    return "text"


@pytest.mark.parametrize("frozen", ["vision", "connector", "text"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_frozen_part_keeps_every_bit_and_the_others_learn(family: str, frozen: str, folder_of: FolderOf) -> None:
    policy = policy_from(folder_of(family), **{f"freeze_{frozen}": True}).train()
    before = {name: each.clone() for name, each in policy.backbone.state_dict().items()}
    optimizer = torch.optim.AdamW([each for each in policy.parameters() if each.requires_grad], lr=1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        loss_of(policy, make_batch(4)).backward()
        optimizer.step()
    changed = {name for name, each in policy.backbone.state_dict().items() if not torch.equal(each, before[name])}
    assert not [name for name in changed if name.startswith(("model.", "lm_head.")) and part_of(name) == frozen]
    assert {part_of(name) for name in changed if name.startswith("model.")} == {"vision", "connector", "text"} - {
        frozen
    }
    assert [name for name in changed if name.startswith("proprioception.")]


@pytest.mark.parametrize("proprioception", ["prefix", "context", "none"])
@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
@pytest.mark.parametrize("layers_wanted", [True, False])
def test_a_frozen_model_gives_the_same_context_in_two_parts(
    proprioception: str, attention: str, layers_wanted: bool, folder_of: FolderOf
) -> None:
    """Frozen, the images and the prompt come first and proprioception later; else both in one pass."""
    options: dict[str, Any] = {"proprioception": proprioception, "attention": attention}
    wanted = layers_wanted and proprioception != "context"
    whole = policy_from(folder_of("smolvlm"), layers_wanted=wanted, **options)
    frozen = policy_from(folder_of("smolvlm"), layers_wanted=wanted, **options, **ALL_FROZEN)
    observation = make_batch(3).observation
    expected, found = whole.context(observation), frozen.context(observation)
    assert expected.mask is not None and found.mask is not None
    assert torch.equal(found.mask, expected.mask)
    assert found.tokens.shape[1] == frozen.backbone.shape.tokens == expected.tokens.shape[1]
    torch.testing.assert_close(found.tokens, expected.tokens, atol=1e-5, rtol=1e-5)
    assert len(found.layers) == len(expected.layers) == (4 if wanted else 0)
    for pair, other in zip(found.layers, expected.layers, strict=True):
        torch.testing.assert_close(pair, other, atol=1e-5, rtol=1e-5)
    assert (frozen.backbone.shape.layers is None) == (proprioception == "context")


@pytest.mark.parametrize("proprioception", ["prefix", "context", "none"])
def test_cached_features_stand_for_the_images(proprioception: str, folder_of: FolderOf) -> None:
    policy = policy_from(folder_of("smolvlm"), proprioception=proprioception, **ALL_FROZEN)
    batch = make_batch(3)
    features = policy.backbone.perceive(batch.observation)
    assert all(len(each) == 3 and not each.requires_grad for each in features.values())
    moved = replace(batch.observation, agent_pos=1 - batch.observation.agent_pos)
    again = policy.backbone.perceive(moved)
    assert all(torch.equal(each, again[name]) for name, each in features.items())
    cached = replace(batch.observation, pixels={}, features=features)
    assert torch.equal(policy.context(cached).tokens, policy.context(batch.observation).tokens)
    direct, through = (gradients(policy, replace(batch, observation=each)) for each in (batch.observation, cached))
    assert direct.keys() == through.keys()
    assert any(name.startswith("backbone.proprioception") for name in direct) == (proprioception != "none")
    assert not any(name.startswith(("backbone.model", "backbone.lm_head")) for name in direct)
    for name, gradient in direct.items():
        torch.testing.assert_close(gradient, through[name], atol=1e-6, rtol=1e-5)


def test_only_a_frozen_model_is_worth_remembering(folder_of: FolderOf) -> None:
    policy = policy_from(folder_of("smolvlm"), freeze_vision=True, freeze_text=True)
    assert policy.backbone.perceive(make_batch(2).observation) == {}
    assert policy.backbone.fingerprint() == ""


def test_a_trained_model_does_not_take_what_a_frozen_one_saw(folder_of: FolderOf) -> None:
    observation = make_batch(2).observation
    features = policy_from(folder_of("smolvlm"), **ALL_FROZEN).backbone.perceive(observation)
    policy = policy_from(folder_of("smolvlm"))
    with pytest.raises(ConfigurationError, match="holds what a frozen model saw"):
        policy.context(replace(observation, features=features))


def test_a_fingerprint_names_weights_and_what_is_asked_of_them(folder_of: FolderOf, tmp_path_factory: Any) -> None:
    def fingerprint(**options: Any) -> str:
        return policy_from(folder_of("smolvlm"), **ALL_FROZEN, **options).backbone.fingerprint()

    changes: list[dict[str, Any]] = [
        {},
        {"prompt": "do {instruction}"},
        {"prompt_tokens": 32},
        {"attention": "bidirectional"},
        {"dtype": "bfloat16"},
        {"layers": 2},
        {"layers_wanted": True},
        {"cameras": ["gripperPOV", "corner2"]},
    ]
    names = [fingerprint(**each) for each in changes]
    assert len(set(names)) == len(names)
    assert fingerprint() == names[0]
    assert fingerprint(gradient_checkpointing=True) == names[0]
    other = save_vlm(tmp_path_factory.mktemp("other"), "smolvlm", seed=1)
    assert policy_from(other, **ALL_FROZEN).backbone.fingerprint() not in names


class Adapted(nn.Module):
    """A linear layer with a low-rank branch, as peft injects them."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.in_features, 2, bias=False)
        self.up = nn.Linear(2, base.out_features, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        adapted: Tensor = self.base(hidden) + self.up(self.down(hidden))
        return adapted


@pytest.mark.parametrize("checkpointing", [True, False])
def test_what_is_injected_into_a_frozen_model_learns(checkpointing: bool, folder_of: FolderOf) -> None:
    policy = policy_from(folder_of("smolvlm"), **ALL_FROZEN, gradient_checkpointing=checkpointing).train()
    policy.backbone.layers_wanted = True
    for layer in policy.backbone.model.get_decoder().layers:
        layer.self_attn.k_proj = Adapted(layer.self_attn.k_proj)
    assert not policy.backbone.frozen and policy.backbone.perceive(make_batch(2).observation) == {}
    found = gradients(policy, make_batch(2))
    trained = [name for name in found if name.startswith("backbone.model")]
    assert sorted({name.rsplit(".", 2)[-2] for name in trained}) == ["down", "up"]
    assert all(found[name].any() for name in trained)


@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
@pytest.mark.parametrize("family", FAMILIES)
def test_checkpointing_changes_neither_loss_nor_layers_nor_gradients(
    family: str, attention: str, folder_of: FolderOf
) -> None:
    kept = policy_from(folder_of(family), layers_wanted=True, attention=attention).train()
    again = policy_from(folder_of(family), layers_wanted=True, attention=attention, gradient_checkpointing=True).train()
    batch = make_batch(3)
    first, second = (policy.context(batch.observation) for policy in (kept, again))
    torch.testing.assert_close(first.tokens, second.tokens, atol=1e-6, rtol=1e-6)
    for pair, other in zip(first.layers, second.layers, strict=True):
        torch.testing.assert_close(pair, other, atol=1e-6, rtol=1e-6)
    expected, found = gradients(kept, batch), gradients(again, batch)
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-4)


def stored(policy: Policy, batch: Batch) -> int:
    """Numbers that autograd keeps of the decoder's forward pass for its backward pass."""
    kept = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        policy.context(batch.observation)
    return kept


@pytest.mark.parametrize("family", ["smolvlm", "paligemma"])
def test_checkpointing_stores_less(family: str, folder_of: FolderOf) -> None:
    batch = make_batch(2)
    policies = [policy_from(folder_of(family), gradient_checkpointing=each).train() for each in (False, True)]
    everything, little = (stored(policy, batch) for policy in policies)
    assert little < 0.4 * everything


def test_acting_with_checkpointing_reads_layers_from_the_cache(folder_of: FolderOf) -> None:
    policy = policy_from(folder_of("smolvlm"), gradient_checkpointing=True, layers_wanted=True)
    with torch.no_grad():
        context = policy.context(make_batch(2).observation)
        assert context.decoder is not None
        longer = context.decoder.extend(context, torch.zeros(2, 3, 48), causal=True)[1]
    assert len(context.layers) == 4 and longer.layers[0][0].shape[2] == context.tokens.shape[1] + 3


@pytest.mark.parametrize("checkpointing", [True, False])
def test_going_on_sends_gradients_back_into_the_prefix(checkpointing: bool, folder_of: FolderOf) -> None:
    policy = policy_from(folder_of("smolvlm"), layers_wanted=True, gradient_checkpointing=checkpointing).train()
    context = policy.context(make_batch(2).observation)
    assert context.decoder is not None
    suffix = torch.zeros(2, 3, 48, requires_grad=True)
    hidden, _ = context.decoder.extend(context, suffix, causal=False)
    hidden.square().sum().backward()
    assert suffix.grad is not None and suffix.grad.any()
    assert policy.backbone.model.connector.modality_projection.proj.weight.grad.any()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("options", [{}, {"gradient_checkpointing": True}, ALL_FROZEN])
def test_bfloat16_weights_serve_a_float32_head(family: str, options: dict[str, Any], folder_of: FolderOf) -> None:
    exact = policy_from(folder_of(family), layers_wanted=True, **options)
    half = policy_from(folder_of(family), layers_wanted=True, dtype="bfloat16", **options).train()
    batch = make_batch(2)
    expected, context = exact.context(batch.observation), half.context(batch.observation)
    assert {each.dtype for each in half.backbone.model.parameters()} == {torch.bfloat16}
    assert context.tokens.dtype == context.layers[0][0].dtype == context.layers[0][1].dtype == torch.float32
    assert (context.tokens - expected.tokens).norm() < 0.1 * expected.tokens.norm()
    loss = loss_of(half, batch)
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(each.grad.isfinite().all() for each in half.parameters() if each.grad is not None)


@pytest.mark.parametrize(
    "options", [{}, {"gradient_checkpointing": True}, ALL_FROZEN, {"attn_implementation": "eager"}]
)
def test_autocast_keeps_losses_float32_and_gradients_finite(options: dict[str, Any], folder_of: FolderOf) -> None:
    policy = policy_from(folder_of("smolvlm"), layers_wanted=True, **options).train()
    batch = make_batch(2)
    expected = loss_of(policy, batch)
    with torch.autocast("cpu", torch.bfloat16):
        loss = loss_of(policy, batch)
        context = policy.context(batch.observation)
        assert context.decoder is not None
        hidden, _ = context.decoder.extend(context, torch.zeros(2, 3, 48), causal=True)
        assert context.decoder.logits(hidden).dtype == torch.float32
    loss.backward()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=0.05, atol=0.05)
    assert all(each.grad.isfinite().all() for each in policy.parameters() if each.grad is not None)


@pytest.mark.parametrize("family", FAMILIES)
def test_training_mode_changes_nothing(family: str, folder_of: FolderOf) -> None:
    """InternVL's configuration has dropout; none happens."""
    policy = policy_from(folder_of(family))
    for module in policy.backbone.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.5
    observation = make_batch(2).observation
    assert torch.equal(policy.train().context(observation).tokens, policy.eval().context(observation).tokens)
