"""What is said about a file, against numbers computed in another way."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from vla_cl.data import (
    DemonstrationFile,
    demonstration_files,
    demonstration_sheet,
    inspect_demonstrations,
)
from vla_cl.errors import DataFileError


def test_the_summary_agrees_with_the_file(file: Path) -> None:
    summary = inspect_demonstrations(file)
    with h5py.File(file) as raw:
        groups = [raw[f"data/demo_{index}"] for index in range(3)]
        actions = np.concatenate([group["actions"][()] for group in groups]).astype(float)
        pixels = sum(
            group[f"{place}/{key}_image"].id.get_storage_size()
            for group in groups
            for place in ("obs", "last_obs")
            for key in ("front", "hand")
        )
        states = sum(group["states"].id.get_storage_size() for group in groups)
    assert (summary.task, summary.instruction, summary.backend) == ("window-close", "close the window", "meta_world")
    assert (summary.demonstrations, summary.steps, summary.successes) == (3, 17, 3)
    assert (summary.steps_minimum, summary.steps_mean, summary.steps_maximum) == (3, 17 / 3, 9)
    assert (summary.seeds, summary.distinct_seeds, summary.action_noise) == ((1000, 1002), 3, 0.0)
    assert (summary.cameras, summary.image_size, summary.privileged) == (("front", "hand"), 64, True)
    assert summary.splits == {"train": 3, "valid": 0}
    assert summary.intact
    assert (summary.bytes_parts["pixels"], summary.bytes_parts["states"]) == (pixels, states)
    assert sum(summary.bytes_parts.values()) == summary.bytes_total == file.stat().st_size
    np.testing.assert_allclose(summary.actions.mean, actions.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(summary.actions.deviation, actions.std(axis=0), rtol=1e-12)
    np.testing.assert_array_equal(summary.actions.minimum, actions.min(axis=0))
    np.testing.assert_array_equal(summary.actions.maximum, actions.max(axis=0))
    assert summary.actions.saturation == [0.0] * 4


def test_saturation_counts_both_ends(file: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(file, tmp_path / "copy.hdf5"))
    with h5py.File(copy, "r+") as raw:
        raw["data/demo_0/actions"][:2, 1] = (1.0, -1.0)
        raw["data/demo_2/actions"][0, 3] = -1.0
    summary = inspect_demonstrations(copy)
    assert summary.actions.saturation == [0.0, 2 / 17, 0.0, 1 / 17]
    assert not summary.intact


def test_the_picture_shows_beginning_middle_and_end_of_each_camera(file: Path, tmp_path: Path) -> None:
    sheet = np.asarray(Image.open(demonstration_sheet([file], tmp_path / "sheet.png", demonstrations=1)))
    with DemonstrationFile(file) as stored:
        episode = stored.episode(0)
    margin, gap, size = 8, 2, 64
    for row, camera in ((1, "hand"), (2, "front")):
        top = sheet.shape[0] - margin - row * size - (row - 1) * gap
        for column, step in enumerate((0, 2, 5)):
            left = margin + column * (size + gap)
            image = sheet[top : top + size, left : left + size]
            np.testing.assert_array_equal(image, episode.observations[f"{camera}_image"][step])


def test_a_file_without_images_has_no_picture(make_file: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match="vla-cl data rerender"):
        demonstration_sheet([make_file((3,), cameras=())], tmp_path / "sheet.png")
    assert list(tmp_path.iterdir()) == []


def test_folders_stand_for_the_files_in_and_below_them(make_file: Callable[..., Path], tmp_path: Path) -> None:
    one = make_file((2,), cameras=(), path=tmp_path / "meta_world" / "a.hdf5")
    two = make_file((2,), cameras=(), path=tmp_path / "b.hdf5")
    (tmp_path / "notes.txt").write_text("")
    assert demonstration_files([tmp_path]) == sorted([one, two])
    assert demonstration_files([two, tmp_path]) == [two, one]
    with pytest.raises(DataFileError, match="does not exist"):
        demonstration_files([tmp_path / "absent"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataFileError, match=r"no demonstration file \(\*.hdf5\) in"):
        demonstration_files([tmp_path / "empty"])
