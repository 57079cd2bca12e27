"""ParetoCL: the objective at each preference, what the preference changes, and how it is chosen when acting."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.strategies.conftest import make_policy
from vla_cl.data import Batch, WindowDataset
from vla_cl.errors import ConfigurationError
from vla_cl.policies import Context, Policy, PolicyOutput
from vla_cl.policies.base import LayersShape
from vla_cl.seeding import torch_generator
from vla_cl.strategies import trained_parameters
from vla_cl.strategies.paretocl import ParetoCL, candidates, preference, row_weights
from vla_cl.strategies.preferences import Hypernetwork, conditioned
from vla_cl.tasks import Task


def strategy_of(**options: Any) -> ParetoCL:
    return ParetoCL(ParetoCL.Options(**options), 0)


def learned(policy: Policy, tasks: list[Task], datasets: list[WindowDataset], **options: Any) -> ParetoCL:
    """A strategy that faces its second task. Layers that begin as zeros are drawn, so that preferences matter."""
    strategy = strategy_of(fraction=1.0, **options)
    strategy.begin_task(tasks[0], policy, datasets[0])
    strategy.end_task(tasks[0], policy, datasets[0])
    strategy.begin_task(tasks[1], policy, datasets[1])
    assert strategy.hypernetwork is not None
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in (strategy.hypernetwork.out.weight, *policy.head.parameters()):
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return strategy


def total(strategy: ParetoCL, policy: Policy, batch: Batch) -> tuple[Tensor, PolicyOutput]:
    """The loop's loss on one part."""
    with strategy.training_pass(batch):
        output = policy(batch, torch_generator(0))
        return output.loss.mean() + strategy.loss(batch, output), output


def at(strategy: ParetoCL, stability: float, rows: int, replayed: int) -> None:
    """Every row of the batch at the same preference."""
    strategy.preferences = preference(stability).expand(rows, 2)
    strategy.weights = row_weights(strategy.preferences, replayed)


