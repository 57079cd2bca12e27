"""What flows from demonstrations into policies: observations and batches, as tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vla_cl.errors import ConfigurationError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from vla_cl.data.windows import WindowDataset


@dataclass(frozen=True)
class ObservationBatch:
    """B observations.

    Args:
        instruction: B strings.
        agent_pos: Proprioception (B, S), float32, raw units.
        pixels: (B, H, W, 3) uint8 for each camera; empty for a policy without pixels.
        environment_state: (B, E) float32, or None.
        features: What a frozen backbone makes of images and instruction, computed earlier, in place of the pixels:
            tensors (B, ...) by name; empty where nothing was.
        past: What was seen before, oldest first, for a policy with a history: B rows each, one control step apart; at
            the beginning of an episode its first observation repeats.
        episode: In rollouts, a name of each row's episode, the same from its beginning to its end; None elsewhere.
        task: The name of each row's task, given to strategies alone that declare that they need it; else None.
    """

    instruction: tuple[str, ...]
    agent_pos: Tensor
    pixels: Mapping[str, Tensor]
    environment_state: Tensor | None = None
    features: Mapping[str, Tensor] = field(default_factory=dict)
    past: tuple[ObservationBatch, ...] = ()
    episode: tuple[str, ...] | None = None
    task: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.instruction)

    @property
    def moments(self) -> tuple[ObservationBatch, ...]:
        """The past and the present, oldest first, each without a past."""
        return (*self.past, replace(self, past=()))

    def map(self, change: Callable[[Tensor], Tensor]) -> ObservationBatch:
        """A copy whose tensors are what `change` makes of these."""
        state = self.environment_state
        return replace(
            self,
            agent_pos=change(self.agent_pos),
            pixels={camera: change(images) for camera, images in self.pixels.items()},
            environment_state=None if state is None else change(state),
            features={name: change(each) for name, each in self.features.items()},
            past=tuple(each.map(change) for each in self.past),
        )

    def to(self, device: torch.device | str) -> ObservationBatch:
        """A copy on another device."""
        return self.map(lambda tensor: tensor.to(device))

    def widened(self, agent_pos: int, environment_state: int) -> ObservationBatch:
        """Vectors filled up with zeros to these sizes, for a policy that has learned tasks with wider ones.

        Raises:
            ConfigurationError: They are wider already.
        """
        state = self.environment_state
        return replace(
            self,
            agent_pos=_widened("agent_pos", self.agent_pos, agent_pos),
            environment_state=None if state is None else _widened("environment_state", state, environment_state),
            past=tuple(each.widened(agent_pos, environment_state) for each in self.past),
        )

    def __getitem__(self, rows: slice | Sequence[int] | Tensor) -> ObservationBatch:
        """The observations of some rows."""
        import torch  # in functions throughout vla_cl.data, so that processes that only simulate start without it

        index = torch.arange(len(self))[rows if isinstance(rows, slice) else torch.as_tensor(rows)]
        return ObservationBatch(
            instruction=tuple(self.instruction[int(row)] for row in index),
            agent_pos=self.agent_pos[index],
            pixels={camera: images[index] for camera, images in self.pixels.items()},
            environment_state=None if self.environment_state is None else self.environment_state[index],
            features={name: each[index] for name, each in self.features.items()},
            past=tuple(each[rows] for each in self.past),
            episode=_chosen(self.episode, index),
            task=_chosen(self.task, index),
        )

    @staticmethod
    def from_environments(observations: Sequence[Mapping[str, Any]], instructions: Sequence[str]) -> ObservationBatch:
        """Stack what environments returned, one instruction each."""
        import torch

        cameras = observations[0].get("pixels", {})
        privileged = "environment_state" in observations[0]

        def stack(arrays: list[Any]) -> Tensor:
            return torch.from_numpy(np.stack(arrays))

        return ObservationBatch(
            instruction=tuple(instructions),
            agent_pos=stack([each["agent_pos"] for each in observations]),
            pixels={camera: stack([each["pixels"][camera] for each in observations]) for camera in cameras},
            environment_state=stack([each["environment_state"] for each in observations]) if privileged else None,
        )


@dataclass(frozen=True)
class Batch:
    """B training windows.

    Args:
        observation: What the policy saw before `actions[:, 0]`.
        actions: Raw actions (B, chunk, A), float32; what lies past the end of an episode repeats the last action.
        padding: (B, chunk) bool, True where an action lies past the end of its episode and must not be learned.
        origin: Which windows these are, in the order of the rows: datasets, and indices into each; () where it is not
            known.
    """

    observation: ObservationBatch
    actions: Tensor
    padding: Tensor
    origin: tuple[tuple[WindowDataset, NDArray[np.int64]], ...] = ()

    def __len__(self) -> int:
        return len(self.observation)

    def map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """A copy whose tensors are what `change` makes of these."""
        return Batch(self.observation.map(change), change(self.actions), change(self.padding), self.origin)

    def pinned(self) -> Batch:
        """A copy in page-locked memory, from which a GPU fetches without anybody waiting."""
        return self.map(lambda tensor: tensor.pin_memory())

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """A copy on another device; with `non_blocking` the call may return before pinned memory is copied."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def __getitem__(self, rows: slice | Sequence[int] | Tensor) -> Batch:
        """The windows of some rows."""
        import torch

        index = torch.arange(len(self))[rows if isinstance(rows, slice) else torch.as_tensor(rows)]
        return Batch(self.observation[index], self.actions[index], self.padding[index], _part(self.origin, index))


