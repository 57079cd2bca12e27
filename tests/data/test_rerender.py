"""Stored states drawn again."""

from __future__ import annotations

import shutil
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import h5py
import numpy as np
import pytest

from vla_cl.data import DemonstrationFile, WindowDataset, rerender, split_masks, write_demonstrations
from vla_cl.envs import ObservationOptions, RenderingOptions
from vla_cl.errors import DataFileError, UnknownNameError


@pytest.mark.parametrize("processes", [1, 2])
def test_drawing_again_as_before_changes_nothing_in_any_number_of_processes(
    collected: Path, tmp_path: Path, processes: int
) -> None:
    as_before = ObservationOptions(cameras=("gripperPOV",), privileged=True)
    again = rerender(collected, tmp_path / "again.hdf5", as_before, processes=processes)
    with DemonstrationFile(collected) as one, DemonstrationFile(again) as two:
        assert one.checksum == two.checksum


def test_another_camera_and_size_are_drawn_of_the_same_episodes(collected: Path, tmp_path: Path) -> None:
    wide = ObservationOptions(cameras=("corner2",), image_size=96)
    path = rerender(collected, tmp_path / "wide.hdf5", wide, RenderingOptions(multisampling=2))
    with DemonstrationFile(collected) as before, DemonstrationFile(path) as after:
        assert (after.cameras, after.image_size, after.environment_state_dim) == (("corner2",), 96, 0)
        assert after.metadata["rendering"]["multisampling"] == 2
        assert after.metadata["collection"] == before.metadata["collection"]
        for index in range(len(before)):
            old, new = before.episode(index), after.episode(index)
            assert (new.seed, new.attempt) == (old.seed, old.attempt)
            for name in ("actions", "executed_actions", "states", "rewards"):
                np.testing.assert_array_equal(getattr(new, name), getattr(old, name))
            np.testing.assert_array_equal(new.observations["agent_pos"], old.observations["agent_pos"])
    images = WindowDataset(path, 1).batch([0, 40]).observation.pixels["corner2"].float()
    assert images.shape == (2, 96, 96, 3)
    assert images.std() > 10
    assert (images[0] != images[1]).any()


def test_an_unknown_camera_leaves_nothing_behind(collected: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="camera"):
        rerender(collected, tmp_path / "d.hdf5", ObservationOptions(cameras=("nowhere",)))
    with pytest.raises(DataFileError, match="does not exist"):
        rerender(tmp_path / "absent.hdf5", tmp_path / "d.hdf5", ObservationOptions(cameras=()))
    assert list(tmp_path.iterdir()) == []


def test_without_cameras_only_the_pixels_go_and_splits_stay(collected: Path, tmp_path: Path) -> None:
    source = tmp_path / "split.hdf5"
    splits = split_masks(collected, {"one": 0.5, "two": 0.5}, output=source)
    path = rerender(source, tmp_path / "blind.hdf5", ObservationOptions(cameras=(), privileged=True), processes=1)
    assert path.stat().st_size < source.stat().st_size / 2
    with DemonstrationFile(source) as before, DemonstrationFile(path) as after:
        assert after.observation_keys == ("agent_pos", "environment_state")
        assert {name: indices.tolist() for name, indices in after.splits.items()} == splits
        old, new = before.episode(1, keys=after.observation_keys), after.episode(1)
        for key in after.observation_keys:
            np.testing.assert_array_equal(new.observations[key], old.observations[key])
        assert after.header.versions == before.header.versions
        assert "drawn_with" not in after.header.collection


def test_drawing_with_other_packages_keeps_the_versions_of_the_collection(collected: Path, tmp_path: Path) -> None:
    old = tmp_path / "old.hdf5"
    with DemonstrationFile(collected) as file:
        versions = {**file.header.versions, "mujoco": "2.1"}
        write_demonstrations(old, replace(file.header, versions=versions), [file.episode(0)])
    with DemonstrationFile(rerender(old, old, ObservationOptions(cameras=()), processes=1)) as file:
        assert file.header.versions["mujoco"] == "2.1"
        assert file.header.collection["drawn_with"]["mujoco"] == version("mujoco")


def test_damage_is_not_drawn_into_a_new_file(collected: Path, tmp_path: Path) -> None:
    damaged = Path(shutil.copy(collected, tmp_path / "damaged.hdf5"))
    with h5py.File(damaged, "r+") as raw:
        raw["data/demo_0/states"][3, 3] += 1e-9
    with pytest.raises(DataFileError, match="changed after it was written"):
        rerender(damaged, tmp_path / "new.hdf5", ObservationOptions(cameras=()))
    assert list(tmp_path.iterdir()) == [damaged]
