"""Checkpoints inside a task: everything that the rest of the task's training depends on."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn, optim

from vla_cl.errors import CheckpointError
from vla_cl.training.state import atomic_folder, check_folder, load_tree, save_tree

_NAME = re.compile(r"step_(\d+)")


class IntervalCheckpoints:
    """The latest checkpoint inside one stage, in a folder that holds one at a time.

    Args:
        folder: Where they go (`<run>/checkpoints/training/stage_03`).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, step: int, tree: Mapping[str, Any]) -> None:
        """Write the state after `step` optimiser steps, then remove the older one."""
        target = self.folder / f"step_{step:08d}"
        with atomic_folder(target) as temporary:
            save_tree(tree, temporary, "training")
        for other in self._existing():
            if other != target:
                shutil.rmtree(other, ignore_errors=True)

    def latest(self) -> dict[str, Any] | None:
        """The newest complete state, or None.

        Raises:
            CheckpointError: It is damaged.
        """
        existing = self._existing()
        if not existing:
            return None
        check_folder(existing[-1])
        return load_tree(existing[-1], "training")

    @property
    def step(self) -> int | None:
        """Optimiser steps before the newest complete state, or None."""
        existing = self._existing()
        return int(existing[-1].name.removeprefix("step_")) if existing else None

    def clear(self) -> None:
        """Remove the folder: the stage is complete, and its own checkpoint is written."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _existing(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return sorted(path for path in self.folder.iterdir() if _NAME.fullmatch(path.name))


def optimiser_state(optimiser: optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> dict[str, Any]:
    """The optimiser's per-parameter state by parameter name, so that it survives a regrouping."""
    names = {id(parameter): name for name, parameter in parameters.items()}
    return {names[id(parameter)]: dict(state) for parameter, state in optimiser.state.items()}


def load_optimiser_state(
    optimiser: optim.Optimizer, parameters: Mapping[str, nn.Parameter], state: Mapping[str, Mapping[str, Any]]
) -> None:
    """Restore `optimiser_state`.

    Raises:
        CheckpointError: The state belongs to other parameters.
    """
    for name, values in state.items():
        if name not in parameters:
            raise CheckpointError(f"the checkpoint's optimiser knows parameter {name!r}, which this policy lacks")
        parameter = parameters[name]
        optimiser.state[parameter] = {
            key: value.to(parameter.device) if isinstance(value, Tensor) else value  # fused AdamW counts on the device
            for key, value in values.items()
        }
