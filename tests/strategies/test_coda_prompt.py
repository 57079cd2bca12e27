"""CODA-Prompt: the weighted sum, what begins orthonormal, and what the penalty holds there."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.strategies.prompted import build, learn, random_query, small_policy
from vla_cl.data import WindowDataset
from vla_cl.errors import ConfigurationError
from vla_cl.strategies.coda_prompt import KINDS, component_weights, deviation_from_orthonormal, orthonormal
from vla_cl.tasks import Task


def bound(tasks: list[Task], datasets: list[WindowDataset], **options: Any) -> Any:
    strategy = build("coda_prompt", **{"components": 3, "length": 2, "first_task": "prompts", **options})
    policy = small_policy()
    for task, data in zip(tasks, datasets, strict=True):
        strategy.begin_task(task, policy, data)
    return strategy


@pytest.mark.parametrize("tuning", ["prefix", "prompt"])
@pytest.mark.parametrize("task", [1, None])
def test_a_prompt_is_the_weighted_sum_of_all_components_so_far(
    tuning: str, task: int | None, tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    """Eq. 3 to 5, written out for each row, layer and component."""
    strategy, query = bound(tasks[:2], datasets[:2], tuning=tuning), random_query(4, 32)
    prompts, penalty = strategy.prompts_for(query, task)
    assert penalty == 0.0
    for row, vector in enumerate(query.joined):
        for place in range(2 if tuning == "prefix" else 1):
            total = torch.zeros(4 if tuning == "prefix" else 2, 32)
            for number in range(2):
                components, keys, attention = (strategy.pool[f"{kind}_{number}"][place] for kind in KINDS)
                for m in range(3):
                    alpha = torch.cosine_similarity(vector * attention[m], keys[m], dim=0)
                    total = total + alpha * components[m].view(-1, 32)
            if tuning == "prefix":
                found = torch.cat([prompts.prefixes[place][0][row], prompts.prefixes[place][1][row]])
            else:
                found = prompts.tokens[row]
            torch.testing.assert_close(found, total, atol=1e-6, rtol=1e-4)


def test_weights_lie_between_minus_one_and_one_and_do_not_depend_on_lengths() -> None:
    generator = torch.Generator().manual_seed(0)
    attention, keys = torch.randn(2, 5, 16, generator=generator), torch.randn(2, 5, 16, generator=generator)
    query = torch.randn(7, 16, generator=generator)
    weights = component_weights(query, attention, keys)
    assert weights.shape == (7, 2, 5) and weights.abs().max() <= 1
    torch.testing.assert_close(component_weights(3 * query, attention, 0.1 * keys), weights)
    torch.testing.assert_close(component_weights(query, attention, query[0] * attention)[0], torch.ones(2, 5))


def test_every_task_begins_orthonormal_to_all_earlier_components(
    tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    policy, strategy = small_policy(), build("coda_prompt", components=4)
    learn(policy, strategy, tasks[:2], datasets[:2])
    strategy.begin_task(tasks[2], policy, datasets[2])
    for kind in KINDS:
        new, old = strategy.pool[f"{kind}_2"].detach(), strategy.joined(kind, 2).detach()
        torch.testing.assert_close(new @ new.transpose(1, 2), torch.eye(4).expand(2, 4, 4), atol=1e-5, rtol=0)
        assert (new @ old.transpose(1, 2)).abs().max() < 1e-5
        moved = strategy.pool[f"{kind}_1"].detach()
        assert not torch.allclose(moved @ moved.transpose(1, 2), torch.eye(4).expand(2, 4, 4), atol=1e-5)


def test_orthonormal_vectors_without_room_are_orthonormal_among_themselves() -> None:
    generator = torch.Generator().manual_seed(0)
    earlier = orthonormal(6, torch.zeros(0, 8), generator)
    fitting, crowded = orthonormal(2, earlier, generator), orthonormal(3, earlier, generator)
    assert (fitting @ earlier.T).abs().max() < 1e-6
    for vectors in (fitting, crowded):
        torch.testing.assert_close(vectors @ vectors.T, torch.eye(len(vectors)), atol=1e-6, rtol=0)
    with pytest.raises(ConfigurationError, match=r"strategy\.components must be at most 8, the numbers of each, got 9"):
        orthonormal(9, earlier, generator)


def test_the_penalty_is_the_squared_distance_from_orthonormal(tasks: list[Task], datasets: list[WindowDataset]) -> None:
    vectors = torch.tensor([[[1.0, 1.0], [0.0, 2.0]]])  # products [[2, 2], [2, 4]], less I [[1, 2], [2, 3]]
    assert float(deviation_from_orthonormal(vectors)) == 1 + 4 + 4 + 9
    strategy, query = bound(tasks, datasets, orthogonality=0.5), random_query(4, 32)
    with torch.no_grad():
        for parameter in strategy.pool.values():
            parameter.mul_(2.0)
    _, penalty = strategy.prompts_for(query, 2)
    each = 9 * (4 - 1) ** 2  # of nine vectors, their squared lengths 4 instead of 1
    assert float(penalty.detach()) == pytest.approx(0.5 * 3 * 2 * each, rel=1e-3)  # three kinds, two layers


def test_descending_the_penalty_makes_the_present_tasks_components_orthonormal_to_frozen_ones(
    tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    strategy, query = bound(tasks[:2], datasets[:2], orthogonality=1.0), random_query(4, 32)
    with torch.no_grad():
        for kind in KINDS:
            strategy.pool[f"{kind}_1"].copy_(1.5 * strategy.pool[f"{kind}_1"] + 0.5 * strategy.pool[f"{kind}_0"])
    frozen = {key: value.clone() for key, value in strategy.pool.items() if key.endswith("_0")}
    steps = torch.optim.SGD([value for value in strategy.pool.values() if value.requires_grad], lr=0.05)
    for _ in range(100):
        steps.zero_grad()
        _, penalty = strategy.prompts_for(query, 1)
        penalty.backward()
        steps.step()
    assert float(penalty.detach()) < 1e-4
    for kind in KINDS:
        old, new = strategy.pool[f"{kind}_0"], strategy.pool[f"{kind}_1"].detach()
        assert torch.equal(old, frozen[f"{kind}_0"])
        assert (old @ new.transpose(1, 2)).abs().max() < 1e-2


@pytest.mark.parametrize("options", [{"components": 0}, {"length": 0}, {"orthogonality": -1.0}])
def test_unusable_options_are_named(options: dict[str, Any]) -> None:
    ((key, value),) = options.items()
    with pytest.raises(ConfigurationError, match=f"strategy.{key} must be .*got {value}"):
        build("coda_prompt", **options)
