"""The diffusion head against diffusers, the papers' formulas, and closed forms for Gaussian actions."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.policies.contexts import context_of, shape_of
from vla_cl.errors import ConfigurationError, UnknownNameError
from vla_cl.policies.diffusion import DiffusionHead, DiffusionOptions
from vla_cl.policies.diffusion_transformer import DenoisingTransformer
from vla_cl.policies.options import build_options

CHUNK, ACTIONS, CONTEXT = 3, 2, 16
MEAN, SPREAD = 0.3, 0.4
PREDICTIONS = ("epsilon", "sample", "v_prediction")


def make_head(**options: object) -> DiffusionHead:
    torch.manual_seed(0)
    chosen = build_options("head", DiffusionOptions, {"network": "mlp", "width": 32, **options})
    head = DiffusionHead(chosen, shape_of(CONTEXT, 2), CHUNK, ACTIONS)
    for parameter in head.parameters():
        if not parameter.detach().any():
            torch.nn.init.normal_(parameter, std=0.1)  # it starts as the zero function
    return head


def context(rows: int) -> object:
    return context_of(torch.zeros(rows, 2, CONTEXT))


def give_denoiser(head: DiffusionHead, denoiser: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Put a function of x_t and t that is written down by hand in the place of the network."""
    head.denoise = lambda prepared, noisy, steps: denoiser(noisy, steps[:, :, None, None])  # type: ignore[method-assign]


def cosine_schedule(steps: int) -> np.ndarray:
    """abar_t of Nichol and Dhariwal, equation 17, each beta at most 0.999, float64."""
    f = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.cumprod(1 - np.minimum(1 - f[1:] / f[:-1], 0.999))


KEPT = torch.from_numpy(cosine_schedule(100)).float()


def optimal(prediction: str = "epsilon") -> Callable[[Tensor, Tensor], Tensor]:
    """E[target | x_t] for actions of N(MEAN, SPREAD^2)."""

    def answer(x: Tensor, steps: Tensor) -> Tensor:
        kept = KEPT[steps.long()]
        innovation = (x - kept.sqrt() * MEAN) / (kept * SPREAD**2 + 1 - kept)
        epsilon = (1 - kept).sqrt() * innovation
        action = MEAN + kept.sqrt() * SPREAD**2 * innovation
        velocity = kept.sqrt() * epsilon - (1 - kept).sqrt() * action
        return {"epsilon": epsilon, "sample": action, "v_prediction": velocity}[prediction]

    return answer


def test_steps_are_uniform_and_stratified_over_the_draws() -> None:
    for draws in (1, 4):
        head = make_head(noise_samples=draws)
        steps = head.sample_noise(20_000, torch.Generator().manual_seed(0))[:, :draws]
        assert torch.equal(steps, steps.round())
        counts = np.bincount(steps.flatten().long().numpy(), minlength=100)
        assert len(counts) == 100 and np.abs(counts / (200 * draws) - 1).max() < 0.3
    assert torch.equal((steps / 25).floor(), torch.arange(4.0).expand_as(steps))


@pytest.mark.parametrize("schedule", ["squaredcos_cap_v2", "linear", "scaled_linear"])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_noisy_actions_and_targets_are_those_of_diffusers(schedule: str, prediction: str) -> None:
    from diffusers import DDPMScheduler

    head = make_head(noise_samples=1, schedule=schedule, prediction=prediction)
    theirs = DDPMScheduler(100, beta_schedule=schedule)
    seen = {}
    give_denoiser(head, lambda x, steps: seen.update(x=x, steps=steps) or x)
    actions, noise = torch.randn(50, CHUNK, ACTIONS), head.sample_noise(50, torch.Generator().manual_seed(0))
    head.predict(context(50), actions, noise)
    steps, normal = noise[:, 0].long(), noise[:, 1:].reshape(50, CHUNK, ACTIONS)
    assert torch.allclose(seen["x"][:, 0], theirs.add_noise(actions, normal, steps), atol=1e-6)
    assert torch.equal(seen["steps"].flatten(), noise[:, 0])
    expected = {"epsilon": normal, "sample": actions, "v_prediction": theirs.get_velocity(actions, normal, steps)}
    assert torch.allclose(head.target(actions, noise), expected[prediction], atol=1e-6)


