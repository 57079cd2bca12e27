"""What a replay memory keeps, draws and stores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from vla_cl.data import ReplayMemory, WindowDataset
from vla_cl.errors import ConfigurationError, DataFileError
from vla_cl.training.state import load_tree, save_tree

LENGTHS = (5, 9, 3, 4, 6, 2, 8, 7, 3, 5)


@pytest.fixture(scope="module")
def ten(make_file: Callable[..., Path]) -> WindowDataset:
    return WindowDataset(make_file(LENGTHS), 4)


@pytest.fixture(scope="module")
def other(make_file: Callable[..., Path]) -> WindowDataset:
    return WindowDataset(make_file((20, 20), first=50), 4, instructions=["other"])


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def kept(memory: ReplayMemory) -> list[int]:
    (entry,) = memory.state_dict().values()
    indices: list[int] = entry["indices"].tolist()
    return indices


@pytest.mark.parametrize(("budget", "episodes"), [({"count": 3}, 3), ({"fraction": 0.2}, 2), ({"count": 99}, 10)])
def test_whole_episodes_are_kept(ten: WindowDataset, budget: dict[str, float], episodes: int) -> None:
    memory = ReplayMemory()
    memory.add(ten, by="episode", generator=generator(), **budget)
    owners = ten.window_episodes[kept(memory)]
    assert len(set(owners.tolist())) == episodes
    assert len(memory) == sum(LENGTHS[owner] for owner in set(owners.tolist()))


@pytest.mark.parametrize(("budget", "windows"), [({"count": 7}, 7), ({"fraction": 0.5}, 26), ({"fraction": 1.0}, 52)])
def test_single_windows_are_kept_without_repetition(ten: WindowDataset, budget: dict[str, float], windows: int) -> None:
    memory = ReplayMemory()
    memory.add(ten, by="transition", generator=generator(), **budget)
    assert len(memory) == len(set(kept(memory))) == windows


def test_the_choice_is_a_function_of_the_generator(ten: WindowDataset) -> None:
    def choice(seed: int) -> list[int]:
        memory = ReplayMemory()
        memory.add(ten, count=10, by="transition", generator=generator(seed))
        return kept(memory)

    assert choice(1) == choice(1) != choice(2)


def test_a_small_fraction_keeps_at_least_one_and_zero_keeps_none(ten: WindowDataset) -> None:
    memory = ReplayMemory()
    memory.add(ten, fraction=0.0, generator=generator())
    memory.add(ten, count=0, generator=generator())
    assert len(memory) == memory.bytes == 0
    assert memory.state_dict() == {}
    memory.add(ten, fraction=0.001, by="transition", generator=generator())
    assert len(memory) == 1


def test_draws_are_uniform_over_all_kept_windows(ten: WindowDataset, other: WindowDataset) -> None:
    memory = ReplayMemory()
    memory.add(ten, count=10, by="transition", generator=generator())
    memory.add(other, count=30, by="transition", generator=generator())
    drawn = memory.sample(4000, generator(5))
    share = np.mean([text == "other" for text in drawn.observation.instruction])
    assert abs(share - 0.75) < 4 * np.sqrt(0.75 * 0.25 / 4000)
    firsts = {tuple(row.tolist()) for row in drawn.actions[:, 0]}
    assert len(firsts) == 40


def test_what_is_drawn_was_kept(ten: WindowDataset) -> None:
    memory = ReplayMemory()
    memory.add(ten, count=5, by="transition", generator=generator())
    allowed = ten.batch(kept(memory))
    drawn = memory.sample(50, generator(1))
    for row in range(50):
        matches = (allowed.actions == drawn.actions[row]).all(dim=2).all(dim=1)
        (match,) = torch.nonzero(matches).flatten().tolist()
        assert torch.equal(drawn.observation.pixels["hand"][row], allowed.observation.pixels["hand"][match])


def test_state_holds_indices_and_descriptions_only_and_restores_the_draws(
    ten: WindowDataset, other: WindowDataset, tmp_path: Path
) -> None:
    memory = ReplayMemory()
    memory.add(ten, fraction=0.3, by="episode", generator=generator())
    memory.add(other, count=8, by="transition", generator=generator())
    save_tree(memory.state_dict(), tmp_path, "memory")
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 5000
    again = ReplayMemory()
    again.load_state_dict(load_tree(tmp_path, "memory"))
    assert (len(again), again.bytes) == (len(memory), memory.bytes)
    one, two = memory.sample(16, generator(9)), again.sample(16, generator(9))
    assert torch.equal(one.actions, two.actions)
    assert torch.equal(one.observation.pixels["front"], two.observation.pixels["front"])
    assert one.observation.instruction == two.observation.instruction


def test_bytes_are_what_copies_of_the_windows_would_weigh(ten: WindowDataset) -> None:
    memory = ReplayMemory()
    memory.add(ten, count=6, by="transition", generator=generator())
    batch = ten.batch(kept(memory))
    tensors = [batch.actions, batch.observation.agent_pos, *batch.observation.pixels.values()]
    assert memory.bytes == sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def test_replaced_demonstrations_are_noticed(make_file: Callable[..., Path]) -> None:
    path = make_file((4, 4))
    memory = ReplayMemory()
    memory.add(WindowDataset(path, 4), count=1, generator=generator())
    state = memory.state_dict()
    make_file((4, 4), first=3, path=path)
    again = ReplayMemory()
    again.load_state_dict(state)
    with pytest.raises(DataFileError, match="other demonstrations"):
        again.sample(1, generator())
    path.unlink()
    with pytest.raises(DataFileError, match="does not exist"):
        again.sample(1, generator())


def test_a_restored_memory_needs_no_demonstrations_until_it_is_drawn_from(
    make_file: Callable[..., Path], ten: WindowDataset
) -> None:
    path = make_file((6, 4))
    memory = ReplayMemory()
    memory.add(WindowDataset(path, 4), count=1, generator=generator())
    state = memory.state_dict()
    elsewhere = path.rename(path.with_name("elsewhere.hdf5"))
    again = ReplayMemory()
    again.load_state_dict(state)
    assert len(again) == len(memory)
    assert kept(again) == kept(memory)
    assert again.state_dict()["0"]["dataset"] == state["0"]["dataset"]
    for needs_the_file in (
        lambda: again.sample(1, generator()),
        lambda: again.add(ten, count=1, generator=generator()),
        lambda: again.bytes,
    ):
        with pytest.raises(DataFileError, match="does not exist"):
            needs_the_file()
    elsewhere.rename(path)
    one, two = memory.sample(8, generator(3)), again.sample(8, generator(3))
    assert torch.equal(one.actions, two.actions)


def test_impossible_requests_are_refused(ten: WindowDataset) -> None:
    memory = ReplayMemory()
    for budget in ({}, {"count": 1, "fraction": 0.5}, {"count": -1}, {"fraction": 1.5}):
        with pytest.raises(ConfigurationError):
            memory.add(ten, generator=generator(), **budget)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="by must be"):
        memory.add(ten, count=1, by="task", generator=generator())
    with pytest.raises(ConfigurationError, match="empty"):
        memory.sample(1, generator())
