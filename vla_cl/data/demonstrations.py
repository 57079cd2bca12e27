"""Reading demonstration files, validated before anything is handed out."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any

import h5py
import numpy as np

from vla_cl.data.columns import Column, Run, open_column
from vla_cl.data.integrity import CHECKSUM, content_checksum, damage_reported
from vla_cl.data.libero_file import is_libero
from vla_cl.data.robomimic_file import is_robomimic
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
from vla_cl.data.source import Demonstrations
from vla_cl.envs import EnvironmentSpec, ObservationOptions, RenderingOptions
from vla_cl.errors import DataFileError


class DemonstrationFile(Demonstrations):
    """A demonstration file that this package wrote (see `vla_cl.data.schema`)."""

    layout = "vla_cl"

    def _read(self) -> None:
        self._read_header()
        self._check_structure()

    @property
    def observation_keys(self) -> tuple[str, ...]:
        """The keys of what was seen: "agent_pos", "front_image"."""
        return tuple(self._file["data/demo_0/obs"])

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

    def column(self, key: str, episodes: Sequence[int]) -> Column:
        name = key if key == "actions" else f"obs/{key}"
        datasets = [self.dataset(episode, name) for episode in episodes]
        return open_column(self.path, [Run(dataset, 0, len(dataset)) for dataset in datasets])

    def episode(self, index: int, keys: Collection[str] | None = None) -> Episode:
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
    def intact(self) -> bool:
        """Whether the content has the checksum that it was written with; reads all of it."""
        try:
            self.verify()
        except DataFileError:
            return False
        return True

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
        data = self._file.get("data")
        if isinstance(data, h5py.Group) and data.attrs.get("schema") != SCHEMA:
            theirs = "LIBERO's" if is_libero(data) else "robomimic's" if is_robomimic(data) else None
            if theirs:
                raise DataFileError(
                    f"{self.path} is in {theirs} layout, this needs ours; "
                    f"convert it: vla-cl data convert {self.path} --to vla_cl --output NEW.hdf5"
                )
        if "data" not in self._file or self._file["data"].attrs.get("schema") != SCHEMA:
            raise DataFileError(
                f"{self.path} was not written by vla_cl (data/ has no attribute schema = {SCHEMA!r}), and it is "
                "neither robomimic's (env_args) nor LIBERO's (problem_info); collect demonstrations with vla-cl collect"
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
        self.names = tuple(map(demonstration_name, range(len(data))))
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
