"""Writing demonstrations as a LeRobot data set, version 3.0: many tasks in one folder."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_cl.data import lerobot_layout as layout
from vla_cl.data.embedded import ATTRIBUTE, header_fields
from vla_cl.data.export import last_only
from vla_cl.data.folder import atomic_folder
from vla_cl.data.lerobot_statistics import FeatureStatistics, as_lists, episode_statistics, together
from vla_cl.data.lerobot_video import VideoWriter
from vla_cl.data.recordings import Recordings
from vla_cl.data.schema import IMAGE_SUFFIX, Episode, image_key
from vla_cl.errors import ConfigurationError, DataFileError
from vla_cl.files import write_json
from vla_cl.progress import counted, progress_bar

_MEGABYTE = 2**20


def write_lerobot(folder: Path, sources: Sequence[Recordings], *, png: bool = False) -> None:
    """Write a LeRobot data set of all episodes of all sources; the folder appears when it is whole.

    One row is one step: what was seen, and the action that followed. What was seen after the last action has no row,
    simulator states have no column, and executed actions under noise neither.

    Args:
        folder: Where it goes; what is there is replaced.
        sources: At least one; all with the same cameras, sizes and frame rate.
        png: Keep images exactly, as PNG inside the tables, instead of as lossy video.

    Raises:
        DataFileError: The sources do not fit each other.
        ConfigurationError: A video cannot have images of this size.
        VlaClError: The disk is full or the folder cannot be written; nothing is left behind.
    """
    fps = _common("frame rate", [layout.frame_rate(str(each.header.environment["backend"])) for each in sources])
    cameras = _common("cameras", [tuple(each.header.observation["cameras"]) for each in sources])
    size = _common("image size", [int(each.header.observation["image_size"]) if cameras else 0 for each in sources])
    if cameras and not png and size % 2:
        raise ConfigurationError(f"videos need an even image size, this is {size}; keep the images with --images")
    with atomic_folder(folder) as temporary:
        writer = _Writer(temporary, sources, cameras, size, fps, video=not png)
        try:
            total = sum(map(len, sources))
            with progress_bar(f"writing {folder.name}", total) as advance:
                pairs = [(source, index) for source in range(len(sources)) for index in range(len(sources[source]))]
                for source, index in counted(pairs, advance):
                    writer.add(source, sources[source].episode(index))
        finally:
            writer.close_files()
        writer.describe()


def _common(what: str, values: Sequence[Any]) -> Any:
    if len(set(values)) > 1:
        raise DataFileError(
            f"the sources differ in {what} ({', '.join(map(str, dict.fromkeys(values)))}); convert them apart"
        )
    return values[0]


class _Writer:
    """The files of a data set that is being written."""

    def __init__(
        self, root: Path, sources: Sequence[Recordings], cameras: Sequence[str], size: int, fps: int, video: bool
    ) -> None:
        self.root, self.sources, self.cameras, self.size, self.fps, self.video = (
            root,
            sources,
            cameras,
            size,
            fps,
            video,
        )
        self.instructions = list(dict.fromkeys(source.header.instruction for source in sources))
        self.features: dict[str, Any] = {}
        self.rows: list[dict[str, Any]] = []
        self.ours: list[dict[str, int]] = []
        self.statistics: list[dict[str, FeatureStatistics]] = []
        self.frames = 0
        self._data: Any = None
        self._data_place = (0, -1)
        self._videos: dict[str, VideoWriter] = {}
        self._video_places: dict[str, tuple[int, int]] = {}

    def add(self, source: int, episode: Episode) -> None:
        """Write one episode."""
        columns = self._columns(source, episode)
        images = {layout.IMAGES + camera: episode.observations[image_key(camera)][:-1] for camera in self.cameras}
        found = episode_statistics({**columns, **images})
        length, number = len(episode), len(self.rows)
        row: dict[str, Any] = {
            "episode_index": number,
            "tasks": [self.sources[source].header.instruction],
            "length": length,
            "dataset_from_index": self.frames,
            "dataset_to_index": self.frames + length,
            "meta/episodes/chunk_index": 0,
            "meta/episodes/file_index": 0,
        }
        row["data/chunk_index"], row["data/file_index"] = self._write_rows(columns, {} if self.video else images)
        for key, frames in images.items() if self.video else ():
            row |= self._write_video(key, frames)
        for feature, values in found.items():
            row |= {f"stats/{feature}/{name}": each for name, each in as_lists(values).items()}
        self.rows.append(row)
        self.ours.append({"source": source, "seed": episode.seed, "attempt": episode.attempt})
        self.statistics.append(found)
        self.frames += length

    def _columns(self, source: int, episode: Episode) -> dict[str, NDArray[Any]]:
        """Everything but images, one row a step."""
        length, steps = len(episode), np.arange(len(episode))
        vectors = {key: values[:-1] for key, values in episode.observations.items() if not key.endswith(IMAGE_SUFFIX)}
        dimensions = {key: values.shape[1] for key, values in vectors.items()}
        described = layout.features(episode.actions.shape[1], dimensions, self.cameras, self.size, self.fps, self.video)
        if self.features and described != self.features:
            raise DataFileError(f"{self.sources[source].header.task} has vectors of other sizes; convert it apart")
        self.features = described
        return {
            layout.ACTION: episode.actions,
            **{layout.VECTORS[key]: values for key, values in vectors.items()},
            layout.REWARD: episode.rewards,
            layout.DONE: last_only(length).astype(bool),
            "timestamp": (steps / self.fps).astype(np.float32),
            "frame_index": steps,
            "episode_index": np.full(length, len(self.rows)),
            "index": self.frames + steps,
            "task_index": np.full(length, self.instructions.index(self.sources[source].header.instruction)),
        }

    def _write_rows(self, columns: dict[str, NDArray[Any]], images: dict[str, NDArray[np.uint8]]) -> tuple[int, int]:
        """One group of rows in the present data file, or in the next one when that is full."""
        import pyarrow
        from pyarrow import parquet

        schema = layout.data_schema(self.features)
        path = self.root / layout.DATA.format(chunk_index=self._data_place[0], file_index=self._data_place[1])
        if self._data is None or path.stat().st_size >= layout.DATA_MEGABYTES * _MEGABYTE:
            if self._data is not None:
                self._data.close()
            self._data_place = layout.next_file(*self._data_place)
            path = self.root / layout.DATA.format(chunk_index=self._data_place[0], file_index=self._data_place[1])
            path.parent.mkdir(parents=True, exist_ok=True)
            self._data = parquet.ParquetWriter(path, schema, compression="snappy")
        arrays = []
        for field in schema:
            if field.name in images:
                pictures = [{"bytes": png_bytes(image), "path": None} for image in images[field.name]]
                arrays.append(pyarrow.array(pictures, field.type))
                continue
            flat = pyarrow.array(columns[field.name].reshape(-1))
            vector = pyarrow.types.is_fixed_size_list(field.type)
            arrays.append(pyarrow.FixedSizeListArray.from_arrays(flat, type=field.type) if vector else flat)
        self._data.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))
        return self._data_place

    def _write_video(self, key: str, frames: NDArray[np.uint8]) -> dict[str, Any]:
        """Append frames to the present video of a camera, or begin the next one when that is full."""
        video = self._videos.get(key)
        if video is None or video.bytes >= layout.VIDEO_MEGABYTES * _MEGABYTE:
            if video is not None:
                video.close()
            place = layout.next_file(*self._video_places.get(key, (0, -1)))
            path = self.root / layout.VIDEOS.format(video_key=key, chunk_index=place[0], file_index=place[1])
            video = self._videos[key] = VideoWriter(path, self.size, self.fps)
            self._video_places[key] = place
        start = video.frames
        video.add(frames)
        return {
            f"videos/{key}/chunk_index": self._video_places[key][0],
            f"videos/{key}/file_index": self._video_places[key][1],
            f"videos/{key}/from_timestamp": start / self.fps,
            f"videos/{key}/to_timestamp": video.frames / self.fps,
        }

    def close_files(self) -> None:
        """Finish tables and videos."""
        for thing in (self._data, *self._videos.values()):
            if thing is not None:
                thing.close()

    def describe(self) -> None:
        """Write everything under `meta`."""
        import pyarrow
        from pyarrow import parquet

        for name, table in (
            (layout.EPISODES.format(chunk_index=0, file_index=0), pyarrow.Table.from_pylist(self.rows)),
            (layout.TASKS, layout.tasks_table(self.instructions)),
        ):
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            parquet.write_table(table, self.root / name)
        merged = {name: together([each[name] for each in self.statistics]) for name in self.statistics[0]}
        write_json(self.root / layout.STATISTICS, {name: as_lists(values) for name, values in merged.items()})
        counts = (len(self.rows), self.frames, len(self.instructions))
        write_json(self.root / layout.INFO, layout.information(self.features, *counts, self.fps))
        described = [
            {
                "header": header_fields(source.header),
                "splits": {name: indices.tolist() for name, indices in source.splits.items()},
            }
            for source in self.sources
        ]
        write_json(self.root / layout.OURS, {ATTRIBUTE: described, "episodes": self.ours})


def png_bytes(image: NDArray[np.uint8]) -> bytes:
    """An image (H, W, 3) as PNG."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()
