"""Files that are damaged, foreign, or reach out of themselves are refused in one line that says what to do."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from vla_cl.data import DemonstrationFile, Episode, Header, WindowDataset, write_demonstrations
from vla_cl.errors import DataFileError, VlaClError


@pytest.fixture
def copy(file: Path, tmp_path: Path) -> Path:
    """A copy of the file that a test may damage."""
    return Path(shutil.copy(file, tmp_path / "copy.hdf5"))


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """Another file, which must not be read."""
    path = tmp_path / "secret.hdf5"
    with h5py.File(path, "w") as file:
        file["actions"] = np.zeros((5, 4), np.float32)
        file["front_image"] = np.zeros((5, 64, 64, 3), np.uint8)
    return path


def refusal(path: Path) -> str:
    """The one line with which both readers refuse a file."""
    with pytest.raises(DataFileError) as by_file:
        DemonstrationFile(path)
    with pytest.raises(DataFileError) as by_windows:
        WindowDataset(path, 4)
    assert str(by_file.value) == str(by_windows.value)
    assert "\n" not in str(by_file.value)
    assert str(path) in str(by_file.value)
    return str(by_file.value)


@pytest.mark.parametrize("share", [0.999, 0.5, 0.1, 0.01])
def test_truncated_file_is_refused(copy: Path, share: float) -> None:
    os.truncate(copy, int(copy.stat().st_size * share))
    assert "truncated" in refusal(copy)


def test_absent_file_is_refused(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "nowhere.hdf5")


@pytest.mark.parametrize("content", [b"", b"not hdf5 at all", b"\x89HDF\r\n\x1a\n"])
def test_what_is_not_hdf5_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.hdf5"
    path.write_bytes(content)
    assert "collect again" in refusal(path)


def test_hdf5_of_others_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "foreign.hdf5"
    with h5py.File(path, "w") as file:
        file["data/demo_0/actions"] = np.zeros((3, 4))
    assert "was not written by vla_cl" in refusal(path)


def test_newer_schema_asks_for_an_upgrade(copy: Path) -> None:
    with h5py.File(copy, "r+") as file:
        file["data"].attrs["schema_version"] = 99
    assert "upgrade vla_cl" in refusal(copy)


@pytest.mark.parametrize(
    "name", ["data/demo_1", "data/demo_0/actions", "data/demo_2/obs/front_image", "data/demo_1/next_obs/agent_pos"]
)
def test_missing_part_is_named(copy: Path, name: str) -> None:
    with h5py.File(copy, "r+") as file:
        del file[name]
    assert name in refusal(copy)


@pytest.mark.parametrize("attribute", ["instruction", "observation", "checksum", "total"])
def test_missing_attribute_is_named(copy: Path, attribute: str) -> None:
    with h5py.File(copy, "r+") as file:
        del file["data"].attrs[attribute]
    assert attribute in refusal(copy)


@pytest.mark.parametrize("value", ["not json", "[]", '{"cameras": ["front"]}'])
def test_unreadable_attribute_is_refused(copy: Path, value: str) -> None:
    with h5py.File(copy, "r+") as file:
        file["data"].attrs["observation"] = value
    assert "collect again" in refusal(copy)


def test_wrong_shape_is_told_with_what_was_expected(copy: Path) -> None:
    with h5py.File(copy, "r+") as file:
        del file["data/demo_1/obs/hand_image"]
        file["data/demo_1/obs/hand_image"] = np.zeros((9, 32, 32, 3), np.uint8)
    assert "expected uint8(9, 64, 64, 3)" in refusal(copy)


@pytest.mark.parametrize("place", ["data/demo_0/actions", "data/demo_0/obs/front_image", "extra"])
def test_external_link_is_refused(copy: Path, secret: Path, place: str) -> None:
    with h5py.File(copy, "r+") as file:
        if place in file:
            del file[place]
        file[place] = h5py.ExternalLink(str(secret), "/" + place.split("/")[-1])
    assert "external link" in refusal(copy)


def test_soft_link_is_refused(copy: Path) -> None:
    with h5py.File(copy, "r+") as file:
        del file["data/demo_0/actions"]
        file["data/demo_0/actions"] = h5py.SoftLink("/data/demo_1/actions")
    assert "soft" in refusal(copy)


def test_raw_data_in_another_file_is_refused(copy: Path, tmp_path: Path) -> None:
    raw = tmp_path / "raw.bin"
    raw.write_bytes(bytes(5 * 64 * 64 * 3))
    with h5py.File(copy, "r+") as file:
        del file["data/demo_0/obs/front_image"]
        file.create_dataset(
            "data/demo_0/obs/front_image", (5, 64, 64, 3), np.uint8, external=[(str(raw), 0, h5py.h5f.UNLIMITED)]
        )
    assert "in another file" in refusal(copy)


def test_view_of_another_file_is_refused(copy: Path, secret: Path) -> None:
    layout = h5py.VirtualLayout((5, 64, 64, 3), np.uint8)
    layout[:] = h5py.VirtualSource(secret, "front_image", (5, 64, 64, 3))
    with h5py.File(copy, "r+") as file:
        del file["data/demo_0/obs/front_image"]
        file.create_virtual_dataset("data/demo_0/obs/front_image", layout)
    assert "view of another file" in refusal(copy)


@pytest.mark.parametrize("name", ["actions", "states", "obs/front_image", "last_obs/hand_image"])
def test_verification_notices_one_changed_number(copy: Path, name: str) -> None:
    with DemonstrationFile(copy) as file:
        file.verify()
    with h5py.File(copy, "r+") as file:
        dataset = file[f"data/demo_0/{name}"]
        first = dataset[0]
        first.flat[0] = first.flat[0] + 1
        dataset[0] = first
    with DemonstrationFile(copy) as file, pytest.raises(DataFileError, match="changed after it was written"):
        file.verify()


def test_verification_notices_a_changed_attribute(copy: Path) -> None:
    with h5py.File(copy, "r+") as file:
        file["data"].attrs["instruction"] = "open the window"
    with DemonstrationFile(copy) as file, pytest.raises(DataFileError, match="changed"):
        file.verify()


def test_a_file_cut_short_while_it_is_read_is_an_error(copy: Path) -> None:
    windows = WindowDataset(copy, 4)
    os.truncate(copy, 10_000)
    with pytest.raises(DataFileError, match="truncated"):
        windows.batch(range(len(windows)))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small disk is not allowed here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("length", [40, 80])
def test_full_disk_is_one_clear_line_and_leaves_nothing(
    small_disk: Path, make_episode: Callable[..., Episode], make_header: Callable[..., Header], length: int
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(VlaClError, match="no space left"):
        write_demonstrations(small_disk / "d.hdf5", make_header(), [make_episode(0, length), make_episode(1, length)])
    assert list(small_disk.iterdir()) == []
    assert len(os.listdir("/proc/self/fd")) == before
    write_demonstrations(small_disk / "d.hdf5", make_header(), [make_episode(0, 5)])
    DemonstrationFile(small_disk / "d.hdf5").close()


def test_a_failed_write_keeps_the_file_that_was_there(
    copy: Path, make_episode: Callable[..., Episode], make_header: Callable[..., Header]
) -> None:
    before = copy.read_bytes()

    def episodes() -> Iterator[Episode]:
        yield make_episode(0, 5)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_demonstrations(copy, make_header(), episodes())
    assert copy.read_bytes() == before
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]
