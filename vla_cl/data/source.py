"""What every file of demonstrations offers, whoever wrote it: all that training, statistics and conversion look at."""

from __future__ import annotations

import abc
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from vla_cl.data.columns import Column
from vla_cl.data.integrity import damage_reported, open_safely
from vla_cl.data.schema import Episode, Header
from vla_cl.errors import DataFileError


class Demonstrations(abc.ABC):
    """Demonstrations of one task in one HDF5 file, open for reading; use it as a context manager.

    Opening checks the structure, not the values. The layout, of which there are several, is a subclass's business: what
    comes out is always transitions with what was seen before each action, upright images, and float32 vectors.

    Attributes:
        layout: Of the class: what the layout is called.
        path: Where the file lies.
        header: What is said once about all demonstrations.
        names: (n_episodes,) the group of each demonstration in `data`.
        lengths: (n_episodes,) int64, transitions of each demonstration.
        seeds: (n_episodes,) int64, the initial-state seed of each; -1 where nobody knows.
        action_dim: A.
        agent_pos_dim: S.
        environment_state_dim: E, 0 without privileged state.
        state_dim: N, 0 without simulator states.
        checksum: What tells this content from other content.

    Args:
        path: The file.
        opened: The same file, if it is open already; it is closed with this object.

    Raises:
        DataFileError: The file is absent, truncated, of another layout, inconsistent, or points out of itself.
    """

    layout: ClassVar[str]
    header: Header
    names: tuple[str, ...]
    lengths: NDArray[np.int64]
    seeds: NDArray[np.int64]
    action_dim: int
    agent_pos_dim: int
    environment_state_dim: int
    state_dim: int
    checksum: str

    def __init__(self, path: Path | str, opened: h5py.File | None = None) -> None:
        self.path = Path(path)
        self._file = open_safely(self.path) if opened is None else opened
        try:
            with damage_reported(self.path):
                self._read()
        except BaseException:
            self._file.close()
            raise

    @abc.abstractmethod
    def _read(self) -> None:
        """Set the attributes, and check the structure."""

    @abc.abstractmethod
    def column(self, key: str, episodes: Sequence[int]) -> Column:
        """Every step of some episodes, end to end: "actions", "agent_pos", "environment_state" or "front_image"."""

    @abc.abstractmethod
    def episode(self, index: int, keys: Collection[str] | None = None) -> Episode:
        """One demonstration in memory, with all observations or with those of some `keys`."""

    @property
    def intact(self) -> bool | None:
        """Whether the content is what was written; None where the file says nothing to compare it with."""
        return None

    def __enter__(self) -> Self:
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
    def image_size(self) -> int:
        """Height and width of the images, in pixels."""
        return int(self.header.observation["image_size"])

    def group(self, index: int) -> h5py.Group:
        """The group of a demonstration."""
        return self._file[f"data/{self.names[index]}"]

    def dataset(self, index: int, name: str) -> h5py.Dataset:
        """A stored dataset of one demonstration, `name` as in "actions" or "obs/agent_pos"."""
        return self.group(index)[name]

    def actions(self, index: int) -> NDArray[np.float32]:
        """The actions (T, A) of a demonstration."""
        values: NDArray[np.float32] = self.column("actions", [index]).read(np.arange(self.lengths[index]))
        return values

    def succeeded(self, index: int) -> bool:
        """Whether the last transition of a demonstration is marked as done."""
        return bool(self.dataset(index, "dones")[-1])

    def storage(self) -> Iterator[tuple[str, int]]:
        """Every dataset of every demonstration, as in "states" or "obs/agent_pos", and its bytes in the file."""
        for index in range(len(self)):
            found: list[tuple[str, int]] = []

            def note(name: str, thing: Any, found: list[tuple[str, int]] = found) -> None:
                if isinstance(thing, h5py.Dataset):
                    found.append((name, thing.id.get_storage_size()))

            self.group(index).visititems(note)
            yield from found

    @property
    def splits(self) -> dict[str, NDArray[np.int64]]:
        """Indices of the demonstrations of each `mask/<name>`, in order.

        Raises:
            DataFileError: A mask names a demonstration that is not there, or one twice.
        """
        with damage_reported(self.path):
            masks = {name: [each.decode() for each in mask[()]] for name, mask in self._file.get("mask", {}).items()}
        positions = {name: index for index, name in enumerate(self.names)}
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
