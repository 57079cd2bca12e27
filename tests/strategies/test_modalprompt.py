"""ModalPrompt: how well a task's prototypes fit, which prompts are taken, and what pulls the prototypes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.strategies.prompted import build, random_query, small_policy
from vla_cl.data import WindowDataset
from vla_cl.errors import ConfigurationError
from vla_cl.tasks import Task


def bound(tasks: list[Task], datasets: list[WindowDataset], **options: Any) -> Any:
    strategy = build("modalprompt", **{"length": 2, "first_task": "prompts", **options})
    policy = small_policy()
    for task, data in zip(tasks, datasets, strict=True):
        strategy.begin_task(task, policy, data)
    return strategy


def prototypes(strategy: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Token by token: the mean of W2 silu(W1 x), cut into text and what is seen."""
    found = []
    for task in range(3):
        prompt, first, second = (strategy.pool[f"{kind}_{task}"].detach() for kind in ("prompt", "hidden", "output"))
        tokens = [second @ F.silu(first @ each) for each in prompt]
        mean = torch.stack(tokens).mean(dim=0)
        found.append((mean[:384], mean[384:]))
    return found


@pytest.mark.parametrize("balance", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("select", [1, 2, 3, 7])
def test_the_best_tasks_prompts_are_taken_the_best_of_them_last(
    balance: float, select: int, tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    strategy, query = bound(tasks, datasets, select=select, balance=balance), random_query(6, 32)
    acting, none = strategy.prompts_for(query, None)
    training, penalty = strategy.prompts_for(query, 1)
    assert none == 0.0
    expected = []
    for row in range(6):
        pairs = [
            (
                torch.cosine_similarity(query.text[row], text, dim=0),
                torch.cosine_similarity(query.seen[row], seen, dim=0),
            )
            for text, seen in prototypes(strategy)
        ]
        fits = [float((1 - balance) * told + balance * seen) for told, seen in pairs]
        best = sorted(range(3), key=fits.__getitem__)
        taken = best[max(0, 3 - select) :]
        assert torch.equal(acting.tokens[row], torch.cat([strategy.pool[f"prompt_{each}"] for each in taken]))
        others = [each for each in best if each != 1][max(0, 3 - select) :]
        taken = [*others, 1]
        assert torch.equal(training.tokens[row], torch.cat([strategy.pool[f"prompt_{each}"] for each in taken]))
        expected.append((1 - pairs[1][0]) + (1 - pairs[1][1]))
        assert int(strategy.chosen_tasks(query)[row]) == best[-1]
    torch.testing.assert_close(penalty.detach(), torch.stack(expected).mean())


def test_earlier_prompts_are_read_but_not_trained(tasks: list[Task], datasets: list[WindowDataset]) -> None:
    strategy = bound(tasks, datasets, select=3)
    assert {key for key, value in strategy.pool.items() if value.requires_grad} == {"prompt_2", "hidden_2", "output_2"}
    prompts, _ = strategy.prompts_for(random_query(2, 32), 2)
    assert prompts.tokens.shape == (2, 6, 32)


@pytest.mark.parametrize("options", [{"length": 0}, {"select": 0}, {"balance": 1.5}])
def test_unusable_options_are_named(options: dict[str, Any]) -> None:
    ((key, value),) = options.items()
    with pytest.raises(ConfigurationError, match=f"strategy.{key} must be .*got {value}"):
        build("modalprompt", **options)
