"""Wake-sleep: when it sleeps, what it rehearses and dreams, and how its memory acts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.strategies.pixels import make_pixel_dataset, make_pixel_policy
from vla_cl.data import Batch, WindowDataset
from vla_cl.errors import ConfigurationError
from vla_cl.evaluation import PolicyController
from vla_cl.policies import Policy
from vla_cl.strategies.episodic_memory import EpisodicMemory, memory_keys, typical_distance
from vla_cl.strategies.features import text_features
from vla_cl.strategies.wake_sleep import WakeSleep, dreamed, is_asleep
from vla_cl.tasks import Task
from vla_cl.training import load_tree, save_tree


def strategy_of(**options: Any) -> WakeSleep:
    return WakeSleep(WakeSleep.Options(**options), 0)


def learned(policy: Policy, tasks: list[Task], datasets: list[WindowDataset], **options: Any) -> WakeSleep:
    strategy = strategy_of(**options)
    for task, data in zip(tasks, datasets, strict=True):
        strategy.begin_task(task, policy, data)
        strategy.end_task(task, policy, data)
    return strategy


def texts(batch: Batch) -> dict[str, int]:
    found, counts = np.unique(batch.observation.instruction, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))


def test_nights_are_the_last_share_of_each_day() -> None:
    asleep = [is_asleep(step, 20, days=2, share=0.3) for step in range(20)]
    assert asleep == ([False] * 7 + [True] * 3) * 2
    assert not any(is_asleep(step, 20, 4, 0.0) for step in range(20))
    assert all(is_asleep(step, 20, 4, 1.0) for step in range(20))


def test_awake_it_learns_the_present_and_asleep_all_tasks_equally(
    policy: Policy, tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    strategy = learned(policy, tasks[:2], datasets[:2], fraction=0.5, sleep=0.5, days=1)
    strategy.begin_task(tasks[2], policy, datasets[2])
    strategy.begin_training(120)
    batch = datasets[2].batch(np.arange(30) % len(datasets[2]))
    for _ in range(60):
        assert strategy.batch(batch) is batch
    drawn = {f"do task-{index}": 0 for index in range(3)}
    for _ in range(60):
        for text, count in texts(strategy.batch(batch)).items():
            drawn[text] += count
    assert sum(drawn.values()) == 60 * 30
    for count in drawn.values():
        assert abs(count - 600) < 5 * np.sqrt(1800 * (1 / 3) * (2 / 3))


def test_the_first_task_has_no_nights(policy: Policy, tasks: list[Task], datasets: list[WindowDataset]) -> None:
    strategy = strategy_of(sleep=1.0)
    strategy.begin_task(tasks[0], policy, datasets[0])
    strategy.begin_training(4)
    batch = datasets[0].batch(range(8))
    assert strategy.batch(batch) is batch


def test_a_dream_blurs_what_is_seen_and_keeps_what_is_done(tmp_path: Path) -> None:
    batch = make_pixel_dataset(tmp_path, "seen", episodes=4, steps=20).batch(range(80))
    dream = dreamed(batch, 0.1, torch.Generator().manual_seed(0))
    assert dream.actions.equal(batch.actions) and dream.padding.equal(batch.padding)
    moved = dream.observation.agent_pos - batch.observation.agent_pos
    expected = 0.1 * batch.observation.agent_pos.std(dim=0, unbiased=False)
    torch.testing.assert_close(moved.std(dim=0), expected, rtol=0.3, atol=0)
    for camera, images in batch.observation.pixels.items():
        seen = dream.observation.pixels[camera]
        assert seen.dtype == torch.uint8
        inside = (images > 60) & (images < 195)  # where the range cuts nothing off
        change = (seen.float() - images.float())[inside].std()
        assert float(change) == pytest.approx(12.75, rel=0.02)
    still = dreamed(batch, 0.0, torch.Generator().manual_seed(0))
    assert still.observation.agent_pos.equal(batch.observation.agent_pos)


def test_at_a_stored_key_the_memory_acts_and_far_away_the_policy(
    policy: Policy, tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    strategy = learned(policy, tasks[:2], datasets[:2], fraction=1.0)
    batch = datasets[1].batch(range(5))
    policy_actions = torch.full_like(batch.actions, 0.123)
    torch.testing.assert_close(strategy.decide(batch.observation, policy_actions), batch.actions)
    far = batch.observation.map(lambda tensor: tensor + 100)
    assert strategy.decide(far, policy_actions).equal(policy_actions)


def test_the_say_of_the_memory_follows_the_closed_form(
    policy: Policy, tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    strategy = learned(policy, tasks[:1], datasets[:1], fraction=1.0, neighbours=1, bandwidth=0.5, trust=0.8)
    batch = datasets[0].batch([3])
    near = batch.observation.map(lambda tensor: tensor + 0.1)
    key, stored = memory_keys(policy, near), strategy.episodic.tasks[tasks[0].name]
    distance = (key - stored["keys"]).norm(dim=1).min() / stored["scale"]
    say = 0.8 * torch.exp(-((distance / 0.5) ** 2))
    assert 0.01 < float(say) < 0.79
    actions = strategy.decide(near, torch.zeros_like(batch.actions))
    torch.testing.assert_close(actions, say * batch.actions)


def test_nearer_memories_weigh_more() -> None:
    memory = EpisodicMemory()
    keys, chunks = torch.tensor([[0.0], [3.0], [50.0]]), torch.tensor([1.0, 2.0, 9.0]).view(3, 1, 1)
    memory.store("task", keys, chunks, torch.tensor([0, 1, 2]))
    recalled, distance = memory.recall(torch.tensor([[1.0], [3.0]]), neighbours=2)
    assert recalled.flatten().tolist() == pytest.approx([(1 / 1 * 1 + 1 / 4 * 2) / (1 + 1 / 4), 2.0])
    assert distance.tolist() == pytest.approx([1 / 3, 0.0])  # in medians of the nearest distances 3, 3 and 47


def test_distances_are_judged_by_those_between_episodes() -> None:
    keys = torch.tensor([[0.0], [0.1], [5.0], [5.2]])
    assert float(typical_distance(keys, torch.tensor([0, 0, 1, 1]))) == pytest.approx(4.9)
    assert float(typical_distance(keys, torch.tensor([0, 0, 0, 0]))) == pytest.approx(0.1)
    assert float(typical_distance(keys[:1], torch.tensor([0]))) == 1.0


def test_each_row_is_decided_by_itself(policy: Policy, tasks: list[Task], datasets: list[WindowDataset]) -> None:
    strategy = learned(policy, tasks, datasets)
    batch = datasets[0].batch(range(6))
    together = strategy.decide(batch.observation, batch.actions)
    alone = [strategy.decide(batch[[row]].observation, batch.actions[[row]]) for row in range(6)]
    torch.testing.assert_close(torch.cat(alone), together)


def test_it_acts_from_a_checkpoint_without_the_demonstrations(tmp_path: Path, tasks: list[Task]) -> None:
    data, policy = make_pixel_dataset(tmp_path, "seen"), make_pixel_policy()
    strategy = learned(policy, tasks[:1], [data], fraction=1.0)
    batch = data.batch(range(4))
    save_tree(strategy.state_dict(), tmp_path / "state", "strategy")
    data.path.unlink()
    restored = strategy_of(fraction=1.0)
    restored.load_state_dict(load_tree(tmp_path / "state", "strategy"))
    actions = PolicyController(policy, restored).act(batch.observation, range(4))
    np.testing.assert_allclose(actions, batch.actions.numpy(), atol=1e-6)


def test_keys_do_not_follow_what_is_trained(policy: Policy, datasets: list[WindowDataset]) -> None:
    observation = datasets[0].batch(range(4)).observation
    before = memory_keys(policy, observation)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.normal_()
    assert memory_keys(policy, observation).equal(before)


def test_the_distance_of_two_texts_is_one_minus_their_cosine(policy: Policy, datasets: list[WindowDataset]) -> None:
    first = datasets[0].batch([0]).observation
    second = replace(first, instruction=("lift the red mug",))
    one, two = (text_features(each.instruction, torch.device("cpu")) for each in (first, second))
    cosine: Tensor = (one * two).sum()
    squared = (memory_keys(policy, first) - memory_keys(policy, second)).square().sum()
    torch.testing.assert_close(squared, 1 - cosine, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"keep": "ring"},
        {"sleep": 1.5},
        {"dreams": -0.1},
        {"trust": 2.0},
        {"days": 0},
        {"neighbours": 0},
        {"noise": -1.0},
        {"bandwidth": 0.0},
    ],
)
def test_unusable_options_are_named(options: dict[str, Any]) -> None:
    (key, value), *_ = options.items()
    with pytest.raises(ConfigurationError, match=f"strategy.{key} .*got {value!r}"):
        strategy_of(**options)
