"""DER++: the reservoir, what is stored with a window, and what is added to the loss."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.strategies.conftest import make_policy
from tests.strategies.sequences import learn, learn_through_kills, learned, same, small_policy
from vla_cl.data import Batch, WindowDataset
from vla_cl.errors import ConfigurationError
from vla_cl.policies import Policy, PolicyOutput
from vla_cl.seeding import numpy_generator, torch_generator
from vla_cl.strategies.derpp import DERPP, placed, reservoir_slots
from vla_cl.tasks import Task

HEADS = {"flow": {}, "regression": {}, "gmm": {}, "tokens": {"width": 32, "layers": 1, "heads": 2}}


def build(**options: Any) -> DERPP:
    return DERPP(DERPP.Options(**options), 0)


def step(strategy: DERPP, policy: Policy, batch: Batch, seed: int) -> tuple[float, PolicyOutput]:
    """A forward pass on a batch; what the strategy adds to the loss, and the pass."""
    output: PolicyOutput = policy(batch, torch_generator(seed))
    added = strategy.loss(batch, output)
    return added.item() if isinstance(added, torch.Tensor) else added, output


def shift(policy: Policy, by: float = 0.01) -> None:
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter += by


def test_slots_are_those_of_a_reservoir() -> None:
    """The first fill the memory; each later one displaces one of it, or none."""
    slots = reservoir_slots(0, 10, 4, np.random.default_rng(0))
    assert slots[:4].tolist() == [0, 1, 2, 3]
    assert set(slots[4:].tolist()) <= {-1, 0, 1, 2, 3}
    assert reservoir_slots(0, 5, 0, np.random.default_rng(0)).tolist() == [-1] * 5


def test_every_item_of_a_stream_is_kept_with_the_same_probability() -> None:
    capacity, stream, trials, counts = 5, 40, 500, Counter[int]()
    for trial in range(trials):
        kept = np.full(capacity, -1)
        for start in range(0, stream, 8):
            for item, slot in enumerate(
                reservoir_slots(start, 8, capacity, numpy_generator(trial, start)).tolist(), start=start
            ):
                if slot >= 0:
                    kept[slot] = item
        counts.update(kept.tolist())
    expected, share = trials * capacity / stream, capacity / stream
    statistic = sum((counts[item] - expected) ** 2 for item in range(stream)) / (expected * (1 - share))
    assert abs(statistic - (stream - 1)) < 5 * np.sqrt(2 * (stream - 1))


def test_values_are_placed_in_slots() -> None:
    stored = placed(torch.empty(0, 0), [0, 1], torch.tensor([[1.0], [2.0]]))
    stored = placed(stored, [1, 2, 3], torch.tensor([[5.0], [6.0], [7.0]]))
    assert placed(stored, [0], torch.tensor([[9.0]])).flatten().tolist() == [9.0, 5.0, 6.0, 7.0]


@pytest.mark.parametrize("head", HEADS)
def test_stored_predictions_are_what_the_policy_said_of_these_windows_then(
    head: str, tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    """Also after others have taken the place of some: a policy that has not changed says the same again."""
    policy, strategy = make_policy(head, head_options=HEADS[head]), build(capacity=12)
    strategy.begin_task(tasks[0], policy, datasets[0])
    for seed, data in enumerate((datasets[0], datasets[1], datasets[0])):
        batch = data.batch(range(seed, seed + 10))
        with torch.no_grad():
            step(strategy, policy, batch, seed)
        assert len(strategy.memory) == len(strategy.predictions) == len(strategy.noise) == min(12, 10 * (seed + 1))
    assert strategy.seen == 30
    assert {int(owner) for owner in strategy.memory.owners} == {0, 1}
    rows = strategy.memory.read(range(12))
    with torch.no_grad():
        said = policy.head.predict(
            policy.context(rows.observation), policy.normalise_actions(rows.actions), strategy.noise
        )
    torch.testing.assert_close(said, strategy.predictions)
    divergence = policy.head.divergence(said, strategy.predictions, rows.padding)
    torch.testing.assert_close(divergence, torch.zeros(12), atol=1e-5, rtol=0)


@pytest.mark.parametrize("head", HEADS)
def test_the_loss_is_equation_6(head: str, tasks: list[Task], datasets: list[WindowDataset]) -> None:
    policy = make_policy(head, head_options=HEADS[head])
    strategy = build(capacity=10, alpha=0.3, beta=0.5, ratio=0.5)
    strategy.begin_task(tasks[0], policy, datasets[0])
    assert step(strategy, policy, datasets[0].batch(range(10)), 0)[0] == 0.0, "nothing was stored before"
    stored = strategy.predictions.clone(), strategy.noise.clone()
    memory = strategy.memory.read(range(10))
    shift(policy)
    added, _ = step(strategy, policy, datasets[1].batch(range(12)), 1)

    dark, plain = numpy_generator(0, "derpp", 1).integers(10, size=(2, 6))
    noise = policy.head.sample_noise(12, torch_generator(0, "derpp noise", 1))[6:]
    distances, losses = [], []
    for row in range(6):
        for kind, place in (("dark", dark[row]), ("plain", plain[row])):
            window = memory[[int(place)]]
            context, actions = policy.context(window.observation), policy.normalise_actions(window.actions)
            if kind == "plain":
                losses.append(policy.head.loss(context, actions, window.padding, noise[[row]]).item())
                continue
            then, its_noise = (each[[int(place)]] for each in stored)
            now = policy.head.predict(context, actions, its_noise)
            distances.append(policy.head.divergence(now, then, window.padding).item())
    assert added == pytest.approx(0.3 * np.mean(distances) + 0.5 * np.mean(losses), rel=1e-4)
    assert np.mean(distances) > 1e-6


def test_predictions_hold_a_policy_where_it_was(tasks: list[Task], datasets: list[WindowDataset]) -> None:
    """Descending the added loss alone brings a shifted policy's predictions back."""
    policy, strategy = make_policy("regression"), build(beta=0.0)
    strategy.begin_task(tasks[0], policy, datasets[0])
    batch = datasets[0].batch(range(16))
    step(strategy, policy, batch, 0)
    shift(policy)
    optimiser = torch.optim.Adam([each for each in policy.parameters() if each.requires_grad], lr=1e-3)
    distances = []
    for _ in range(30):
        optimiser.zero_grad()
        loss = strategy._replayed(16)
        loss.backward()
        optimiser.step()
        distances.append(loss.item())
    assert np.mean(distances[-5:]) < 0.1 * np.mean(distances[:2])


def test_without_capacity_it_is_sequential(tasks: list[Task], datasets: list[WindowDataset]) -> None:
    tasks, datasets = tasks[:2], datasets[:2]
    weights = learn(small_policy(), build(capacity=0), tasks, datasets)
    assert same(weights, learned("sequential", tasks, datasets))


@pytest.mark.parametrize("boundaries", [True, False])
def test_a_killed_run_ends_with_the_same_weights(
    boundaries: bool, tasks: list[Task], datasets: list[WindowDataset], tmp_path: Path
) -> None:
    def again() -> DERPP:
        return build(capacity=20)

    tasks, datasets = tasks[:2], datasets[:2]
    whole = learn(small_policy(), again(), tasks, datasets, boundaries=boundaries)
    assert same(learn_through_kills(again, tasks, datasets, tmp_path, boundaries=boundaries), whole)
    assert not same(whole, learned("sequential", tasks, datasets))


@pytest.mark.parametrize("key", ["capacity", "alpha", "beta", "ratio"])
def test_unusable_options_are_named(key: str) -> None:
    with pytest.raises(ConfigurationError, match=f"strategy.{key} .*got -1"):
        build(**{key: -1})