def concatenate(batches: Sequence[Batch]) -> Batch:
    """One batch of all the rows, in order."""
    import torch

    if len(batches) == 1:
        return batches[0]
    return Batch(
        observation=concatenate_observations([batch.observation for batch in batches]),
        actions=torch.cat([batch.actions for batch in batches]),
        padding=torch.cat([batch.padding for batch in batches]),
        origin=tuple(part for batch in batches for part in batch.origin) if all(b.origin for b in batches) else (),
    )


def _chosen(names: tuple[str, ...] | None, index: Tensor) -> tuple[str, ...] | None:
    return None if names is None else tuple(names[int(row)] for row in index)


def _part(
    origin: tuple[tuple[WindowDataset, NDArray[np.int64]], ...], index: Tensor
) -> tuple[tuple[WindowDataset, NDArray[np.int64]], ...]:
    """Where some rows come from: neighbours from one dataset stay together."""
    if len(origin) == 1:
        ((dataset, windows),) = origin
        return ((dataset, windows[index.cpu().numpy()]),)
    rows = [(dataset, window) for dataset, windows in origin for window in windows]
    parts: list[tuple[WindowDataset, list[np.int64]]] = []
    for row in index.tolist() if rows else []:
        dataset, window = rows[row]
        if not parts or parts[-1][0] is not dataset:
            parts.append((dataset, []))
        parts[-1][1].append(window)
    return tuple((dataset, np.array(windows, np.int64)) for dataset, windows in parts)


def _widened(name: str, vectors: Tensor, width: int) -> Tensor:
    import torch

    missing = width - vectors.shape[1]
    if missing < 0:
        raise ConfigurationError(f"the task's {name} has {vectors.shape[1]} numbers, the policy takes {width} at most")
    return torch.nn.functional.pad(vectors, (0, missing)) if missing else vectors


def concatenate_observations(observations: Sequence[ObservationBatch]) -> ObservationBatch:
    """One batch of all the observations, in order."""
    import torch

    states = [each.environment_state for each in observations if each.environment_state is not None]
    first = observations[0]
    return ObservationBatch(
        instruction=tuple(text for each in observations for text in each.instruction),
        agent_pos=torch.cat([each.agent_pos for each in observations]),
        pixels={camera: torch.cat([each.pixels[camera] for each in observations]) for camera in first.pixels},
        environment_state=torch.cat(states) if states else None,
        features={name: torch.cat([each.features[name] for each in observations]) for name in first.features},
        past=tuple(
            concatenate_observations(moment) for moment in zip(*(each.past for each in observations), strict=True)
        ),
        episode=_joined([each.episode for each in observations]),
        task=_joined([each.task for each in observations]),
    )


def _joined(names: Sequence[tuple[str, ...] | None]) -> tuple[str, ...] | None:
    known = [each for each in names if each is not None]
    return tuple(name for each in known for name in each) if len(known) == len(names) else None
