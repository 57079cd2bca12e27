"""What every action head promises, built-in or registered by a test, whatever it predicts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.policies.contexts import context_of, shape_of
from vla_cl.errors import ConfigurationError, UnknownNameError
from vla_cl.policies import HEADS, ActionHead
from vla_cl.policies.options import build_options

CHUNK, ACTIONS, WIDTH, TOKENS, ROWS = 8, 4, 32, 5, 3
SMALL: dict[str, dict[str, object]] = {}
"""Options that make a head small enough for these tests, where the defaults are not."""


def chunks(rows: int, seed: int = 0) -> Tensor:
    """Smooth normalised actions (rows, CHUNK, ACTIONS), as robots make them."""
    generator = torch.Generator().manual_seed(seed)
    start, slope = (torch.rand(2, rows, 1, ACTIONS, generator=generator) * 2 - 1).unbind(0)
    return (0.7 * start + 0.3 * slope * torch.linspace(-1, 1, CHUNK)[:, None]).contiguous()


def make_head(name: str, seed: int = 0) -> ActionHead:
    torch.manual_seed(seed)
    options = build_options(f"head {name!r}", HEADS[name].Options, SMALL.get(name, {}))
    head = HEADS[name](options, shape_of(WIDTH, TOKENS), CHUNK, ACTIONS)
    head.prepare(chunks(200, seed=9), torch.Generator().manual_seed(0))
    for parameter in head.parameters():
        if parameter.requires_grad and not parameter.detach().any():
            torch.nn.init.normal_(parameter, std=0.05)  # outputs that start as the zero function hide mistakes
    return head


BUILT_IN = ("flow", "regression", "tokens", "fast", "diffusion", "act", "gmm", "vqbet")


@pytest.fixture(scope="module", params=BUILT_IN)
def head(request: pytest.FixtureRequest) -> ActionHead:
    return make_head(request.param)


def inputs(rows: int = ROWS) -> tuple[Tensor, Tensor, Tensor]:
    """Context tokens, actions, padding whose last row ends early."""
    tokens = torch.randn(rows, TOKENS, WIDTH, generator=torch.Generator().manual_seed(1))
    padding = torch.zeros(rows, CHUNK, dtype=torch.bool)
    padding[-1, CHUNK // 2 :] = True
    return tokens, chunks(rows), padding


def noise_of(head: ActionHead, rows: int = ROWS, seed: int = 2) -> Tensor:
    return head.sample_noise(rows, torch.Generator().manual_seed(seed))


def test_every_head_is_tested() -> None:
    assert {name for name in HEADS if HEADS[name].__module__.startswith("vla_cl.")} == set(BUILT_IN)


def test_noise_is_one_row_a_sample_and_a_function_of_the_generator(head: ActionHead) -> None:
    noise = noise_of(head)
    assert noise.shape[0] == ROWS and noise.dim() == 2
    assert torch.equal(noise, noise_of(head))
    if noise.shape[1]:
        assert not torch.equal(noise, noise_of(head, seed=3))


def test_losses_are_one_a_sample_and_do_not_depend_on_the_others(head: ActionHead) -> None:
    tokens, actions, padding = inputs()
    noise = noise_of(head)
    losses = head.loss(context_of(tokens), actions, padding, noise)
    assert losses.shape == (ROWS,) and losses.dtype == torch.float32 and losses.isfinite().all()
    for row in range(ROWS):
        one = slice(row, row + 1)
        alone = head.loss(context_of(tokens[one]), actions[one], padding[one], noise[one])
        assert torch.allclose(alone, losses[one], rtol=1e-4, atol=1e-5)


def test_what_lies_in_the_padding_changes_no_loss_and_no_gradient(head: ActionHead) -> None:
    tokens, actions, padding = inputs()
    noise, found = noise_of(head), []
    for filling in (0.0, 0.9):
        head.zero_grad()
        loss = head.loss(context_of(tokens), actions.masked_fill(padding[:, :, None], filling), padding, noise)
        loss.sum().backward()
        found.append([loss.detach(), *(each.grad for each in head.parameters() if each.grad is not None)])
    assert all(torch.equal(first, second) for first, second in zip(*found, strict=True))


def test_every_trained_parameter_and_the_context_get_gradients(head: ActionHead) -> None:
    tokens, actions, padding = inputs()
    tokens.requires_grad_()
    head.zero_grad()
    head.loss(context_of(tokens), actions, padding, noise_of(head)).sum().backward()
    assert tokens.grad is not None and tokens.grad.isfinite().all() and tokens.grad.any()
    for name, parameter in head.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_predictions_are_at_the_given_noise_and_equal_ones_do_not_diverge(head: ActionHead) -> None:
    tokens, actions, padding = inputs()
    noise = noise_of(head)
    predicted = head.predict(context_of(tokens), actions, noise)
    assert predicted.dim() == 3 and len(predicted) == ROWS and predicted.dtype == torch.float32
    assert torch.equal(predicted, head.predict(context_of(tokens), actions, noise))
    assert len(head.target(actions, noise)) == ROWS
    same = head.divergence(predicted, predicted.detach(), padding)
    assert same.shape == (ROWS,) and torch.allclose(same, torch.zeros(ROWS), atol=1e-5)
    other = head.predict(context_of(tokens + 1), actions, noise)
    assert (head.divergence(other, predicted.detach(), padding) > 0).all()


def test_a_divergence_pulls_a_head_towards_its_teacher(head: ActionHead) -> None:
    tokens, actions, padding = inputs()
    noise = noise_of(head)
    reference = head.predict(context_of(tokens + 0.5), actions, noise).detach()
    moved = tokens.clone().requires_grad_()
    before = head.divergence(head.predict(context_of(moved), actions, noise), reference, padding).sum()
    (gradient,) = torch.autograd.grad(before, moved)
    assert gradient.isfinite().all()
    nearer = (moved - 0.01 * gradient / gradient.norm()).detach()
    after = head.divergence(head.predict(context_of(nearer), actions, noise), reference, padding).sum()
    assert float(after) < float(before)


def test_acting_is_finite_and_a_row_depends_on_its_own_context_and_noise(head: ActionHead) -> None:
    tokens, *_ = inputs()
    noise = torch.randn(ROWS, CHUNK, ACTIONS, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        actions = head.sample(context_of(tokens), noise)
        assert actions.shape == (ROWS, CHUNK, ACTIONS) and actions.isfinite().all()
        for row in range(ROWS):
            one = slice(row, row + 1)
            alone = head.sample(context_of(tokens[one]), noise[one])
            assert torch.allclose(alone, actions[one], atol=1e-4)


def test_context_tokens_that_are_padding_are_not_looked_at(head: ActionHead) -> None:
    tokens, actions, padding = inputs()
    mask = torch.ones(ROWS, TOKENS, dtype=torch.bool)
    mask[:, -2:] = False
    noise = noise_of(head)
    losses = [
        head.loss(context_of(tokens.masked_fill(~mask[:, :, None], filling), mask), actions, padding, noise)
        for filling in (0.0, 5.0)
    ]
    assert torch.allclose(*losses, atol=1e-5)


def test_it_runs_under_bfloat16_autocast(head: ActionHead) -> None:
    tokens, actions, padding = inputs()
    noise = noise_of(head)
    with torch.autocast("cpu", torch.bfloat16):
        loss = head.loss(context_of(tokens), actions, padding, noise)
        predicted = head.predict(context_of(tokens), actions, noise)
    assert loss.dtype == predicted.dtype == torch.float32
    full = head.loss(context_of(tokens), actions, padding, noise)
    assert torch.allclose(loss, full, rtol=0.1, atol=0.1)
    loss.sum().backward()


def test_it_is_restored_from_its_weights(head: ActionHead) -> None:
    name = next(each for each in BUILT_IN if HEADS[each] is type(head))
    options = build_options(f"head {name!r}", HEADS[name].Options, SMALL.get(name, {}))
    again = HEADS[name](options, shape_of(WIDTH, TOKENS), CHUNK, ACTIONS)
    again.load_state_dict(head.state_dict())
    tokens, actions, padding = inputs()
    noise = noise_of(head)
    first, second = (each.loss(context_of(tokens), actions, padding, noise) for each in (head, again))
    assert torch.equal(first, second)


def test_a_small_step_down_the_gradient_lowers_the_loss(head: ActionHead) -> None:
    tokens, actions, padding = inputs()
    noise = noise_of(head)
    head.zero_grad()
    before = head.loss(context_of(tokens), actions, padding, noise).sum()
    before.backward()
    trained = [each for each in head.parameters() if each.requires_grad and each.grad is not None]
    norm = torch.stack([each.grad.norm() for each in trained]).norm()  # type: ignore[union-attr]
    with torch.no_grad():
        for each in trained:
            each -= 1e-3 * each.grad / norm  # type: ignore[operator]
        after = head.loss(context_of(tokens), actions, padding, noise).sum()
        for each in trained:
            each += 1e-3 * each.grad / norm  # type: ignore[operator]
    assert float(after) < float(before)


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_head_that_would_need_a_language_models_layers_says_so(name: str) -> None:
    fields = HEADS[name].Options.__dataclass_fields__
    wishes = {"network": ("expert", "decoder"), "decoder": ("backbone",)}
    for option, values in wishes.items():
        for value in values if option in fields else ():
            try:
                options = build_options("head", HEADS[name].Options, {option: value})
            except UnknownNameError:
                continue  # this head knows no such network
            with pytest.raises(ConfigurationError, match="hf_vlm"):
                HEADS[name](options, shape_of(WIDTH, TOKENS), CHUNK, ACTIONS)
