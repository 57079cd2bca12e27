"""Reading demonstration files, validated before anything is handed out."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from vla_cl.data.integrity import CHECKSUM, content_checksum, damage_reported, open_safely
from vla_cl.data.schema import (
    AGENT_POS,
    ENVIRONMENT_STATE,
    HEADER_TEXTS,
    HEADER_TREES,
    SCHEMA,
    SCHEMA_VERSION,
    Episode,
    Header,
    demonstration_name,
    image_key,
)
from vla_cl.envs import EnvironmentSpec, ObservationOptions, RenderingOptions
from vla_cl.errors import DataFileError


class DemonstrationFile:
    """A demonstration file, open for reading; use it as a context manager.

    Opening checks the structure (types and shapes of every dataset), not the values: `verify` does that.

    Attributes:
        path: Where it lies.
        header: What is said once about all demonstrations.
        checksum: SHA-256 of the content, as written.
        lengths: (n_episodes,) int64, transitions of each demonstration.
        seeds: (n_episodes,) int64, the initial-state seed of each.
        action_dim: A.
        agent_pos_dim: S.
        environment_state_dim: E, 0 without privileged state.
        state_dim: N.

    Raises:
        DataFileError: The file is absent, truncated, foreign, inconsistent, or points out of itself.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._file = open_safely(self.path)
        try:
            with damage_reported(self.path):
                self._read_header()
                self._check_structure()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> DemonstrationFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; attributes stay readable."""
        self._file.close()

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def task(self) -> str:
        """Name of the task."""
        return self.header.task

    @property
    def instruction(self) -> str:
        """What the robot is told."""
        return self.header.instruction

    @property
    def cameras(self) -> tuple[str, ...]:
        """The cameras whose images are stored."""
        return tuple(self.header.observation["cameras"])

    @property
    def observation_keys(self) -> tuple[str, ...]:
        """The keys of what was seen: "agent_pos", "front_image"."""
        return tuple(self._file["data/demo_0/obs"])

    @property
    def image_size(self) -> int:
        """Height and width of the images, in pixels."""
        return int(self.header.observation["image_size"])

    @property
    def metadata(self) -> dict[str, Any]:
        """The header as one tree of JSON values, with the schema's version and the checksum."""
        fields = {name: getattr(self.header, name) for name in (*HEADER_TEXTS, *HEADER_TREES)}
        return {**fields, "schema_version": SCHEMA_VERSION, "checksum": self.checksum}

    @property
    def observation_options(self) -> ObservationOptions:
        """What is stored of every step."""
        privileged = bool(self.header.observation["privileged"])
        return ObservationOptions(self.cameras, self.image_size, privileged)

    @property
    def rendering_options(self) -> RenderingOptions:
        """How the images were drawn."""
        with damage_reported(self.path):
            return RenderingOptions(**self.header.rendering)

    def environment_spec(
        self, observation: ObservationOptions, rendering: RenderingOptions, plugins: Sequence[str] = ()
    ) -> EnvironmentSpec:
        """The environment in which the demonstrations were collected, for showing its states in another way."""
        with damage_reported(self.path):
            return EnvironmentSpec(
                **self.header.environment, observation=observation, rendering=rendering, plugins=tuple(plugins)
            )

    def dataset(self, episode: int, name: str) -> h5py.Dataset:
        """A dataset of one demonstration, `name` as in "actions" or "obs/agent_pos"."""
        return self._file[f"data/{demonstration_name(episode)}/{name}"]

    def storage(self) -> Iterator[tuple[str, int]]:
        """Every dataset of every demonstration, as in "states" or "obs/agent_pos", and its bytes in the file."""
        for index in range(len(self)):
            for place in ("", "obs", "next_obs", "last_obs"):
                group = self._file[f"data/{demonstration_name(index)}"].get(place or ".", {})
                for key, thing in group.items():
                    if isinstance(thing, h5py.Dataset):
                        yield f"{place}/{key}".lstrip("/"), thing.id.get_storage_size()

    def episode(self, index: int, keys: Collection[str] | None = None) -> Episode:
        """One demonstration in memory, with all observations or with those of some `keys`."""
        with damage_reported(self.path):
            group = self._file[f"data/{demonstration_name(index)}"]
            observations = {
                key: np.concatenate([group[f"obs/{key}"][()], group[f"next_obs/{key}"][-1:]])
                for key in group["obs"]
                if keys is None or key in keys
            }
            return Episode(
                seed=int(group.attrs["seed"]),
                attempt=int(group.attrs["attempt"]),
                actions=group["actions"][()],
                executed_actions=group["executed_actions"][()],
                states=group["states"][()],
                rewards=group["rewards"][()],
                observations=observations,
                model_file=str(group.attrs.get("model_file", "")),
            )

    @property
    def splits(self) -> dict[str, NDArray[np.int64]]:
        """Indices of the demonstrations of each `mask/<name>`, in order.

        Raises:
            DataFileError: A mask names a demonstration that is not there, or one twice.
        """
        with damage_reported(self.path):
            masks = {name: [each.decode() for each in mask[()]] for name, mask in self._file.get("mask", {}).items()}
        positions = {demonstration_name(index): index for index in range(len(self))}
        for split, names in masks.items():
            unknown = [name for name in names if name not in positions]
            if unknown or len(set(names)) < len(names):
                what = f"{unknown[0]}, which is not there" if unknown else "a demonstration twice"
                raise DataFileError(f"{self.path}: mask/{split} names {what}; split it again (vla-cl data split)")
        return {split: np.array(sorted(positions[name] for name in names), np.int64) for split, names in masks.items()}

    def split(self, name: str) -> NDArray[np.int64]:
        """Indices of the demonstrations of `mask/<name>` ("train", "valid"), in order.

        Raises:
            DataFileError: There is no such split, or a mask is damaged.
        """
        splits = self.splits
        if name not in splits:
            raise DataFileError(f"{self.path} has no split {name!r}; it has: {', '.join(splits) or 'none'}")
        return splits[name]

    def verify(self) -> None:
        """Read everything and compare it with the checksum.

        Raises:
            DataFileError: The content is not what was written.
        """
        with damage_reported(self.path):
            present = content_checksum(self._file)
        if present != self.checksum:
            raise DataFileError(
                f"{self.path} was changed after it was written (checksum {present[:12]}, not {self.checksum[:12]}); "
                "delete it and collect again"
            )

    def _read_header(self) -> None:
        if "data" not in self._file or self._file["data"].attrs.get("schema") != SCHEMA:
            raise DataFileError(
                f"{self.path} was not written by vla_cl (data/ has no attribute schema = {SCHEMA!r}); "
                "collect demonstrations with vla-cl collect"
            )
        attributes = self._file["data"].attrs
        version = int(attributes["schema_version"])
        if version != SCHEMA_VERSION:
            raise DataFileError(
                f"{self.path} has schema version {version}, this vla_cl reads {SCHEMA_VERSION}; "
                + ("upgrade vla_cl" if version > SCHEMA_VERSION else "collect again")
            )
        missing = [name for name in (*HEADER_TEXTS, *HEADER_TREES, "total", CHECKSUM) if name not in attributes]
        if missing:
            raise self._broken(f"data/ has no attribute {missing[0]!r}")
        fields: dict[str, Any] = {name: str(attributes[name]) for name in HEADER_TEXTS}
        self.header = Header(**fields, **{name: json.loads(attributes[name]) for name in HEADER_TREES})
        self.checksum = str(attributes[CHECKSUM])

    def _check_structure(self) -> None:
        data = self._file["data"]
        if len(data) == 0:
            raise self._broken("it holds no demonstration")
        lengths, seeds = [], []
        for index in range(len(data)):
            name = demonstration_name(index)
            if name not in data:
                raise self._broken(f"data/{name} is missing")
            lengths.append(int(data[name].attrs["num_samples"]))
            seeds.append(int(data[name].attrs["seed"]))
        self.lengths = np.array(lengths, np.int64)
        self.seeds = np.array(seeds, np.int64)
        self.action_dim = self._width(data["demo_0"], "actions")
        self.state_dim = self._width(data["demo_0"], "states")
        self.agent_pos_dim = self._width(data["demo_0"], f"obs/{AGENT_POS}")
        privileged = bool(self.header.observation["privileged"])
        self.environment_state_dim = self._width(data["demo_0"], f"obs/{ENVIRONMENT_STATE}") if privileged else 0
        expected = self._expected()
        for index, length in enumerate(lengths):
            for name, (row, kind) in expected.items():
                self._check_dataset(data[demonstration_name(index)], name, (length, *row), kind)
        if int(self.lengths.sum()) != int(data.attrs["total"]):
            raise self._broken(f"data/ says total = {data.attrs['total']}, but holds {self.lengths.sum()} transitions")

    def _width(self, group: h5py.Group, name: str) -> int:
        if name not in group or len(group[name].shape) != 2:
            raise self._broken(f"{group.name}/{name} is missing or not a matrix")
        return int(group[name].shape[1])

    def _expected(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape of a row, and type, of every dataset of a demonstration."""
        size = self.image_size
        keys: dict[str, tuple[tuple[int, ...], str]] = {AGENT_POS: ((self.agent_pos_dim,), "float32")}
        if self.environment_state_dim:
            keys[ENVIRONMENT_STATE] = ((self.environment_state_dim,), "float32")
        keys |= {image_key(camera): ((size, size, 3), "uint8") for camera in self.cameras}
        return {
            "actions": ((self.action_dim,), "float32"),
            "executed_actions": ((self.action_dim,), "float32"),
            "states": ((self.state_dim,), "float64"),
            "rewards": ((), "float32"),
            "dones": ((), "uint8"),
            **{f"{place}/{key}": value for place in ("obs", "next_obs") for key, value in keys.items()},
        }

    def _check_dataset(self, group: h5py.Group, name: str, shape: tuple[int, ...], kind: str) -> None:
        if name not in group:
            raise self._broken(f"{group.name}/{name} is missing")
        dataset = group[name]
        if shape[0] < 1 or dataset.shape != shape or dataset.dtype != np.dtype(kind):
            found = f"{dataset.dtype}{dataset.shape}"
            raise self._broken(f"{group.name}/{name} is {found}, expected {kind}{shape}")

    def _broken(self, what: str) -> DataFileError:
        return DataFileError(f"{self.path}: {what}; delete it and collect again")
