"""The codebook of action chunks against brute force, and on actions that it never saw."""

from __future__ import annotations

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vla_cl.policies.residual_vq import ChunkAutoencoder, ResidualQuantiser, smooth_chunks

CHUNK, ACTIONS = 8, 4


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def task_chunks(rows: int = 500, seed: int = 1) -> Tensor:
    """Slow straight lines about one place, as one task's actions may be."""
    start = 0.3 + 0.1 * torch.randn(rows, 1, ACTIONS, generator=generator(seed))
    slope = 0.1 * torch.randn(rows, 1, ACTIONS, generator=generator(seed + 1))
    return start + slope * torch.linspace(0, 1, CHUNK)[:, None]


def make_autoencoder(seed: int = 0, groups: int = 2, steps: int = 600) -> ChunkAutoencoder:
    torch.manual_seed(seed)
    autoencoder = ChunkAutoencoder(CHUNK, ACTIONS, groups=groups, codes=16, dim=32, width=64)
    if steps:
        autoencoder.fit(task_chunks(), generator(0), steps)
    return autoencoder


@pytest.fixture(scope="module")
def fitted() -> ChunkAutoencoder:
    return make_autoencoder()


def error(autoencoder: ChunkAutoencoder, actions: Tensor) -> float:
    return float((autoencoder.decode(autoencoder.encode(actions)) - actions).abs().mean())


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 4), st.integers(2, 9), st.integers(1, 6), st.integers(0, 1000))
def test_each_codebook_gives_the_nearest_code_to_what_is_left_over(
    groups: int, codes: int, dim: int, seed: int
) -> None:
    quantiser = ResidualQuantiser(groups, codes, dim)
    random = np.random.default_rng(seed)
    codebooks, latents = random.normal(size=(groups, codes, dim)), random.normal(size=(5, dim))
    quantiser.double().codebooks.copy_(torch.from_numpy(codebooks))
    found = quantiser.encode(torch.from_numpy(latents))
    assert found.shape == (5, groups)
    for row, latent in enumerate(latents):
        left = latent.copy()
        for group in range(groups):
            nearest = min(range(codes), key=lambda code: ((left - codebooks[group, code]) ** 2).sum())
            assert int(found[row, group]) == nearest
            left -= codebooks[group, nearest]
        assert np.allclose(quantiser.decode(found)[row].numpy(), latent - left)


def test_a_decoded_code_is_the_sum_of_its_entries() -> None:
    quantiser = ResidualQuantiser(2, 3, 4)
    quantiser.codebooks.normal_(generator=generator(0))
    for first, second in itertools.product(range(3), range(3)):
        expected = quantiser.codebooks[0, first] + quantiser.codebooks[1, second]
        assert torch.equal(quantiser.decode(torch.tensor([[first, second]]))[0], expected)


def test_a_fitted_codebook_says_the_tasks_actions_closely(fitted: ChunkAutoencoder) -> None:
    unseen = task_chunks(seed=50)
    spread = float((unseen - unseen.mean(dim=(0, 1))).abs().mean())
    assert error(fitted, unseen) < 0.8 * spread
    assert error(fitted, unseen) < 0.1


@pytest.mark.parametrize("level", [-0.8, -0.3, 0.5])
def test_actions_of_other_levels_and_scales_than_the_tasks_stay_within_reach(
    fitted: ChunkAutoencoder, level: float
) -> None:
    for scale in (0.05, 0.3, 1.0):
        other = (level + scale * (smooth_chunks(400, CHUNK, ACTIONS, generator(7)))).clamp(-1, 1)
        away = (fitted.decode(fitted.encode(other)) - other).abs().mean(dim=(1, 2))
        assert float(away.mean()) < 0.4 and float(away.max()) < 1.0
        assert float(away.mean()) < 0.7 * float((other - task_chunks().mean(dim=(0, 1))).abs().mean())


def test_most_codes_of_every_codebook_are_used(fitted: ChunkAutoencoder) -> None:
    codes = fitted.encode(torch.cat([task_chunks(), smooth_chunks(2000, CHUNK, ACTIONS, generator(7))]))
    for group in codes.unbind(dim=1):
        assert len(group.unique()) >= 14


def test_a_second_codebook_refines_the_first(fitted: ChunkAutoencoder) -> None:
    chunks = torch.cat([task_chunks(seed=50), smooth_chunks(500, CHUNK, ACTIONS, generator(7))])
    assert error(fitted, chunks) < 0.9 * error(make_autoencoder(groups=1), chunks)


def test_fitting_is_a_function_of_its_seeds_and_leaves_the_global_generator_alone(fitted: ChunkAutoencoder) -> None:
    again = make_autoencoder(steps=0)
    before = torch.get_rng_state()
    again.fit(task_chunks(), generator(0), 600)
    assert torch.equal(torch.get_rng_state(), before)
    for name, tensor in fitted.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_a_loaded_codebook_is_known_to_be_fitted_and_so_is_a_copy(fitted: ChunkAutoencoder) -> None:
    outer = torch.nn.Sequential(make_autoencoder(steps=0))
    outer.load_state_dict(torch.nn.Sequential(make_autoencoder(steps=0)).state_dict())
    assert not outer[0].fitted
    outer.load_state_dict(torch.nn.Sequential(fitted).state_dict())
    again = copy.deepcopy(outer[0])
    assert outer[0].fitted and again.fitted
    again.load_state_dict(make_autoencoder(steps=0).state_dict())
    assert outer[0].fitted and not again.fitted


def test_it_is_frozen_before_and_after_fitting(fitted: ChunkAutoencoder) -> None:
    fresh = make_autoencoder(steps=0)
    assert not fresh.fitted and fitted.fitted
    for autoencoder in (fresh, fitted):
        assert not any(parameter.requires_grad for parameter in autoencoder.parameters())


def test_codes_are_the_same_under_autocast_and_in_any_company(fitted: ChunkAutoencoder) -> None:
    chunks = smooth_chunks(200, CHUNK, ACTIONS, generator(3))
    codes = fitted.encode(chunks)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fitted.encode(chunks), codes)
        assert fitted.decode(codes).dtype == torch.float32
    alone = torch.cat([fitted.encode(chunk[None]) for chunk in chunks])
    assert float((alone == codes).float().mean()) > 0.99  # a tie may be broken by rounding


def test_synthetic_chunks_are_smooth_or_step_once_and_cover_the_range() -> None:
    chunks = smooth_chunks(4000, CHUNK, ACTIONS, generator(0))
    assert chunks.shape == (4000, CHUNK, ACTIONS) and chunks.abs().max() <= 1
    assert float(chunks.min()) < -0.95 and float(chunks.max()) > 0.95
    constant = (chunks == chunks[:, :1]).all(dim=1).float().mean()
    changes = (chunks.diff(dim=1) != 0).sum(dim=1)
    assert 0.3 < float(constant) < 0.5  # a step may fall outside of the chunk
    assert 0.1 < float((changes == 1).float().mean()) < 0.35
    scales = chunks.abs().amax(dim=(1, 2)).log()
    assert float(scales.min()) < math.log(0.12) and float(scales.std()) > 0.5
