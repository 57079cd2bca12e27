"""Whose parameters act: what a strategy that routes says of itself, so that it can be asked whether it was right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Choice:
    """Between which parts a strategy chose for B observations, and how.

    Args:
        parts: Names of the M parts that are chosen between or weighed: adapters, experts, prompts, tasks.
        owners: Of each part, the names of the tasks that alone trained it; () where it belongs to none.
        weights: (B, M), at least 0: how much each part acts.
    """

    parts: tuple[str, ...]
    owners: tuple[tuple[str, ...], ...]
    weights: Tensor

    @staticmethod
    def among_tasks(tasks: Sequence[str], weights: Tensor) -> Choice:
        """A choice between parts that have one task each, by its name.

        Args:
            tasks: M.
            weights: (B, M), or the index of each row's task (B,).
        """
        if weights.ndim == 1:
            weights = F.one_hot(weights.long(), len(tasks)).float()
        return Choice(tuple(tasks), tuple((task,) for task in tasks), weights)

    @staticmethod
    def among_adapters(owners: Mapping[str, str | None], weights: Mapping[str, Tensor]) -> Choice:
        """A choice between adapters, and the base weights, which act alone where no adapter does.

        Args:
            owners: The adapter of each task; None where its change is in the base weights.
            weights: Of each adapter (B,), at least 0.
        """
        names = list(weights)
        parts = [tuple(task for task, owner in owners.items() if owner == name) for name in names]
        base = tuple(task for task, owner in owners.items() if owner is None)
        acting = torch.stack([weights[name] for name in names], dim=1)
        if base:
            names, parts = ["base", *names], [base, *parts]
            acting = torch.cat([(1.0 - acting.sum(dim=1, keepdim=True)).clamp(min=0.0), acting], dim=1)
        return Choice(tuple(names), tuple(parts), acting)
