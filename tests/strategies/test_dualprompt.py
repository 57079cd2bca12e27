"""DualPrompt: which prompts go where, what pulls a task's key, and what is shared."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.strategies.prompted import build, learn, random_query, small_policy
from vla_cl.data import WindowDataset
from vla_cl.errors import ConfigurationError
from vla_cl.policies.soft_prompts import prompted
from vla_cl.tasks import Task


def bound(tasks: list[Task], datasets: list[WindowDataset], *, layers: int = 3, **options: Any) -> Any:
    strategy = build("dualprompt", **{"general_length": 2, "task_length": 3, "first_task": "prompts", **options})
    policy = small_policy(layers=layers)
    for task, data in zip(tasks, datasets, strict=True):
        strategy.begin_task(task, policy, data)
    return strategy


def test_the_general_prompt_is_in_the_first_layers_and_the_tasks_in_the_others(
    tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    strategy, query = bound(tasks, datasets), random_query(4, 32)
    prompts, _ = strategy.prompts_for(query, 1)
    general, own = strategy.pool["general"], strategy.pool["task_1"].view(2, 2, 3, 32)
    assert prompts.tokens is None and list(prompts.prefixes) == [0, 1, 2]
    for row in range(4):
        assert torch.equal(prompts.prefixes[0][0][row], general[:2])
        assert torch.equal(prompts.prefixes[0][1][row], general[2:])
        for place, layer in enumerate((1, 2)):
            for kind in (0, 1):
                assert torch.equal(prompts.prefixes[layer][kind][row], own[place, kind])


def test_both_are_in_all_layers_where_none_is_left(tasks: list[Task], datasets: list[WindowDataset]) -> None:
    strategy = bound(tasks, datasets, layers=1)
    prompts, _ = strategy.prompts_for(random_query(4, 32), 0)
    assert list(prompts.prefixes) == [0] and prompts.prefixes[0][0].shape == (4, 5, 32)


def test_prompts_can_go_into_the_input(tasks: list[Task], datasets: list[WindowDataset]) -> None:
    strategy = bound(tasks, datasets, tuning="prompt")
    prompts, _ = strategy.prompts_for(random_query(4, 32), 2)
    assert not prompts.prefixes
    assert torch.equal(prompts.tokens[3], torch.cat([strategy.pool["general"], strategy.pool["task_2"]]))


def test_a_key_is_pulled_to_its_tasks_queries_and_found_by_them(
    tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    strategy, query = bound(tasks, datasets, pull=0.5), random_query(4, 32)
    _, penalty = strategy.prompts_for(query, 1)
    distances = [1 - torch.cosine_similarity(row, strategy.pool["key_1"], dim=0) for row in query.joined]
    torch.testing.assert_close(penalty, 0.5 * torch.stack(distances).mean())
    with torch.no_grad():
        for number in range(3):
            strategy.pool[f"key_{number}"].copy_(query.joined[2 - number])
    assert strategy.chosen_tasks(query)[:3].tolist() == [2, 1, 0]
    prompts, none = strategy.prompts_for(query, None)
    assert none == 0.0
    own = strategy.pool["task_2"].view(2, 2, 3, 32)
    assert torch.equal(prompts.prefixes[1][0][0], own[0, 0])


def test_the_general_prompt_goes_on_in_every_task(tasks: list[Task], datasets: list[WindowDataset]) -> None:
    policy, strategy = small_policy(), build("dualprompt")
    learn(policy, strategy, tasks[:2], datasets[:2])
    before = strategy.pool["general"].detach().clone()
    learn(policy, strategy, tasks[2:], datasets[2:], start=2)
    assert not torch.equal(strategy.pool["general"], before)


def test_the_general_prompt_learns_at_a_rate_of_its_own() -> None:
    strategy = build("dualprompt", rate=8.0, general_rate=0.5)
    rates = [strategy.learning_rate(f"strategy.prompts.{name}") for name in ("general", "task_0", "key_0")]
    assert rates == [0.5, 8.0, 8.0]


def test_with_a_general_prompt_that_stands_still_nothing_is_forgotten(
    tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    policy, strategy = small_policy(), build("dualprompt", general_rate=0.0)
    learn(policy, strategy, tasks[:1], datasets[:1])
    batch = datasets[0].batch(range(6))
    query = strategy.query(batch.observation)

    def acted() -> torch.Tensor:
        with prompted(policy, strategy.prompts_for(query, 0)[0]):
            return policy.act(batch.observation, list(range(6)))

    before = acted()
    learn(policy, strategy, tasks[1:], datasets[1:], start=1)
    assert torch.equal(acted(), before)


@pytest.mark.parametrize(
    "options",
    [{"general_length": 0}, {"task_length": 0}, {"general_layers": 0}, {"pull": -0.1}, {"general_rate": -1.0}],
)
def test_unusable_numbers_are_named(options: dict[str, Any]) -> None:
    ((key, value),) = options.items()
    with pytest.raises(ConfigurationError, match=f"strategy.{key} must be .*got {value}"):
        build("dualprompt", **options)


@pytest.mark.parametrize("name", ["dualprompt", "coda_prompt"])
def test_unknown_tuning_is_named(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"strategy\.tuning must be auto, prefix or prompt, got 'adapter'"):
        build(name, tuning="adapter")
