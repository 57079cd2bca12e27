"""The exponential moving average against its recursion, written out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vla_cl.training import ExponentialMovingAverage


def test_average_follows_the_ramped_recursion() -> None:
    parameter = nn.Parameter(torch.tensor([1.0, -2.0]))
    average = ExponentialMovingAverage({"p": parameter}, decay=0.9)
    expected = parameter.detach().clone()
    for update in range(1, 200):
        with torch.no_grad():
            parameter += 0.1 * update
        average.update({"p": parameter})
        decay = min(0.9, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * parameter.detach()
    torch.testing.assert_close(average.average["p"], expected)


def test_a_power_grows_the_decay_as_diffusion_policy_does() -> None:
    """Against diffusers' implementation, which counts the update that is about to be made."""
    from diffusers.training_utils import EMAModel

    theirs = EMAModel([nn.Parameter(torch.zeros(1))], decay=0.95, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
    ours = ExponentialMovingAverage({"p": nn.Parameter(torch.zeros(1))}, decay=0.95, power=0.75)
    for update in range(200):
        assert ours.decay_at(update) == pytest.approx(theirs.get_decay(update + 1), abs=1e-12)
    assert ours.decay_at(0) == 0.0 and ours.decay_at(10**6) == 0.95


def test_with_a_power_the_first_update_forgets_the_start() -> None:
    parameter = nn.Parameter(torch.tensor([5.0]))
    average = ExponentialMovingAverage({"p": parameter}, decay=0.9, power=0.75)
    with torch.no_grad():
        parameter.fill_(-1.0)
    average.update({"p": parameter})
    assert average.average["p"].item() == -1.0


def test_copy_and_state_round_trip() -> None:
    parameter = nn.Parameter(torch.zeros(3))
    average = ExponentialMovingAverage({"p": parameter}, decay=0.5)
    with torch.no_grad():
        parameter += 1.0
    average.update({"p": parameter})
    other = ExponentialMovingAverage({"p": nn.Parameter(torch.zeros(3))}, decay=0.5)
    other.load_state_dict(average.state_dict())
    other.copy_to({"p": parameter})
    assert torch.equal(parameter.detach(), average.average["p"])
    assert other.updates == 1
