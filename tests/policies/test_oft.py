"""OpenVLA-OFT's parallel decoding (backbone hf_vlm, head regression) against one plain pass of the language model."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.policies import vlms
from vla_cl.data import ObservationBatch
from vla_cl.errors import ConfigurationError, UnknownNameError
from vla_cl.policies import Context, ContextShape, Policy, PolicyConfig, PolicyFeatures, build_policy
from vla_cl.policies.options import build_options
from vla_cl.policies.regression import RegressionHead, RegressionOptions

CHUNK, ACTIONS, STATE, WIDTH = 4, 3, 4, 40
INSTRUCTIONS = ("close the window", "pick up the red cube and place it in the bin", "turn the faucet")
ROWS = len(INSTRUCTIONS)
SLOTS = {"dimension": CHUNK * ACTIONS, "step": CHUNK}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vlms.save_vlm(tmp_path_factory.mktemp("smolvlm"))


def policy_of(folder: Path, backbone: dict[str, Any] | None = None, *, drawn: bool = True, **options: Any) -> Policy:
    """Its head's weights `drawn` so large that all that it is given matters."""
    config = PolicyConfig(
        backbone="hf_vlm",
        backbone_options={"path": str(folder), "prompt_tokens": 24, **(backbone or {})},
        head="regression",
        head_options={"network": "decoder", "width": WIDTH, "layers": 2, **options},
        chunk=CHUNK,
        execute=CHUNK,
    )
    features = PolicyFeatures(ACTIONS, STATE, cameras=("front",), image_size=vlms.IMAGE)
    policy = build_policy(config, features, seed=0)
    torch.manual_seed(1)
    for parameter in policy.head.parameters() if drawn else ():
        nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.15)
    return policy


def observe(seed: int = 0) -> ObservationBatch:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (ROWS, vlms.IMAGE, vlms.IMAGE, 3), generator=generator, dtype=torch.uint8)
    return ObservationBatch(INSTRUCTIONS, torch.randn(ROWS, STATE, generator=generator), {"front": image})


