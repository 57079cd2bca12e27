"""CKA against closed forms, and what is kept of a policy's layers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.policies.conftest import make_batch, make_policy
from vla_cl.errors import ConfigurationError
from vla_cl.policies.adapters import AdapterOptions, add_adapter
from vla_cl.policies.representation import debiased_cka, layers_to_watch, linear_cka, recorded

BOTH = pytest.mark.parametrize("cka", [linear_cka, debiased_cka])


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_cka_of_representations_with_themselves_is_1_and_with_unrelated_ones_0() -> None:
    x = normal(50, 6)
    assert linear_cka(x, x) == pytest.approx(1.0)
    left = torch.linalg.qr(torch.cat([torch.ones(50, 1), normal(50, 8)], dim=1)).Q[:, 1:]  # centered, orthogonal
    assert linear_cka(left[:, :3], left[:, 3:]) == pytest.approx(0.0, abs=1e-10)


@BOTH
@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), inputs=st.integers(5, 60), width=st.integers(1, 12))
def test_cka_does_not_see_orthogonal_maps_scales_and_shifts(cka, seed: int, inputs: int, width: int) -> None:
    x, y = normal(inputs, width, seed=seed).double(), normal(inputs, 4, seed=seed + 1).double()
    rotation = torch.linalg.qr(normal(width, width, seed=seed + 2).double()).Q
    changed = 3.0 * x @ rotation + 5.0
    assert cka(x, changed) == pytest.approx(1.0, abs=1e-6)
    assert cka(changed, y) == pytest.approx(cka(x, y), abs=1e-6)
    assert cka(x, y) == pytest.approx(cka(y, x), abs=1e-9)
    assert -1.0 <= cka(x, y) <= 1.0


def test_cka_is_the_ratio_of_frobenius_norms() -> None:
    x, y = normal(40, 6), normal(40, 9, seed=1)
    a, b = x - x.mean(dim=0), y - y.mean(dim=0)
    expected = (b.T @ a).square().sum() / ((a.T @ a).norm() * (b.T @ b).norm())
    assert linear_cka(x, y) == pytest.approx(float(expected), rel=1e-5)


@BOTH
def test_what_does_not_vary_does_not_differ(cka) -> None:
    assert cka(torch.ones(40, 2), normal(40, 9)) == 1.0


def test_cka_on_one_axis_is_the_squared_correlation() -> None:
    x, y = normal(200, 1), normal(200, 1, seed=1) + normal(200, 1)
    correlation = torch.corrcoef(torch.cat([x, y], dim=1).T)[0, 1]
    assert linear_cka(x, y) == pytest.approx(float(correlation**2), rel=1e-5)


def test_the_unbiased_estimate_is_0_on_average_where_the_plain_one_finds_likeness() -> None:
    """Of unrelated normal features, D of each, on n inputs, plain CKA is about D / (n + D)."""
    inputs, width = 40, 60
    pairs = [(normal(inputs, width, seed=2 * seed), normal(inputs, width, seed=2 * seed + 1)) for seed in range(200)]
    plain = [linear_cka(x, y) for x, y in pairs]
    unbiased = torch.tensor([debiased_cka(x, y) for x, y in pairs])
    assert sum(plain) / len(plain) == pytest.approx(width / (inputs + width), abs=0.02)
    assert abs(float(unbiased.mean())) < 3 * float(unbiased.std()) / math.sqrt(len(pairs))


def test_the_unbiased_estimate_is_that_of_sums_over_four_different_inputs() -> None:
    """HSIC as the mean over quadruples of different inputs (Song et al., eq. 3), term by term."""
    n = 7
    x, y = normal(n, 3).double(), (normal(n, 3) + normal(n, 3, seed=1)).double()

    def hsic(k: Tensor, m: Tensor) -> float:
        total = 0.0
        for i in range(n):
            for j in (each for each in range(n) if each != i):
                total += float(k[i, j] * m[i, j]) / (n * (n - 1))
                for q in (each for each in range(n) if each not in (i, j)):
                    total -= 2 * float(k[i, j] * m[i, q]) / (n * (n - 1) * (n - 2))
                    for r in (each for each in range(n) if each not in (i, j, q)):
                        total += float(k[i, j] * m[q, r]) / (n * (n - 1) * (n - 2) * (n - 3))
        return total

    k, m = x @ x.T, y @ y.T
    assert debiased_cka(x, y) == pytest.approx(hsic(k, m) / math.sqrt(hsic(k, k) * hsic(m, m)), rel=1e-9)


def test_fewer_than_four_inputs_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="at least 4 inputs, got 3"):
        debiased_cka(normal(3, 2), normal(3, 2))


def test_the_layers_of_a_policy_are_its_blocks_and_what_stands_alone() -> None:
    policy = make_policy(backbone="lowdim_transformer", backbone_options={"width": 16, "layers": 2, "heads": 2})
    watched = layers_to_watch(policy)
    assert {"backbone.layers.0", "backbone.layers.1", "backbone.proprioception_token"} <= set(watched)
    assert all(parameter.ndim > 1 or "." in name for name, parameter in policy.named_parameters())
    assert not any(one != other and other.startswith(f"{one}.") for one in watched for other in watched)
    add_adapter(policy, "added", AdapterOptions(rank=2), 0)
    assert layers_to_watch(policy) == watched, "adapters are parts of the layers that they adapt"


@pytest.mark.parametrize("backbone", ["lowdim", "lowdim_transformer", "compact", "resnet_film"])
def test_each_watched_layer_says_one_thing_of_each_input(backbone: str) -> None:
    policy, batch = make_policy(backbone=backbone, head="regression"), make_batch(6)
    watched = layers_to_watch(policy)
    with torch.no_grad(), recorded(policy, watched) as found:
        policy.imitate(batch, policy.head.sample_noise(6, torch.Generator().manual_seed(0)))
    told = {layer: parts for layer, parts in found.items() if parts}
    assert len(told) > 3
    assert all(part.ndim == 2 and len(part) % 6 == 0 for parts in told.values() for part in parts)
    assert not any(module._forward_hooks for module in policy.modules())


def test_maps_are_averaged_over_places_and_sequences_over_tokens() -> None:
    policy = make_policy(backbone="lowdim")
    policy.map, policy.line = nn.Conv2d(3, 5, 3), nn.Linear(4, 2)
    images, tokens = normal(2, 3, 8, 8), normal(2, 7, 4)
    with torch.no_grad(), recorded(policy, ["map", "line"]) as found:
        expected = {"map": policy.map(images).mean(dim=(2, 3)), "line": policy.line(tokens).mean(dim=1)}
    for layer, value in expected.items():
        torch.testing.assert_close(found[layer][0], value)
