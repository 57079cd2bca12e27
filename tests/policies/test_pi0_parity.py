"""Our pi0 (backbone hf_vlm, head flow with an action expert) against transformers' PI0 on the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from transformers import GemmaConfig, PI0Config, PI0ForConditionalGeneration

from tests.policies import vlms
from vla_cl.data import ObservationBatch
from vla_cl.policies import Context, ContextShape, LayersShape, PolicyConfig, PolicyFeatures, build_policy
from vla_cl.policies.expert import ActionExpert
from vla_cl.policies.flow import FlowHead, FlowOptions
from vla_cl.policies.hf_decoder import LanguageDecoder

CAMERAS, STATE, ACTIONS, CHUNK, WIDTH, INNER, DRAWS = ("left", "right"), 4, 3, 5, 32, 96, 2
INSTRUCTIONS = ("close the window", "pick up the red cube and place it in the bin", "turn the faucet")
ROWS, PROMPT = len(INSTRUCTIONS), 24
TOLERANCE = 1e-4


class Pair(NamedTuple):
    """PI0 with what it is given, and ours with the same."""

    theirs: Any
    inputs: dict[str, Tensor]
    head: Any
    context: Context


def make_pi0() -> Any:
    """PaliGemma's build and a Gemma expert of its own width; every weight is drawn, so that none is without effect."""
    torch.manual_seed(0)
    expert = GemmaConfig(**{**vlms.text_config("gemma"), "hidden_size": WIDTH, "intermediate_size": INNER})
    config = PI0Config(
        vlm_config=vlms.paligemma_config(),
        dit_config=expert,
        chunk_size=CHUNK,
        max_state_dim=STATE,
        max_action_dim=ACTIONS,
        loss_reduction="none",
    )
    model = PI0ForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.15)
    return model


def copy_expert(theirs: Any, ours: ActionExpert) -> None:
    """PI0's expert into ours."""
    names = {"q_proj": "queries", "k_proj": "keys", "v_proj": "values", "o_proj": "output"}
    embedding = theirs.embed_action_time
    pairs = [
        (embedding.state_proj, ours.state),
        (embedding.action_in_proj, ours.actions),
        (embedding.action_time_mlp_in, ours.mix[0]),
        (embedding.action_time_mlp_out, ours.mix[2]),
        (theirs.action_out_proj, ours.output),
    ]
    norms = [(theirs.model.dit.norm, ours.norm)]
    for layer, own in zip(theirs.model.dit.layers, ours.layers, strict=True):
        pairs += [(getattr(layer.self_attn, name), getattr(own, other)) for name, other in names.items()]
        pairs += [(getattr(layer.mlp, f"{name}_proj"), getattr(own, name)) for name in ("gate", "up", "down")]
        norms += [(layer.input_layernorm, own.attention_norm), (layer.post_attention_layernorm, own.mlp_norm)]
    with torch.no_grad():
        for norm, own in norms:
            own.weight.copy_(1 + norm.weight)  # Gemma stores a norm's weight less one
    for module, own in pairs:
        own.load_state_dict(module.state_dict())


def prefix_of(theirs: Any, inputs: dict[str, Tensor]) -> Context:
    """The context that PI0's own vision-language model makes."""
    model, mask = theirs.model, inputs["attention_mask"]
    embedded = model.embed_prefix(inputs["input_ids"], inputs["pixel_values"], inputs["pixel_attention_mask"])
    output = model.vlm(
        inputs_embeds=embedded,
        attention_mask=mask,
        position_ids=mask.cumsum(-1) - 1,
        token_type_ids=torch.zeros_like(mask),
        use_cache=True,
    )
    layers = tuple((layer.keys, layer.values) for layer in output.past_key_values.layers)
    decoder = LanguageDecoder(model.vlm, None)
    return Context(output.last_hidden_state, inputs["state"], mask.bool(), layers, decoder)