def inputs(seed: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Actions, padding, noise."""
    actions = torch.rand(ROWS, CHUNK, ACTIONS, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return actions, torch.zeros(ROWS, CHUNK, dtype=torch.bool), torch.empty(ROWS, 0)


def plainly(policy: Policy, observation: ObservationBatch, row: int, embeddings: Tensor) -> Tensor:
    """Actions (chunk, A) of one row: images, prompt, proprioception and slots in one pass, without padding."""
    backbone: Any = policy.backbone
    network: Any = policy.head.network
    one = ObservationBatch(
        observation.instruction[row : row + 1],
        observation.agent_pos[row : row + 1],
        {"front": observation.pixels["front"][row : row + 1]},
    )
    embedded, mask = backbone._prefix(one)
    prefix = torch.cat([embedded[:, mask[0]], backbone.proprioception(one.agent_pos)[:, None]], dim=1)
    before, count = prefix.shape[1], len(embeddings)
    visible = torch.ones(before + count, before + count, dtype=torch.bool).tril()
    visible[before:] = True
    hidden = backbone.model.get_decoder()(
        inputs_embeds=torch.cat([prefix, embeddings[None]], dim=1),
        attention_mask=visible[None, None],
        position_ids=torch.arange(before + count)[None],
        use_cache=False,
    ).last_hidden_state[0, before:]
    hidden = hidden.view(CHUNK, -1)
    norm, linear, _ = network.input
    hidden = linear(F.layer_norm(hidden, hidden.shape[-1:], norm.weight, norm.bias)).clamp(min=0)
    for norm, linear, _ in network.blocks:
        hidden = hidden + linear(F.layer_norm(hidden, (WIDTH,), norm.weight, norm.bias)).clamp(min=0)
    answer: Tensor = network.output(F.layer_norm(hidden, (WIDTH,), network.norm.weight, network.norm.bias))
    return answer


@torch.no_grad()
@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("slots", ["dimension", "step"])
def test_actions_are_those_of_one_plain_pass(slots: str, learned: bool, folder: Path) -> None:
    policy = policy_of(folder, slots=slots, learned_slots=learned)
    network: Any = policy.head.network
    embeddings = network.embeddings if learned else torch.zeros(SLOTS[slots], vlms.WIDTH)
    assert embeddings.shape == (SLOTS[slots], vlms.WIDTH)
    observation = observe()
    actions = policy.head.predict(policy.backbone(observation), *inputs()[::2])
    for row in range(ROWS):
        expected = plainly(policy, observation, row, embeddings)
        assert expected.std() > 0.1
        assert torch.allclose(actions[row], expected, rtol=1e-4, atol=1e-4)


def test_one_pass_of_the_language_model_behind_the_context(folder: Path) -> None:
    policy = policy_of(folder)
    context = policy.backbone(observe())
    passes: list[int] = []
    decoder: Any = policy.backbone.model.get_decoder()  # type: ignore[union-attr, operator]
    hook = decoder.register_forward_pre_hook(
        lambda module, _, given: passes.append(given["inputs_embeds"].shape[1]), with_kwargs=True
    )
    policy.head.sample(context, torch.randn(ROWS, CHUNK, ACTIONS))
    hook.remove()
    assert passes == [CHUNK * ACTIONS]


@torch.no_grad()
def test_actions_that_share_no_embedding_still_differ_by_their_place(folder: Path) -> None:
    actions = policy_of(folder).head.sample(policy_of(folder).backbone(observe()), torch.empty(0))
    differences = (actions[:, :, None] - actions[:, None]).abs().amax(dim=-1)
    assert (differences + torch.eye(CHUNK) > 1e-3).all()


def test_padding_of_the_context_is_not_looked_at(folder: Path) -> None:
    policy = policy_of(folder)
    context = policy.backbone(observe())
    assert context.mask is not None and not context.mask.all()
    padded = ~context.mask[:, None, :, None]

    def acted(filling: float) -> Tensor:
        layers = tuple(
            (keys.masked_fill(padded, filling), values.masked_fill(padded, filling)) for keys, values in context.layers
        )
        return policy.head.sample(dataclasses.replace(context, layers=layers), torch.empty(0))

    assert torch.allclose(acted(0.0), acted(9.0), atol=1e-6)


def test_gradients_reach_the_head_and_every_layer_of_the_language_model(folder: Path) -> None:
    policy = policy_of(folder, learned_slots=True)
    policy.head.loss(policy.backbone(observe()), *inputs()).sum().backward()
    for name, parameter in policy.head.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name
    for layer in policy.backbone.model.get_decoder().layers:  # type: ignore[union-attr, operator]
        assert layer.self_attn.q_proj.weight.grad.any() and layer.mlp.down_proj.weight.grad.any()


def test_it_runs_under_bfloat16_autocast(folder: Path) -> None:
    policy = policy_of(folder)
    full = policy.head.loss(policy.backbone(observe()), *inputs())
    with torch.autocast("cpu", torch.bfloat16):
        context = policy.backbone(observe())
        loss = policy.head.loss(context, *inputs())
        acted = policy.head.sample(context, torch.empty(0))
    assert loss.dtype == acted.dtype == torch.float32
    assert torch.allclose(loss, full, rtol=0.1, atol=0.1)
    loss.sum().backward()
    assert all(each.grad is not None and each.grad.isfinite().all() for each in policy.head.parameters())


@torch.no_grad()
def test_what_is_said_seen_and_sensed_changes_the_actions(folder: Path) -> None:
    policy, observation, other = policy_of(folder), observe(), observe(seed=9)
    actions = policy.head.sample(policy.backbone(observation), torch.empty(0))
    for change in (
        {"instruction": INSTRUCTIONS[1:] + INSTRUCTIONS[:1]},
        {"pixels": other.pixels},
        {"agent_pos": other.agent_pos},
    ):
        changed = policy.head.sample(policy.backbone(dataclasses.replace(observation, **change)), torch.empty(0))
        assert ((changed - actions).abs().amax(dim=(1, 2)) > 1e-3).all()


def test_it_learns_with_the_language_model_to_tell_instructions_apart(folder: Path) -> None:
    policy = policy_of(folder, drawn=False)
    same = observe().pixels["front"][:1].expand(ROWS, -1, -1, -1)
    observation = ObservationBatch(INSTRUCTIONS, torch.zeros(ROWS, STATE), {"front": same})
    actions = torch.tensor([-0.6, 0.0, 0.6])[:, None, None].expand(ROWS, CHUNK, ACTIONS).contiguous()
    _, padding, noise = inputs()
    optimiser = torch.optim.Adam(policy.parameters(), 2e-3)
    for _ in range(60):
        loss = policy.head.loss(policy.backbone(observation), actions, padding, noise).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.1  # without the instruction: 0.4


def test_a_head_whose_context_has_no_layers_says_so(folder: Path) -> None:
    policy = policy_of(folder)
    with pytest.raises(ConfigurationError, match="keys and values of their decoder"):
        policy.head.sample(Context(torch.zeros(1, 2, vlms.WIDTH), torch.zeros(1, STATE)), torch.empty(0))


def test_backbones_without_a_language_model_are_refused_with_the_way_out() -> None:
    with pytest.raises(ConfigurationError, match=r"network='decoder' of head 'regression' needs .*; use backbone hf_v"):
        RegressionHead(RegressionOptions(network="decoder"), ContextShape(16, STATE, 5), CHUNK, ACTIONS)
    with pytest.raises(UnknownNameError, match="did you mean 'dimension'"):
        build_options("head 'regression'", RegressionOptions, {"slots": "dimensions"})
