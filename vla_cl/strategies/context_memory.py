"""Stored contexts: what a policy's backbone made of observations, and the actions that followed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from vla_cl.errors import ConfigurationError
from vla_cl.policies import Context

PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
"""How contexts can be stored."""
_TOKEN_AXIS = {"tokens": 1, "mask": 1, "keys": 3, "values": 3}
_ROUNDED = ("tokens", "keys", "values")


class ContextMemory:
    """Contexts with chunks of normalised actions and their padding, on the CPU; `len` is the number of rows.

    Tokens, keys and values are stored in the given precision, everything else as it is. Contexts of different lengths
    are padded to the longest where they meet.

    Args:
        precision: Name in `PRECISIONS`.

    Attributes:
        parts: What is stored of each task, by its name: tensors with one row a context.
    """

    def __init__(self, precision: str) -> None:
        self.precision = precision
        self.parts: dict[str, dict[str, Tensor]] = {}

    def __len__(self) -> int:
        return sum(len(part["actions"]) for part in self.parts.values())

    @property
    def bytes(self) -> int:
        """What is stored weighs."""
        return sum(each.numel() * each.element_size() for part in self.parts.values() for each in part.values())

    def drop(self, task: str) -> None:
        """Forget what is stored of a task, if anything is."""
        self.parts.pop(task, None)

    def add(self, task: str, context: Context, actions: Tensor, padding: Tensor) -> None:
        """Store B more contexts of a task with the normalised actions (B, chunk, A) and the padding (B, chunk) that
        belong to them.

        Raises:
            ConfigurationError: A number is too large for the precision.
        """
        tokens = context.tokens
        part = {
            "tokens": tokens,
            "mask": torch.ones(tokens.shape[:2], dtype=torch.bool) if context.mask is None else context.mask,
            "agent_pos": context.agent_pos,
            "actions": actions,
            "padding": padding,
        }
        if context.layers:  # (B, L, key_value_heads, N, head_dim)
            part["keys"] = torch.stack([keys for keys, _ in context.layers], dim=1)
            part["values"] = torch.stack([values for _, values in context.layers], dim=1)
        part = {name: each.detach().cpu() for name, each in part.items()}
        for name in _ROUNDED:
            if name in part:
                part[name] = part[name].to(PRECISIONS[self.precision])
                if not bool(part[name].isfinite().all()):
                    raise ConfigurationError(
                        f"strategy.precision {self.precision!r} cannot hold what the backbone computes; use bfloat16"
                    )
        self.parts[task] = joined([self.parts[task], part]) if task in self.parts else part

    def sample(self, n: int, generator: np.random.Generator, like: Context) -> tuple[Context, Tensor, Tensor]:
        """n contexts, actions and paddings, drawn uniformly with replacement.

        Args:
            n: How many.
            generator: Draws them.
            like: A context as the backbone makes them now: theirs are its device, its types and its decoder.
        """
        return self.rows(np.sort(generator.integers(len(self), size=n)), like)

    def rows(self, rows: NDArray[np.int64], like: Context) -> tuple[Context, Tensor, Tensor]:
        """The contexts, actions and paddings of some rows, in ascending order."""
        parts = list(self.parts.values())
        ends = np.cumsum([len(part["actions"]) for part in parts])
        owners = np.searchsorted(ends, rows, side="right")
        chosen = []
        for owner in np.unique(owners):
            part = parts[owner]
            first = ends[owner] - len(part["actions"])
            index = torch.from_numpy(rows[owners == owner] - first)
            chosen.append({name: each[index] for name, each in part.items()})
        found = joined(chosen)
        device = like.tokens.device
        mask = None if bool(found["mask"].all()) else found["mask"].to(device)
        layers: tuple[tuple[Tensor, Tensor], ...] = ()
        if like.layers:
            kind = like.layers[0][0].dtype
            keys, values = (found[name].to(device, kind).unbind(dim=1) for name in ("keys", "values"))
            layers = tuple(zip(keys, values, strict=True))
        context = replace(
            like,
            tokens=found["tokens"].to(device, like.tokens.dtype),
            agent_pos=found["agent_pos"].to(device),
            mask=mask,
            layers=layers,
        )
        return context, found["actions"].to(device), found["padding"].to(device)

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """All that is stored."""
        return {task: dict(part) for task, part in self.parts.items()}

    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Restore `state_dict()`."""
        self.parts = {task: dict(part) for task, part in state.items()}


def joined(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The rows of several parts, one after the other, contexts padded at their end to the longest."""
    longest = max(part["tokens"].shape[1] for part in parts)
    return {
        name: torch.cat([_padded(part[name], longest, _TOKEN_AXIS.get(name)) for part in parts]) for name in parts[0]
    }


def _padded(tensor: Tensor, length: int, axis: int | None) -> Tensor:
    """A tensor filled up with zeros (False in a mask) to a length along an axis."""
    if axis is None or tensor.shape[axis] == length:
        return tensor
    after = [0, 0] * (tensor.ndim - 1 - axis)
    return F.pad(tensor, [*after, 0, length - tensor.shape[axis]])