@pytest.mark.parametrize(("stability", "replayed"), [(0.0, slice(0, 12)), (1.0, slice(12, 16))])
def test_at_the_ends_of_the_simplex_it_is_the_plain_loss_or_replays(
    stability: float, replayed: slice, tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    policy = make_policy("regression")
    strategy = learned(policy, tasks, datasets, ratio=0.25)
    batch = strategy.batch(datasets[1].batch(range(16)))
    assert set(batch[replayed].observation.instruction) == {"do task-1" if stability == 0 else "do task-0"}
    at(strategy, stability, rows=16, replayed=4)
    loss, output = total(strategy, policy, batch)
    torch.testing.assert_close(loss, output.loss[replayed].mean())


def test_the_gradient_is_the_weighted_sum_of_both_losses(tasks: list[Task], datasets: list[WindowDataset]) -> None:
    policy = make_policy("regression")
    strategy = learned(policy, tasks, datasets, ratio=0.25)
    batch = strategy.batch(datasets[1].batch(range(16)))
    at(strategy, 0.3, rows=16, replayed=4)
    parameters = list(trained_parameters(policy, strategy).values())
    gradients = torch.autograd.grad(total(strategy, policy, batch)[0], parameters, allow_unused=True)
    assert strategy.hypernetwork is not None
    with conditioned(policy, strategy.hypernetwork, preference(0.3)):
        new, old = (policy(part, torch_generator(0)).loss.mean() for part in (batch[:12], batch[12:]))
    expected = torch.autograd.grad(0.3 * old + 0.7 * new, parameters, allow_unused=True)
    for mine, theirs in zip(gradients, expected, strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None:
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)
    network = list(strategy.hypernetwork.parameters())
    assert all(any(each is parameter for parameter in parameters) for each in network)


def test_parts_of_a_batch_add_up_to_the_whole(tasks: list[Task], datasets: list[WindowDataset]) -> None:
    policy = make_policy("regression")
    strategy = learned(policy, tasks, datasets)
    batch = strategy.batch(datasets[1].batch(range(16)))
    whole, _ = total(strategy, policy, batch)
    strategy.rows = slice(0, 0)
    parts = [total(strategy, policy, batch[start : start + 8])[0] / 2 for start in (0, 8)]
    torch.testing.assert_close(sum(parts), whole)


def test_weights_make_of_rows_an_expectation() -> None:
    generator = np.random.default_rng(0)
    preferences = torch.from_numpy(generator.dirichlet([1, 1], size=200_000)).float()
    losses = torch.cat([torch.full((150_000,), 2.0), torch.full((50_000,), 6.0)])  # new, replayed
    estimate = (row_weights(preferences, 50_000) * losses).mean()
    assert float(estimate) == pytest.approx(0.5 * 2.0 + 0.5 * 6.0, rel=0.01)
    assert row_weights(preferences[:4], 0).tolist() == [1.0] * 4
    assert row_weights(preferences[:4], 4).tolist() == [1.0] * 4


def test_before_there_is_a_memory_it_is_the_plain_loss(
    policy: Policy, tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    strategy = strategy_of()
    strategy.begin_task(tasks[0], policy, datasets[0])
    batch = datasets[0].batch(range(8))
    assert strategy.batch(batch) is batch
    loss, output = total(strategy, policy, batch)
    torch.testing.assert_close(loss, output.loss.mean())
    torch.testing.assert_close(output.loss, policy(batch, torch_generator(0)).loss)  # it begins with no change


def test_with_a_reservoir_it_needs_no_boundaries(
    policy: Policy, tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    strategy = strategy_of(keep="reservoir", capacity=32)
    assert strategy.task_free
    strategy.begin_task(tasks[0], policy, datasets[0])
    batch = datasets[0].batch(range(8))
    assert strategy.batch(batch) is batch
    mixed = strategy.batch(datasets[1].batch(range(8)))
    assert set(mixed[4:].observation.instruction) == {"do task-0"}
    assert strategy.weights.sum() != 8


def test_acting_with_preferences_differs_and_leaves_the_policy_as_it_was(
    tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    policy = make_policy("regression")
    strategy = learned(policy, tasks, datasets)
    observation = datasets[0].batch(range(3)).observation
    plain, acted = policy.act(observation, range(3)), {}
    for stability in (0.0, 0.5, 1.0):
        strategy.options.preference = stability
        with strategy.acting_pass(observation):
            acted[stability] = policy.act(observation, range(3))
    assert (acted[0.0] - acted[1.0]).abs().max() > 1e-3
    assert (acted[0.0] - acted[0.5]).abs().max() > 1e-3
    assert policy.act(observation, range(3)).equal(plain)


class Unsure(nn.Module):
    """A stand-in for the hypernetwork: rows are as unsure, as their preference is far from the row's own."""

    def __init__(self, own: Tensor) -> None:
        super().__init__()
        self.own = own

    def forward(self, context: Context, preferences: Tensor) -> Context:
        distance = (preferences[:, 0] - self.own).abs() + 0.1
        return Context(context.tokens * 0 + distance[:, None, None], context.agent_pos)


def test_each_row_acts_by_the_preference_at_which_it_is_surest(
    policy: Policy, tasks: list[Task], datasets: list[WindowDataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    strategy = learned(policy, tasks, datasets, preference=None, candidates=3)
    own = torch.tensor([5 / 6, 1 / 6, 0.5, 5 / 6])
    strategy.hypernetwork = Unsure(own)  # type: ignore[assignment]
    monkeypatch.setattr(policy.head, "sample", lambda context, noise: context.tokens[:, :1, :1] * noise)
    chosen = strategy.surest(datasets[0].batch(range(4)).observation)
    torch.testing.assert_close(chosen, torch.stack([own, 1 - own], dim=1))
    assert strategy.acting_passes == 12


def test_a_head_that_samples_nothing_acts_balanced(tasks: list[Task], datasets: list[WindowDataset]) -> None:
    strategy = learned(make_policy("regression"), tasks, datasets, preference=None)
    assert strategy.surest(datasets[0].batch(range(2)).observation).tolist() == [[0.5, 0.5]] * 2


def test_candidates_are_spread_evenly_the_balanced_first() -> None:
    torch.testing.assert_close(candidates(3)[:, 0], torch.tensor([1 / 2, 1 / 6, 5 / 6]))
    torch.testing.assert_close(candidates(2)[:, 0], torch.tensor([1 / 4, 3 / 4]))
    torch.testing.assert_close(candidates(5).sum(dim=1), torch.ones(5))


def test_the_values_of_layers_follow_where_the_head_reads_them(policy: Policy) -> None:
    policy.head.needs_layers = True
    width = policy.history.shape.width
    object.__setattr__(policy.history.shape, "layers", LayersShape(2, 8, 4, 2, 3, 10))
    network = Hypernetwork(policy, 8)
    nn.init.normal_(network.out.bias, generator=torch.Generator().manual_seed(0))
    layers = tuple((torch.ones(5, 2, 7, 3), torch.ones(5, 2, 7, 3)) for _ in range(2))
    context = network(Context(torch.ones(5, 7, width), torch.zeros(5, 4), layers=layers), preference(0.5))
    scale, shift = network.out.bias.chunk(2)
    torch.testing.assert_close(context.tokens[3, 2], 1 + scale[:width] + shift[:width])
    expected = (1 + scale[width:] + shift[width:]).view(2, 2, 3)
    for layer, (keys, values) in enumerate(context.layers):
        assert keys.equal(torch.ones(5, 2, 7, 3))
        torch.testing.assert_close(values[4, :, 6], expected[layer])


def test_preferences_for_other_rows_are_refused(
    policy: Policy, tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    strategy = learned(policy, tasks, datasets)
    assert strategy.hypernetwork is not None
    with (
        conditioned(policy, strategy.hypernetwork, candidates(3)),
        pytest.raises(ConfigurationError, match="3 rows, got 2"),
    ):
        policy.context(datasets[0].batch(range(2)).observation)


@pytest.mark.parametrize(
    "options",
    [{"ratio": 2.0}, {"preference": 1.5}, {"concentration": 0.0}, {"width": 0}, {"candidates": 0}, {"draws": 1}],
)
def test_unusable_options_are_named(options: dict[str, Any]) -> None:
    (key, value), *_ = options.items()
    with pytest.raises(ConfigurationError, match=f"strategy.{key} .*got {value!r}"):
        strategy_of(**options)
