"""Maximally interfered retrieval: the virtual step, the scores, and what is retrieved."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.strategies.conftest import make_policy
from tests.strategies.sequences import learn, learn_through_kills, learned, same, small_policy
from vla_cl.data import Batch, WindowDataset
from vla_cl.errors import ConfigurationError
from vla_cl.policies import Policy
from vla_cl.policies.adapters import AdapterOptions, adapter_parameters, add_adapter, freeze_base
from vla_cl.seeding import numpy_generator, torch_generator
from vla_cl.strategies.mir import MIR, virtual_step
from vla_cl.tasks import Task


def build(**options: Any) -> MIR:
    return MIR(MIR.Options(**options), 0)


def at_second_task(
    policy: Policy, tasks: list[Task], datasets: list[WindowDataset], **options: Any
) -> tuple[MIR, Batch]:
    """A strategy with a memory of the first task, and a batch of the second."""
    strategy = build(**{"fraction": 1.0, "by": "transition", **options})
    strategy.begin_task(tasks[0], policy, datasets[0])
    strategy.end_task(tasks[0], policy, datasets[0])
    strategy.begin_task(tasks[1], policy, datasets[1])
    return strategy, datasets[1].batch(range(16))


def weights(policy: Policy) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in policy.state_dict().items()}


def origins(batch: Batch) -> list[tuple[str, int]]:
    return [(dataset.task, int(window)) for dataset, windows in batch.origin for window in windows]


def test_a_virtual_step_is_a_gradient_step_and_leaves_every_bit_where_it_was() -> None:
    generator = torch.Generator().manual_seed(0)
    parameters = [
        nn.Parameter(torch.randn(4, 3, generator=generator)),
        nn.Parameter(torch.randn(5, generator=generator)),
    ]
    gradients = [torch.randn(each.shape, generator=generator) for each in parameters]
    before = [each.detach().clone() for each in parameters]
    with virtual_step(parameters, gradients, 0.1):
        for parameter, was, gradient in zip(parameters, before, gradients, strict=True):
            torch.testing.assert_close(parameter.detach(), was - 0.1 * gradient)
    assert all(parameter.equal(was) for parameter, was in zip(parameters, before, strict=True))
    with pytest.raises(KeyError), virtual_step(parameters, gradients, 0.1):
        raise KeyError
    assert all(parameter.equal(was) for parameter, was in zip(parameters, before, strict=True))


@pytest.mark.parametrize("head", ["flow", "regression"])
def test_interference_is_what_a_step_of_another_policy_adds_to_the_loss(
    head: str, tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    policy = make_policy(head)
    strategy, fresh = at_second_task(policy, tasks, datasets, step_size=0.05)
    strategy.rows = 7  # candidates are looked at in parts of so many
    candidates = datasets[0].batch(range(20))
    rises = strategy.interference(fresh, candidates)

    stepped = copy.deepcopy(policy)
    stepped.loss(fresh, torch_generator(0, "mir fresh", 0)).mean().backward()
    with torch.no_grad():
        for parameter in stepped.parameters():
            if parameter.grad is not None:
                parameter -= 0.05 * parameter.grad
    noise = policy.head.sample_noise(20, torch_generator(0, "mir", 0))
    with torch.no_grad():
        expected = stepped.imitate(candidates, noise).loss - policy.imitate(candidates, noise).loss
    torch.testing.assert_close(rises, expected, rtol=1e-3, atol=1e-6)
    assert float(rises.std()) > 1e-4


def test_a_small_step_interferes_as_much_as_gradients_disagree(
    tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    """L(theta - eta g, c) - L(theta, c) = -eta g . grad L(theta, c) + O(eta^2)."""
    policy = make_policy("flow")
    strategy, fresh = at_second_task(policy, tasks, datasets, step_size=1e-3)
    strategy.rows = 8
    candidates = datasets[0].batch(range(4))
    rises = strategy.interference(fresh, candidates)
    parameters = [each for each in policy.parameters() if each.requires_grad]

    def gradient(loss: Tensor) -> Tensor:
        return torch.cat([each.flatten() for each in torch.autograd.grad(loss, parameters, materialize_grads=True)])

    step = gradient(policy.loss(fresh, torch_generator(0, "mir fresh", 0)).mean())
    noise = policy.head.sample_noise(4, torch_generator(0, "mir", 0))
    expected = [-1e-3 * step @ gradient(policy.imitate(candidates, noise).loss[row]) for row in range(4)]
    torch.testing.assert_close(rises, torch.stack(expected).to(rises), rtol=0.05, atol=1e-6)


def test_the_paper_s_case_replays_the_candidates_that_suffer_most(
    policy: Policy, tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    """All of a small memory as candidates, ranked at each step: the k worst, and no other, are replayed."""
    strategy, batch = at_second_task(policy, tasks, datasets, refresh=1, candidates=16, count=16, ratio=0.5, top=0.5)
    was = weights(policy)
    mixed = strategy.batch(batch)
    assert same(weights(policy), was) and all(each.grad is None for each in policy.parameters())
    assert origins(mixed)[:8] == origins(batch)[:8]
    order = numpy_generator(0, "replay", 0).choice(16, 16, replace=False)
    candidates = strategy.memory.read(order)
    rises = strategy.interference(batch[:8], candidates)  # at the noise of that step
    worst = [origins(candidates)[place] for place in rises.argsort(descending=True)[:8].tolist()]
    assert sorted(origins(mixed)[8:]) == sorted(worst), "each once"


def test_the_ranking_is_made_anew_every_so_many_steps(
    policy: Policy, tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    strategy, batch = at_second_task(policy, tasks, datasets, refresh=3, candidates=12, top=0.5)
    pools = []
    for _ in range(7):
        drawn = set(origins(strategy.batch(batch))[8:])
        pools.append(set(origins(strategy.ranked.read(range(len(strategy.ranked))))))
        assert len(pools[-1]) == 6
        assert drawn <= pools[-1]
    assert pools[0] == pools[1] == pools[2] != pools[3] == pools[4] == pools[5] != pools[6]
    assert strategy.extra_passes == pytest.approx((1 + 2 * 12 / 16) / 3)
    strategy.begin_task(tasks[2], policy, datasets[2])
    assert not len(strategy.ranked), "another task's gradient interferes with others"


def test_adapters_alone_can_take_the_virtual_step(tasks: list[Task], datasets: list[WindowDataset]) -> None:
    policy = make_policy(backbone="lowdim_transformer", width=16, layers=1, heads=2)
    strategy, batch = at_second_task(policy, tasks, datasets, parameters="adapters")
    with pytest.raises(ConfigurationError, match=r"strategy.parameters=adapters needs adapters"):
        strategy.batch(batch)
    add_adapter(policy, "task", AdapterOptions(rank=2), 0)
    everything = len(strategy._moved())
    freeze_base(policy)
    assert len(strategy._moved()) == everything == len(adapter_parameters(policy, "task"))
    was = weights(policy)
    assert len(strategy.batch(batch)) == 16
    assert same(weights(policy), was)


@pytest.mark.parametrize("options", [{"fraction": 0.0}, {"ratio": 0.0}])
def test_without_a_memory_it_is_sequential(
    options: dict[str, Any], tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    tasks, datasets = tasks[:2], datasets[:2]
    assert same(learn(small_policy(), build(**options), tasks, datasets), learned("sequential", tasks, datasets))


@pytest.mark.parametrize(("keep", "boundaries"), [("task", True), ("balanced", False)])
def test_a_killed_run_ends_with_the_same_weights(
    keep: str, boundaries: bool, tasks: list[Task], datasets: list[WindowDataset], tmp_path: Path
) -> None:
    def again() -> MIR:
        return build(keep=keep, by="transition", capacity=20, candidates=10, refresh=3)

    assert again().task_free != boundaries
    tasks, datasets = tasks[:2], datasets[:2]
    whole = learn(small_policy(), again(), tasks, datasets, boundaries=boundaries)
    assert same(learn_through_kills(again, tasks, datasets, tmp_path, boundaries=boundaries), whole)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"candidates": 0}, "candidates must be at least 1, got 0"),
        ({"refresh": 0}, "refresh must be at least 1, got 0"),
        ({"top": 0.0}, "top must be more than 0, at most 1, got 0.0"),
        ({"step_size": 0.0}, "step_size must be more than 0, got 0.0"),
        ({"parameters": "all"}, "parameters must be trainable or adapters, got 'all'"),
        ({"ratio": None}, "ratio must be a number"),
    ],
)
def test_unusable_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=f"strategy.{message}"):
        build(**options)
