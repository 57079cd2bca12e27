"""A-GEM: the projection, and what it does to a real policy's gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.strategies.conftest import make_policy
from tests.strategies.sequences import learn, learn_through_kills, learned, same, small_policy
from vla_cl.data import WindowDataset
from vla_cl.errors import ConfigurationError
from vla_cl.policies import Policy
from vla_cl.seeding import numpy_generator, torch_generator
from vla_cl.strategies.agem import AGEM, project
from vla_cl.tasks import Task


def build(**options: Any) -> AGEM:
    return AGEM(AGEM.Options(**options), 0)


def dot(one: list[Tensor], other: list[Tensor]) -> float:
    return float(sum((a.double() * b.double()).sum() for a, b in zip(one, other, strict=True)))


def test_an_opposing_gradient_is_projected_onto_the_plane_of_the_reference() -> None:
    projected = project(
        [torch.tensor([3.0]), torch.tensor([[-4.0], [1.0]])], [torch.zeros(1), torch.tensor([[2.0], [0.0]])]
    )
    assert [part.tolist() for part in projected] == [[3.0], [[0.0], [1.0]]]


def test_the_projection_is_the_nearest_allowed_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    gradient = [torch.randn(5, 3, generator=generator), torch.randn(7, generator=generator)]
    reference = [-gradient[0] + torch.randn(5, 3, generator=generator), torch.randn(7, generator=generator)]
    assert dot(gradient, reference) < 0
    projected = project(gradient, reference)
    assert dot(projected, reference) == pytest.approx(0.0, abs=1e-5)
    change = [new - old for new, old in zip(projected, gradient, strict=True)]
    assert abs(dot(change, reference)) == pytest.approx((dot(change, change) * dot(reference, reference)) ** 0.5)


@pytest.mark.parametrize("scale", [1.0, 0.0])
def test_a_gradient_that_agrees_and_one_without_a_reference_stay_as_they_are(scale: float) -> None:
    gradient = [torch.randn(5, 3, generator=torch.Generator().manual_seed(0))]
    assert project(gradient, [scale * gradient[0]])[0].equal(gradient[0])


def trained(policy: Policy) -> dict[str, nn.Parameter]:
    return {name: each for name, each in policy.named_parameters() if each.requires_grad}


def present_gradients(policy: Policy) -> list[Tensor]:
    return [torch.zeros_like(each) if each.grad is None else each.grad.clone() for each in trained(policy).values()]


def reference(strategy: AGEM, policy: Policy, draw: int, rows: int) -> list[Tensor]:
    """The gradient on the memory of a draw, computed apart."""
    batch = strategy.memory.sample(rows, numpy_generator(0, "agem", draw))
    policy.zero_grad()
    policy.loss(batch, torch_generator(0, "agem noise", draw)).mean().backward()
    gradients = [
        torch.zeros_like(each) if each.grad is None else each.grad.clone() for each in trained(policy).values()
    ]
    policy.zero_grad()
    return gradients


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_what_the_optimiser_gets_never_points_against_the_memory(
    sign: float, policy: Policy, tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    strategy = build(fraction=1.0)
    strategy.begin_task(tasks[0], policy, datasets[0])
    strategy.end_task(tasks[0], policy, datasets[0])
    strategy.begin_task(tasks[1], policy, datasets[1])
    batch = datasets[1].batch(range(16))
    assert strategy.batch(batch) is batch, "nothing of the memory is learned"
    memory = reference(strategy, policy, 1, 16)
    (sign * policy.loss(batch, torch_generator(0)).mean()).backward()
    before = present_gradients(policy)
    strategy.gradients(trained(policy))
    after = [each.grad for each in trained(policy).values() if each.grad is not None]
    assert dot(after, memory) >= -1e-5 * (dot(after, after) * dot(memory, memory)) ** 0.5
    for got, expected in zip(after, project(before, memory), strict=True):
        torch.testing.assert_close(got, expected)
    untouched = all(new.equal(old) for new, old in zip(after, before, strict=True))
    assert untouched == (dot(before, memory) >= 0)


def test_a_projected_step_does_not_raise_the_loss_on_the_memory(
    tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    def raised(projected: bool) -> float:
        """By how much a small step that raises the loss on the same windows, projected or not, raises it."""
        policy = make_policy("regression")
        strategy = build(fraction=1.0, by="transition", reference=4.0)
        strategy.begin_task(tasks[0], policy, datasets[0])
        strategy.end_task(tasks[0], policy, datasets[0])
        strategy.begin_task(tasks[1], policy, datasets[1])
        strategy.batch(datasets[1].batch(range(16)))
        memory = strategy.memory.sample(64, numpy_generator(0, "agem", 1))
        own = datasets[1].batch(range(16))
        before = policy.loss(memory, torch_generator(0)).mean()
        (policy.loss(own, torch_generator(0)).mean() - 2 * before).backward()
        if projected:
            strategy.gradients(trained(policy))
        with torch.no_grad():
            for each in trained(policy).values():
                if each.grad is not None:
                    each -= 1e-4 * each.grad
            return float(policy.loss(memory, torch_generator(0)).mean() - before)

    assert raised(projected=False) > 1e-5
    assert abs(raised(projected=True)) < 0.05 * raised(projected=False)


@pytest.mark.parametrize("options", [{"fraction": 0.0}, {"keep": "reservoir", "capacity": 0}])
def test_without_a_memory_it_is_sequential(
    options: dict[str, Any], tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    tasks, datasets = tasks[:2], datasets[:2]
    assert same(learn(small_policy(), build(**options), tasks, datasets), learned("sequential", tasks, datasets))


@pytest.mark.parametrize(("keep", "boundaries"), [("task", True), ("reservoir", False)])
def test_a_killed_run_ends_with_the_same_weights(
    keep: str, boundaries: bool, tasks: list[Task], datasets: list[WindowDataset], tmp_path: Path
) -> None:
    assert build(keep=keep).task_free != boundaries

    class Opposed(AGEM):
        """Whose memory always forbids the step."""

        def memory_loss(self) -> Tensor:
            return -super().memory_loss()

    def again() -> AGEM:
        return Opposed(AGEM.Options(keep=keep, capacity=20, by="transition"), 0)

    tasks, datasets = tasks[:2], datasets[:2]

    whole = learn(small_policy(), again(), tasks, datasets, boundaries=boundaries)
    assert same(learn_through_kills(again, tasks, datasets, tmp_path, boundaries=boundaries), whole)
    assert not same(whole, learned("sequential", tasks, datasets))


def test_unusable_options_are_named() -> None:
    with pytest.raises(ConfigurationError, match=r"strategy.reference must be more than 0, got 0"):
        build(reference=0)


def test_the_reference_gradient_is_taken_in_the_precision_of_training(
    policy: Policy, tasks: list[Task], datasets: list[WindowDataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    strategy = build()
    learn(policy, strategy, tasks[:1], datasets[:1])
    seen = []
    usual = type(policy).loss

    def loss(self: Policy, *arguments: Any) -> Tensor:
        seen.append(torch.is_autocast_enabled("cpu"))
        return usual(self, *arguments)

    monkeypatch.setattr(type(policy), "loss", loss)
    strategy.begin_training(1, lambda: torch.autocast("cpu", dtype=torch.bfloat16))
    strategy.batch(datasets[0].batch([0, 1]))
    assert strategy.memory_loss().isfinite() and seen == [True]
