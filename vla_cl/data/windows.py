"""Demonstrations as training windows: at every step, what was seen and the next `chunk` actions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vla_cl.data.batch import Batch, ObservationBatch
from vla_cl.data.columns import Column, WidenedColumn
from vla_cl.data.features import FeatureCache
from vla_cl.data.opening import open_demonstrations
from vla_cl.data.sampling import epoch_order
from vla_cl.data.schema import AGENT_POS, ENVIRONMENT_STATE, image_key
from vla_cl.data.source import Demonstrations
from vla_cl.errors import ConfigurationError, DataFileError

if TYPE_CHECKING:
    from torch import Tensor

VECTORS = ("actions", AGENT_POS, ENVIRONMENT_STATE)
_BLOCK_ROWS = 4096


class WindowDataset:
    """One window a time step of a demonstration file.

    Window w of episode e, step t holds the observation before actions[t] and actions[t : t + chunk]; what lies past
    the episode's end repeats its last action and is marked as padding. Images stay in the file, so memory does not
    grow with it. Pickling keeps the description; the other process opens the file itself.

    Args:
        path: A demonstration file: ours, robomimic's or LIBERO's (see `open_demonstrations`).
        chunk: Actions in a window.
        cameras: Which cameras' images to load, in this order; None is all of the file's, () none.
        privileged: Whether to load `environment_state`.
        instructions: Texts that the episodes cycle through: file episode e is told `instructions[e % n]`; None is the
            file's own instruction.
        episodes: Which of the file's episodes; None is all.
        split: Instead of `episodes`, the name of a split of the file ("train").
        history: T, moments that an observation shows: the present and the `T - 1` steps before it.
        lookback: How many steps before the present a window's actions begin; before an episode's beginning its first
            action repeats.
        dimensions: Sizes to which "actions", "agent_pos" and "environment_state" are filled up with zeros, for a policy
            that also learns tasks with wider ones; None keeps the file's.

    Attributes:
        path: The file.
        task: Name of the task.
        episode_lengths: (n_episodes,) int64.
        window_episodes: (N,) int64, for each window the position of its episode in `episode_lengths`.
        features: What a frozen backbone makes of each step, which observations then hold in place of pixels; None where
            they hold pixels.

    Raises:
        DataFileError: The file cannot be used, or lacks a camera, the privileged state, an episode or the split.
        ConfigurationError: `chunk` is not positive, both `episodes` and `split` are given, or the file's vectors are
            wider than `dimensions`.
    """

    def __init__(
        self,
        path: Path | str,
        chunk: int,
        *,
        cameras: Sequence[str] | None = None,
        privileged: bool = False,
        instructions: Sequence[str] | None = None,
        episodes: Sequence[int] | None = None,
        split: str | None = None,
        history: int = 1,
        lookback: int = 0,
        dimensions: Mapping[str, int] | None = None,
    ) -> None:
        if chunk < 1:
            raise ConfigurationError(f"chunk must be at least 1, got {chunk}")
        if history < 1 or not 0 <= lookback < chunk:
            raise ConfigurationError(
                f"history must be at least 1, lookback 0 to chunk - 1, got {history} and {lookback}"
            )
        if episodes is not None and split is not None:
            raise ConfigurationError(f"give either episodes or split, not both (split is {split!r})")
        with open_demonstrations(path) as file:
            self.path = file.path.resolve()
            self.chunk, self.history, self.lookback = chunk, history, lookback
            self.task = file.task
            self.checksum = file.checksum
            self.cameras = _known_cameras(file, cameras)
            self.privileged = privileged
            if privileged and not file.environment_state_dim:
                raise DataFileError(f"{path} holds no environment_state; collect it again with privileged observations")
            self.instructions = (file.instruction,) if instructions is None else tuple(instructions)
            if not self.instructions:
                raise ConfigurationError("instructions must name at least one text")
            self.episodes = _known_episodes(file, episodes if split is None else file.split(split).tolist())
            self.episode_lengths = file.lengths[self.episodes]
            self.dimensions = dict(dimensions or {})
            self._columns = self._open_columns(file)
        self.window_episodes = np.repeat(np.arange(len(self.episodes), dtype=np.int64), self.episode_lengths)
        self._ends = np.cumsum(self.episode_lengths)
        self._starts = self._ends - self.episode_lengths
        self.features: FeatureCache | None = None

    def with_features(self, cache: FeatureCache) -> WindowDataset:
        """The same windows, their observations with these features (N rows, one a window) in place of pixels.

        Raises:
            ConfigurationError: The features are those of other windows.
        """
        if cache.rows != len(self):
            raise ConfigurationError(f"features of {cache.rows} steps do not fit {len(self)} windows of {self.path}")
        featured = object.__new__(WindowDataset)  # `copy.copy` would open the file again
        featured.__dict__.update(self.__dict__)
        featured.features = cache
        return featured

    def _open_columns(self, file: Demonstrations) -> dict[str, Column]:
        keys = ["actions", AGENT_POS, *([ENVIRONMENT_STATE] if self.privileged else []), *map(image_key, self.cameras)]
        episodes = self.episodes.tolist()
        return {key: self._widened(key, file.column(key, episodes)) for key in keys}

    def _widened(self, key: str, column: Column) -> Column:
        width = self.dimensions.get(key, column.row_shape[0])
        if width < column.row_shape[0]:
            raise ConfigurationError(
                f"{key} of task {self.task!r} has {column.row_shape[0]} numbers, the policy {width}"
            )
        return column if width == column.row_shape[0] else WidenedColumn(column, width)

    def __len__(self) -> int:
        return len(self.window_episodes)

    def batch(self, indices: ArrayLike) -> Batch:
        """The windows `indices` (B,), in this order, repetitions allowed.

        Raises:
            IndexError: An index is not in [0, len(self)).
        """
        import torch  # here, so that processes that only simulate start without it

        rows = self._checked(indices)
        starts = self._starts[self.window_episodes[rows]]
        moments = [self.observations(np.maximum(rows - lag, starts)) for lag in reversed(range(self.history))]
        actions, padding = self._actions(rows)
        return Batch(
            replace(moments[-1], past=tuple(moments[:-1])),
            torch.from_numpy(actions),
            torch.from_numpy(padding),
            origin=((self, rows),),
        )

    def action_chunks(self, indices: ArrayLike) -> Tensor:
        """Only the actions (B, chunk, A) of some windows."""
        import torch

        return torch.from_numpy(self._actions(self._checked(indices))[0])

    def _checked(self, indices: ArrayLike) -> NDArray[np.int64]:
        rows = np.asarray(indices, np.int64).reshape(-1)
        if len(rows) and not (rows.min() >= 0 and rows.max() < len(self)):
            raise IndexError(f"window {rows.min() if rows.min() < 0 else rows.max()} is not in [0, {len(self)})")
        return rows

    def _actions(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Actions (B, chunk, A), and which of them lie past their episode's end."""
        episodes = self.window_episodes[rows]
        wanted = rows[:, None] + np.arange(-self.lookback, self.chunk - self.lookback)
        first, last = self._starts[episodes][:, None], self._ends[episodes][:, None] - 1
        actions = self._columns["actions"].read(np.clip(wanted, first, last).reshape(-1))
        return actions.reshape(*wanted.shape, actions.shape[1]), wanted > last

    def observations(self, indices: ArrayLike) -> ObservationBatch:
        """What is seen in the moments of some windows, without a past."""
        import torch

        rows = self._checked(indices)

        def tensor(key: str) -> Tensor:
            return torch.from_numpy(self._columns[key].read(rows))

        texts = self.instructions
        return ObservationBatch(
            instruction=tuple(texts[int(self.episodes[each]) % len(texts)] for each in self.window_episodes[rows]),
            agent_pos=tensor(AGENT_POS),
            pixels={} if self.features else {camera: tensor(image_key(camera)) for camera in self.cameras},
            environment_state=tensor(ENVIRONMENT_STATE) if self.privileged else None,
            features=self.features.read(rows) if self.features else {},
        )

    def order(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """A permutation (N,) of the windows: a pure function of (seed, epoch)."""
        return epoch_order(len(self), seed, epoch)

    def vectors(self, name: str) -> Iterator[NDArray[np.float32]]:
        """Every step's "actions", "agent_pos" or "environment_state", in blocks (n, D), each step once."""
        if name in self._columns:
            for start in range(0, len(self), _BLOCK_ROWS):
                yield self._columns[name].read(np.arange(start, min(start + _BLOCK_ROWS, len(self))))

    @property
    def window_bytes(self) -> int:
        """What one window weighs by itself: its observation, pixels included, and its chunk of actions."""
        observation = sum(column.row_bytes for key, column in self._columns.items() if key != "actions")
        return self.history * observation + self.chunk * self._columns["actions"].row_bytes

    def content(self) -> dict[str, Any]:
        """What is seen in the windows' moments, as JSON: two datasets with the same see the same, wherever they lie."""
        return {
            "checksum": self.checksum,
            "cameras": list(self.cameras),
            "instructions": list(self.instructions),
            "episodes": self.episodes.tolist(),
        }

    def describe(self) -> dict[str, Any]:
        """JSON from which `from_description` opens the same windows again."""
        return {
            "path": str(self.path),
            "checksum": self.checksum,
            "chunk": self.chunk,
            "history": self.history,
            "lookback": self.lookback,
            "cameras": list(self.cameras),
            "privileged": self.privileged,
            "instructions": list(self.instructions),
            "episodes": self.episodes.tolist(),
            "dimensions": self.dimensions,
            **({"features": self.features.key} if self.features else {}),
        }

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> WindowDataset:
        """Open what `describe` described.

        Raises:
            DataFileError: The file is gone or holds other demonstrations now, or its cached features are gone.
        """
        options = dict(description)
        checksum, features = options.pop("checksum"), options.pop("features", None)
        dataset = cls(**options)
        if dataset.checksum != checksum:
            raise DataFileError(
                f"{dataset.path} holds other demonstrations than when it was first used "
                f"(checksum {dataset.checksum[:12]}, then {str(checksum)[:12]}); put the original file back"
            )
        return dataset if features is None else dataset.with_features(FeatureCache(dataset.path, features))

    def __reduce__(self) -> tuple[Any, ...]:
        return WindowDataset.from_description, (self.describe(),)


def _known_cameras(file: Demonstrations, cameras: Sequence[str] | None) -> tuple[str, ...]:
    if cameras is None:
        return file.cameras
    for camera in cameras:
        if camera not in file.cameras:
            raise DataFileError(
                f"{file.path} has no camera {camera!r}; it has: {', '.join(file.cameras) or 'none'} "
                "(images of another camera can be drawn from its stored states, see vla-cl data rerender)"
            )
    return tuple(cameras)


def _known_episodes(file: Demonstrations, episodes: Sequence[int] | None) -> NDArray[np.int64]:
    if episodes is None:
        return np.arange(len(file), dtype=np.int64)
    chosen = np.asarray(episodes, np.int64).reshape(-1)
    if not len(chosen) or chosen.min() < 0 or chosen.max() >= len(file):
        raise DataFileError(f"{file.path} has episodes 0 to {len(file) - 1}, asked for {list(episodes)!r}")
    return chosen
