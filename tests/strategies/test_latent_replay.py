"""Latent replay: what is stored and what it weighs, how replay is weighed, and what stays frozen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.strategies.conftest import CHUNK, make_policy
from tests.strategies.pixels import make_pixel_dataset, make_pixel_policy
from vla_cl.data import WindowDataset, concatenate
from vla_cl.errors import ConfigurationError
from vla_cl.policies import Context, Policy
from vla_cl.seeding import torch_generator
from vla_cl.strategies.context_memory import ContextMemory, joined
from vla_cl.strategies.latent_replay import LatentReplay
from vla_cl.tasks import find_task
from vla_cl.training import TrainingOptions, fit

TASK = find_task("push")
TASKS = [find_task(name) for name in ("push", "faucet-close", "window-close")]


def strategy_of(**options: Any) -> LatentReplay:
    return LatentReplay(LatentReplay.Options(**options), 0)


def learned(policy: Policy, datasets: list[WindowDataset], **options: Any) -> LatentReplay:
    """A strategy that has been through tasks without a step of training, and faces the last one."""
    strategy = strategy_of(**options)
    for task, data in zip(TASKS, datasets[:-1], strict=False):
        strategy.begin_task(task, policy, data)
        strategy.end_task(task, policy, data)
    strategy.begin_task(TASKS[len(datasets) - 1], policy, datasets[-1])
    return strategy


def weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: each.clone() for name, each in module.state_dict().items()}


@pytest.mark.parametrize(("precision", "exact"), [("float32", True), ("float16", False)])
def test_a_stored_context_is_what_the_backbone_computes(
    precision: str, exact: bool, policy: Policy, datasets: list[WindowDataset]
) -> None:
    strategy = learned(policy, datasets[:2], fraction=1.0, precision=precision)
    batch = datasets[0].batch(range(len(datasets[0])))
    expected = policy.context(batch.observation)
    context, actions, padding = strategy.memory.rows(np.arange(len(batch)), expected)
    tolerance = 0.0 if exact else 1e-3
    torch.testing.assert_close(context.tokens, expected.tokens, rtol=tolerance, atol=tolerance)
    assert context.agent_pos.equal(expected.agent_pos)
    assert context.mask is None
    assert actions.equal(policy.normalise_actions(batch.actions))
    assert padding.equal(batch.padding)


def test_stored_bytes_are_as_computed_and_far_below_the_pixels(tmp_path: Path) -> None:
    data, policy = make_pixel_dataset(tmp_path, "seen"), make_pixel_policy()
    strategy = strategy_of(fraction=1.0)
    strategy.begin_task(TASK, policy, data)
    strategy.end_task(TASK, policy, data)
    shape = policy.backbone.shape
    assert shape.tokens is not None
    tokens, mask, agent_pos = shape.tokens * shape.width * 2, shape.tokens, 4 * 4
    actions, padding = CHUNK * 4 * 4, CHUNK
    assert strategy.memory.bytes == len(data) * (tokens + mask + agent_pos + actions + padding)
    assert strategy.memory_bytes == 0  # its tensors are in the state, where they are counted
    assert strategy.memory.bytes < 0.05 * len(data) * data.window_bytes


def test_replay_weighs_what_it_weighs_in_a_batch_of_pixels(datasets: list[WindowDataset]) -> None:
    policy = make_policy("regression")  # has no noise, so that both ways compute one number
    strategy = learned(policy, datasets[:2], fraction=1.0, ratio=0.25, precision="float32")
    drawn = datasets[1].batch(range(16))
    batch = strategy.batch(drawn)
    assert len(batch) == 12
    rows = np.sort(np.random.default_rng(0).integers(len(datasets[0]), size=4))
    whole = policy(concatenate([drawn[:12], datasets[0].batch(rows)]), torch_generator(0)).loss.mean()
    strategy.memory.sample = lambda n, generator, like: strategy.memory.rows(rows[:n], like)  # type: ignore[method-assign]
    output = policy(batch, torch_generator(0))
    torch.testing.assert_close(output.loss.mean() + strategy.loss(batch, output), whole)


def test_parts_of_a_batch_replay_their_share(datasets: list[WindowDataset]) -> None:
    policy = make_policy("regression")
    strategy = learned(policy, datasets[:2], ratio=0.5)
    asked = []
    sample = strategy.memory.sample

    def counted(n: int, *arguments: Any) -> Any:
        asked.append(n)
        return sample(n, *arguments)

    strategy.memory.sample = counted  # type: ignore[method-assign]
    batch = strategy.batch(datasets[1].batch(range(16)))
    for part in (batch[:4], batch[4:]):
        strategy.loss(part, policy(part, torch_generator(0)))
    assert asked == [4, 4]


@pytest.mark.parametrize(
    ("freeze_after", "frozen"),
    [("first_task", [False, True]), ("pretraining", [True, True]), ("never", [False, False])],
)
def test_a_frozen_backbone_is_bit_identical_after_training(
    freeze_after: str, frozen: list[bool], datasets: list[WindowDataset]
) -> None:
    policy = make_policy(backbone="lowdim_transformer", width=16, layers=1, heads=2)
    strategy = strategy_of(freeze_after=freeze_after)
    options = TrainingOptions(steps=2, batch_size=8, warmup_steps=0, checkpoint_every=0, weight_decay=0.1)
    for stage in range(2):
        backbone, head = weights(policy.backbone), weights(policy.head)
        strategy.begin_task(TASK, policy, datasets[stage])
        fit(policy, datasets[stage], strategy, options, seed=0, stage=stage)
        strategy.end_task(TASK, policy, datasets[stage])
        same = all(each.equal(backbone[name]) for name, each in policy.backbone.state_dict().items())
        assert same == frozen[stage]
        assert not all(each.equal(head[name]) for name, each in policy.head.state_dict().items())


def test_before_there_is_a_memory_a_batch_is_left_alone(policy: Policy, datasets: list[WindowDataset]) -> None:
    strategy = strategy_of()
    strategy.begin_task(TASK, policy, datasets[0])
    batch = datasets[0].batch(range(8))
    assert strategy.batch(batch) is batch
    assert strategy.loss(batch, policy(batch, torch_generator(0))) == 0.0


def test_the_budget_is_a_count_or_a_share_of_the_windows(policy: Policy, datasets: list[WindowDataset]) -> None:
    assert len(learned(policy, datasets, count=7).memory) == 14
    assert len(learned(policy, datasets, fraction=0.0).memory) == 0
    assert len(learned(policy, datasets[:2], fraction=0.5).memory) == round(len(datasets[0]) / 2)


def test_a_task_that_comes_again_is_stored_once(policy: Policy, datasets: list[WindowDataset]) -> None:
    strategy = strategy_of(count=5)
    for _ in range(3):
        strategy.begin_task(TASK, policy, datasets[0])
        strategy.end_task(TASK, policy, datasets[0])
    assert len(strategy.memory) == 5


def test_layers_and_paddings_of_other_lengths_survive() -> None:
    generator = torch.Generator().manual_seed(0)

    def context(rows: int, tokens: int) -> Context:
        layers = tuple(
            (torch.randn(rows, 2, tokens, 3, generator=generator), torch.randn(rows, 2, tokens, 3, generator=generator))
            for _ in range(2)
        )
        mask = torch.ones(rows, tokens, dtype=torch.bool)
        mask[:, 0] = False
        return Context(torch.randn(rows, tokens, 6, generator=generator), torch.zeros(rows, 4), mask, layers)

    memory = ContextMemory("float32")
    short, long = context(2, 3), context(3, 5)
    for name, each in (("short", short), ("long", long)):
        memory.add(name, each, torch.zeros(len(each), CHUNK, 4), torch.zeros(len(each), CHUNK, dtype=torch.bool))
    found, _, _ = memory.rows(np.arange(5), long)
    assert found.mask is not None and short.mask is not None and long.mask is not None
    assert found.tokens.shape == (5, 5, 6)
    assert found.mask[:2, :3].equal(short.mask) and not found.mask[:2, 3:].any()
    assert found.mask[2:].equal(long.mask)
    assert found.tokens[:2, :3].equal(short.tokens) and found.tokens[2:].equal(long.tokens)
    for (keys, values), (first, second) in zip(found.layers, long.layers, strict=True):
        assert keys[2:].equal(first) and values[2:].equal(second)
    assert found.layers[1][1][:2, :, :3].equal(short.layers[1][1])
    assert joined([memory.parts["short"]])["tokens"].shape[1] == 3


def test_numbers_that_a_precision_cannot_hold_are_refused() -> None:
    context = Context(torch.full((1, 1, 2), 1e6), torch.zeros(1, 4))
    actions, padding = torch.zeros(1, CHUNK, 4), torch.zeros(1, CHUNK, dtype=torch.bool)
    with pytest.raises(ConfigurationError, match=r"float16.*bfloat16"):
        ContextMemory("float16").add("task", context, actions, padding)
    ContextMemory("bfloat16").add("task", context, actions, padding)


@pytest.mark.parametrize(
    "options",
    [{"fraction": 2.0}, {"count": -1}, {"ratio": 1.0}, {"precision": "int8"}, {"freeze_after": "lunch"}],
)
def test_unusable_options_are_named(options: dict[str, Any]) -> None:
    (key, value), *_ = options.items()
    with pytest.raises(ConfigurationError, match=f"strategy.{key} .*got {value!r}"):
        strategy_of(**options)
