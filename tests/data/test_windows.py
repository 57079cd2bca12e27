"""Windows against plain slicing of the arrays that were written."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from vla_cl.data import ConcatenatedWindows, Episode, WindowDataset
from vla_cl.data.columns import FileColumn, Hdf5Column, MemoryColumn, Run, compressed_column
from vla_cl.errors import ConfigurationError, DataFileError

LENGTHS = (5, 9, 3)


@given(
    chunk=some.integers(1, 12),
    episodes=some.one_of(some.none(), some.lists(some.integers(0, 2), min_size=1, max_size=4)),
    texts=some.lists(some.text(min_size=1, max_size=5), min_size=1, max_size=4),
    data=some.data(),
)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_window_is_a_slice_of_its_episode(
    file: Path,
    make_episode: Callable[..., Episode],
    chunk: int,
    episodes: list[int] | None,
    texts: list[str],
    data: some.DataObject,
) -> None:
    dataset = WindowDataset(file, chunk, privileged=True, instructions=texts, episodes=episodes)
    chosen = list(range(3)) if episodes is None else episodes
    expected = [(position, index, step) for position, index in enumerate(chosen) for step in range(LENGTHS[index])]
    assert len(dataset) == len(expected)
    assert dataset.window_episodes.tolist() == [position for position, _, _ in expected]
    assert dataset.episode_lengths.tolist() == [LENGTHS[index] for index in chosen]

    asked = data.draw(some.lists(some.integers(0, len(expected) - 1), max_size=10))
    batch = dataset.batch(asked)
    assert len(batch) == len(asked)
    for row, window in enumerate(asked):
        _, index, step = expected[window]
        episode = make_episode(index, LENGTHS[index])
        actions = episode.actions[step : step + chunk]
        missing = chunk - len(actions)
        padded = np.concatenate([actions, np.repeat(episode.actions[-1:], missing, axis=0)])
        np.testing.assert_array_equal(batch.actions[row], padded)
        assert batch.padding[row].tolist() == [False] * (chunk - missing) + [True] * missing
        assert batch.observation.instruction[row] == texts[index % len(texts)]
        np.testing.assert_array_equal(batch.observation.agent_pos[row], episode.observations["agent_pos"][step])
        assert batch.observation.environment_state is not None
        np.testing.assert_array_equal(
            batch.observation.environment_state[row], episode.observations["environment_state"][step]
        )
        for camera in ("front", "hand"):
            np.testing.assert_array_equal(
                batch.observation.pixels[camera][row], episode.observations[f"{camera}_image"][step]
            )


@given(history=some.integers(1, 6), lookback=some.integers(0, 6), chunk=some.integers(1, 7), data=some.data())
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_history_and_a_lookback_repeat_what_is_first_in_the_episode(
    file: Path, make_episode: Callable[..., Episode], history: int, lookback: int, chunk: int, data: some.DataObject
) -> None:
    if lookback >= chunk:
        with pytest.raises(ConfigurationError, match="lookback 0 to chunk - 1"):
            WindowDataset(file, chunk, lookback=lookback)
        return
    dataset = WindowDataset(file, chunk, history=history, lookback=lookback)
    places = [(index, step) for index in range(3) for step in range(LENGTHS[index])]
    asked = data.draw(some.lists(some.integers(0, len(places) - 1), min_size=1, max_size=8))
    batch = dataset.batch(asked)
    assert len(batch.observation.moments) == history
    for row, window in enumerate(asked):
        index, step = places[window]
        length, episode = LENGTHS[index], make_episode(index, LENGTHS[index])
        for lag, moment in zip(reversed(range(history)), batch.observation.moments, strict=True):
            expected = episode.observations["agent_pos"][max(0, step - lag)]
            np.testing.assert_array_equal(moment.agent_pos[row], expected)
        steps = [min(max(step + ahead - lookback, 0), length - 1) for ahead in range(chunk)]
        np.testing.assert_array_equal(batch.actions[row], episode.actions[steps])
        assert batch.padding[row].tolist() == [step + ahead - lookback >= length for ahead in range(chunk)]
    again = WindowDataset.from_description(dataset.describe()).batch(asked)
    assert (
        torch.equal(again.observation.past[0].agent_pos, batch.observation.past[0].agent_pos) if history > 1 else True
    )
    np.testing.assert_array_equal(dataset.action_chunks(asked), batch.actions)


def test_types_are_those_of_a_batch(dataset: WindowDataset) -> None:
    batch = dataset.batch([0, 1])
    assert batch.actions.dtype == batch.observation.agent_pos.dtype == torch.float32
    assert batch.padding.dtype == torch.bool
    assert batch.observation.pixels["front"].dtype == torch.uint8
    assert batch.observation.pixels["front"].shape == (2, 64, 64, 3)
    assert batch.observation.instruction == ("close the window",) * 2


def test_changing_a_batch_does_not_change_the_dataset(dataset: WindowDataset) -> None:
    dataset.batch([3]).actions.zero_()
    dataset.batch([3]).observation.agent_pos.zero_()
    assert dataset.batch([3]).actions.abs().sum() > 0
    assert dataset.batch([3]).observation.agent_pos.abs().sum() > 0


def test_only_the_cameras_asked_for_are_loaded_in_their_order(file: Path) -> None:
    assert list(WindowDataset(file, 2, cameras=["hand"]).batch([0]).observation.pixels) == ["hand"]
    assert list(WindowDataset(file, 2, cameras=["hand", "front"]).batch([0]).observation.pixels) == ["hand", "front"]
    blind = WindowDataset(file, 2, cameras=()).batch([0]).observation
    assert blind.pixels == {}
    assert blind.environment_state is None


def test_what_the_file_lacks_is_named(file: Path, make_file: Callable[..., Path]) -> None:
    with pytest.raises(DataFileError, match=r"no camera 'side'; it has: front, hand"):
        WindowDataset(file, 2, cameras=["side"])
    with pytest.raises(DataFileError, match="episodes 0 to 2"):
        WindowDataset(file, 2, episodes=[3])
    with pytest.raises(ConfigurationError, match="chunk"):
        WindowDataset(file, 0)


@pytest.mark.parametrize("window", [-1, 17, 10**9])
def test_window_out_of_range_is_an_index_error(dataset: WindowDataset, window: int) -> None:
    with pytest.raises(IndexError):
        dataset.batch([0, window])


def test_order_is_a_pure_function_of_seed_and_epoch(dataset: WindowDataset, file: Path) -> None:
    order = dataset.order(3, 7)
    assert sorted(order) == list(range(len(dataset)))
    dataset.batch(order)
    np.testing.assert_array_equal(WindowDataset(file, 1).order(3, 7), order)
    assert not np.array_equal(dataset.order(3, 8), order)
    assert not np.array_equal(dataset.order(4, 7), order)


def test_a_description_survives_json_and_reopens_the_same_windows(file: Path) -> None:
    import json

    dataset = WindowDataset(file, 3, cameras=["hand"], privileged=True, instructions=["a", "b"], episodes=[2, 0])
    again = WindowDataset.from_description(json.loads(json.dumps(dataset.describe())))
    assert again.describe() == dataset.describe()
    one, other = dataset.batch(range(8)), again.batch(range(8))
    assert torch.equal(one.actions, other.actions)
    assert torch.equal(one.observation.pixels["hand"], other.observation.pixels["hand"])
    assert one.observation.instruction == other.observation.instruction


def test_a_description_of_replaced_demonstrations_is_refused(make_file: Callable[..., Path]) -> None:
    path = make_file()
    description = WindowDataset(path, 3).describe()
    make_file(first=5, path=path)
    with pytest.raises(DataFileError, match="other demonstrations"):
        WindowDataset.from_description(description)


def test_pickling_carries_the_description_not_the_data(dataset: WindowDataset) -> None:
    pickled = pickle.dumps(dataset)
    assert len(pickled) < 2000
    assert torch.equal(pickle.loads(pickled).batch([4, 2]).actions, dataset.batch([4, 2]).actions)


def test_data_loader_workers_read_what_the_parent_reads(dataset: WindowDataset) -> None:
    class Single(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return len(dataset)

        def __getitem__(self, index: int) -> torch.Tensor:
            return dataset.batch([index]).observation.pixels["hand"][0]

    loader = torch.utils.data.DataLoader(
        Single(), batch_size=len(dataset), num_workers=1, multiprocessing_context="fork"
    )
    (images,) = list(loader)
    assert torch.equal(images, dataset.batch(range(len(dataset))).observation.pixels["hand"])


def test_ways_of_reading_agree(tmp_path: Path) -> None:
    """From memory, straight from the file, and through HDF5: rows are the same."""
    file = tmp_path / "plain.hdf5"
    with h5py.File(file, "w") as hdf5:
        for index, length in enumerate(LENGTHS):
            hdf5[f"data/demo_{index}/states"] = np.random.default_rng(index).normal(size=(length, 11))
    with h5py.File(file, "r") as hdf5:
        runs = [hdf5[f"data/demo_{index}/states"] for index in range(3)]
        values = np.concatenate([run[()] for run in runs])
        starts = np.array([0, 5, 14])
        offsets = np.array([run.id.get_offset() for run in runs])
        columns = (
            MemoryColumn(values),
            FileColumn(file, starts, offsets, (11,), np.dtype(np.float64)),
            Hdf5Column(file, [run.name for run in runs], starts, np.zeros_like(starts), (11,), np.dtype(np.float64)),
        )
    rows = np.array([16, 0, 5, 4, 14, 13, 0])
    for column in columns:
        np.testing.assert_array_equal(column.read(rows), values[rows])
        assert column.read(np.zeros(0, np.int64)).shape == (0, 11)
        assert column.row_bytes == 88


def test_images_compressed_one_by_one_are_unpacked_as_hdf5_does(tmp_path: Path) -> None:
    """Also those that a writer chose to keep as they are, which HDF5 notes chunk by chunk."""
    images = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), np.uint8)
    path = tmp_path / "images.hdf5"
    with h5py.File(path, "w") as hdf5:
        for index, part in enumerate((images[:7], images[7:])):
            name = f"data/demo_{index}/obs/a_image"
            hdf5.create_dataset(name, data=part, chunks=(1, 16, 16, 3), compression="gzip")
        hdf5["data/demo_1/obs/a_image"].id.write_direct_chunk((2, 0, 0, 0), images[9].tobytes(), filter_mask=1)
    with h5py.File(path, "r") as hdf5:
        datasets = [hdf5[f"data/demo_{index}/obs/a_image"] for index in range(2)]
        column = compressed_column(path, [Run(dataset, 0, len(dataset)) for dataset in datasets])
    assert (column.sizes < 0).tolist() == [row == 9 for row in range(12)]
    rows = np.array([11, 0, 6, 7, 9, 0])
    np.testing.assert_array_equal(column.read(rows), images[rows])


def test_a_file_cut_short_while_its_images_are_read_is_refused(make_file: Callable[..., Path]) -> None:
    path = make_file([30])
    dataset = WindowDataset(path, 2)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(DataFileError, match="damaged or truncated"):
        dataset.batch(range(len(dataset)))


def test_files_compressed_otherwise_are_read_through_hdf5(file: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed.hdf5"
    with h5py.File(file, "r") as source, h5py.File(packed, "w") as target:
        source.copy("data", target)
        for index in range(3):
            images = target[f"data/demo_{index}/obs/front_image"][()]
            del target[f"data/demo_{index}/obs/front_image"]
            target.create_dataset(f"data/demo_{index}/obs/front_image", data=images, compression="gzip")
    one, other = WindowDataset(packed, 2), WindowDataset(file, 2)
    rows = [3, 16, 0, 9]
    assert torch.equal(one.batch(rows).observation.pixels["front"], other.batch(rows).observation.pixels["front"])
    assert torch.equal(one.batch(rows).observation.pixels["hand"], other.batch(rows).observation.pixels["hand"])


def test_memory_does_not_grow_with_the_file(make_file: Callable[..., Path]) -> None:
    """A process that reads every window of a 10 times larger file stays within 10 MB of one that reads the small."""
    program = """
