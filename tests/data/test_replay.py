"""What a replay memory keeps, draws and stores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vla_cl.data import Batch, ReplayMemory, WindowDataset, concatenate, phases_of
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
    with pytest.raises(ConfigurationError, match="phases must be at least 1, got 0"):
        memory.add(ten, count=1, by="phase", phases=0, generator=generator())
    with pytest.raises(ConfigurationError, match="which they are"):
        memory.take(replace(ten.batch([0]), origin=()))
    with pytest.raises(ConfigurationError, match="empty"):
        memory.sample(1, generator())


def origins(batch: Batch) -> list[tuple[str, int]]:
    return [(dataset.path.name, int(window)) for dataset, windows in batch.origin for window in windows]


def test_whole_phases_are_kept(ten: WindowDataset) -> None:
    memory = ReplayMemory()
    memory.add(ten, count=4, by="phase", phases=2, generator=generator())
    chosen = {(int(ten.window_episodes[window]), int(phases_of(ten, 2)[window])) for window in kept(memory)}
    assert len(chosen) == 4
    everything = zip(ten.window_episodes.tolist(), phases_of(ten, 2).tolist(), strict=True)
    assert kept(memory) == [window for window, unit in enumerate(everything) if unit in chosen]


def test_a_dataset_that_comes_again_is_not_counted_twice(ten: WindowDataset, other: WindowDataset) -> None:
    memory = ReplayMemory()
    for dataset in (ten, other, WindowDataset(ten.path, 4)):
        memory.add(dataset, fraction=1.0, by="transition", generator=generator())
    assert len(memory) == len(ten) + len(other)
    memory.add(WindowDataset(ten.path, 4), count=0, generator=generator())
    assert len(memory) == len(other)
    assert len(memory.rows(ten)) == 0


def test_rows_are_read_kept_replaced_and_dropped_in_place(ten: WindowDataset, other: WindowDataset) -> None:
    one, two = ten.path.name, other.path.name
    memory = ReplayMemory()
    memory.put(ten, [7, 3, 7])
    memory.put(other, [20, 1])
    memory.put(ten, [0])
    assert memory.rows(ten).tolist() == [0, 1, 2, 5]
    assert origins(memory.read([3, 0, 5, 3])) == [(two, 20), (one, 7), (one, 0), (two, 20)]
    memory.replace([5, 1], concatenate([other.batch([6]), ten.batch([4])]))
    memory.drop([0, 4])
    assert origins(memory.read(range(4))) == [(one, 4), (one, 7), (two, 20), (two, 6)]
    again = ReplayMemory()
    again.take(memory.read(range(4)))
    assert origins(again.read(range(4))) == origins(memory.read(range(4)))


def test_rows_stay_in_place_over_a_restart(ten: WindowDataset, other: WindowDataset, tmp_path: Path) -> None:
    memory = ReplayMemory()
    for dataset, window in ((ten, 3), (other, 8), (ten, 1), (other, 2)):
        memory.put(dataset, [window])
    save_tree(memory.state_dict(), tmp_path, "memory")
    again = ReplayMemory()
    again.load_state_dict(load_tree(tmp_path, "memory"))
    for each in (memory, again):
        each.replace([0], other.batch([9]))
        each.put(WindowDataset(ten.path, 4), [4])
    assert again.owners.tolist() == memory.owners.tolist() == [1, 1, 0, 1, 0]
    assert origins(again.read(range(5))) == origins(memory.read(range(5)))