@pytest.fixture(scope="module", params=["hf_vlm", "own"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """With contexts of backbone hf_vlm, from a folder with PI0's weights, and with those of PI0 itself."""
    theirs = make_pi0()
    vlm = vlms.make_model("paligemma")
    vlm.model.load_state_dict(theirs.model.vlm.state_dict())
    vlm.tie_weights()
    folder: Path = tmp_path_factory.mktemp("paligemma")
    vlm.save_pretrained(folder)
    tokenizer = vlms.tokenizer(begins=True)
    tokenizer.save_pretrained(folder)

    generator = torch.Generator().manual_seed(1)
    images = torch.randint(
        0, 256, (ROWS, len(CAMERAS), vlms.IMAGE, vlms.IMAGE, 3), generator=generator, dtype=torch.uint8
    )
    state = torch.randn(ROWS, STATE, generator=generator)
    config = PolicyConfig(
        backbone="hf_vlm",
        backbone_options={
            "path": str(folder),
            "attention": "bidirectional",
            "proprioception": "none",
            "prompt_tokens": PROMPT,
        },
        head="flow",
        head_options={
            "network": "expert",
            "width": WIDTH,
            "mlp_ratio": INNER / WIDTH,
            "preconditioned": False,
            "noise_samples": DRAWS,
        },
        chunk=CHUNK,
        execute=CHUNK,
    )
    features = PolicyFeatures(ACTIONS, STATE, cameras=CAMERAS, image_size=vlms.IMAGE)
    policy = build_policy(config, features, seed=0)
    copy_expert(theirs, policy.head.network)  # type: ignore[arg-type]

    ids = torch.zeros(ROWS, PROMPT, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, text in enumerate(INSTRUCTIONS):
        encoded = tokenizer(f"{text}\n").input_ids
        ids[row, : len(encoded)], mask[row, : len(encoded)] = torch.tensor(encoded), 1
    seen = len(CAMERAS) * (vlms.IMAGE // vlms.PATCH) ** 2
    inputs = {
        "state": state,
        "input_ids": torch.cat([torch.full((ROWS, seen), vlms.IMAGE_TOKEN), ids], dim=1),
        "attention_mask": torch.cat([torch.ones(ROWS, seen, dtype=torch.long), mask], dim=1),
        "pixel_values": images.permute(0, 1, 4, 2, 3) / 127.5 - 1,
        "pixel_attention_mask": torch.ones(ROWS, len(CAMERAS), dtype=torch.bool),
    }
    if request.param == "own":
        with torch.no_grad():
            context = prefix_of(theirs, inputs)
    else:
        pixels = dict(zip(CAMERAS, images.unbind(1), strict=True))
        context = policy.backbone(ObservationBatch(INSTRUCTIONS, state, pixels))
    return Pair(theirs, inputs, policy.head, context)


def draws_of(pair: Pair) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Actions (B, chunk, A), noise as our head takes it, and its times (B, draws) and noise (B, draws, chunk, A)."""
    actions = torch.randn(ROWS, CHUNK, ACTIONS, generator=torch.Generator().manual_seed(2))
    noise = pair.head.sample_noise(ROWS, torch.Generator().manual_seed(3))
    return actions, noise, noise[:, :DRAWS], noise[:, DRAWS:].view(ROWS, DRAWS, CHUNK, ACTIONS)


@torch.no_grad()
def test_velocities_agree(pair: Pair) -> None:
    actions, noise, times, normal = draws_of(pair)
    ours = pair.head.predict(pair.context, actions, noise).view(ROWS, CHUNK, DRAWS, ACTIONS)
    for draw in range(DRAWS):
        theirs = pair.theirs(**pair.inputs, actions=actions, noise=normal[:, draw], timestep=times[:, draw])
        assert theirs.logits.std() > 0.1
        assert torch.allclose(ours[:, :, draw], theirs.logits, rtol=0, atol=TOLERANCE)


@torch.no_grad()
def test_losses_agree(pair: Pair) -> None:
    actions, noise, times, normal = draws_of(pair)
    padding = torch.zeros(ROWS, CHUNK, dtype=torch.bool)
    ours = pair.head.loss(pair.context, actions, padding, noise)
    each = [
        pair.theirs(**pair.inputs, actions=actions, noise=normal[:, draw], timestep=times[:, draw]).loss
        for draw in range(DRAWS)
    ]
    assert torch.allclose(ours, torch.stack(each).mean(dim=(0, 2, 3)), rtol=0, atol=TOLERANCE)


@torch.no_grad()
def test_actions_after_ten_steps_agree(pair: Pair) -> None:
    start = torch.randn(ROWS, CHUNK, ACTIONS, generator=torch.Generator().manual_seed(4))
    ours = pair.head.sample(pair.context, start)
    theirs = pair.theirs.sample_actions(**pair.inputs, noise=start, num_steps=10)
    assert (theirs - start).abs().max() > 0.1
    assert torch.allclose(ours, theirs, rtol=0, atol=TOLERANCE)


def test_the_gradients_of_every_weight_of_the_expert_agree(pair: Pair) -> None:
    actions, noise, times, normal = draws_of(pair)
    padding = torch.zeros(ROWS, CHUNK, dtype=torch.bool)
    ours = pair.head.network
    ours.zero_grad()
    pair.theirs.zero_grad()
    pair.head.loss(pair.context, actions, padding, noise).mean().backward(retain_graph=True)
    for draw in range(DRAWS):
        loss = pair.theirs(**pair.inputs, actions=actions, noise=normal[:, draw], timestep=times[:, draw]).loss
        (loss.mean() / DRAWS).backward()
    for layer, own in zip(pair.theirs.model.dit.layers, ours.layers, strict=True):
        for name, other in {"q_proj": "queries", "k_proj": "keys", "v_proj": "values", "o_proj": "output"}.items():
            expected = getattr(layer.self_attn, name).weight.grad
            assert torch.allclose(getattr(own, other).weight.grad, expected, rtol=1e-3, atol=TOLERANCE), name
    state = pair.theirs.embed_action_time.state_proj.weight.grad
    assert state.abs().max() > 1e-3
    assert torch.allclose(ours.state.weight.grad, state, rtol=1e-3, atol=TOLERANCE)


def test_with_the_published_sizes_the_expert_has_as_many_weights() -> None:
    config = PI0Config()
    text = config.vlm_config.text_config
    shape = LayersShape(
        text.num_hidden_layers,
        text.hidden_size,
        text.num_attention_heads,
        text.num_key_value_heads,
        text.head_dim,
        text.vocab_size,
    )
    options = FlowOptions(network="expert", width_ratio=0.5, mlp_ratio=4.0, preconditioned=False)
    context = ContextShape(shape.width, config.max_state_dim, layers=shape)
    with torch.device("meta"):
        theirs = PI0ForConditionalGeneration(config)
        ours = FlowHead(options, context, config.chunk_size, config.max_action_dim)
    parts = (theirs.model.dit.layers, theirs.model.dit.norm, theirs.embed_action_time, theirs.action_out_proj)
    count = sum(each.numel() for part in parts for each in part.parameters())
    assert sum(each.numel() for each in ours.parameters()) == count
    assert count == pytest.approx(300e6, rel=0.1)  # the paper's "300M"
