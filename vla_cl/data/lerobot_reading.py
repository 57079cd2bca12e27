"""Reading LeRobot data sets, version 3.0, task by task."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_cl.data import lerobot_layout as layout
from vla_cl.data.embedded import ATTRIBUTE, from_elsewhere, header_of
from vla_cl.data.hdf5 import default_splits
from vla_cl.data.lerobot_video import read_frames
from vla_cl.data.schema import AGENT_POS, ENVIRONMENT_STATE, UNKNOWN_SEED, Episode, Header, image_key
from vla_cl.errors import DataFileError

ROUNDING = 1e-6
NOTE = "simulator states and executed actions are not in it; after the last action stands what was seen before it"
VIDEO_NOTE = "; images went through a lossy video"


def is_lerobot(path: Path) -> bool:
    """Whether a path is the folder of a LeRobot data set, of whatever version."""
    return (Path(path) / layout.INFO).is_file()


class LeRobotDataset:
    """A LeRobot data set in a folder.

    At most one data file (100 MB as LeRobot writes them) and one episode's frames are in memory.

    Args:
        root: The folder that holds `meta`.

    Attributes:
        fps: Steps a second.
        features: `info.json`'s description of the features.

    Raises:
        DataFileError: It is not one, it is of another version, or a part is missing or damaged.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        try:
            self.info: dict[str, Any] = json.loads((self.root / layout.INFO).read_text(encoding="utf-8"))
            self.fps = float(self.info["fps"])
            self.features: dict[str, Any] = dict(self.info["features"])
            version = str(self.info["codebase_version"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataFileError(f"{self.root / layout.INFO} cannot be read ({error}); fetch it again") from error
        if not version.startswith("v3."):
            raise DataFileError(
                f"{self.root} is a LeRobot data set of version {version}, this reads {layout.VERSION}; "
                "convert it with LeRobot's own converter first"
            )
        for name in (layout.ACTION, layout.STATE):
            if name not in self.features:
                raise DataFileError(f"{self.root} has no feature {name!r}; it has: {', '.join(self.features)}")
        self.episodes = sorted(self._table("meta/episodes"), key=lambda row: int(row["episode_index"]))
        self._data: tuple[Path, Any] | None = None

    @cached_property
    def cameras(self) -> dict[str, str]:
        """Our name of each camera, and its feature."""
        images = [name for name, feature in self.features.items() if feature["dtype"] in ("image", "video")]
        return {name.removeprefix(layout.IMAGES).rsplit(".", 1)[-1]: name for name in images}

    def tasks(self) -> list[LeRobotTask]:
        """Its episodes, by the task that they do.

        Raises:
            DataFileError: An episode has no task, or several.
        """
        ours = self._ours()
        if ours is not None:
            return [
                LeRobotTask(self, _numbers(ours["episodes"], source), described, ours["episodes"])
                for source, described in enumerate(ours[ATTRIBUTE])
            ]
        grouped: dict[str, list[int]] = {}
        for number, row in enumerate(self.episodes):
            if len(row["tasks"]) != 1:
                raise DataFileError(f"{self.root}: episode {number} has {len(row['tasks'])} tasks, one is needed")
            grouped.setdefault(row["tasks"][0], []).append(number)
        return [LeRobotTask(self, numbers, instruction=text) for text, numbers in grouped.items()]

    def rows(self, number: int) -> dict[str, NDArray[Any]]:
        """The columns of an episode, images decoded: one row a step."""
        row = self.episodes[number]
        table = self._data_file(int(row["data/chunk_index"]), int(row["data/file_index"]))
        chosen = np.flatnonzero(table["episode_index"].to_numpy() == int(row["episode_index"]))
        if len(chosen) != int(row["length"]):
            raise DataFileError(
                f"{self.root}: episode {number} has {len(chosen)} steps, not {row['length']}; fetch it again"
            )
        part = table.slice(int(chosen[0]), len(chosen))
        columns: dict[str, NDArray[Any]] = {}
        for name, feature in self.features.items():
            if feature["dtype"] == "video":
                columns[name] = self._frames(name, row, len(chosen))
            elif feature["dtype"] == "image":
                columns[name] = np.stack([_decoded(each["bytes"]) for each in part[name].to_pylist()])
            elif name in part.column_names and feature["dtype"] != "string":
                columns[name] = np.array(part[name].to_pylist())
        return columns

    def _frames(self, name: str, row: Mapping[str, Any], count: int) -> NDArray[np.uint8]:
        place = {part: int(row[f"videos/{name}/{part}"]) for part in ("chunk_index", "file_index")}
        path = self._inside(str(self.info["video_path"]).format(video_key=name, **place))
        return read_frames(path, float(row[f"videos/{name}/from_timestamp"]), count, self.fps)

    def _data_file(self, chunk: int, file: int) -> Any:
        from pyarrow import ArrowException, parquet

        path = self._inside(str(self.info["data_path"]).format(chunk_index=chunk, file_index=file))
        if self._data is None or self._data[0] != path:
            try:
                self._data = (path, parquet.read_table(path).combine_chunks())
            except (OSError, ArrowException) as error:
                raise DataFileError(f"{path} cannot be read ({str(error).splitlines()[0]}); fetch it again") from error
        return self._data[1]

    def _inside(self, name: str) -> Path:
        """A file of the data set; names that lead out of it are never followed."""
        if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
            raise DataFileError(f"{self.root / layout.INFO} names the file {name!r}, which is not inside the data set")
        return self.root / name

    def _table(self, folder: str) -> list[dict[str, Any]]:
        """The rows of all tables below a folder, without statistics."""
        from pyarrow import ArrowException, parquet

        rows: list[dict[str, Any]] = []
        paths = sorted((self.root / folder).glob("*/*.parquet"))
        if not paths:
            raise DataFileError(f"{self.root / folder} holds no table; fetch it again")
        for path in paths:
            try:
                names = [name for name in parquet.read_schema(path).names if not name.startswith("stats/")]
                rows += parquet.read_table(path, columns=names).to_pylist()
            except (OSError, ArrowException) as error:
                raise DataFileError(f"{path} cannot be read ({str(error).splitlines()[0]}); fetch it again") from error
        return rows

    def _ours(self) -> dict[str, Any] | None:
        """What our export noted, unless episodes were added or removed since."""
        path = self.root / layout.OURS
        if not path.is_file():
            return None
        ours: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return ours if len(ours["episodes"]) == len(self.episodes) else None


class LeRobotTask:
    """The episodes of one task of a data set; see `Recordings`."""

    def __init__(
        self,
        dataset: LeRobotDataset,
        numbers: Sequence[int],
        described: Mapping[str, Any] | None = None,
        episodes: Sequence[Mapping[str, int]] = (),
        *,
        instruction: str = "",
    ) -> None:
        self.dataset, self.numbers, self._episodes = dataset, tuple(numbers), episodes
        self.header = self._described(described) if described else self._guessed(instruction)
        splits = described["splits"] if described else default_splits(len(numbers))
        self.splits = {name: np.array(indices, np.int64) for name, indices in splits.items()}

    def __len__(self) -> int:
        return len(self.numbers)

    def episode(self, index: int) -> Episode:
        """One demonstration in memory.

        Raises:
            DataFileError: A part of it is missing or damaged, or an action is outside of [-1, 1].
        """
        number = self.numbers[index]
        columns = self.dataset.rows(number)
        actions = _vectors(columns[layout.ACTION])
        if not (np.isfinite(actions).all() and np.abs(actions).max() <= 1.0 + ROUNDING):
            raise DataFileError(
                f"{self.dataset.root}: actions of episode {number} leave [-1, 1]; scale them to the controller's range"
            )
        seen: dict[str, NDArray[Any]] = {AGENT_POS: _vectors(columns[layout.STATE])}
        if layout.PRIVILEGED in columns:
            seen[ENVIRONMENT_STATE] = _vectors(columns[layout.PRIVILEGED])
        for camera, feature in self.dataset.cameras.items():
            seen[image_key(camera)] = self._square(columns[feature], feature)
        about = self._episodes[number] if self._episodes else {"seed": UNKNOWN_SEED, "attempt": number}
        rewards = columns.get(layout.REWARD, np.zeros(len(actions)))
        return Episode(
            seed=int(about["seed"]),
            attempt=int(about["attempt"]),
            actions=actions.clip(-1.0, 1.0),
            executed_actions=actions.clip(-1.0, 1.0),
            states=np.zeros((len(actions), 0)),
            rewards=np.asarray(rewards, np.float32).reshape(-1),
            observations={key: np.concatenate([values, values[-1:]]) for key, values in seen.items()},
        )

    def _square(self, images: NDArray[np.uint8], feature: str) -> NDArray[np.uint8]:
        if images.shape[1] != images.shape[2] or images.shape[1] != self.header.observation["image_size"]:
            height, width = images.shape[1:3]
            raise DataFileError(
                f"{self.dataset.root}: {feature} is {height} x {width} px; images must be square and of one size"
            )
        return images

    def _observation(self) -> dict[str, Any]:
        cameras = self.dataset.cameras
        shapes = [self.dataset.features[feature]["shape"] for feature in cameras.values()]
        seen: dict[str, Any] = {"cameras": list(cameras), "privileged": layout.PRIVILEGED in self.dataset.features}
        return seen | ({"image_size": int(sorted(shapes[0])[1])} if shapes else {})  # (H, W, 3) or (3, H, W)

    @property
    def _note(self) -> str:
        video = any(feature["dtype"] == "video" for feature in self.dataset.features.values())
        return NOTE + (VIDEO_NOTE if video else "")

    def _described(self, described: Mapping[str, Any]) -> Header:
        header = header_of(described["header"], self._observation())
        return from_elsewhere(header, header.observation, self.dataset.root.name, "lerobot", self._note)

    def _guessed(self, instruction: str) -> Header:
        name = re.sub(r"[^A-Za-z0-9]+", "_", instruction).strip("_").lower() or "task"
        longest = max(int(self.dataset.episodes[number]["length"]) for number in self.numbers)
        header = Header(
            task=name,
            instruction=instruction,
            expert="",
            env_name=str(self.dataset.info.get("robot_type") or ""),
            environment={"backend": "lerobot", "arguments": {}, "horizon": longest},
            observation={},
            rendering={},
        )
        return from_elsewhere(header, self._observation(), self.dataset.root.name, "lerobot", self._note)


def _numbers(episodes: Sequence[Mapping[str, int]], source: int) -> list[int]:
    return [number for number, episode in enumerate(episodes) if episode["source"] == source]


def _vectors(values: NDArray[Any]) -> NDArray[np.float32]:
    return np.asarray(values, np.float32).reshape(len(values), -1)


def _decoded(content: bytes) -> NDArray[np.uint8]:
    from PIL import Image

    return np.array(Image.open(io.BytesIO(content)).convert("RGB"))
