"""Statistics of actions and low-dimensional observations, computed once and then never changed silently."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vla_cl.data.schema import AGENT_POS, ENVIRONMENT_STATE
from vla_cl.errors import ConfigurationError, DataFileError

if TYPE_CHECKING:
    from torch import Tensor

LOWER_QUANTILE, UPPER_QUANTILE = 0.01, 0.99


class HasVectors(Protocol):
    """What statistics are computed from: `WindowDataset`, `ConcatenatedWindows`."""

    def vectors(self, name: str) -> Iterator[NDArray[np.float32]]:
        """Every step's `name`, in blocks (n, D)."""


@dataclass(frozen=True)
class VectorStatistics:
    """Statistics of one vector over all steps, each (D,) float32 and read-only."""

    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    min: NDArray[np.float32]
    max: NDArray[np.float32]
    q01: NDArray[np.float32]
    q99: NDArray[np.float32]

    def __post_init__(self) -> None:
        for field in fields(self):
            values = np.array(getattr(self, field.name), np.float32)
            values.setflags(write=False)
            object.__setattr__(self, field.name, values)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, VectorStatistics):
            return NotImplemented
        return all(np.array_equal(getattr(self, each.name), getattr(other, each.name)) for each in fields(self))

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Statistics:
    """What normalisation is made of.

    Args:
        action: Of the actions (A,).
        agent_pos: Of proprioception (S,).
        environment_state: Of the privileged state (E,), or None without it.
    """

    action: VectorStatistics
    agent_pos: VectorStatistics
    environment_state: VectorStatistics | None = None

    def state_dict(self) -> dict[str, Tensor]:
        """Flat tensors by name ("action.mean"), for safetensors."""
        import torch

        return {
            f"{vector}.{field.name}": torch.tensor(getattr(values, field.name))
            for vector, values in self._vectors().items()
            for field in fields(VectorStatistics)
        }

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor]) -> Statistics:
        """Restore what `state_dict` returned."""

        def vector(name: str) -> VectorStatistics:
            names = [field.name for field in fields(VectorStatistics)]
            return VectorStatistics(**{each: state[f"{name}.{each}"].cpu().numpy() for each in names})

        privileged = f"{ENVIRONMENT_STATE}.mean" in state
        return cls(vector("action"), vector(AGENT_POS), vector(ENVIRONMENT_STATE) if privileged else None)

    @classmethod
    def from_ranges(cls, ranges: Mapping[str, Sequence[Any]]) -> Statistics:
        """Statistics that a suite declares instead of measuring them: those of a uniform distribution.

        Args:
            ranges: (low (D,), high (D,)) for "action", "agent_pos" and perhaps "environment_state".

        Raises:
            ConfigurationError: A range is missing, or does not ascend.
        """

        def vector(name: str) -> VectorStatistics:
            if name not in ranges:
                raise ConfigurationError(f"ranges declare no {name!r}; declare its lowest and highest values")
            low, high = (np.asarray(bound, np.float64) for bound in ranges[name])
            if low.shape != high.shape or low.ndim != 1 or not (low < high).all():
                raise ConfigurationError(f"range of {name!r} must be two vectors, low < high, got {ranges[name]!r}")
            spread = high - low
            return VectorStatistics(
                mean=(low + high) / 2,
                std=spread / np.sqrt(12),
                min=low.astype(np.float32),
                max=high.astype(np.float32),
                q01=low + LOWER_QUANTILE * spread,
                q99=low + UPPER_QUANTILE * spread,
            )

        privileged = ENVIRONMENT_STATE in ranges
        return cls(vector("action"), vector(AGENT_POS), vector(ENVIRONMENT_STATE) if privileged else None)

    def _vectors(self) -> dict[str, VectorStatistics]:
        vectors = {"action": self.action, AGENT_POS: self.agent_pos}
        if self.environment_state is not None:
            vectors[ENVIRONMENT_STATE] = self.environment_state
        return vectors


def compute_statistics(dataset: HasVectors) -> Statistics:
    """Statistics of a dataset's steps, each counted once; the labels, not what noise made of them, count as actions.

    Mean and standard deviation (of the population) are accumulated in float64, quantiles are exact.

    Raises:
        DataFileError: The dataset is empty.
    """
    privileged = next(iter(dataset.vectors(ENVIRONMENT_STATE)), None) is not None
    return Statistics(
        action=_vector_statistics(dataset, "actions"),
        agent_pos=_vector_statistics(dataset, AGENT_POS),
        environment_state=_vector_statistics(dataset, ENVIRONMENT_STATE) if privileged else None,
    )


def _vector_statistics(dataset: HasVectors, name: str) -> VectorStatistics:
    count = 0
    total: Any = 0.0
    for block in dataset.vectors(name):
        count += len(block)
        total = total + block.sum(axis=0, dtype=np.float64)
    if not count:
        raise DataFileError(f"there is no {name} to compute statistics of; collect demonstrations first")
    mean = total / count
    squares = sum(np.square(block - mean).sum(axis=0) for block in dataset.vectors(name))
    quantiles = np.array([_quantiles(dataset, name, dimension) for dimension in range(len(mean))])
    return VectorStatistics(
        mean=mean,
        std=np.sqrt(squares / count),
        min=quantiles[:, 0],
        q01=quantiles[:, 1],
        q99=quantiles[:, 2],
        max=quantiles[:, 3],
    )


def _quantiles(dataset: HasVectors, name: str, dimension: int) -> NDArray[np.float64]:
    """Minimum, q01, q99 and maximum of one dimension; one number a step is in memory."""
    values = np.concatenate([block[:, dimension] for block in dataset.vectors(name)])
    quantiles: NDArray[np.float64] = np.quantile(values.astype(np.float64), [0.0, LOWER_QUANTILE, UPPER_QUANTILE, 1.0])
    return quantiles
