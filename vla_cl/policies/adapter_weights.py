"""Adapters as changes of weights: the changes themselves, merged into the base weights and out again, or for good."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vla_cl.policies.adapter_layers import (
    activate_layers,
    check_known,
    layers_of,
    refuse_while_merged,
    remove_adapter,
    switch_layers,
)

if TYPE_CHECKING:
    from vla_cl.policies.policy import Policy


def delta_weights(policy: Policy, name: str) -> dict[str, Tensor]:
    """What an adapter adds to the weight of each layer: alpha / rank B A, float32, of the weight's shape. Gradients
    flow to A and B.

    Raises:
        UnknownNameError: There is no adapter of this name.
    """
    return {module: layer.get_delta_weight(name) for module, layer in layers_of(policy, name).items()}


@torch.no_grad()
def merge(policy: Policy, names: Iterable[str] | None = None) -> None:
    """Add adapters to the base weights, in place, so that acting costs nothing more. Until `unmerge`, those adapters
    act and no others, and the policy is for acting alone: it cannot be saved, and routes are refused.

    Args:
        policy: What is merged already is not merged again.
        names: Which; None takes those that are active.

    Raises:
        UnknownNameError: There is no adapter of a name.
    """
    names = list(policy.active_adapters if names is None else names)
    check_known(policy, names)
    new = [name for name in policy.adapters if name in names and name not in policy.merged_adapters]
    for name in new:
        _add(policy, name, 1.0)
    policy.merged_adapters = (*policy.merged_adapters, *new)
    if policy.merged_adapters:
        switch_layers(policy, {})


@torch.no_grad()
def unmerge(policy: Policy) -> None:
    """Subtract from the base weights what `merge` added: exact up to rounding. Harmless where nothing is merged."""
    for name in reversed(policy.merged_adapters):
        _add(policy, name, -1.0)
    policy.merged_adapters = ()
    activate_layers(policy)


@torch.no_grad()
def fold(policy: Policy, name: str, weight: float = 1.0) -> None:
    """Add an adapter's change, times a weight, to the base weights for good, and take the adapter away.

    Raises:
        UnknownNameError: There is no adapter of this name.
        ConfigurationError: Adapters are merged.
    """
    refuse_while_merged(policy, "folded")
    _add(policy, name, weight)
    remove_adapter(policy, name)


def _add(policy: Policy, name: str, weight: float) -> None:
    """Change the base weights; the sum is float32 before it is rounded to theirs."""
    for layer in layers_of(policy, name).values():
        base = layer.base_layer.weight
        base.copy_(base.float() + weight * layer.get_delta_weight(name))
