"""What a demonstration file holds, in numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_cl.data.integrity import damage_reported
from vla_cl.data.opening import open_demonstrations
from vla_cl.data.schema import SCHEMA_VERSION, UNKNOWN_SEED, installed_versions
from vla_cl.data.source import Demonstrations

SATURATED = 1.0 - 1e-6
"""Actions at least this large in size are at the end of their range."""


@dataclass(frozen=True)
class ActionStatistics:
    """Statistics of the stored actions over all steps, one number a dimension (A).

    Args:
        minimum, mean, maximum: In [-1, 1].
        deviation: Standard deviation, of the population.
        saturation: Share of the steps, 0 to 1, at which the action is at an end of its range.
    """

    minimum: list[float]
    mean: list[float]
    deviation: list[float]
    maximum: list[float]
    saturation: list[float]


@dataclass(frozen=True)
class FileSummary:
    """What is in a demonstration file.

    Args:
        path: The file.
        layout: "vla_cl", "robomimic" or "libero".
        task, instruction, expert, backend: Of all demonstrations.
        demonstrations: How many there are.
        steps: Transitions in all.
        steps_minimum, steps_mean, steps_maximum: Transitions of a demonstration.
        successes: Demonstrations whose last transition is marked as done, which collection does when it succeeded.
        seeds: Smallest and largest initial-state seed; None where nobody knows them.
        distinct_seeds: How many different initial states there are.
        action_noise: Standard deviation of the noise on executed actions; None where it is not one number.
        actions: Of the stored actions.
        cameras: Whose images are stored.
        image_size: Height and width in pixels.
        privileged: Whether `environment_state` is stored.
        bytes_total: Size of the file.
        bytes_parts: How it splits into pixels, states, actions, proprioception and so on; "structure" is the rest, with
            the model's XML.
        splits: Demonstrations in each split.
        schema_version: Of the file's layout; None where it is not ours.
        versions: For each recorded package the version in the file; where they differ, `versions_here` has another.
        versions_here: Installed versions of the packages that matter.
        checksum: As written; of others' files what tells them apart: size, attributes, shapes and actions.
        intact: Whether the content still has this checksum; None for others' files, which hold none.
    """

    path: Path
    layout: str
    task: str
    instruction: str
    expert: str
    backend: str
    demonstrations: int
    steps: int
    steps_minimum: int
    steps_mean: float
    steps_maximum: int
    successes: int
    seeds: tuple[int, int] | None
    distinct_seeds: int
    action_noise: float | None
    actions: ActionStatistics
    cameras: tuple[str, ...]
    image_size: int
    privileged: bool
    bytes_total: int
    bytes_parts: dict[str, int]
    splits: dict[str, int]
    schema_version: int | None
    versions: dict[str, str]
    versions_here: dict[str, str]
    checksum: str
    intact: bool | None


def inspect_demonstrations(path: Path) -> FileSummary:
    """Read a demonstration file once and say what it holds; one demonstration's actions are in memory at a time.

    Raises:
        DataFileError: The file cannot be used. A wrong checksum is no error here, but reported.
    """
    with open_demonstrations(path) as file, damage_reported(file.path):
        lengths = file.lengths
        known = file.seeds[file.seeds != UNKNOWN_SEED]
        noise = file.header.collection.get("action_noise")
        return FileSummary(
            path=file.path,
            layout=file.layout,
            task=file.task,
            instruction=file.instruction,
            expert=file.header.expert,
            backend=str(file.header.environment["backend"]),
            demonstrations=len(file),
            steps=int(lengths.sum()),
            steps_minimum=int(lengths.min()),
            steps_mean=float(lengths.mean()),
            steps_maximum=int(lengths.max()),
            successes=sum(map(file.succeeded, range(len(file)))),
            seeds=(int(known.min()), int(known.max())) if len(known) else None,
            distinct_seeds=len(np.unique(known)),
            action_noise=None if noise is None else float(noise),
            actions=action_statistics(map(file.actions, range(len(file)))),
            cameras=file.cameras,
            image_size=file.image_size,
            privileged=file.environment_state_dim > 0,
            bytes_total=file.path.stat().st_size,
            bytes_parts=_bytes(file),
            splits={name: len(indices) for name, indices in file.splits.items()},
            schema_version=SCHEMA_VERSION if file.layout == "vla_cl" else None,
            versions=dict(file.header.versions),
            versions_here=installed_versions(),
            checksum=file.checksum,
            intact=file.intact,
        )


def action_statistics(blocks: Iterator[NDArray[np.float32]]) -> ActionStatistics:
    """Statistics over all rows of blocks (n, A), in one pass.

    Blocks are put together as in Chan, Golub and LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing
    Sample Variances", 1979.
    """
    count = 0
    minimum = maximum = mean = squares = saturated = np.zeros(0)
    for block in blocks:
        values = block.astype(np.float64)
        block_mean, size = values.mean(axis=0), len(values)
        block_squares = ((values - block_mean) ** 2).sum(axis=0)
        block_saturated = (np.abs(values) >= SATURATED).sum(axis=0)
        if count == 0:
            minimum, maximum = values.min(axis=0), values.max(axis=0)
            mean, squares, saturated = block_mean, block_squares, block_saturated
        else:
            difference = block_mean - mean
            squares = squares + block_squares + difference**2 * (count * size / (count + size))
            mean = mean + difference * (size / (count + size))
            minimum, maximum = np.minimum(minimum, values.min(axis=0)), np.maximum(maximum, values.max(axis=0))
            saturated = saturated + block_saturated
        count += size
    return ActionStatistics(
        minimum.tolist(),
        mean.tolist(),
        np.sqrt(squares / max(count, 1)).tolist(),
        maximum.tolist(),
        (saturated / max(count, 1)).tolist(),
    )


def _bytes(file: Demonstrations) -> dict[str, int]:
    """Bytes on the disk by what they hold, largest first."""
    parts: dict[str, int] = {}
    for name, size in file.storage():
        key = name.rsplit("/", 1)[-1]
        images = "/" in name and len(file.dataset(0, name).shape) == 4
        kind = "pixels" if images else "actions" if key == "executed_actions" else key
        parts[kind] = parts.get(kind, 0) + size
    parts["structure"] = file.path.stat().st_size - sum(parts.values())
    return dict(sorted(parts.items(), key=lambda part: -part[1]))


def as_json(summary: FileSummary) -> dict[str, Any]:
    """The summary as JSON values; numbers that are not finite become None."""
    tree = asdict(summary) | {"path": str(summary.path)}
    tree["actions"] = {
        name: [value if np.isfinite(value) else None for value in values] for name, values in tree["actions"].items()
    }
    return tree
