"""The VQ-BeT head against its formulas."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.policies.contexts import context_of, shape_of
from vla_cl.errors import ConfigurationError, UnknownNameError
from vla_cl.policies.options import build_options
from vla_cl.policies.residual_vq import smooth_chunks
from vla_cl.policies.vqbet import VQBeTHead, VQBeTOptions, focal_loss

CHUNK, ACTIONS, CONTEXT, GROUPS, CODES = 4, 3, 16, 2, 5
SMALL = {"width": 32, "groups": GROUPS, "codes": CODES, "dim": 16, "autoencoder_width": 32, "autoencoder_steps": 200}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def fresh_head(**options: object) -> VQBeTHead:
    torch.manual_seed(0)
    return VQBeTHead(build_options("head", VQBeTOptions, {**SMALL, **options}), shape_of(CONTEXT), CHUNK, ACTIONS)


@pytest.fixture(scope="module")
def fitted() -> VQBeTHead:
    head = fresh_head()
    head.prepare(0.5 * smooth_chunks(500, CHUNK, ACTIONS, generator(5)), generator(0))
    return head


def make_head(fitted: VQBeTHead, **options: object) -> VQBeTHead:
    head = fresh_head(**options)
    head.autoencoder.load_state_dict(fitted.autoencoder.state_dict())
    for parameter in head.offsets.parameters():
        nn.init.normal_(parameter, std=0.1)  # they start as zero
    return head


def inputs(rows: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    """Context tokens, actions, and noise, which is empty."""
    return (
        torch.randn(rows, 2, CONTEXT, generator=generator(1)),
        smooth_chunks(rows, CHUNK, ACTIONS, generator(2)),
        torch.empty(rows, 0),
    )


@settings(deadline=None, max_examples=50)
@given(st.floats(0.0, 5.0), st.integers(0, 1000))
def test_the_focal_loss_is_its_formula(gamma: float, seed: int) -> None:
    log_probabilities = torch.randn(4, 3, 6, generator=generator(seed), dtype=torch.float64).log_softmax(-1)
    classes = torch.randint(6, (4, 3), generator=generator(seed))
    found = focal_loss(log_probabilities, classes, gamma)
    for row in range(4):
        for group in range(3):
            p = log_probabilities[row, group].exp()[classes[row, group]]
            assert float(found[row, group]) == pytest.approx(float(-((1 - p) ** gamma) * p.log()), rel=1e-9)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_the_focal_loss_of_certainty_is_zero_and_its_gradient_finite(gamma: float) -> None:
    logits = torch.tensor([[200.0, 0.0], [0.0, 200.0]], requires_grad=True)
    loss = focal_loss(logits.log_softmax(-1), torch.tensor([0, 0]), gamma)
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([0.0, 200.0])
    assert logits.grad is not None and logits.grad.isfinite().all()


@pytest.mark.parametrize("network", ["mlp", "transformer"])
def test_the_loss_is_the_weighed_sum_of_its_parts(fitted: VQBeTHead, network: str) -> None:
    weights = {"primary_weight": 3.0, "secondary_weight": 0.7, "offset_weight": 11.0, "gamma": 2.0}
    head = make_head(fitted, network=network, **weights)
    tokens, actions, noise = inputs()
    padding = torch.zeros(6, CHUNK, dtype=torch.bool)
    padding[0, 2:] = True
    padding[1] = True
    with torch.no_grad():
        loss = head.loss(context_of(tokens), actions, padding, noise)
        hidden = head.network(head.network.prepare(context_of(tokens)))[:, 0, 0]
        offsets = head.offsets(hidden).view(6, GROUPS, CODES, CHUNK, ACTIONS)
    for row in range(6):
        kept = int((~padding[row]).sum())
        if not kept:
            assert float(loss[row]) == 0
            continue
        chunk = actions[row].clone()
        chunk[kept:] = chunk[kept - 1]
        codes = head.autoencoder.encode(chunk[None])[0]
        logits = [head.logits[0](hidden[row]), head.logits[1](hidden[row] + head.chosen[0, codes[0]])]
        p = torch.stack(logits).softmax(-1)[torch.arange(GROUPS), codes].detach()
        focal = -((1 - p) ** 2) * p.log()
        predicted = head.autoencoder.decode(codes[None])[0] + sum(
            offsets[row, group, codes[group]] for group in range(GROUPS)
        )
        l1 = (predicted - chunk)[:kept].abs().mean()
        expected = 3.0 * focal[0] + 0.7 * focal[1] + 11.0 * l1
        assert float(loss[row]) == pytest.approx(float(expected), rel=1e-5)


def test_the_target_decodes_to_the_actions(fitted: VQBeTHead) -> None:
    _, actions, noise = inputs()
    target = fitted.target(actions, noise)
    chosen = target[..., : GROUPS * CODES].reshape(6, CHUNK, GROUPS, CODES)
    assert torch.equal(chosen.sum(-1), torch.ones(6, CHUNK, GROUPS))
    codes = chosen[:, 0].argmax(-1)
    assert torch.allclose(fitted.autoencoder.decode(codes) + target[..., GROUPS * CODES :], actions, atol=1e-6)


def test_the_divergence_is_torchs_kl_of_the_codes_and_the_mean_square_of_the_offsets(fitted: VQBeTHead) -> None:
    head = make_head(fitted)
    tokens, actions, noise = inputs()
    new = head.predict(context_of(tokens), actions, noise).detach()
    old = head.predict(context_of(tokens + 1), actions, noise).detach()
    padding = torch.zeros(6, CHUNK, dtype=torch.bool)
    padding[:, -1] = True
    categorical = [
        torch.distributions.Categorical(logits=each[:, 0, : GROUPS * CODES].view(6, GROUPS, CODES))
        for each in (old, new)
    ]
    kl = torch.distributions.kl_divergence(*categorical)
    offsets = (new - old)[:, :-1, GROUPS * CODES :].square().mean(dim=(1, 2))
    expected = 5.0 * kl[:, 0] + 0.5 * kl[:, 1] + 100.0 * offsets
    assert torch.allclose(head.divergence(new, old, padding), expected, rtol=1e-4, atol=1e-6)


def test_codes_are_drawn_by_their_probabilities_at_the_temperature(fitted: VQBeTHead) -> None:
    rows, temperature = 20_000, 0.5
    head = make_head(fitted, temperature=temperature)
    tokens = torch.randn(1, 2, CONTEXT, generator=generator(1)).expand(rows, -1, -1)
    with torch.no_grad():
        drawn = head.sample(context_of(tokens), torch.randn(rows, CHUNK, ACTIONS, generator=generator(3)))
        hidden = head.network(head.network.prepare(context_of(tokens[:1])))[0, 0, 0]
        offsets = head.offsets(hidden).view(GROUPS, CODES, CHUNK, ACTIONS)
        first_probabilities = (head.logits[0](hidden) / temperature).softmax(-1)
        second_probabilities = (head.logits[1](hidden + head.chosen[0]) / temperature).softmax(-1)
    pairs = [(first, second) for first in range(CODES) for second in range(CODES)]
    actions = torch.stack(
        [head.autoencoder.decode(torch.tensor([pair]))[0] + offsets[0, pair[0]] + offsets[1, pair[1]] for pair in pairs]
    )
    distances = (drawn[:, None] - actions).abs().amax(dim=(2, 3))
    assert float(distances.min(dim=1).values.max()) < 1e-5
    found = torch.bincount(distances.argmin(dim=1), minlength=len(pairs)) / rows
    assert torch.allclose(found, (first_probabilities[:, None] * second_probabilities).flatten(), atol=0.012)


def test_temperature_zero_takes_the_likeliest_codes_whatever_the_noise(fitted: VQBeTHead) -> None:
    head = make_head(fitted, temperature=0.0)
    tokens, *_ = inputs()
    first, second = (
        head.sample(context_of(tokens), torch.randn(6, CHUNK, ACTIONS, generator=generator(seed))) for seed in (0, 1)
    )
    assert torch.equal(first, second)
    with torch.no_grad():
        hidden = head.network(head.network.prepare(context_of(tokens)))[:, 0, 0]
        offsets = head.offsets(hidden).view(6, GROUPS, CODES, CHUNK, ACTIONS)
        for row in range(6):
            one = int(head.logits[0](hidden[row]).argmax())
            two = int(head.logits[1](hidden[row] + head.chosen[0, one]).argmax())
            decoded = head.autoencoder.decode(torch.tensor([[one, two]]))[0]
            assert torch.allclose(first[row], decoded + offsets[row, 0, one] + offsets[row, 1, two], atol=1e-5)


def test_training_leaves_the_codebook_alone(fitted: VQBeTHead) -> None:
    head = make_head(fitted)
    tokens, actions, noise = inputs()
    before = {name: each.clone() for name, each in head.autoencoder.state_dict().items()}
    head.loss(context_of(tokens), actions, torch.zeros(6, CHUNK, dtype=torch.bool), noise).sum().backward()
    assert all(each.grad is None for each in head.autoencoder.parameters())
    torch.optim.SGD(head.parameters(), lr=1.0).step()
    assert all(torch.equal(each, before[name]) for name, each in head.autoencoder.state_dict().items())


def test_it_learns_both_branches_of_a_choice_of_a_task_that_the_codebook_has_not_seen(fitted: VQBeTHead) -> None:
    head = make_head(fitted, width=64)
    tokens, padding = torch.zeros(64, 1, CONTEXT), torch.zeros(64, CHUNK, dtype=torch.bool)
    shape = torch.linspace(0.5, 0.9, CHUNK)[:, None] * torch.tensor([1.0, -0.8, 0.6])
    optimiser = torch.optim.Adam([each for each in head.parameters() if each.requires_grad], lr=2e-3)
    random = generator(4)
    for _ in range(300):
        branch = (torch.rand(64, 1, 1, generator=random) < 0.5).float() * 2 - 1
        actions = branch * shape
        optimiser.zero_grad()
        head.loss(context_of(tokens), actions, padding, torch.empty(64, 0)).mean().backward()
        optimiser.step()
    with torch.no_grad():
        drawn = head.sample(context_of(tokens), torch.randn(64, CHUNK, ACTIONS, generator=random))
    away = torch.stack([(drawn - sign * shape).abs().mean(dim=(1, 2)) for sign in (1, -1)])
    assert float((away.min(dim=0).values < 0.1).float().mean()) > 0.9
    assert 0.2 < float((away.argmin(dim=0) == 0).float().mean()) < 0.8


def test_without_a_codebook_it_says_what_to_do() -> None:
    head = fresh_head()
    tokens, actions, noise = inputs()
    with pytest.raises(ConfigurationError, match=r"call policy\.prepare"):
        head.loss(context_of(tokens), actions, torch.zeros(6, CHUNK, dtype=torch.bool), noise)
    with pytest.raises(ConfigurationError, match=r"call policy\.prepare"):
        head.sample(context_of(tokens), actions)


def test_unknown_options_and_bad_values_are_told_in_one_line() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'codes'"):
        build_options("head 'vqbet'", VQBeTOptions, {"code": 2})
    with pytest.raises(ConfigurationError, match="codes of head 'vqbet' must be at least 2, got 1"):
        build_options("head 'vqbet'", VQBeTOptions, {"codes": 1})
    with pytest.raises(ConfigurationError, match=r"gamma of head 'vqbet' must be at least 0, got -1\.0"):
        build_options("head 'vqbet'", VQBeTOptions, {"gamma": -1.0})
    with pytest.raises(ConfigurationError, match="its 3 groups must be at most chunk x actions = 2"):
        VQBeTHead(VQBeTOptions(groups=3), shape_of(CONTEXT), 1, 2)
