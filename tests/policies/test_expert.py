"""The action expert against a naive implementation, and what it promises as a network of the flow head."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.policies import vlms
from tests.policies.contexts import shape_of
from vla_cl.data import ObservationBatch, Statistics
from vla_cl.errors import ConfigurationError, UnknownNameError
from vla_cl.policies import Context, ContextShape, Policy, PolicyConfig, PolicyFeatures, build_policy
from vla_cl.policies.flow import FlowHead, FlowOptions
from vla_cl.policies.layers import time_embedding
from vla_cl.policies.options import build_options

CHUNK, ACTIONS, STATE, DRAWS = 5, 3, 4, 3
INSTRUCTIONS = ("close the window", "pick up the red cube and place it in the bin", "turn the faucet")
ROWS = len(INSTRUCTIONS)
KINDS = list(itertools.product(("joint", "interleaved"), ("bidirectional", "causal"), (True, False)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vlms.save_vlm(tmp_path_factory.mktemp("smolvlm"))


def policy_of(folder: Path, backbone: dict[str, Any] | None = None, *, drawn: bool = True, **options: Any) -> Policy:
    """Its head's weights `drawn` so large that all that it is given matters."""
    config = PolicyConfig(
        backbone="hf_vlm",
        backbone_options={"path": str(folder), "proprioception": "none", "prompt_tokens": 24, **(backbone or {})},
        head="flow",
        head_options={"network": "expert", "width": 32, "mlp_ratio": 2.0, "noise_samples": DRAWS, **options},
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


def inputs(head: Any, seed: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Actions, padding, noise."""
    generator = torch.Generator().manual_seed(seed)
    actions = torch.rand(ROWS, CHUNK, ACTIONS, generator=generator) * 2 - 1
    return actions, torch.zeros(ROWS, CHUNK, dtype=torch.bool), head.sample_noise(ROWS, generator)


def naive(network: Any, context: Context, noisy: Tensor, times: Tensor, *, causal: bool, interleaved: bool) -> Tensor:
    """One draw's velocity (chunk, A) of one row, tokens (state, then actions) all at once, a head after the other."""

    def turned(vector: Tensor, position: int) -> Tensor:
        cosine, sine = context.decoder.rotary(torch.tensor([[position]]))  # type: ignore[union-attr]
        half = vector.shape[-1] // 2
        return vector * cosine[0, 0] + torch.cat([-vector[half:], vector[:half]]) * sine[0, 0]

    real = [index for index in range(context.tokens.shape[1]) if bool(context.mask[0, index])]  # type: ignore[index]
    told = time_embedding(times[None], network.width)[0]
    hidden = [] if network.state is None else [network.state(context.agent_pos[0])]
    states = len(hidden)
    hidden += [network.mix(torch.cat([network.actions(action), told])) for action in noisy]
    count, size = len(hidden), network.layers[0].head_dim
    for depth, layer in enumerate(network.layers):
        cross = interleaved and depth % 2 == 1
        keys, values = (each[0].transpose(0, 1)[real].flatten(1) for each in context.layers[depth])
        keys, values = (layer.keys(keys), layer.values(values)) if cross else (keys, values)
        normed = [F.rms_norm(each, each.shape, layer.attention_norm.weight, 1e-6) for each in hidden]
        groups = keys.shape[1] // size
        heads = network.layers[0].queries.weight.shape[0] // size
        after = []
        for index in range(count):
            seen = range(index + 1) if causal or index < states else range(count)
            answers = []
            for head in range(heads):
                query = layer.queries(normed[index]).view(heads, size)[head]
                query = turned(query, index if cross else len(real) + index)
                group = slice(head // (heads // groups) * size, (head // (heads // groups) + 1) * size)
                looked, taken = keys[:, group], values[:, group]
                if not cross:
                    own = [turned(layer.keys(normed[other])[group], len(real) + other) for other in seen]
                    looked = torch.cat([looked, torch.stack(own)])
                    taken = torch.cat([taken, torch.stack([layer.values(normed[other])[group] for other in seen])])
                answers.append(((looked @ query) / size**0.5).softmax(0) @ taken)
            middle = hidden[index] + layer.output(torch.cat(answers))
            inner = F.rms_norm(middle, middle.shape, layer.mlp_norm.weight, 1e-6)
            gate = layer.gate(inner)
            opened = F.silu(gate) if layer.activation == "silu" else F.gelu(gate, approximate="tanh")
            after.append(middle + layer.down(opened * layer.up(inner)))
        hidden = after
    final = torch.stack(hidden[states:])
    return network.output(F.rms_norm(final, final.shape[-1:], network.norm.weight, 1e-6))  # type: ignore[no-any-return]


@torch.no_grad()
@pytest.mark.parametrize(("attention", "action_mask", "state_token"), KINDS)
def test_velocities_are_those_of_a_naive_implementation(
    attention: str, action_mask: str, state_token: bool, folder: Path
) -> None:
    policy = policy_of(
        folder,
        attention=attention,
        action_mask=action_mask,
        state_token=state_token,
        activation="silu",
        preconditioned=False,
    )
    head: Any = policy.head
    context = policy.backbone(observe())
    assert context.mask is not None and not context.mask.all()
    noisy = torch.randn(ROWS, DRAWS, CHUNK, ACTIONS)
    times = torch.rand(ROWS, DRAWS)
    found = head.velocity(head.network.prepare(context), noisy, times)
    for row, draw in ((0, 0), (1, 2)):
        expected = naive(
            head.network,
            context[row : row + 1],
            noisy[row, draw],
            times[row, draw],
            causal=action_mask == "causal",
            interleaved=attention == "interleaved",
        )
        assert torch.allclose(found[row, draw], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attention", ["joint", "interleaved"])
@pytest.mark.parametrize("causal", [True, False])
def test_who_sees_whom(attention: str, causal: bool, folder: Path) -> None:
    policy = policy_of(folder, attention=attention, action_mask="causal" if causal else "bidirectional")
    network: Any = policy.head.network
    digest = network.prepare(policy.backbone(observe()))
    noisy = torch.randn(ROWS, 2, CHUNK, ACTIONS, requires_grad=True)
    times = torch.rand(ROWS, 2)
    for step in range(CHUNK):
        (gradient,) = torch.autograd.grad(network(digest, noisy, times)[1, 0, step].sum(), noisy)
        touched = gradient.abs().sum(dim=-1) > 0
        expected = torch.zeros(ROWS, 2, CHUNK, dtype=torch.bool)
        expected[1, 0, : step + 1 if causal else CHUNK] = True
        assert torch.equal(touched, expected)


@pytest.mark.parametrize("attention", ["joint", "interleaved"])
def test_padding_of_the_context_is_not_looked_at(attention: str, folder: Path) -> None:
    policy = policy_of(folder, attention=attention)
    context = policy.backbone(observe())
    hidden = ~context.mask[:, None, :, None]
    actions, padding, noise = inputs(policy.head)

    def loss(filling: float, where: Tensor) -> Tensor:
        layers = tuple(
            (keys.masked_fill(where, filling), values.masked_fill(where, filling)) for keys, values in context.layers
        )
        return policy.head.loss(dataclasses.replace(context, layers=layers), actions, padding, noise)

    assert torch.equal(loss(0.0, hidden), loss(9.0, hidden))
    assert not torch.isclose(loss(0.0, ~hidden), loss(0.0, hidden)).any()


@torch.no_grad()
@pytest.mark.parametrize("attention", ["joint", "interleaved"])
def test_a_context_is_digested_once_for_all_steps_and_draws(attention: str, folder: Path) -> None:
    policy = policy_of(folder, attention=attention, steps=7)
    network: Any = policy.head.network
    context = policy.backbone(observe())
    calls = {"state": 0, "actions": 0, "cross keys": 0}
    hooks = [network.state.register_forward_hook(lambda *_: calls.update(state=calls["state"] + 1))]
    hooks += [network.actions.register_forward_hook(lambda *_: calls.update(actions=calls["actions"] + 1))]
    hooks += [
        layer.keys.register_forward_hook(lambda *_: calls.update({"cross keys": calls["cross keys"] + 1}))
        for layer in network.layers
        if layer.cross
    ]
    policy.head.sample(context, torch.randn(ROWS, CHUNK, ACTIONS))
    policy.head.loss(context, *inputs(policy.head))
    for hook in hooks:
        hook.remove()
    cross = 2 if attention == "interleaved" else 0
    assert calls == {"state": 2, "actions": 7 + 1, "cross keys": 2 * cross}


@torch.no_grad()
@pytest.mark.parametrize("attention", ["joint", "interleaved"])
def test_a_row_depends_neither_on_the_batch_nor_on_the_number_of_draws(attention: str, folder: Path) -> None:
    policy = policy_of(folder, attention=attention)
    head: Any = policy.head
    context = policy.backbone(observe())
    noisy, times = torch.randn(ROWS, DRAWS, CHUNK, ACTIONS), torch.rand(ROWS, DRAWS)
    together = head.velocity(head.network.prepare(context), noisy, times)
    for row in range(ROWS):
        digest = head.network.prepare(context[row : row + 1])
        alone = head.velocity(digest, noisy[row, None, 1:2], times[row, None, 1:2])
        assert torch.allclose(alone[0, 0], together[row, 1], atol=1e-4)


def test_gradients_reach_the_expert_and_every_layer_of_the_language_model(folder: Path) -> None:
    policy = policy_of(folder)
    policy.head.loss(policy.backbone(observe()), *inputs(policy.head)).sum().backward()
    for name, parameter in policy.head.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name
    for layer in policy.backbone.model.get_decoder().layers:  # type: ignore[union-attr, operator]
        assert layer.self_attn.k_proj.weight.grad.any() and layer.self_attn.v_proj.weight.grad.any()


def test_it_runs_under_bfloat16_autocast(folder: Path) -> None:
    policy = policy_of(folder, attention="interleaved", action_mask="causal")
    actions, padding, noise = inputs(policy.head)
    full = policy.head.loss(policy.backbone(observe()), actions, padding, noise)
    with torch.autocast("cpu", torch.bfloat16):
        context = policy.backbone(observe())
        loss = policy.head.loss(context, actions, padding, noise)
        predicted = policy.head.predict(context, actions, noise)
        acted = policy.head.sample(context, torch.randn(ROWS, CHUNK, ACTIONS))
    assert loss.dtype == predicted.dtype == acted.dtype == torch.float32
    assert torch.allclose(loss, full, rtol=0.1, atol=0.1)
    loss.sum().backward()
    assert all(each.grad is not None and each.grad.isfinite().all() for each in policy.head.parameters())


@torch.no_grad()
def test_what_is_said_seen_and_sensed_changes_the_actions(folder: Path) -> None:
    policy = policy_of(folder)
    start, observation = torch.randn(ROWS, CHUNK, ACTIONS), observe()
    other = observe(seed=9)
    actions = policy.head.sample(policy.backbone(observation), start)
    for change in (
        {"instruction": INSTRUCTIONS[1:] + INSTRUCTIONS[:1]},
        {"pixels": other.pixels},
        {"agent_pos": other.agent_pos},
    ):
        changed = policy.head.sample(policy.backbone(dataclasses.replace(observation, **change)), start)
        assert ((changed - actions).abs().amax(dim=(1, 2)) > 1e-3).all()


@torch.no_grad()
def test_without_a_state_token_it_does_not_look_at_proprioception(folder: Path) -> None:
    policy = policy_of(folder, state_token=False)
    context = policy.backbone(observe())
    start = torch.randn(ROWS, CHUNK, ACTIONS)
    moved = dataclasses.replace(context, agent_pos=context.agent_pos + 1)
    assert torch.equal(policy.head.sample(context, start), policy.head.sample(moved, start))


@pytest.mark.parametrize("attention", ["joint", "interleaved"])
def test_a_saved_policy_acts_the_same(attention: str, folder: Path, tmp_path: Path) -> None:
    policy = policy_of(folder, attention=attention)
    ranges = {"action": ((-1.0,) * ACTIONS, (1.0,) * ACTIONS), "agent_pos": ((-1.0,) * STATE, (1.0,) * STATE)}
    policy.set_statistics(Statistics.from_ranges(ranges))
    policy.save_pretrained(tmp_path)
    again = Policy.from_pretrained(tmp_path)
    acted = policy.act(observe(), range(ROWS))
    assert torch.equal(again.act(observe(), range(ROWS)), acted)
    assert not torch.equal(policy.act(observe(), range(1, ROWS + 1)), acted)


def test_a_fresh_expert_knows_the_spread_if_preconditioned_and_nothing_else(folder: Path) -> None:
    noisy, times = torch.randn(ROWS, 2, CHUNK, ACTIONS), torch.rand(ROWS, 2) * 0.9 + 0.1
    for preconditioned in (True, False):
        policy = policy_of(folder, preconditioned=preconditioned)
        head: Any = policy.head
        nn.init.zeros_(head.network.output.weight)
        nn.init.zeros_(head.network.output.bias)
        velocity = head.velocity(head.network.prepare(policy.backbone(observe())), noisy, times)
        t = times[:, :, None, None]
        expected = noisy * (t - (1 - t) * 0.25) / (t**2 + (1 - t) ** 2 * 0.25) if preconditioned else noisy * 0
        assert torch.allclose(velocity, expected, atol=1e-5)


def test_every_network_can_go_without_preconditioning() -> None:
    tokens, noisy, times = torch.randn(2, 4, 16), torch.randn(2, 1, CHUNK, ACTIONS), torch.rand(2, 1)
    for network in ("mlp", "transformer"):
        torch.manual_seed(0)
        options = FlowOptions(network=network, width=32, preconditioned=False)
        head = FlowHead(options, shape_of(16), CHUNK, ACTIONS)
        nn.init.normal_(head.network.output.weight)
        prepared = head.network.prepare(Context(tokens, torch.zeros(2, 3)))
        assert torch.equal(head.velocity(prepared, noisy, times), head.network(prepared, noisy, times))


def test_its_width_can_be_a_share_of_the_language_models(folder: Path) -> None:
    network: Any = policy_of(folder, width_ratio=0.75, mlp_ratio=2.5).head.network
    assert network.width == 36  # of 48
    assert network.layers[0].gate.weight.shape == (90, 36)
    assert network.layers[0].queries.weight.shape == (6 * 8, 36)
    assert len(network.layers) == 4


def test_it_learns_with_the_language_model_to_tell_instructions_apart(folder: Path) -> None:
    policy = policy_of(folder, drawn=False, attention="interleaved", action_mask="causal", noise_samples=4)
    observation = dataclasses.replace(observe(), pixels={"front": observe().pixels["front"][:1].expand(3, -1, -1, -1)})
    observation = dataclasses.replace(observation, agent_pos=torch.zeros(ROWS, STATE))
    actions = torch.tensor([-0.6, 0.0, 0.6])[:, None, None].expand(ROWS, CHUNK, ACTIONS).contiguous()
    padding, generator = torch.zeros(ROWS, CHUNK, dtype=torch.bool), torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(policy.parameters(), 2e-3)
    for _ in range(80):
        noise = policy.head.sample_noise(ROWS, generator)
        loss = policy.head.loss(policy.backbone(observation), actions, padding, noise).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        acted = policy.head.sample(policy.backbone(observation), torch.randn(ROWS, CHUNK, ACTIONS))
    assert (acted - actions).mean(dim=(1, 2)).abs().max() < 0.2  # without the instruction: 0.6


def test_backbones_without_layers_are_refused_with_the_way_out(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"network='expert' of head 'flow' needs .*; use backbone hf_vlm"):
        FlowHead(FlowOptions(network="expert"), ContextShape(16, STATE, 5), CHUNK, ACTIONS)
    with pytest.raises(ConfigurationError, match="with proprioception 'prefix' or 'none'"):
        policy_of(folder, backbone={"proprioception": "context"})


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"width": 33}, "width of head 'flow' must be even, got 33"),
        ({"mlp_ratio": 0.0}, "mlp_ratio of head 'flow' must be positive, got 0.0"),
        ({"width_ratio": -0.5}, "width_ratio of head 'flow' must be at least 0, got -0.5"),
        ({"shortest_period": 5.0}, "longest_period of head 'flow' must be longer than shortest_period"),
    ],
)
def test_bad_values_are_told_in_one_line(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        build_options("head 'flow'", FlowOptions, options)


@pytest.mark.parametrize(
    ("option", "value"), [("attention", "jiont"), ("action_mask", "casual"), ("activation", "gelu_tan")]
)
def test_unknown_choices_name_the_nearest(option: str, value: str) -> None:
    with pytest.raises(UnknownNameError, match="did you mean"):
        build_options("head 'flow'", FlowOptions, {option: value})
