"""Splits divide, merges put together, and nothing is lost, doubled or half-written on the way."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_cl.data import (
    DemonstrationFile,
    Episode,
    Header,
    WindowDataset,
    merge_demonstrations,
    split_files,
    split_indices,
    split_masks,
    write_demonstrations,
)
from vla_cl.errors import ConfigurationError, DataFileError

SHARES = {"train": 0.6, "validation": 0.4}
CAMERAS = ("front",)
LENGTHS = (5, 9, 3, 4, 6)


@pytest.fixture
def five(make_file: Callable[..., Path], tmp_path: Path) -> Path:
    """Five demonstrations that a test may change."""
    return make_file(LENGTHS, cameras=CAMERAS, path=tmp_path / "five.hdf5")


def assert_same_episode(one: Episode, two: Episode) -> None:
    assert (one.seed, one.attempt, one.model_file) == (two.seed, two.attempt, two.model_file)
    for name in ("actions", "executed_actions", "states", "rewards"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    assert one.observations.keys() == two.observations.keys()
    for key, values in one.observations.items():
        np.testing.assert_array_equal(values, two.observations[key])


@given(
    weights=st.lists(st.integers(1, 20), min_size=1, max_size=5),
    count=st.integers(0, 300),
    seed=st.integers(0, 2**40),
)
def test_splits_are_disjoint_complete_and_true_to_their_shares(weights: list[int], count: int, seed: int) -> None:
    shares = {f"split{index}": weight / sum(weights) for index, weight in enumerate(weights)}
    try:
        splits = split_indices(count, shares, seed)
    except ConfigurationError as error:
        assert "would be empty" in str(error)
        assert min(shares.values()) * count < 1 + 1e-6
        return
    assert list(splits) == list(shares)
    assert sorted(index for indices in splits.values() for index in indices) == list(range(count))
    for name, indices in splits.items():
        assert indices == sorted(indices)
        assert abs(len(indices) - shares[name] * count) < 1
    assert splits == split_indices(count, shares, seed)


def test_whole_shares_are_met_exactly_and_the_seed_decides() -> None:
    shares = {"train": 0.7, "test": 0.1, "validation": 0.2}
    splits = split_indices(50, shares)
    assert [len(indices) for indices in splits.values()] == [35, 5, 10]
    assert split_indices(50, shares, 1) != splits


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"train": 0.5, "valid": 0.4}, "add up to 1, got 0.9"),
        ({"train": 1.2, "valid": -0.2}, "got 1.2"),
        ({"train": float("nan")}, "got nan"),
        ({"../train": 1.0}, "split name '../train'"),
        ({"train": 0.99, "valid": 0.01}, "'valid' would be empty"),
    ],
)
def test_impossible_shares_are_refused(five: Path, shares: dict[str, float], message: str) -> None:
    before = five.read_bytes()
    with pytest.raises(ConfigurationError, match=message):
        split_masks(five, shares)
    with pytest.raises(ConfigurationError, match=message):
        split_files(five, shares)
    assert five.read_bytes() == before
    assert list(five.parent.iterdir()) == [five]


def test_masks_replace_those_that_were_there_and_training_reads_them(five: Path) -> None:
    with DemonstrationFile(five) as file:
        episodes, checksum = [file.episode(index) for index in range(5)], file.checksum
    splits = split_masks(five, SHARES)
    assert list(five.parent.iterdir()) == [five]
    with DemonstrationFile(five) as file:
        file.verify()
        assert file.checksum != checksum
        assert {name: indices.tolist() for name, indices in file.splits.items()} == splits
        for index, episode in enumerate(episodes):
            assert_same_episode(file.episode(index), episode)
    with h5py.File(five) as raw:  # as robomimic reads it
        assert set(raw["mask"]) == {"train", "validation"}
        assert [name.decode() for name in raw["mask/train"][:]] == [f"demo_{index}" for index in splits["train"]]
    part = WindowDataset(five, 4, split="validation")
    assert part.episodes.tolist() == splits["validation"]
    assert len(part) == sum(LENGTHS[index] for index in splits["validation"])
    assert WindowDataset.from_description(part.describe()).episodes.tolist() == splits["validation"]


def test_an_unknown_split_is_refused_with_those_that_there_are(five: Path) -> None:
    with pytest.raises(DataFileError, match="no split 'test'; it has: train, valid"):
        WindowDataset(five, 4, split="test")
    with pytest.raises(ConfigurationError, match="either episodes or split"):
        WindowDataset(five, 4, split="train", episodes=[0])
    with h5py.File(five, "r+") as raw:
        del raw["mask"]
    with pytest.raises(DataFileError, match="it has: none"):
        WindowDataset(five, 4, split="train")


def test_a_copy_leaves_the_original_alone(five: Path, tmp_path: Path) -> None:
    before = five.read_bytes()
    split_masks(five, SHARES, output=tmp_path / "new" / "copy.hdf5")
    assert five.read_bytes() == before
    with DemonstrationFile(tmp_path / "new" / "copy.hdf5") as file:
        file.verify()
        assert list(file.splits) == ["train", "validation"]


def test_files_hold_the_demonstrations_of_their_split_and_say_where_they_came_from(five: Path) -> None:
    splits = split_indices(5, SHARES, 7)
    paths = split_files(five, SHARES, seed=7)
    assert {path.name for path in five.parent.iterdir()} == {"five.hdf5", "five-train.hdf5", "five-validation.hdf5"}
    with DemonstrationFile(five) as whole:
        for name, path in paths.items():
            with DemonstrationFile(path) as part:
                part.verify()
                for position, index in enumerate(splits[name]):
                    assert_same_episode(part.episode(position), whole.episode(index))
                assert part.header.collection["split_from"] == {
                    "file": "five.hdf5",
                    "checksum": whole.checksum,
                    "split": name,
                    "demonstrations": splits[name],
                }


def test_splitting_and_merging_gives_back_every_demonstration(five: Path, tmp_path: Path) -> None:
    splits = split_indices(5, SHARES)
    merged = merge_demonstrations(list(split_files(five, SHARES).values()), tmp_path / "merged.hdf5")
    assert (merged.demonstrations, merged.dropped) == (5, 0)
    order = [index for indices in splits.values() for index in indices]
    with DemonstrationFile(five) as one, DemonstrationFile(merged.path) as two:
        two.verify()
        for position, index in enumerate(order):
            assert_same_episode(two.episode(position), one.episode(index))
        assert [each["demonstrations"] for each in two.header.collection["merged"]] == [3, 2]
        assert two.header.collection["episodes"] == 5
        assert two.header.collection["seed"] == one.header.collection["seed"]
        assert two.header.versions == one.header.versions


def test_demonstrations_stay_in_their_splits_when_merged(
    five: Path, make_file: Callable[..., Path], tmp_path: Path
) -> None:
    splits = split_masks(five, SHARES)
    other = make_file((2, 3), cameras=CAMERAS, first=40, path=tmp_path / "other.hdf5")
    with DemonstrationFile(merge_demonstrations([five, other], tmp_path / "merged.hdf5").path) as file:
        assert file.splits["train"].tolist() == [*splits["train"], 5, 6]
        assert file.splits["validation"].tolist() == splits["validation"]
        assert file.splits["valid"].tolist() == []


def test_duplicates_are_refused_or_dropped(five: Path, make_file: Callable[..., Path], tmp_path: Path) -> None:
    other = make_file(
        (3, 4, 7), cameras=CAMERAS, first=2, path=tmp_path / "other.hdf5"
    )  # its first two are five's third and fourth
    with pytest.raises(DataFileError, match=r"demo_0 of .*other.hdf5 is the same as demo_2 of .*five.hdf5"):
        merge_demonstrations([five, other], tmp_path / "merged.hdf5")
    assert not (tmp_path / "merged.hdf5").exists()
    merged = merge_demonstrations([five, other], tmp_path / "merged.hdf5", drop_duplicates=True)
    assert (merged.demonstrations, merged.dropped) == (6, 2)
    with DemonstrationFile(merged.path) as file, DemonstrationFile(other) as second:
        assert_same_episode(file.episode(5), second.episode(2))
        assert file.splits["train"].tolist() == list(range(6))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"task": "push"}, "task"),
        ({"instruction": "shut it"}, "instruction"),
        (
            {"environment": {"backend": "meta_world", "arguments": {"task": "push-v3"}, "horizon": 200}},
            "environment.arg",
        ),
        ({"rendering": {"backend": "auto", "shadows": True}}, "rendering.shadows"),
    ],
)
def test_files_that_differ_are_refused_with_the_field(
    five: Path,
    make_episode: Callable[..., Episode],
    make_header: Callable[..., Header],
    tmp_path: Path,
    change: dict[str, object],
    field: str,
) -> None:
    other = tmp_path / "other.hdf5"
    header = replace(make_header(cameras=CAMERAS), **change)  # type: ignore[arg-type]
    write_demonstrations(other, header, [make_episode(40, 4, cameras=CAMERAS)])
    with pytest.raises(DataFileError, match=f"^{field}.* is .* in .*five.hdf5, but .* in .*other.hdf5"):
        merge_demonstrations([five, other], tmp_path / "merged.hdf5")
    assert not (tmp_path / "merged.hdf5").exists()


def test_other_cameras_point_to_rerendering(five: Path, make_file: Callable[..., Path], tmp_path: Path) -> None:
    other = make_file((3,), cameras=CAMERAS, first=40, size=96, path=tmp_path / "other.hdf5")
    with pytest.raises(DataFileError, match=r"observation.image_size is 64 .* 96 .*rerender"):
        merge_demonstrations([five, other], tmp_path / "merged.hdf5")
    with pytest.raises(ConfigurationError, match="at least two"):
        merge_demonstrations([five], tmp_path / "merged.hdf5")


def test_versions_that_differ_are_named_side_by_side(
    five: Path, make_episode: Callable[..., Episode], make_header: Callable[..., Header], tmp_path: Path
) -> None:
    header = replace(make_header(cameras=CAMERAS), versions={"numpy": np.__version__, "mujoco": "9.9"})
    write_demonstrations(tmp_path / "other.hdf5", header, [make_episode(40, 4, cameras=CAMERAS)])
    header = replace(header, versions={"numpy": "0.1"})
    write_demonstrations(tmp_path / "third.hdf5", header, [make_episode(41, 4, cameras=CAMERAS)])
    paths = [five, tmp_path / "other.hdf5", tmp_path / "third.hdf5"]
    with DemonstrationFile(merge_demonstrations(paths, tmp_path / "merged.hdf5").path) as file:
        assert file.header.versions == {"numpy": f"{np.__version__} and 0.1", "mujoco": "9.9"}


@pytest.mark.parametrize("tool", ["masks", "files", "merge"])
def test_damage_is_never_given_a_new_checksum(
    five: Path, make_file: Callable[..., Path], tmp_path: Path, tool: str
) -> None:
    other = make_file((2, 3), cameras=CAMERAS, first=40, path=tmp_path / "other.hdf5")
    with h5py.File(five, "r+") as raw:
        raw["data/demo_1/states"][0, 0] += 1.0
    before = sorted(path.name for path in tmp_path.iterdir())
    calls: dict[str, Callable[[], object]] = {
        "masks": lambda: split_masks(five, SHARES),
        "files": lambda: split_files(five, SHARES),
        "merge": lambda: merge_demonstrations([other, five], tmp_path / "merged.hdf5"),
    }
    with pytest.raises(DataFileError, match="changed after it was written"):
        calls[tool]()
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_mask_that_names_nothing_is_refused(five: Path) -> None:
    def masked(names: Sequence[str]) -> Path:
        copy = Path(shutil.copy(five, five.with_name("copy.hdf5")))
        with h5py.File(copy, "r+") as raw:
            del raw["mask/train"]
            raw["mask/train"] = np.array(names, dtype="S")
        return copy

    for names, fault in ((["demo_9"], "demo_9, which is not there"), (["demo_1", "demo_1"], "twice")):
        with pytest.raises(DataFileError, match=fault):
            WindowDataset(masked(names), 4, split="train")
