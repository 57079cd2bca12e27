"""The GMM head against torch.distributions and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from tests.policies.contexts import context_of, shape_of
from vla_cl.errors import ConfigurationError, UnknownNameError
from vla_cl.policies.gmm import LOW_STD, GMMHead, GMMOptions, Mixture
from vla_cl.policies.options import build_options

CHUNK, ACTIONS, CONTEXT = 3, 2, 16


def make_head(**options: object) -> GMMHead:
    torch.manual_seed(0)
    return GMMHead(build_options("head", GMMOptions, {"width": 32, **options}), shape_of(CONTEXT), CHUNK, ACTIONS)


def give_mixture(head: GMMHead, mixture: Mixture) -> None:
    """Put a mixture that is written down by hand in the place of the learned one, for every row."""

    def told(context: object) -> Mixture:
        rows = len(context)  # type: ignore[arg-type]
        return Mixture(*(each.expand(rows, *each.shape) for each in (mixture.log_weights, mixture.means, mixture.stds)))

    head.mixture = told  # type: ignore[method-assign]


def random_mixture(*batch: int, modes: int = 5, dimension: int = ACTIONS, seed: int = 0) -> Mixture:
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(*batch, modes, generator=generator).log_softmax(dim=-1)
    means = torch.rand(*batch, modes, dimension, generator=generator) * 2 - 1
    stds = 0.05 + torch.rand(*batch, modes, dimension, generator=generator)
    return Mixture(weights, means, stds)


def of_torch(mixture: Mixture) -> MixtureSameFamily:
    return MixtureSameFamily(
        Categorical(logits=mixture.log_weights), Independent(Normal(mixture.means, mixture.stds), 1)
    )


@pytest.mark.parametrize("network", ["mlp", "transformer"])
def test_the_loss_is_the_negative_log_likelihood_of_torchs_mixture(network: str) -> None:
    head = make_head(network=network)
    context, actions = context_of(torch.randn(4, 2, CONTEXT)), torch.rand(4, CHUNK, ACTIONS) * 2 - 1
    padding = torch.tensor([[False, False, True], [False, True, True], [False, False, False], [True, True, True]])
    each = -of_torch(head.mixture(context)).log_prob(actions)
    rows = zip(each, padding, strict=True)
    expected = torch.stack([row[~pad].mean() if not pad.all() else torch.zeros(()) for row, pad in rows])
    loss = head.loss(context, actions, padding, torch.empty(4, 0))
    assert torch.allclose(loss, expected, atol=1e-5)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 6), st.integers(1, 7), st.integers(0, 1000))
def test_the_likelihood_of_any_mixture_is_torchs(modes: int, dimension: int, seed: int) -> None:
    mixture = random_mixture(3, modes=modes, dimension=dimension, seed=seed)
    values = torch.randn(3, dimension, generator=torch.Generator().manual_seed(seed))
    assert torch.allclose(mixture.log_prob(values), of_torch(mixture).log_prob(values), rtol=1e-5, atol=1e-5)


def test_packing_a_mixture_loses_nothing() -> None:
    mixture = random_mixture(4, CHUNK)
    again = Mixture.unpack(mixture.pack(), 5)
    for name in ("log_weights", "means", "stds"):
        assert torch.equal(getattr(again, name), getattr(mixture, name))


def test_a_fresh_head_has_modes_that_differ_means_within_one_and_stds_above_the_smallest() -> None:
    head = make_head(min_std=0.05)
    for scale in (1.0, 1000.0):
        mixture = head.mixture(context_of(scale * torch.randn(8, 2, CONTEXT)))
        assert mixture.means.abs().max() <= 1 and mixture.stds.min() >= 0.05
        assert float(mixture.means.detach().std(dim=-2).min()) > 0
        assert torch.allclose(mixture.log_weights.exp().sum(-1), torch.ones(8, CHUNK))


def test_gradients_stay_finite_where_an_action_is_far_from_every_narrow_mode() -> None:
    head = make_head()
    with torch.no_grad():
        head.network.output.bias.view(CHUNK, -1)[:, -5 * ACTIONS :] = -50.0  # softplus of it is 0
    loss = head.loss(
        context_of(torch.randn(4, 2, CONTEXT)),
        torch.ones(4, CHUNK, ACTIONS),
        torch.zeros(4, CHUNK, dtype=torch.bool),
        torch.empty(4, 0),
    )
    loss.sum().backward()
    assert loss.isfinite().all()
    assert all(each.grad is not None and each.grad.isfinite().all() for each in head.parameters())


def test_infinite_actions_in_the_padding_leave_no_trace() -> None:
    head = make_head()
    padding = torch.tensor([[False, False, True]])
    actions = torch.zeros(1, CHUNK, ACTIONS)
    actions[:, -1] = math.inf
    loss = head.loss(context_of(torch.randn(1, 2, CONTEXT)), actions, padding, torch.empty(1, 0))
    loss.sum().backward()
    assert loss.isfinite() and head.network.output.weight.grad.isfinite().all()  # type: ignore[union-attr]


def gaussian_kl(old: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor]) -> Tensor:
    """KL of diagonal Gaussians, by torch."""
    return torch.distributions.kl_divergence(Normal(*old), Normal(*new)).sum(-1)


@pytest.mark.parametrize("samples, tolerance", [(16, 0.3), (4096, 0.02)])
def test_the_divergence_of_single_gaussians_tends_to_the_closed_form(samples: int, tolerance: float) -> None:
    head = make_head(modes=1, divergence_samples=samples)
    old, new = random_mixture(6, CHUNK, modes=1, seed=1), random_mixture(6, CHUNK, modes=1, seed=2)
    old, new = (Mixture(each.log_weights, 0.3 * each.means, 0.4 + 0.2 * each.stds) for each in (old, new))
    expected = gaussian_kl((old.means, old.stds), (new.means, new.stds))[..., 0].mean(dim=1)
    found = head.divergence(new.pack(), old.pack(), torch.zeros(6, CHUNK, dtype=torch.bool))
    assert torch.allclose(found, expected, rtol=tolerance, atol=tolerance / 10)


def test_the_divergence_of_mixtures_tends_to_a_plain_monte_carlo_estimate() -> None:
    head = make_head(divergence_samples=4096)
    old, new = random_mixture(1, 1, seed=1), random_mixture(1, 1, seed=2)
    torch.manual_seed(0)
    first, second = of_torch(old), of_torch(new)
    drawn = first.sample((200_000,))
    expected = float((first.log_prob(drawn) - second.log_prob(drawn)).mean())
    found = float(head.divergence(new.pack(), old.pack(), torch.zeros(1, 1, dtype=torch.bool)))
    assert found == pytest.approx(expected, rel=0.03)
    assert found != pytest.approx(float(head.divergence(old.pack(), new.pack(), torch.zeros(1, 1, dtype=torch.bool))))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.floats(1e-4, 3.0))
def test_the_divergence_is_never_negative_however_near_the_two_are(seed: int, distance: float) -> None:
    head = make_head()
    old = random_mixture(2, CHUNK, seed=seed)
    noise = torch.randn(old.means.shape, generator=torch.Generator().manual_seed(seed))
    new = Mixture(old.log_weights, old.means + distance * noise, old.stds)
    divergence = head.divergence(new.pack(), old.pack(), torch.zeros(2, CHUNK, dtype=torch.bool))
    assert (divergence > 0).all() and divergence.isfinite().all()


def test_the_divergence_has_no_gradient_where_the_two_are_equal() -> None:
    head = make_head(divergence_samples=2)
    packed = random_mixture(2, CHUNK).pack()
    moved = packed.clone().requires_grad_()
    head.divergence(moved, packed, torch.zeros(2, CHUNK, dtype=torch.bool)).sum().backward()
    assert moved.grad is not None and torch.allclose(moved.grad, torch.zeros_like(moved), atol=1e-4)


def test_the_divergence_leaves_padding_out_and_stays_finite_for_distant_narrow_modes() -> None:
    head = make_head()
    old, new = random_mixture(2, CHUNK, seed=1).pack(), random_mixture(2, CHUNK, seed=2).pack()
    padding = torch.tensor([[False, False, True], [False, False, True]])
    changed = new.clone()
    changed[:, -1] = random_mixture(2, seed=7).pack()
    assert torch.equal(head.divergence(new, old, padding), head.divergence(changed, old, padding))

    broad = random_mixture(1, 1)
    narrow = Mixture(broad.log_weights, broad.means, torch.full_like(broad.stds, 1e-4)).pack().requires_grad_()
    for first, second in ((narrow, broad.pack()), (broad.pack(), narrow)):
        divergence = head.divergence(first, second, torch.zeros(1, 1, dtype=torch.bool))
        assert divergence.isfinite().all()
        divergence.sum().backward()
    assert narrow.grad is not None and narrow.grad.isfinite().all()


def drawn_actions(head: GMMHead, mixture: Mixture, rows: int = 20_000) -> Tensor:
    give_mixture(head, mixture)
    noise = torch.randn(rows, CHUNK, ACTIONS, generator=torch.Generator().manual_seed(3))
    return head.sample(context_of(torch.zeros(rows, 1, CONTEXT)), noise)


def test_actions_with_the_learned_std_follow_the_mixture() -> None:
    mixture = random_mixture(CHUNK, modes=3, seed=5)
    drawn = drawn_actions(make_head(act_std="learned", modes=3), mixture).numpy()
    weights, means, stds = mixture.log_weights.exp().numpy(), mixture.means.numpy(), mixture.stds.numpy()
    for step in range(CHUNK):
        for each in range(ACTIONS):

            def cdf(values: np.ndarray, step: int = step, each: int = each) -> np.ndarray:
                normal = stats.norm(means[step, :, each], stds[step, :, each])
                return (normal.cdf(values[:, None]) * weights[step]).sum(-1)

            assert stats.kstest(drawn[:, step, each], cdf).statistic < 0.015


def test_the_mode_and_the_noise_within_it_are_independent() -> None:
    apart = torch.tensor([-0.9, 0.0, 0.9])[:, None].expand(CHUNK, 3, ACTIONS)
    mixture = Mixture(torch.tensor([0.2, 0.5, 0.3]).log().expand(CHUNK, 3), apart, torch.full_like(apart, 0.01))
    drawn = drawn_actions(make_head(act_std="learned", modes=3), mixture)
    mode = (drawn[:, 0, 0] / 0.9).round()
    for value, weight in ((-1, 0.2), (0, 0.5), (1, 0.3)):
        noise = ((drawn[mode == value] - 0.9 * value) / 0.01).flatten(1).numpy()
        assert float((mode == value).float().mean()) == pytest.approx(weight, abs=0.01)
        assert np.allclose(np.corrcoef(noise.T), np.eye(CHUNK * ACTIONS), atol=0.06)
        for column in noise.T:
            assert stats.kstest(column, "norm").pvalue > 1e-4


def test_the_actions_of_a_chunk_take_the_same_mode_where_their_mixtures_agree() -> None:
    apart = torch.tensor([-0.9, 0.9])[:, None].expand(CHUNK, 2, ACTIONS)
    mixture = Mixture(torch.tensor([0.4, 0.6]).log().expand(CHUNK, 2), apart, torch.full_like(apart, 0.01))
    signs = drawn_actions(make_head(modes=2), mixture, rows=200).sign().flatten(1)
    assert (signs == signs[:, :1]).all() and {-1.0, 1.0} == set(signs[:, 0].tolist())


def test_acting_with_low_noise_stays_beside_a_mean() -> None:
    mixture = random_mixture(CHUNK, modes=3)
    drawn = drawn_actions(make_head(act_std="low", modes=3), mixture, rows=500)
    away = (drawn[:, :, None] - mixture.means).abs().amax(dim=-1).min(dim=-1).values
    assert 0 < float(away.max()) < 6 * LOW_STD


def test_acting_by_the_likeliest_mode_needs_no_noise() -> None:
    mixture = random_mixture(CHUNK, modes=3)
    drawn = drawn_actions(make_head(act_std="likeliest", modes=3), mixture, rows=5)
    likeliest = mixture.log_weights.argmax(-1)
    assert torch.equal(drawn, mixture.means[torch.arange(CHUNK), likeliest].expand(5, -1, -1))


def test_it_learns_both_branches_of_a_choice_where_a_mean_would_take_neither() -> None:
    head = make_head(modes=2, width=64)
    context, generator = context_of(torch.zeros(64, 1, CONTEXT)), torch.Generator().manual_seed(0)
    padding = torch.zeros(64, CHUNK, dtype=torch.bool)
    optimiser = torch.optim.Adam(head.parameters(), lr=3e-3)
    for _ in range(300):
        branch = (torch.rand(64, 1, 1, generator=generator) < 0.5).float() * 1.2 - 0.6
        actions = branch + 0.02 * torch.randn(64, CHUNK, ACTIONS, generator=generator)
        optimiser.zero_grad()
        head.loss(context, actions, padding, torch.empty(64, 0)).mean().backward()
        optimiser.step()
    with torch.no_grad():
        drawn = head.sample(context, torch.randn(64, CHUNK, ACTIONS, generator=generator))
    assert float((drawn.abs() - 0.6).abs().max()) < 0.1
    assert 0.2 < float((drawn[:, 0, 0] > 0).float().mean()) < 0.8


def test_unknown_options_and_bad_values_are_told_in_one_line() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'learned'"):
        build_options("head 'gmm'", GMMOptions, {"act_std": "learnt"})
    with pytest.raises(ConfigurationError, match="modes of head 'gmm' must be at least 1, got 0"):
        build_options("head 'gmm'", GMMOptions, {"modes": 0})
    with pytest.raises(ConfigurationError, match="min_std of head 'gmm' must be positive, got 0"):
        build_options("head 'gmm'", GMMOptions, {"min_std": 0.0})
