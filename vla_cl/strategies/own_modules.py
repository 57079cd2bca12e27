"""Modules that a strategy trains beside the policy: built from seeds, whatever was drawn before."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from vla_cl.seeding import derive_seed

Built = TypeVar("Built", bound=nn.Module)


def seeded_module(build: Callable[[], Built], *keys: int | str) -> Built:
    """What `build` builds, its initial weights a function of the keys; global generators are left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(*keys))
        return build()
