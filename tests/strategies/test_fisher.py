"""The Fisher information against closed forms."""

from __future__ import annotations

import torch
from torch import nn

from vla_cl.strategies.ewc import diagonal_fisher


def test_fisher_of_a_linear_gaussian_model_is_its_closed_form() -> None:
    """For y ~ N(w.x, 1) with loss (y - w.x)^2 / 2 the gradient is -(y - w.x) x, so E[g^2] = E[residual^2 x^2]."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3000, 3, generator=generator) * torch.tensor([1.0, 2.0, 0.5])
    weight = nn.Parameter(torch.tensor([0.3, -1.0, 2.0]))
    y = x @ weight.detach() + torch.randn(3000, generator=generator)
    losses = [lambda row=row: 0.5 * (y[row] - x[row] @ weight) ** 2 for row in range(3000)]  # type: ignore[misc]
    fisher = diagonal_fisher(losses, {"weight": weight})["weight"]
    residual = (y - x @ weight.detach())[:, None]
    torch.testing.assert_close(fisher, (residual**2 * x**2).mean(0))
    # with unit noise it estimates the true Fisher information E[x^2], up to the sampling error of 3000 draws
    assert torch.allclose(fisher, torch.tensor([1.0, 4.0, 0.25]), rtol=0.2)


def test_squares_come_before_the_mean() -> None:
    """At an optimum the mean gradient vanishes; the Fisher information must not."""
    weight = nn.Parameter(torch.tensor([0.0]))
    losses = [lambda target=target: 0.5 * ((weight - target) ** 2).sum() for target in (-1.0, 1.0)]  # type: ignore[misc]
    assert torch.equal(diagonal_fisher(losses, {"weight": weight})["weight"], torch.tensor([1.0]))


def test_an_unused_parameter_has_no_importance() -> None:
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))
    fisher = diagonal_fisher([lambda: (used**2).sum()], {"used": used, "unused": unused})
    assert torch.equal(fisher["unused"], torch.zeros(3))
    assert torch.equal(fisher["used"], torch.full((2,), 4.0))
