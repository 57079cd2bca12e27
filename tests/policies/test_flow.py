"""The flow head against closed forms of flow matching."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from tests.policies.contexts import context_of, shape_of
from vla_cl.errors import ConfigurationError, UnknownNameError
from vla_cl.policies.flow import FlowHead, FlowOptions
from vla_cl.policies.layers import time_embedding
from vla_cl.policies.options import build_options

CHUNK, ACTIONS, CONTEXT = 3, 2, 16


def make_head(**options: object) -> FlowHead:
    torch.manual_seed(0)
    head = FlowHead(build_options("head", FlowOptions, {"width": 32, **options}), shape_of(CONTEXT), CHUNK, ACTIONS)
    for parameter in head.network.output.parameters():
        nn.init.normal_(parameter, std=0.3)  # it starts as the zero function
    return head


def give_velocity(head: FlowHead, velocity: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Put a velocity field that is written down by hand, of x and t, in the place of the learned one."""
    head.velocity = lambda prepared, noisy, times: velocity(noisy, times[:, :, None, None])  # type: ignore[method-assign]


def gaussian_velocity(spread: float) -> Callable[[Tensor, Tensor], Tensor]:
    """E[eps - a | x_t] for a ~ N(0, spread^2), eps ~ N(0, 1), x_t = t eps + (1 - t) a."""
    return lambda x, t: x * (t - (1 - t) * spread**2) / (t**2 + (1 - t) ** 2 * spread**2)


