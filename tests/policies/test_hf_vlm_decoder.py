"""The language model behind a context: who sees whom, going on, its layers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText

from tests.policies.conftest import make_batch
from tests.policies.vlms import CONFIGS, FolderOf, policy_from, saved_once
from vla_cl.data import ObservationBatch
from vla_cl.policies import Policy

FAMILIES = tuple(CONFIGS)


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> FolderOf:
    return saved_once(tmp_path_factory.mktemp("models"))


def dependence(policy: Policy, observation: ObservationBatch, column: int) -> Tensor:
    """Which tokens (N,) of the context change with the input embedding at a place."""
    language = policy.backbone.language
    embeddings, mask = policy.backbone._prefix(observation)
    if policy.backbone.proprioception is not None:
        embeddings = torch.cat([embeddings, embeddings[:, :1]], dim=1)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
    changed = embeddings.clone()
    changed[:, column] += 1
    hidden, _ = policy.backbone._run(embeddings, mask, layers=False)
    other, _ = policy.backbone._run(changed, mask, layers=False)
    assert language.text is policy.backbone.model.get_decoder()
    return (hidden - other).abs().amax(dim=-1)[0] > 1e-7


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
def test_who_sees_whom(attention: str, implementation: str, folder_of: FolderOf) -> None:
    policy = policy_from(folder_of("smolvlm"), attention=attention, attn_implementation=implementation)
    observation = make_batch(1, instruction="open the window").observation
    mask = policy.context(observation).mask
    assert mask is not None
    last, images = len(mask[0]) - 1, len(mask[0]) - 25
    with torch.no_grad():
        seen = dependence(policy, observation, 1)  # a token of the first image
        assert seen[1:images].all() and seen[last]
        assert bool(seen[0]) == (attention == "bidirectional")
        prompt = dependence(policy, observation, images)  # the prompt's first token
        assert prompt[images:][mask[0, images:]].all()
        assert bool(prompt[0]) == (attention == "bidirectional")
        padding = dependence(policy, observation, last - 1)
        assert padding.nonzero().flatten().tolist() == [last - 1]
        proprioception = dependence(policy, observation, last)
        assert proprioception.nonzero().flatten().tolist() == [last]


def test_both_implementations_of_attention_agree(folder_of: FolderOf) -> None:
    observation = make_batch(3).observation
    contexts = [
        policy_from(folder_of("paligemma"), attn_implementation=each, layers_wanted=True).context(observation)
        for each in ("sdpa", "eager")
    ]
    mask = contexts[0].mask
    assert mask is not None
    torch.testing.assert_close(contexts[0].tokens[mask], contexts[1].tokens[mask], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
@pytest.mark.parametrize("family", FAMILIES)
def test_going_on_equals_one_pass_over_the_whole_sequence(
    family: str, attention: str, causal: bool, folder_of: FolderOf
) -> None:
    """With prompts of several lengths, so that the padding between prefix and suffix matters."""
    policy = policy_from(folder_of(family), attention=attention, proprioception="none", layers_wanted=True)
    observation = replace(make_batch(2).observation, instruction=("close the window", "turn"))
    context = policy.context(observation)
    decoder, mask = context.decoder, context.mask
    assert decoder is not None and mask is not None and len(set(mask.sum(dim=1).tolist())) == 2
    suffix = torch.randn(2, 5, 48, generator=torch.Generator().manual_seed(3))
    hidden, longer = decoder.extend(context, suffix, causal=causal)

    embeddings, _ = policy.backbone._prefix(observation)
    length = mask.shape[1]
    visible = torch.zeros(2, 1, length + 5, length + 5, dtype=torch.bool)
    visible[..., :length, :length] = torch.ones(length, length).tril().bool()
    if attention == "bidirectional":
        visible[..., :length, :length] = True
    visible[..., length:, :length] = True
    visible[..., length:, length:] = torch.ones(5, 5).tril().bool() if causal else True
    real = torch.cat([mask, torch.ones(2, 5, dtype=torch.bool)], dim=1)
    visible &= real[:, None, None]
    positions = real.long().cumsum(dim=1) - real.long()
    whole = policy.backbone.model.get_decoder()(
        inputs_embeds=torch.cat([embeddings, suffix], dim=1),
        attention_mask=visible,
        position_ids=positions,
        use_cache=True,
    )
    torch.testing.assert_close(hidden, whole.last_hidden_state[:, length:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(longer.tokens[real], whole.last_hidden_state[real], atol=1e-5, rtol=1e-5)
    assert longer.mask is not None and torch.equal(longer.mask, real)
    for (keys, values), layer in zip(longer.layers, whole.past_key_values.layers, strict=True):
        torch.testing.assert_close(keys, layer.keys, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(values, layer.values, atol=1e-5, rtol=1e-5)


def test_a_context_can_be_gone_on_with_many_times(folder_of: FolderOf) -> None:
    policy = policy_from(folder_of("smolvlm"), layers_wanted=True)
    context = policy.context(make_batch(2).observation)
    decoder = context.decoder
    assert decoder is not None
    before = [each.clone() for pair in context.layers for each in pair]
    suffix = decoder.embed(torch.tensor([[5, 6, 7, 8]] * 2))
    whole, _ = decoder.extend(context, suffix, causal=True)
    again, _ = decoder.extend(context, suffix, causal=True)
    assert torch.equal(whole, again)
    assert all(torch.equal(old, new) for old, new in zip(before, [e for p in context.layers for e in p], strict=True))
    steps, growing = [], context
    for step in range(4):
        hidden, growing = decoder.extend(growing, suffix[:, step : step + 1], causal=True)
        steps.append(hidden)
    torch.testing.assert_close(torch.cat(steps, dim=1), whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["paligemma", "llava"])
def test_logits_are_the_models_own(family: str, folder_of: FolderOf) -> None:
    """PaliGemma's output embeddings are its input embeddings, this LLaVA's are not."""
    policy = policy_from(folder_of(family))
    assert (policy.backbone.lm_head is None) == (family == "paligemma")
    model = AutoModelForImageTextToText.from_pretrained(folder_of(family), dtype=torch.float32)
    context = policy.context(make_batch(2).observation)
    assert context.decoder is not None
    scores = context.decoder.logits(context.tokens)
    torch.testing.assert_close(scores, model.lm_head(context.tokens), atol=1e-5, rtol=1e-5)


def test_rotary_turns_unrotated_keys_into_the_cached_ones(folder_of: FolderOf) -> None:
    policy = policy_from(folder_of("smolvlm"), layers_wanted=True, proprioception="none")
    observation = make_batch(2).observation
    context = policy.context(observation)
    decoder, mask = context.decoder, context.mask
    assert decoder is not None and mask is not None
    embeddings, _ = policy.backbone._prefix(observation)
    layer = policy.backbone.model.get_decoder().layers[0]
    keys = layer.self_attn.k_proj(layer.input_layernorm(embeddings)).view(2, -1, 2, 8).transpose(1, 2)
    cosines, sines = decoder.rotary(mask.long().cumsum(dim=1) - mask.long())
    real, imaginary = keys[..., :4], keys[..., 4:]
    cos, sin = cosines[:, None, :, :4], sines[:, None, :, :4]
    expected = torch.cat([real * cos - imaginary * sin, imaginary * cos + real * sin], dim=-1)
    torch.testing.assert_close(context.layers[0][0], expected, atol=1e-5, rtol=1e-5)


def test_a_language_model_of_another_build_gives_tokens_but_no_layers(folder_of: FolderOf) -> None:
    """Gemma 2 caps its scores, so that a head cannot attend as it does; its logits are still its own."""
    folder = folder_of("paligemma2")
    policy = policy_from(folder, attn_implementation="eager")
    assert policy.backbone.shape.layers is None
    context = policy.context(make_batch(2).observation)
    assert context.decoder is not None
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    expected = 30 * torch.tanh(model.lm_head(context.tokens) / 30)
    assert model.config.text_config.final_logit_softcapping == 30
    torch.testing.assert_close(context.decoder.logits(context.tokens), expected, atol=1e-5, rtol=1e-5)
