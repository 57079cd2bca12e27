"""L2P: which prompts an observation takes, what pulls their keys, and what happens to those that nobody takes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.strategies.prompted import build, learn, random_query, small_policy
from vla_cl.data import WindowDataset
from vla_cl.errors import ConfigurationError
from vla_cl.strategies.l2p import nearest
from vla_cl.tasks import Task


def bound(tasks: list[Task], datasets: list[WindowDataset], **options: Any) -> Any:
    strategy = build("l2p", **{"pool": 6, "length": 3, "select": 2, **options})
    strategy.begin_task(tasks[0], small_policy(), datasets[0])
    return strategy


def test_an_observation_takes_the_nearest_prompts_and_their_keys_are_pulled(
    tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    """Eq. 3 and 5, written out for each row."""
    strategy, query = bound(tasks, datasets, pull=0.7), random_query(5, 32)
    prompts, penalty = strategy.prompts_for(query, 0)
    expected = 0.0
    for row, vector in enumerate(query.joined):
        keys = [strategy.pool[f"key_{i}"].detach() for i in range(6)]
        distances = [float(1 - torch.cosine_similarity(vector, key, dim=0)) for key in keys]
        first, second = sorted(range(6), key=distances.__getitem__)[:2]
        taken = torch.cat([strategy.pool[f"prompt_{first}"], strategy.pool[f"prompt_{second}"]])
        assert torch.equal(prompts.tokens[row], taken)
        expected += 0.7 * (distances[first] + distances[second]) / 5
    assert float(penalty.detach()) == pytest.approx(expected, rel=1e-5)
    before = [strategy.pool[f"key_{i}"].clone() for i in range(6)]
    penalty.backward()
    with torch.no_grad():
        for i in range(6):
            if (gradient := strategy.pool[f"key_{i}"].grad) is not None:
                strategy.pool[f"key_{i}"] -= 1e-2 * gradient
        moved = [i for i in range(6) if not torch.equal(before[i], strategy.pool[f"key_{i}"])]
    assert moved == [i for i in range(6) if strategy.taken_now[i]]
    _, nearer = strategy.prompts_for(query, 0)
    assert float(nearer.detach()) < float(penalty.detach())


def test_prompts_that_earlier_tasks_took_are_farther_away() -> None:
    query, keys = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.1], [1.0, 0.5], [0.0, 1.0]])
    assert nearest(query, keys, 2).tolist() == [[0, 1]]
    distances = 1 - keys[:, 0] / keys.norm(dim=1)
    frequencies = torch.tensor([0.9, 0.01, 0.09])
    order = (distances * frequencies).argsort().tolist()
    assert nearest(query, keys, 3, frequencies).tolist() == [order]
    assert nearest(query, keys, 1, torch.tensor([0.5, 0.5, 0.0])).tolist() == [[2]]


def test_training_can_spread_tasks_over_the_pool_but_acting_takes_the_nearest(
    tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    strategy, query = bound(tasks, datasets, spread=True), random_query(1, 32)
    first, _ = strategy.prompts_for(query, 0)
    assert strategy.frequencies is None
    strategy.end_task(tasks[0], strategy.policy, datasets[0])
    assert strategy.frequencies.sum() == 1 and (strategy.frequencies == 0.5).sum() == 2
    second, _ = strategy.prompts_for(query, 1)
    acting, _ = strategy.prompts_for(query, None)
    assert torch.equal(acting.tokens, first.tokens)
    assert not any(torch.equal(one, other) for one in first.tokens[0] for other in second.tokens[0])
    assert strategy.taken.sum() == strategy.taken_now.sum() == 2


def test_prompts_that_nobody_takes_are_left_alone(tasks: list[Task], datasets: list[WindowDataset]) -> None:
    """Neither momentum nor weight decay moves them, though other tasks' steps did before."""
    policy, strategy = small_policy(), build("l2p", pool=12, select=2)
    learn(policy, strategy, tasks[:2], datasets[:2])
    before = {key: value.detach().clone() for key, value in strategy.pool.items()}
    taken = strategy.taken.clone()
    learn(policy, strategy, tasks[2:], datasets[2:], start=2)
    unmoved = [i for i in range(12) if torch.equal(strategy.pool[f"prompt_{i}"], before[f"prompt_{i}"])]
    assert unmoved == [i for i in range(12) if strategy.taken[i] == taken[i]]
    assert all(torch.equal(strategy.pool[f"key_{i}"], before[f"key_{i}"]) for i in unmoved)
    assert 0 < len(unmoved) < 12


def test_it_needs_no_boundaries_on_a_pretrained_policy() -> None:
    assert build("l2p", first_task="prompts").task_free and not build("l2p").task_free


@pytest.mark.parametrize("options", [{"select": 11}, {"select": 0}, {"length": 0}, {"pull": -1.0}])
def test_unusable_options_are_named(options: dict[str, Any]) -> None:
    ((key, value),) = options.items()
    with pytest.raises(ConfigurationError, match=f"strategy.{key} must be .*got {value}"):
        build("l2p", **options)
