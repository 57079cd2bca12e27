"""After LLaVA-c: what inquiries are, and how a change is merged along its singular directions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.strategies.conftest import make_policy
from vla_cl.data import WindowDataset
from vla_cl.errors import ConfigurationError
from vla_cl.policies import Policy
from vla_cl.seeding import torch_generator
from vla_cl.strategies import Strategy
from vla_cl.strategies.llava_c import LLaVAc, consolidated
from vla_cl.tasks import Task
from vla_cl.training import TrainingOptions, fit

FEW_STEPS = TrainingOptions(steps=3, batch_size=8, warmup_steps=1, learning_rate=3e-3)


def make() -> Policy:
    return make_policy(backbone="lowdim_transformer", width=32, layers=1, heads=2)


def weights(policy: Policy) -> dict[str, Tensor]:
    return {name: each.detach().clone() for name, each in policy.named_parameters()}


def learn(strategy: Strategy, policy: Policy, task: Task, data: WindowDataset, stage: int) -> dict[str, Tensor]:
    """One task; the weights before its boundary."""
    strategy.begin_task(task, policy, data)
    fit(policy, data, strategy, FEW_STEPS, seed=0, stage=stage)
    learned = weights(policy)
    strategy.end_task(task, policy, data)
    return learned


# --- consolidation ---------------------------------------------------------------------------------------------


def test_a_change_of_a_weight_that_earlier_tasks_left_alone_is_kept() -> None:
    change = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(consolidated(change, torch.zeros(5, 3), 1.0), change)


def test_a_direction_is_gone_in_proportion_to_what_the_tasks_moved() -> None:
    """For diagonal matrices singular directions are the axes: s_i becomes s_i^2 / (s_i + |e_i|)."""
    change, earlier = torch.tensor([4.0, 2.0, 1.0]), torch.tensor([4.0, 0.0, -3.0])
    merged = consolidated(torch.diag(change), torch.diag(earlier), 1.0)
    torch.testing.assert_close(merged, torch.diag(torch.tensor([2.0, 2.0, 0.25])))


def test_what_earlier_tasks_did_in_other_directions_does_not_matter() -> None:
    left, right = torch.eye(4)[:, :1], torch.eye(3)[:1]
    other = torch.ones(4, 3)
    other[0, 0] = 0.0
    torch.testing.assert_close(consolidated(5 * left @ right, other, 1.0), 5 * left @ right)


@pytest.mark.parametrize(("energy", "kept"), [(0.5, [3.0, 0.0, 0.0]), (0.9, [3.0, 2.0, 0.0]), (1.0, [3.0, 2.0, 1.0])])
def test_directions_that_carry_little_of_a_change_are_dropped(energy: float, kept: list[float]) -> None:
    change = torch.diag(torch.tensor([3.0, 2.0, 1.0]))  # 9, 4 and 1 of 14
    torch.testing.assert_close(consolidated(change, torch.zeros(3, 3), energy), torch.diag(torch.tensor(kept)))


@pytest.mark.parametrize("shape", [(6,), (4, 3, 2, 2), (), (1, 1, 8)])
def test_weights_of_any_shape_are_merged(shape: tuple[int, ...]) -> None:
    change = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    merged = consolidated(change, change, 1.0)
    if change.dim() < 2:  # one direction, which both tasks went equally far
        torch.testing.assert_close(merged, change / 2)
    torch.testing.assert_close(consolidated(change, torch.zeros(shape), 1.0), change)
    assert merged.shape == change.shape and float(merged.norm()) < float(change.norm())
    assert consolidated(torch.zeros(shape), change, 0.99).equal(torch.zeros(shape))


def test_the_weights_are_the_old_ones_and_the_merged_change(tasks: list[Task], datasets: list[WindowDataset]) -> None:
    policy, strategy = make(), LLaVAc(LLaVAc.Options(energy=0.9), 0)
    initial = weights(policy)
    first = learn(strategy, policy, tasks[0], datasets[0], 0)
    assert all(each.equal(first[name]) for name, each in weights(policy).items()), "the first task is kept whole"
    second = learn(strategy, policy, tasks[1], datasets[1], 1)
    for name, each in weights(policy).items():
        change = consolidated(second[name] - first[name], first[name] - initial[name], 0.9)
        torch.testing.assert_close(each, first[name] + change)
        torch.testing.assert_close(strategy.changes[name], each - initial[name], rtol=1e-4, atol=1e-6)
    assert any(not each.equal(second[name]) for name, each in weights(policy).items())


# --- inquiries ---------------------------------------------------------------------------------------------------


def in_second_task(tasks: list[Task], datasets: list[WindowDataset], **options: Any) -> tuple[Policy, LLaVAc]:
    policy, strategy = make(), LLaVAc(LLaVAc.Options(**options), 0)
    learn(strategy, policy, tasks[0], datasets[0], 0)
    strategy.begin_task(tasks[1], policy, datasets[1])
    return policy, strategy


def test_inquiries_pair_what_is_seen_now_with_what_earlier_tasks_were_told(
    tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    _, strategy = in_second_task(tasks, datasets, inquiries=0.25)
    batch = datasets[1].batch(range(32))
    seen = [strategy.inquiries(batch) for _ in range(30)]
    told = {text for each in seen for text in each.observation.instruction}
    assert told == set(tasks[0].instructions("paraphrased")) and len(told) > 1
    for inquiries in seen:
        assert len(inquiries) == 8
        assert inquiries.observation.agent_pos.equal(batch.observation.agent_pos[:8])
    assert seen[0].observation.instruction != seen[1].observation.instruction


def test_where_features_know_the_instruction_the_windows_are_looked_at_again(
    tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    _, strategy = in_second_task(tasks, datasets)
    batch = datasets[1].batch(range(8))
    cached = replace(batch, observation=replace(batch.observation, features={"tokens": torch.zeros(8, 1)}))
    inquiries = strategy.inquiries(cached)
    assert len(inquiries) == 4 and not inquiries.observation.features
    assert set(inquiries.observation.instruction) <= set(tasks[0].instructions("paraphrased"))


def test_the_policy_is_held_to_its_teacher_on_inquiries(tasks: list[Task], datasets: list[WindowDataset]) -> None:
    policy, strategy = in_second_task(tasks, datasets, strength=2.0, inquiries=1.0)
    batch = datasets[1].batch(range(8))
    output = policy(batch, torch_generator(0))
    assert float(torch.as_tensor(strategy.loss(batch, output)).detach()) == pytest.approx(0.0, abs=1e-9)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += 0.02
    strategy.draws = 5
    inquiries, teacher = strategy.inquiries(batch), strategy.teacher
    assert teacher is not None
    actions = policy.normalise_actions(batch.actions)
    new, old = (
        each.head.predict(each.context(inquiries.observation), actions, output.noise).detach()
        for each in (policy, teacher)
    )
    expected = 2.0 * policy.head.divergence(new, old, batch.padding).mean()
    strategy.draws = 5
    loss = torch.as_tensor(strategy.loss(batch, output))
    torch.testing.assert_close(loss.detach(), expected)
    assert float(expected) > 0
    loss.backward()  # type: ignore[no-untyped-call]
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in policy.backbone.parameters())


def test_a_task_that_comes_again_is_no_inquiry_of_its_own(tasks: list[Task], datasets: list[WindowDataset]) -> None:
    policy, strategy = in_second_task(tasks, datasets)
    strategy.end_task(tasks[1], policy, datasets[1])
    strategy.begin_task(tasks[0], policy, datasets[0])
    assert set(strategy.others) == set(tasks[1].instructions("paraphrased"))


def test_without_both_parts_it_is_sequential_fine_tuning(tasks: list[Task], datasets: list[WindowDataset]) -> None:
    policies = [make(), make()]
    off = LLaVAc(LLaVAc.Options(strength=0.0, consolidation=False), 0)
    for policy, strategy in zip(policies, (off, Strategy(None, 0)), strict=True):
        for stage in (0, 1):
            learn(strategy, policy, tasks[stage], datasets[stage], stage)
    assert all(torch.equal(*pair) for pair in zip(*(policy.parameters() for policy in policies), strict=True))


@pytest.mark.parametrize("options", [{"strength": -1.0}, {"inquiries": 0.0}, {"energy": 1.5}])
def test_unusable_options_are_named(options: dict[str, float]) -> None:
    ((key, value),) = options.items()
    with pytest.raises(ConfigurationError, match=f"strategy.{key} must be .*, got {value}"):
        LLaVAc(LLaVAc.Options(**options), 0)  # type: ignore[arg-type]
