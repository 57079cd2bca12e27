"""Sequential LoRA: what is trained, what is frozen, and what merging changes."""

from __future__ import annotations

import pytest
import torch

from tests.strategies.low_rank import adapter, begin, build, learn, losses, moved, small_policy, weights
from vla_cl.data import WindowDataset
from vla_cl.errors import ConfigurationError
from vla_cl.policies.adapters import AdapterOptions, add_adapter, delta_weights
from vla_cl.strategies.sequential_lora import SHARED
from vla_cl.tasks import Task


def test_from_the_second_task_on_only_the_one_adapter_moves(tasks: list[Task], datasets: list[WindowDataset]) -> None:
    policy, strategy = small_policy(), build("sequential_lora")
    start = weights(policy)
    learn(strategy, policy, tasks[:1], datasets[:1])
    assert not policy.adapters
    first = weights(policy)
    assert moved(start, first) > {name for name in start if name.endswith("weight") and ".layers." in name}
    learn(strategy, policy, tasks[1:2], datasets[1:2], first=1)
    second = adapter(policy, SHARED)
    learn(strategy, policy, tasks[2:], datasets[2:], first=2)
    assert not moved(first, weights(policy))
    assert moved(second, adapter(policy, SHARED)) == set(second)
    assert list(policy.adapters) == [SHARED]


def test_a_pretrained_policy_trains_an_adapter_from_the_first_task_on(
    tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    policy, strategy = small_policy(), build("sequential_lora", first_task="adapter")
    start = weights(policy)
    learn(strategy, policy, tasks[:2], datasets[:2])
    assert not moved(start, weights(policy))
    assert list(policy.adapters) == [SHARED]


def test_merging_adds_the_adapter_to_the_weights_and_changes_no_output(
    tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    policy, strategy = small_policy(), build("sequential_lora", merge=True)
    learn(strategy, policy, tasks[:1], datasets[:1])
    begin(strategy, policy, 1, tasks[1], datasets[1])
    before = weights(policy)
    change = {module: delta.detach() for module, delta in delta_weights(policy, "task_1").items()}
    unmerged = losses(policy, datasets[0])
    strategy.end_task(tasks[1], policy, datasets[1])
    assert not policy.adapters
    torch.testing.assert_close(losses(policy, datasets[0]), unmerged, rtol=1e-4, atol=1e-5)
    after = weights(policy)
    assert {f"{module}.weight" for module in change} == moved(before, after)
    for module, delta in change.items():
        assert float(delta.abs().max()) > 0
        torch.testing.assert_close(after[f"{module}.weight"], before[f"{module}.weight"] + delta)


def test_after_merging_the_next_task_trains_a_new_adapter(tasks: list[Task], datasets: list[WindowDataset]) -> None:
    policy, strategy = small_policy(), build("sequential_lora", merge=True)
    learn(strategy, policy, tasks, datasets)
    strategy.begin_task(tasks[1], policy, datasets[1])  # again
    assert list(policy.adapters) == strategy.adapters == ["task_3"]
    assert all(float(change.abs().max()) == 0 for change in delta_weights(policy, "task_3").values())


def test_a_policy_that_comes_with_an_adapter_is_refused(tasks: list[Task], datasets: list[WindowDataset]) -> None:
    policy = small_policy()
    add_adapter(policy, "default", AdapterOptions(rank=2))
    with pytest.raises(ConfigurationError, match=r"has adapter 'default'.*leave policy.adapter empty"):
        build("sequential_lora").begin_task(tasks[0], policy, datasets[0])


def test_unusable_options_are_named() -> None:
    with pytest.raises(ConfigurationError, match=r"strategy.first_task must be full or adapter, got 'none'"):
        build("sequential_lora", first_task="none")
    with pytest.raises(ConfigurationError, match="rank"):
        build("sequential_lora", rank=0)
