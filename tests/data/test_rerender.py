"""Stored states drawn again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vla_cl.data import DemonstrationFile, WindowDataset, rerender
from vla_cl.envs import ObservationOptions, RenderingOptions
from vla_cl.errors import DataFileError, UnknownNameError


def test_drawing_again_as_before_changes_nothing(collected: Path, tmp_path: Path) -> None:
    again = rerender(collected, tmp_path / "again.hdf5", ObservationOptions(cameras=("gripperPOV",), privileged=True))
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