def test_the_default_schedule_is_the_cosine() -> None:
    for steps in (100, 50):
        assert np.allclose(make_head(train_steps=steps).kept.numpy(), cosine_schedule(steps), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("sample_steps", [7, 10, 100])
@pytest.mark.parametrize("clip", [0.0, 0.6])
def test_ddim_takes_the_steps_of_its_paper(prediction: str, sample_steps: int, clip: float) -> None:
    head = make_head(prediction=prediction, sample_steps=sample_steps, clip=clip)
    give_denoiser(head, lambda x, steps: torch.sin(2 * x) + steps / 100)
    start = torch.randn(4, CHUNK, ACTIONS)

    kept, stride = cosine_schedule(100), 100 // sample_steps
    x = start.double().numpy()
    for step in range(stride * (sample_steps - 1), -1, -stride):
        told = np.sin(2 * x) + step / 100
        now, then = kept[step], kept[step - stride] if step >= stride else 1.0
        if prediction == "epsilon":
            action, epsilon = (x - np.sqrt(1 - now) * told) / np.sqrt(now), told
        elif prediction == "sample":
            action, epsilon = told, (x - np.sqrt(now) * told) / np.sqrt(1 - now)
        else:
            action = np.sqrt(now) * x - np.sqrt(1 - now) * told
            epsilon = np.sqrt(now) * told + np.sqrt(1 - now) * x
        action = action.clip(-clip, clip) if clip else action
        x = np.sqrt(then) * action + np.sqrt(1 - then) * epsilon  # DDIM, equation 12, sigma = 0
    assert np.allclose(head.sample(context(4), start).numpy(), x, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_optimal_denoiser_carries_noise_to_the_distribution_of_the_actions(prediction: str) -> None:
    head = make_head(sample_steps=100, clip=0.0, prediction=prediction)
    give_denoiser(head, optimal(prediction))
    start = torch.randn(4000, CHUNK, ACTIONS, generator=torch.Generator().manual_seed(0))
    sampled = head.sample(context(4000), start)
    assert float(sampled.mean()) == pytest.approx(MEAN, abs=0.01)
    assert float(sampled.std()) == pytest.approx(SPREAD, rel=0.03)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("sample_steps", [20, 100])
def test_ddpm_leaves_the_mean_and_spread_that_its_equations_leave(sample_steps: int, prediction: str) -> None:
    head = make_head(sample_steps=sample_steps, clip=0.0, sampler="ddpm", prediction=prediction)
    give_denoiser(head, optimal(prediction))
    start = torch.randn(1500, CHUNK, ACTIONS, generator=torch.Generator().manual_seed(0))
    sampled = head.sample(context(1500), start)

    kept, stride, mean, variance = cosine_schedule(100), 100 // sample_steps, 0.0, 1.0
    for step in range(stride * (sample_steps - 1), -1, -stride):
        now, then = kept[step], kept[step - stride] if step >= stride else 1.0
        alpha = now / then
        of_action, of_noisy = then**0.5 * (1 - alpha) / (1 - now), alpha**0.5 * (1 - then) / (1 - now)
        gain = now**0.5 * SPREAD**2 / (now * SPREAD**2 + 1 - now)  # E[a | x] = MEAN + gain (x - sqrt(abar) MEAN)
        slope = of_action * gain + of_noisy  # DDPM, equation 7
        mean = slope * mean + of_action * (1 - gain * now**0.5) * MEAN
        variance = slope**2 * variance + (1 - then) / (1 - now) * (1 - alpha)
    assert float(sampled.mean()) == pytest.approx(mean, abs=0.015)
    assert float(sampled.std()) == pytest.approx(variance**0.5, rel=0.03)


def test_few_steps_of_ddim_stay_near_the_distribution() -> None:
    head = make_head(clip=0.0)
    give_denoiser(head, optimal())
    sampled = head.sample(context(5000), torch.randn(5000, CHUNK, ACTIONS, generator=torch.Generator().manual_seed(0)))
    assert float(sampled.mean()) == pytest.approx(MEAN, abs=0.05)
    assert float(sampled.std()) == pytest.approx(SPREAD, rel=0.15)


def test_ddpm_forgets_its_start_where_ddim_does_not() -> None:
    start = torch.randn(1500, CHUNK, ACTIONS, generator=torch.Generator().manual_seed(0))
    correlations = {}
    for sampler in ("ddim", "ddpm"):
        head = make_head(sample_steps=100, clip=0.0, sampler=sampler)
        give_denoiser(head, optimal())
        pair = torch.stack([start.flatten(), head.sample(context(1500), start).flatten()])
        correlations[sampler] = float(torch.corrcoef(pair)[0, 1])
    assert correlations["ddim"] > 0.999
    assert abs(correlations["ddpm"]) < 0.05


@pytest.mark.parametrize("network", ["unet", "transformer", "mlp"])
@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_a_row_acts_alike_in_any_company(sampler: str, network: str) -> None:
    head = make_head(sampler=sampler, network=network)
    tokens, start = torch.randn(4, 2, CONTEXT), torch.randn(4, CHUNK, ACTIONS)
    together = head.sample(context_of(tokens), start)
    torch.manual_seed(123)
    backwards = head.sample(context_of(tokens.flip(0)), start.flip(0)).flip(0)
    alone = head.sample(context_of(tokens[:1]), start[:1])
    assert torch.allclose(together, backwards, atol=1e-4)
    assert torch.allclose(together[:1], alone, atol=1e-4)


def test_the_loss_of_the_optimal_denoiser_is_the_conditional_variance() -> None:
    head = make_head(noise_samples=2)
    generator = torch.Generator().manual_seed(1)
    actions = MEAN + SPREAD * torch.randn(40_000, CHUNK, ACTIONS, generator=generator)
    noise = head.sample_noise(len(actions), torch.Generator().manual_seed(0))
    padding = torch.zeros(len(actions), CHUNK, dtype=torch.bool)

    def mean_loss(scale: float) -> float:
        give_denoiser(head, lambda x, steps: scale * optimal()(x, steps))
        return float(head.loss(context(len(actions)), actions, padding, noise).mean())

    kept = cosine_schedule(100)
    assert mean_loss(1.0) == pytest.approx((kept * SPREAD**2 / (kept * SPREAD**2 + 1 - kept)).mean(), rel=0.01)
    assert mean_loss(1.1) > mean_loss(1.0) < mean_loss(0.9)


def test_several_draws_cost_what_each_alone_would_on_average() -> None:
    head, single = make_head(noise_samples=3), make_head(noise_samples=1)
    single.load_state_dict(head.state_dict())
    told, actions = context_of(torch.randn(5, 2, CONTEXT)), torch.randn(5, CHUNK, ACTIONS)
    padding = torch.rand(5, CHUNK) < 0.3
    noise = head.sample_noise(5, torch.Generator().manual_seed(0))
    steps, normal = noise[:, :3], noise[:, 3:].reshape(5, 3, -1)
    each = [
        single.loss(told, actions, padding, torch.cat([steps[:, draw, None], normal[:, draw]], dim=1))
        for draw in range(3)
    ]
    assert torch.allclose(head.loss(told, actions, padding, noise), torch.stack(each).mean(0), atol=1e-5)


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_actions_are_clipped_where_asked(sampler: str) -> None:
    for clip, bound in ((1.0, 1.0), (0.5, 0.5), (0.0, float("inf"))):
        head = make_head(sampler=sampler, clip=clip)
        give_denoiser(head, lambda x, steps: torch.full_like(x, 5.0))
        largest = float(head.sample(context(4), torch.randn(4, CHUNK, ACTIONS)).abs().max())
        assert largest <= bound + 1e-5
        assert largest > 2.0 or clip


def test_a_copy_acts_alike_and_the_schedule_is_no_weight() -> None:
    head = make_head()
    again, start = copy.deepcopy(head), torch.randn(2, CHUNK, ACTIONS)
    assert torch.equal(head.sample(context(2), start), again.sample(context(2), start))
    assert all(name.startswith("network.") for name in head.state_dict())


def test_acting_under_autocast_is_float32_and_near() -> None:
    head, start = make_head(network="unet"), torch.randn(2, CHUNK, ACTIONS)
    with torch.autocast("cpu", torch.bfloat16):
        sampled = head.sample(context(2), start)
    assert sampled.dtype == torch.float32
    assert torch.allclose(sampled, head.sample(context(2), start), atol=0.1)


@pytest.mark.parametrize("network", ["unet", "transformer", "mlp"])
def test_the_network_is_told_the_step_as_a_fraction_of_all(network: str) -> None:
    head, noisy = make_head(network=network), torch.randn(2, 1, CHUNK, ACTIONS)
    prepared = head.network.prepare(context_of(torch.randn(2, 2, CONTEXT)))
    early, late = (head.denoise(prepared, noisy, torch.full((2, 1), step)) for step in (20.0, 80.0))
    assert torch.equal(early, head.network(prepared, noisy, torch.full((2, 1), 0.2)))
    assert not torch.allclose(early, late, atol=1e-4)


@pytest.mark.parametrize("causal", [True, False])
def test_the_transformers_actions_see_those_before_them_or_all(causal: bool) -> None:
    head = make_head(network="transformer", causal=causal)
    prepared, noisy, times = (
        head.network.prepare(context(2)),
        torch.randn(2, 1, CHUNK, ACTIONS),
        torch.full((2, 1), 0.3),
    )
    changed = noisy.clone()
    changed[:, :, 1] += 1
    moved = (head.network(prepared, noisy, times) - head.network(prepared, changed, times)).abs().amax(dim=(0, 1, 3))
    assert (moved > 1e-5).tolist() == [not causal, True, True]


def test_the_transformer_sees_time_and_context_but_no_padding() -> None:
    head = make_head(network="transformer")
    assert isinstance(head.network, DenoisingTransformer)
    tokens, noisy = torch.randn(2, 5, CONTEXT), torch.randn(2, 3, CHUNK, ACTIONS)
    mask = torch.tensor([[True] * 3 + [False] * 2] * 2)

    def answer(tokens: Tensor, time: float = 0.3, mask: Tensor | None = None) -> Tensor:
        return head.network(head.network.prepare(context_of(tokens, mask)), noisy, torch.full((2, 3), time))

    def moved(other: Tensor) -> bool:
        return bool((answer(tokens) - other).abs().amax() > 1e-4)

    assert moved(answer(tokens, time=0.5))
    assert moved(answer(tokens * 2))
    assert torch.allclose(answer(tokens, mask=mask), answer(tokens[:, :3]), atol=1e-5)


def test_bad_options_are_told_in_one_line() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'unet'"):
        make_head(network="unett")
    with pytest.raises(UnknownNameError, match="did you mean 'ddim'"):
        make_head(sampler="ddin")
    with pytest.raises(UnknownNameError, match="did you mean 'epsilon'"):
        make_head(prediction="epsilom")
    with pytest.raises(ConfigurationError, match="sample_steps of head 'diffusion' must be at most train_steps=100"):
        make_head(sample_steps=101)
    with pytest.raises(ConfigurationError, match="clip of head 'diffusion' must be at least 0, got -1"):
        make_head(clip=-1.0)
    with pytest.raises(ConfigurationError, match="multiple of its 5 heads"):
        make_head(network="transformer", heads=5)
