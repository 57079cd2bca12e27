"""Images as frames of H.264 videos. That loses details: what comes back is near to what went in, not equal."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_cl.errors import DataFileError

CODEC = "libx264"
OPTIONS = {"crf": "18", "g": "2", "bf": "0"}
"""Nearly as good as the source; every second frame stands by itself, so that any is found quickly."""


class VideoWriter:
    """One video of one camera, frame by frame; use `close` at the end.

    Args:
        path: Where it goes.
        size: Height and width in pixels, even.
        fps: Frames a second.
    """

    def __init__(self, path: Path, size: int, fps: int) -> None:
        import av

        self.path, self.frames = path, 0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._container = av.open(str(path), "w")
        stream: Any = self._container.add_stream(CODEC, rate=fps, options=OPTIONS)
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, fps)
        stream.codec_context.thread_count = 1  # threads would change the bytes from machine to machine
        self._stream = stream

    def add(self, images: NDArray[np.uint8]) -> None:
        """Append frames (T, H, W, 3)."""
        import av

        for image in images:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts = self.frames
            self._container.mux(self._stream.encode(frame))
            self.frames += 1

    @property
    def bytes(self) -> int:
        """What is in the file so far; the first frames wait in the encoder."""
        return self.path.stat().st_size if self.path.exists() else 0

    def close(self) -> None:
        """Write what is left."""
        if self.frames:
            self._container.mux(self._stream.encode())
        self._container.close()


def read_frames(path: Path, start: float, count: int, fps: float) -> NDArray[np.uint8]:
    """The `count` frames (count, H, W, 3) of a video from `start` seconds on.

    Raises:
        DataFileError: The video is missing, damaged or too short.
    """
    import av

    frames: list[NDArray[np.uint8]] = []
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            base = float(stream.time_base or 0)
            container.seek(max(0, int((start - 1.0 / fps) / base)), stream=stream)
            for frame in container.decode(stream):
                if frame.pts is not None and frame.pts * base >= start - 0.5 / fps:
                    frames.append(np.asarray(frame.to_ndarray(format="rgb24"), np.uint8))
                if len(frames) == count:
                    return np.stack(frames)
    except (OSError, av.error.FFmpegError, IndexError) as error:
        raise DataFileError(f"{path} cannot be read as a video ({error}); fetch it again") from error
    raise DataFileError(f"{path} ends {count - len(frames)} frames too soon; fetch it again")
