"""The regression head: L1, deterministic."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.policies.contexts import context_of, shape_of
from vla_cl.policies.regression import RegressionHead, RegressionOptions

CHUNK, ACTIONS, CONTEXT = 3, 2, 16


@pytest.fixture(params=["mlp", "transformer"])
def head(request: pytest.FixtureRequest) -> RegressionHead:
    torch.manual_seed(0)
    head = RegressionHead(RegressionOptions(network=request.param, width=32), shape_of(CONTEXT), CHUNK, ACTIONS)
    nn.init.normal_(head.network.output.weight, std=0.3)
    return head


def test_the_loss_is_the_mean_absolute_error_over_what_is_not_padding(head: RegressionHead) -> None:
    context, actions = context_of(torch.randn(2, 4, CONTEXT)), torch.randn(2, CHUNK, ACTIONS)
    padding = torch.tensor([[False, False, True], [False, False, False]])
    noise = head.sample_noise(2, torch.Generator())
    errors = (head.sample(context, torch.randn(2, CHUNK, ACTIONS)) - actions).abs()
    expected = torch.stack([errors[0, :2].mean(), errors[1].mean()])
    assert torch.allclose(head.loss(context, actions, padding, noise), expected)


def test_a_constant_answer_is_best_at_the_median(head: RegressionHead) -> None:
    actions = torch.tensor([0.0, 0.0, 0.1, 0.9, 1.0])[:, None, None].expand(5, CHUNK, ACTIONS)
    context, padding = context_of(torch.zeros(5, 1, CONTEXT)), torch.zeros(5, CHUNK, dtype=torch.bool)
    noise = head.sample_noise(5, torch.Generator())
    nn.init.zeros_(head.network.output.weight)

    def mean_loss(answer: float) -> float:
        nn.init.constant_(head.network.output.bias, answer)
        return float(head.loss(context, actions, padding, noise).detach().mean())

    assert mean_loss(0.1) < min(mean_loss(0.0), mean_loss(0.4), mean_loss(0.2))


def test_it_draws_no_noise_and_targets_the_actions(head: RegressionHead) -> None:
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    noise = head.sample_noise(5, generator)
    actions = torch.randn(5, CHUNK, ACTIONS)
    assert noise.shape == (5, 0)
    assert torch.equal(generator.get_state(), before)
    assert torch.equal(head.target(actions, noise), actions)
    assert head.predict(context_of(torch.randn(5, 2, CONTEXT)), actions, noise).shape == (5, CHUNK, ACTIONS)
