"""Seeds derived from names, so that every random draw is a function of where it is used, not of what ran before."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def derive_seed(*keys: int | str) -> int:
    """A seed in [0, 2**63) from any sequence of integers and strings, equal on every machine and in every process.

    >>> derive_seed(0, "noise", 3) == derive_seed(0, "noise", 3) != derive_seed(0, "noise", 4)
    True
    """
    text = "\x1f".join(f"{type(key).__name__}:{key}" for key in keys)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def numpy_generator(*keys: int | str) -> np.random.Generator:
    """A numpy generator seeded with `derive_seed(*keys)`."""
    return np.random.default_rng(derive_seed(*keys))


def torch_generator(*keys: int | str) -> torch.Generator:
    """A CPU torch generator seeded with `derive_seed(*keys)`. Draw on the CPU and move, so devices agree."""
    import torch  # here, so that commands that draw no tensor start without it

    return torch.Generator().manual_seed(derive_seed(*keys))
