"""Films that play in browsers, whole or absent."""

from __future__ import annotations

from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

from vla_cl.errors import ConfigurationError, VlaClError
from vla_cl.evaluation import write_video


def moving_square(height: int, width: int, frames: int = 12) -> list[np.ndarray]:
    images = [np.full((height, width, 3), 200, np.uint8) for _ in range(frames)]
    for index, image in enumerate(images):
        image[10:30, 3 * index : 3 * index + 20] = (20, 60, 180)
    return images


@pytest.mark.parametrize(("height", "width"), [(64, 64), (65, 71), (96, 128)])
def test_a_film_is_h264_in_the_pixel_format_that_browsers_play(tmp_path: Path, height: int, width: int) -> None:
    frames = moving_square(height, width)
    write_video(tmp_path / "new" / "film.mp4", frames, 20)
    meta = iio.immeta(tmp_path / "new" / "film.mp4", plugin="FFMPEG")
    assert meta["codec"] == "h264"
    assert meta["pix_fmt"].startswith("yuv420p")
    assert meta["fps"] == 20
    assert meta["duration"] == pytest.approx(12 / 20, abs=0.06)
    shown = iio.imread(tmp_path / "new" / "film.mp4", plugin="FFMPEG")
    assert shown.shape == (12, height + height % 2, width + width % 2, 3)
    difference = np.abs(shown[:, :height, :width].astype(float) - np.stack(frames))
    assert difference.mean() < 10


def test_a_film_starts_with_its_index_so_that_it_plays_while_loading(tmp_path: Path) -> None:
    write_video(tmp_path / "film.mp4", moving_square(64, 64), 20)
    content = (tmp_path / "film.mp4").read_bytes()
    assert 0 < content.index(b"moov") < content.index(b"mdat")
    assert len(content) < 20_000


def test_a_film_that_cannot_be_made_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_bytes(b"old")
    ragged = [*moving_square(64, 64), np.zeros((32, 64, 3), np.uint8)]
    for frames in ([], ragged, [np.zeros((64, 64, 3), np.float32)]):
        with pytest.raises(ConfigurationError):
            write_video(tmp_path / "film.mp4", frames, 20)
    assert [path.name for path in tmp_path.iterdir()] == ["film.mp4"]
    assert (tmp_path / "film.mp4").read_bytes() == b"old"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is always full")
def test_a_full_disk_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from contextlib import contextmanager

    from vla_cl.evaluation import video

    @contextmanager
    def full(path: Path):  # type: ignore[no-untyped-def]
        yield Path("/dev/full")

    monkeypatch.setattr(video, "atomic_path", full)
    with pytest.raises(VlaClError, match="cannot write the video"):
        write_video(tmp_path / "film.mp4", moving_square(64, 64), 20)
