"""Films of rollouts: small H.264 files that play in every browser."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vla_cl.errors import ConfigurationError, VlaClError
from vla_cl.files import atomic_path

CONTAINER = ("-movflags", "+faststart", "-f", "mp4")
"""The index comes first, so that a browser starts to play before it has the whole file."""


def write_video(path: Path, frames: Sequence[NDArray[np.uint8]], frames_per_second: float) -> None:
    """Write an mp4 file (H.264, 4:2:0), atomically.

    Args:
        path: Where; its folder is made. The previous file, if any, stays until the new one is whole.
        frames: Images (H, W, 3) uint8 of one size. An odd height or width is extended by a row or column, because
            4:2:0 halves both.
        frames_per_second: Speed of playing.

    Raises:
        ConfigurationError: There are no frames, or they differ in size.
        VlaClError: The encoder cannot write the file.
    """
    import imageio_ffmpeg

    if not frames:
        raise ConfigurationError(f"{path} would have no frames; record at least one")
    if any(frame.shape != frames[0].shape or frame.dtype != np.uint8 for frame in frames):
        raise ConfigurationError(f"the frames of {path} must be uint8 and of one size")
    height, width = frames[0].shape[:2]
    extension = ((0, height % 2), (0, width % 2), (0, 0))
    with atomic_path(path) as temporary:
        writer = imageio_ffmpeg.write_frames(
            str(temporary),
            size=(width + width % 2, height + height % 2),
            fps=frames_per_second,
            codec="libx264",
            pix_fmt_in="rgb24",
            pix_fmt_out="yuv420p",
            quality=None,
            macro_block_size=2,
            ffmpeg_log_level="error",
            output_params=["-crf", "23", "-preset", "veryfast", "-threads", "1", *CONTAINER],
        )
        try:
            writer.send(None)
            for frame in frames:
                writer.send(np.ascontiguousarray(np.pad(frame, extension, mode="edge")))
            writer.close()
        except OSError as error:
            reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
            raise VlaClError(f"cannot write the video {path}: {reason}") from error
        if not temporary.is_file() or temporary.stat().st_size == 0:
            raise VlaClError(f"cannot write the video {path}: the encoder wrote nothing; is the disk full?")