import sys, resource
from vla_cl.data import WindowDataset
import torch
dataset = WindowDataset(sys.argv[1], 8)
for start in range(0, len(dataset), 16):
    dataset.batch(range(start, min(start + 16, len(dataset))))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""

    def peak(path: Path) -> float:
        done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
        return int(done.stdout) / 1024

    small = make_file([40], size=128, cameras=("front",))
    large = make_file([40] * 10, size=128, cameras=("front",))
    assert large.stat().st_size > 19e6
    assert peak(large) - peak(small) < 10


def test_collecting_needs_no_torch() -> None:
    """The processes that simulate import `vla_cl.data`: it must start without a second of imports."""
    program = "import sys, vla_cl.data, vla_cl.data.collection_worker; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, env=dict(os.environ))


def test_concatenated_windows_are_the_datasets_end_to_end(make_file: Callable[..., Path]) -> None:
    first = WindowDataset(make_file((4, 2)), 3, instructions=["one"])
    second = WindowDataset(make_file((3,), first=7, task="push"), 3, instructions=["two"])
    both = ConcatenatedWindows([first, second])
    assert len(both) == 9
    assert both.episode_lengths.tolist() == [4, 2, 3]
    assert both.window_episodes.tolist() == [0] * 4 + [1] * 2 + [2] * 3
    assert both.task == "window-close+push"
    batch = both.batch([8, 0, 6, 5, 0])
    assert batch.observation.instruction == ("two", "one", "two", "one", "one")
    for row, (part, window) in enumerate([(second, 2), (first, 0), (second, 0), (first, 5), (first, 0)]):
        alone = part.batch([window])
        assert torch.equal(batch.actions[row], alone.actions[0])
        assert torch.equal(batch.observation.pixels["hand"][row], alone.observation.pixels["hand"][0])
    again = ConcatenatedWindows.from_description(both.describe())
    assert torch.equal(again.batch([8, 0]).actions, batch.actions[:2])
    assert both.batch([]).actions.shape == (0, 3, 4)
    with pytest.raises(IndexError):
        both.batch([9])


def test_unlike_datasets_are_not_concatenated(file: Path) -> None:
    with pytest.raises(ConfigurationError, match="agree"):
        ConcatenatedWindows([WindowDataset(file, 3), WindowDataset(file, 4)])
