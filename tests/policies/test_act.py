"""The act head: a variational autoencoder of chunks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from tests.policies.contexts import STATE, context_of, shape_of
from vla_cl.errors import ConfigurationError, UnknownNameError
from vla_cl.policies import Context
from vla_cl.policies.act import ACTHead, ACTOptions, divergence_from_prior
from vla_cl.policies.options import build_options

CHUNK, ACTIONS, CONTEXT, LATENT, ROWS = 4, 2, 8, 6, 5


def make_head(fresh: bool = False, **options: Any) -> ACTHead:
    torch.manual_seed(0)
    chosen = {"width": 32, "latent": LATENT, "encoder_layers": 1, "style_layers": 1, **options}
    head = ACTHead(build_options("head", ACTOptions, chosen), shape_of(CONTEXT, 3), CHUNK, ACTIONS)
    for parameter in head.parameters():
        if not fresh and not parameter.detach().any():
            torch.nn.init.normal_(parameter, std=0.1)  # outputs that start as the zero function hide mistakes
    return head


def inputs() -> tuple[Context, Tensor, Tensor, Tensor]:
    """Context, actions, padding, noise."""
    generator = torch.Generator().manual_seed(1)
    tokens, state = torch.randn(ROWS, 3, CONTEXT, generator=generator), torch.randn(ROWS, STATE, generator=generator)
    padding = torch.arange(CHUNK) >= torch.tensor([4, 4, 3, 2, 1])[:, None]
    actions = torch.randn(ROWS, CHUNK, ACTIONS, generator=generator)
    return Context(tokens, state), actions, padding, torch.randn(ROWS, LATENT, generator=generator)


def filled(actions: Tensor, padding: Tensor) -> Tensor:
    """Each padding with the last action before it, row by row."""
    rows = [row[: int((~gone).sum())] for row, gone in zip(actions, padding, strict=True)]
    return torch.stack([torch.cat([row, row[-1:].expand(CHUNK - len(row), -1)]) for row in rows])


@given(st.lists(st.tuples(st.floats(-3, 3), st.floats(-4, 4)), min_size=1, max_size=6))
def test_the_divergence_from_the_prior_is_torchs(numbers: list[tuple[float, float]]) -> None:
    mean, log_variance = torch.tensor(numbers, dtype=torch.float64).T[:, None]
    expected = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)).sum(-1)
    assert torch.allclose(divergence_from_prior(mean, log_variance), expected, atol=1e-9)


@pytest.mark.parametrize("weight", [0.0, 10.0])
def test_the_loss_is_the_error_of_the_reconstruction_and_the_weighed_divergence(weight: float) -> None:
    head, (context, actions, padding, noise) = make_head(kl_weight=weight), inputs()
    mean, log_variance = head.style(context.agent_pos, filled(actions, padding), padding)
    posterior = Normal(mean, (log_variance / 2).exp())
    told = head.decoder(context, posterior.mean + posterior.stddev * noise)
    expected = [
        (told[row] - actions[row])[~padding[row]].abs().mean() + weight * kl_divergence(each, Normal(0.0, 1.0)).sum()
        for row in range(ROWS)
        for each in [Normal(posterior.mean[row], posterior.stddev[row])]
    ]
    assert torch.allclose(head.loss(context, actions, padding, noise), torch.stack(expected), rtol=1e-4, atol=1e-5)


def test_a_prediction_is_the_reconstruction_at_the_given_noise() -> None:
    head, (context, actions, _, noise) = make_head(), inputs()
    seen: list[Tensor] = []
    decoder = head.decoder.forward
    head.decoder.forward = lambda context, style: seen.append(style) or decoder(context, style)  # type: ignore[method-assign, func-returns-value]
    for scale in (0.0, 1.0, 2.0):
        head.predict(context, actions, scale * noise)
    mean, log_variance = head.style(context.agent_pos, actions, torch.zeros(ROWS, CHUNK, dtype=torch.bool))
    assert torch.allclose(seen[0], mean, atol=1e-6)
    assert torch.allclose(seen[1] - seen[0], noise * log_variance.exp().sqrt(), atol=1e-6)
    assert torch.allclose(seen[2] - seen[0], 2 * (seen[1] - seen[0]), atol=1e-5)


def test_a_fresh_posterior_is_the_prior() -> None:
    head, (context, actions, padding, _) = make_head(fresh=True), inputs()
    mean, log_variance = head.style(context.agent_pos, actions, padding)
    assert not divergence_from_prior(mean, log_variance).any()


def test_acting_is_at_the_mean_of_the_prior_whatever_the_noise() -> None:
    head, (context, *_) = make_head(), inputs()
    acted = [head.sample(context, torch.randn(ROWS, CHUNK, ACTIONS)) for _ in range(2)]
    assert torch.equal(*acted)
    assert torch.equal(acted[0], head.decoder(context, torch.zeros(ROWS, LATENT)))
    assert not torch.allclose(acted[0], head.decoder(context, torch.ones(ROWS, LATENT)), atol=1e-3)


def test_the_style_encoder_sees_the_state_and_all_actions_but_no_padding() -> None:
    head, (context, actions, padding, _) = make_head(), inputs()

    def style(agent_pos: Tensor, actions: Tensor) -> Tensor:
        return torch.cat(head.style(agent_pos, actions, padding), dim=1)

    before = style(context.agent_pos, actions)
    garbage = actions.masked_fill(padding[:, :, None], 50.0)
    assert torch.equal(style(context.agent_pos, garbage), before)
    assert ((style(context.agent_pos + 1, actions) - before).abs().amax(1) > 1e-5).all()
    for step in range(CHUNK):
        changed = actions.clone()
        changed[:, step] += 1
        moved = (style(context.agent_pos, changed) - before).abs().amax(1) > 1e-6
        assert torch.equal(moved, ~padding[:, step])


def test_the_style_encoder_tells_the_order_of_actions() -> None:
    head, (context, actions, _, _) = make_head(), inputs()
    unpadded = torch.zeros(ROWS, CHUNK, dtype=torch.bool)
    first, second = (head.style(context.agent_pos, each, unpadded)[0] for each in (actions, actions.flip(1)))
    assert ((first - second).abs().amax(1) > 1e-5).all()


def test_the_decoder_sees_the_state_and_the_context_but_no_padding_of_it() -> None:
    head, (context, *_) = make_head(), inputs()
    style = torch.zeros(ROWS, LATENT)
    before = head.decoder(context, style)
    for other in (Context(context.tokens + 1, context.agent_pos), Context(context.tokens, context.agent_pos + 1)):
        assert ((head.decoder(other, style) - before).abs().amax(dim=(1, 2)) > 1e-5).all()
    longer = torch.cat([context.tokens, torch.full((ROWS, 2, CONTEXT), 7.0)], dim=1)
    mask = torch.tensor([[True] * 3 + [False] * 2] * ROWS)
    assert torch.allclose(head.decoder(Context(longer, context.agent_pos, mask), style), before, atol=1e-5)


def test_a_row_that_is_all_padding_costs_nothing() -> None:
    head, (context, actions, padding, noise) = make_head(), inputs()
    padding[0] = True
    losses = head.loss(context, actions, padding, noise)
    losses.sum().backward()
    assert losses[0] == 0 and (losses[1:] > 0).all()
    assert all(each.grad is not None and each.grad.isfinite().all() for each in head.parameters())


def test_it_learns_two_ways_to_do_a_thing_apart() -> None:
    """One context, demonstrated as +0.5 or as -0.5: what the context alone tells errs by 0.5."""
    head = make_head(kl_weight=0.01)
    optimiser = torch.optim.Adam(head.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    context, padding = context_of(torch.zeros(32, 3, CONTEXT)), torch.zeros(32, CHUNK, dtype=torch.bool)
    ways = (0.5 * (1 - 2 * (torch.arange(32) % 2)))[:, None, None].expand(-1, CHUNK, ACTIONS)
    for _ in range(150):
        loss = head.loss(context, ways, padding, head.sample_noise(32, generator)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        errors = (head.predict(context, ways, head.sample_noise(32, generator)) - ways).abs()
    assert float(errors.mean()) < 0.1


def test_bad_options_are_told_in_one_line() -> None:
    with pytest.raises(ConfigurationError, match="width 30 of head 'act' must be a multiple of its 4 heads"):
        make_head(width=30)
    with pytest.raises(ConfigurationError, match="kl_weight of head 'act' must be at least 0, got -1"):
        make_head(kl_weight=-1.0)
    with pytest.raises(ConfigurationError, match="style_layers of head 'act' must be at least 1, got 0"):
        make_head(style_layers=0)
    with pytest.raises(UnknownNameError, match="did you mean 'latent'"):
        make_head(latents=3)
