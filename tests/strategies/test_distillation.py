"""Teachers, LwF and M2Distill: what a teacher is, what it pulls at, and that a restart finds it again."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.strategies.conftest import make_policy
from vla_cl.data import WindowDataset
from vla_cl.errors import ConfigurationError
from vla_cl.policies import Context, Policy
from vla_cl.policies.adapters import add_adapter, freeze_adapter, freeze_base, unfreeze_adapter
from vla_cl.seeding import torch_generator
from vla_cl.strategies import Strategy
from vla_cl.strategies.distillation import Distillation, frozen_copy
from vla_cl.strategies.lwf import LwF
from vla_cl.strategies.m2distill import M2Distill, token_distance
from vla_cl.tasks import Task
from vla_cl.training import TrainingOptions, fit

FEW_STEPS = TrainingOptions(steps=4, batch_size=8, warmup_steps=1, learning_rate=3e-3)
SMALL = {"width": 32, "layers": 1, "heads": 2}
HEADS = ["flow", "regression", "tokens", "gmm"]


def make(head: str = "flow") -> Policy:
    """A small policy, whose head does not start at zero."""
    options = {"width": 32, "layers": 1, "heads": 2} if head == "tokens" else {}
    policy = make_policy(head, backbone="lowdim_transformer", head_options=options, **SMALL)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in policy.head.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return policy


def in_second_task(strategy: Distillation, policy: Policy, tasks: list[Task], datasets: list[WindowDataset]) -> None:
    strategy.stage = 0
    strategy.begin_task(tasks[1], policy, datasets[1])


def added_loss(strategy: Strategy, policy: Policy, data: WindowDataset) -> Tensor:
    batch = data.batch(range(16))
    output = policy(batch, torch_generator(5))
    return torch.as_tensor(strategy.loss(batch, output))


def shift(policy: Policy, by: float) -> None:
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter += by


# --- teachers ------------------------------------------------------------------------------------------------


def test_a_teacher_computes_what_the_policy_did_when_it_was_copied(datasets: list[WindowDataset]) -> None:
    policy, observation = make(), datasets[0].batch(range(4)).observation
    before = policy.context(observation).tokens.detach()
    teacher = frozen_copy(policy)
    shift(policy, 0.1)
    assert torch.equal(teacher.context(observation).tokens, before)
    assert not policy.context(observation).tokens.equal(before)
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert all(parameter.requires_grad for parameter in policy.parameters())


def test_a_frozen_backbone_is_shared_with_the_teacher_and_adapters_are_not(datasets: list[WindowDataset]) -> None:
    policy, observation = make(), datasets[0].batch(range(4)).observation
    freeze_base(policy)
    for name in ("first", "second"):
        add_adapter(policy, name)
    freeze_adapter(policy, "first")
    before = policy.context(observation).tokens.detach()
    teacher = frozen_copy(policy)
    own = {id(each) for each in policy.parameters()}
    shared = {name for name, each in teacher.named_parameters() if id(each) in own}
    expected = {
        name for name, each in policy.named_parameters() if name.startswith("backbone.") and "lora_" not in name
    }
    assert shared == expected
    unfreeze_adapter(policy, "first")  # its task comes again
    shift(policy, 0.1)
    add_adapter(policy, "third")
    assert torch.equal(teacher.context(observation).tokens, before)


@pytest.mark.parametrize("kind", [LwF, M2Distill])
def test_there_is_a_teacher_from_the_second_task_on_and_only_while_it_lasts(
    kind: type[Distillation], tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    policy, strategy = make(), kind(kind.Options(), 0)
    strategy.begin_task(tasks[0], policy, datasets[0])
    assert strategy.teacher is None and strategy.extra_passes == 0.0
    assert added_loss(strategy, policy, datasets[0]) == 0.0
    strategy.end_task(tasks[0], policy, datasets[0])
    strategy.begin_task(tasks[1], policy, datasets[1])
    assert strategy.teacher is not None and strategy.extra_passes == 1.0
    strategy.end_task(tasks[1], policy, datasets[1])
    assert strategy.teacher is None
    assert strategy.state_dict() == {"stage": 1}, "a restart finds the teacher in the policy of the last boundary"
    assert kind.needs.teacher


# --- what they pull at ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("kind", [LwF, M2Distill])
def test_a_policy_does_not_differ_from_itself_and_is_pulled_back_to_its_teacher(
    kind: type[Distillation], head: str, tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    policy, strategy = make(head), kind(kind.Options(), 0)
    in_second_task(strategy, policy, tasks, datasets)
    assert added_loss(strategy, policy, datasets[1]).item() == pytest.approx(0.0, abs=1e-6)
    shift(policy, 0.02)
    losses = []
    optimiser = torch.optim.Adam(policy.parameters(), lr=1e-4)
    for _ in range(12):
        optimiser.zero_grad()
        loss = added_loss(strategy, policy, datasets[1])
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[0] > 1e-4 and losses[-1] < 0.9 * losses[0], losses
    assert all(parameter.grad is None for parameter in strategy.teacher.parameters())  # type: ignore[union-attr]


def test_lwf_adds_the_squared_error_of_velocities_at_the_same_noise(
    tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    policy, strategy = make("flow"), LwF(LwF.Options(strength=3.0), 0)
    in_second_task(strategy, policy, tasks, datasets)
    teacher = frozen_copy(policy)
    shift(policy, 0.02)
    batch = datasets[1].batch(range(16))
    output = policy(batch, torch_generator(5))
    actions = policy.normalise_actions(batch.actions)
    new, old = (
        each.head.predict(each.context(batch.observation), actions, output.noise).detach() for each in (policy, teacher)
    )
    kept = ~batch.padding
    errors = (new - old).square().mean(dim=-1) * kept
    expected = (errors.sum(dim=1) / kept.sum(dim=1)).mean()
    torch.testing.assert_close(torch.as_tensor(strategy.loss(batch, output)).detach(), 3.0 * expected)


def test_m2distill_adds_the_distance_of_embeddings_and_the_divergence(
    tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    policy = make("gmm")
    parts = [M2Distill(M2Distill.Options(*weights), 0) for weights in ((1.0, 0.0), (0.0, 1.0), (2.0, 5.0))]
    lwf, teacher = LwF(LwF.Options(), 0), frozen_copy(policy)
    for strategy in (*parts, lwf):
        in_second_task(strategy, policy, tasks, datasets)
    shift(policy, 0.02)
    embedding, divergence, both = (float(added_loss(each, policy, datasets[1]).detach()) for each in parts)
    observation = datasets[1].batch(range(16)).observation
    tokens = [each.context(observation).tokens.detach() for each in (policy, teacher)]
    assert embedding == pytest.approx(float((tokens[0] - tokens[1]).square().mean()), rel=1e-5)
    assert divergence == pytest.approx(float(added_loss(lwf, policy, datasets[1]).detach()), rel=1e-5)
    assert both == pytest.approx(2 * embedding + 5 * divergence, rel=1e-5)


def test_padding_has_no_part_in_the_distance_of_embeddings() -> None:
    tokens = torch.zeros(2, 3, 4)
    far = tokens.clone()
    far[0, 0], far[0, 2] = 2.0, 100.0
    mask = torch.tensor([[True, True, False], [True, True, True]])
    distance = token_distance(Context(far, torch.zeros(2, 1), mask), Context(tokens, torch.zeros(2, 1), mask))
    assert distance.tolist() == [2.0, 0.0]


@pytest.mark.parametrize(
    "strategy", [LwF(LwF.Options(strength=0.0), 0), M2Distill(M2Distill.Options(embedding=0.0, policy=0.0), 0)]
)
def test_weight_0_is_sequential_fine_tuning(
    strategy: Strategy, tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    policies = [make(), make()]
    for policy, each in zip(policies, (strategy, Strategy(None, 0)), strict=True):
        for stage in (0, 1):
            each.begin_task(tasks[stage], policy, datasets[stage])
            fit(policy, datasets[stage], each, FEW_STEPS, seed=0, stage=stage)
            each.end_task(tasks[stage], policy, datasets[stage])
    for first, second in zip(policies[0].parameters(), policies[1].parameters(), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize(("kind", "key"), [(LwF, "strength"), (M2Distill, "embedding"), (M2Distill, "policy")])
def test_negative_weights_are_refused(kind: Any, key: str) -> None:
    with pytest.raises(ConfigurationError, match=f"strategy.{key} must be at least 0, got -1"):
        kind(kind.Options(**{key: -1.0}), 0)