def test_the_times_follow_pi0s_beta_distribution() -> None:
    for draws in (1, 4):
        head = make_head(noise_samples=draws)
        times = head.sample_noise(20_000 // draws, torch.Generator().manual_seed(0))[:, :draws].flatten().numpy()
        assert times.min() >= 0.001 and times.max() <= 1.0
        assert stats.kstest((times - 0.001) / 0.999, stats.beta(1.5, 1).cdf).statistic < 0.015


def test_several_draws_are_stratified_over_the_times() -> None:
    head = make_head(noise_samples=4)
    times = head.sample_noise(100, torch.Generator().manual_seed(0))[:, :4]
    quantiles = stats.beta(1.5, 1).cdf((times.numpy() - 0.001) / 0.999)
    assert np.array_equal(np.floor(quantiles * 4 * (1 - 1e-6)), np.tile(np.arange(4.0), (100, 1)))


def test_the_target_is_noise_minus_action() -> None:
    head = make_head(noise_samples=1)
    actions = torch.randn(5, CHUNK, ACTIONS)
    noise = head.sample_noise(5, torch.Generator().manual_seed(0))
    normal = noise[:, 1:].reshape(5, CHUNK, ACTIONS)
    assert torch.equal(head.target(actions, noise), normal - actions)


def test_the_network_sees_the_point_on_the_line_between_action_and_noise() -> None:
    head = make_head(noise_samples=1)
    seen = {}
    give_velocity(head, lambda x, t: seen.update(x=x, t=t) or x)
    actions, noise = torch.randn(5, CHUNK, ACTIONS), head.sample_noise(5, torch.Generator().manual_seed(0))
    head.predict(context_of(torch.zeros(5, 1, CONTEXT)), actions, noise)
    t, normal = noise[:, 0, None, None], noise[:, 1:].reshape(5, CHUNK, ACTIONS)
    assert torch.allclose(seen["x"][:, 0], t * normal + (1 - t) * actions)
    assert torch.equal(seen["t"][:, 0], t)


def test_the_loss_of_the_optimal_velocity_is_the_conditional_variance() -> None:
    spread = 0.5
    head = make_head(noise_samples=2)
    actions = spread * torch.randn(40_000, CHUNK, ACTIONS, generator=torch.Generator().manual_seed(1))
    noise = head.sample_noise(len(actions), torch.Generator().manual_seed(0))
    padding, context = (
        torch.zeros(len(actions), CHUNK, dtype=torch.bool),
        context_of(torch.zeros(len(actions), 1, CONTEXT)),
    )

    def mean_loss(velocity: Callable[[Tensor, Tensor], Tensor]) -> float:
        give_velocity(head, velocity)
        return float(head.loss(context, actions, padding, noise).mean())

    # Var[eps - a | x_t] = Var[eps - a] - Cov[eps - a, x_t]^2 / Var[x_t], averaged over the times
    t = 0.999 * ((np.arange(100_000) + 0.5) / 100_000) ** (1 / 1.5) + 0.001
    variance = 1 + spread**2 - (t - (1 - t) * spread**2) ** 2 / (t**2 + (1 - t) ** 2 * spread**2)
    optimal = gaussian_velocity(spread)
    best = mean_loss(optimal)
    assert best == pytest.approx(variance.mean(), rel=0.01)
    assert mean_loss(lambda x, t: 1.1 * optimal(x, t)) > best
    assert mean_loss(lambda x, t: 0.9 * optimal(x, t)) > best


def test_several_draws_cost_what_each_alone_would_on_average() -> None:
    head, single = make_head(noise_samples=3), make_head(noise_samples=1)
    single.load_state_dict(head.state_dict())
    context, actions = context_of(torch.randn(5, 2, CONTEXT)), torch.randn(5, CHUNK, ACTIONS)
    padding = torch.rand(5, CHUNK) < 0.3
    noise = head.sample_noise(5, torch.Generator().manual_seed(0))
    times, normal = noise[:, :3], noise[:, 3:].reshape(5, 3, -1)
    each = [
        single.loss(context, actions, padding, torch.cat([times[:, draw, None], normal[:, draw]], dim=1))
        for draw in range(3)
    ]
    assert torch.allclose(head.loss(context, actions, padding, noise), torch.stack(each).mean(0), atol=1e-5)


@pytest.mark.parametrize("network", ["mlp", "transformer"])
def test_what_lies_in_the_padding_changes_neither_loss_nor_gradient(network: str) -> None:
    head = make_head(network=network, noise_samples=2)
    context, noise = context_of(torch.randn(4, 2, CONTEXT)), head.sample_noise(4, torch.Generator().manual_seed(0))
    padding = torch.tensor([[False, False, True], [False, True, True], [False, False, False], [True, True, True]])
    actions = torch.randn(4, CHUNK, ACTIONS)

    def loss_and_gradient(filling: float) -> tuple[Tensor, Tensor]:
        head.zero_grad()
        loss = head.loss(context, actions.masked_fill(padding[:, :, None], filling), padding, noise)
        loss.sum().backward()
        return loss.detach()[:3], head.network.actions.weight.grad.clone()

    loss, gradient = loss_and_gradient(0.0)
    other_loss, other_gradient = loss_and_gradient(7.0)
    assert torch.equal(loss, other_loss)
    assert torch.equal(gradient, other_gradient)


def test_what_is_not_padding_does_change_the_loss() -> None:
    head = make_head()
    context, noise = context_of(torch.randn(4, 2, CONTEXT)), head.sample_noise(4, torch.Generator().manual_seed(0))
    padding = torch.zeros(4, CHUNK, dtype=torch.bool)
    actions = torch.randn(4, CHUNK, ACTIONS)
    changed = actions + torch.tensor([0.0, 0.0, 1.0])[:, None]
    assert (head.loss(context, actions, padding, noise) != head.loss(context, changed, padding, noise)).all()


def test_a_row_that_is_all_padding_costs_nothing() -> None:
    head = make_head()
    padding = torch.ones(2, CHUNK, dtype=torch.bool)
    noise = head.sample_noise(2, torch.Generator().manual_seed(0))
    assert head.loss(
        context_of(torch.randn(2, 1, CONTEXT)), torch.randn(2, CHUNK, ACTIONS), padding, noise
    ).tolist() == [0, 0]


@pytest.mark.parametrize("steps", [1, 10])
def test_euler_integrates_a_constant_velocity_exactly(steps: int) -> None:
    head = make_head(steps=steps)
    give_velocity(head, lambda x, t: torch.full_like(x, 0.7))
    start = torch.randn(5, CHUNK, ACTIONS)
    assert torch.allclose(head.sample(context_of(torch.zeros(5, 1, CONTEXT)), start), start - 0.7, atol=1e-6)


def test_euler_integrates_a_linear_velocity_with_eulers_own_error() -> None:
    head = make_head(steps=10)
    give_velocity(head, lambda x, t: 2.0 * x)
    start = torch.randn(5, CHUNK, ACTIONS)
    sampled = head.sample(context_of(torch.zeros(5, 1, CONTEXT)), start)
    assert torch.allclose(sampled, start * (1 - 2.0 / 10) ** 10, atol=1e-6)
    assert not torch.allclose(sampled, start * math.exp(-2.0), atol=1e-3)


def test_the_optimal_velocity_carries_noise_to_the_distribution_of_the_actions() -> None:
    head = make_head(steps=200)
    give_velocity(head, gaussian_velocity(0.5))
    start = torch.randn(20_000, CHUNK, ACTIONS, generator=torch.Generator().manual_seed(0))
    sampled = head.sample(context_of(torch.zeros(len(start), 1, CONTEXT)), start)
    assert float(sampled.std()) == pytest.approx(0.5, rel=0.03)


def test_a_fresh_head_already_knows_what_the_spread_of_the_actions_tells() -> None:
    head = FlowHead(FlowOptions(width=32, spread=0.5), shape_of(CONTEXT), CHUNK, ACTIONS)
    noisy, times = torch.randn(50, 4, CHUNK, ACTIONS), torch.rand(50, 4) * 0.999 + 0.001
    velocity = head.velocity(head.network.prepare(context_of(torch.randn(50, 1, CONTEXT))), noisy, times)
    assert torch.allclose(velocity, gaussian_velocity(0.5)(noisy, times[:, :, None, None]), atol=1e-4)


def test_what_the_network_has_to_learn_has_unit_scale_at_every_time() -> None:
    head = make_head(noise_samples=1)
    head.network.forward = lambda prepared, scaled, times: scaled  # type: ignore[method-assign]
    spread, count = head.spread, 50_000
    generator = torch.Generator().manual_seed(0)
    actions = spread * torch.randn(count, 1, CHUNK, ACTIONS, generator=generator)
    normal = torch.randn(count, 1, CHUNK, ACTIONS, generator=generator)
    for time in (0.001, 0.2, 0.5, 1.0):
        noisy, times = time * normal + (1 - time) * actions, torch.full((count, 1), time)
        skipped = gaussian_velocity(spread)(noisy, times[:, :, None, None])
        told = head.velocity(None, noisy, times) - skipped  # the scale of what is told, times a network input of
        assert float(told.std()) == pytest.approx(float((normal - actions - skipped).std()), rel=0.02)  # variance 1


def test_the_shortest_and_longest_periods_of_the_time_embedding_are_pi0s() -> None:
    embedded = time_embedding(torch.tensor([0.1, 0.1 + 4e-3, 0.6]), 8)
    assert embedded[0, [0, 4]] == pytest.approx(embedded[1, [0, 4]], abs=1e-4)  # a whole shortest period later
    assert float(embedded[2, 3]) == pytest.approx(math.sin(2 * math.pi * 0.6 / 4.0), abs=1e-6)


def test_unknown_options_and_bad_values_are_told_in_one_line() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'noise_samples'"):
        build_options("head 'flow'", FlowOptions, {"noise_sample": 2})
    with pytest.raises(UnknownNameError, match="did you mean 'transformer'"):
        build_options("head 'flow'", FlowOptions, {"network": "transfromer"})
    with pytest.raises(ConfigurationError, match="steps of head 'flow' must be at least 1, got 0"):
        build_options("head 'flow'", FlowOptions, {"steps": 0})
    with pytest.raises(ConfigurationError, match="steps of head 'flow' must be int, got '10'"):
        build_options("head 'flow'", FlowOptions, {"steps": "10"})
