"""A policy's trained weights by names that stay the same while the policy grows adapters."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from vla_cl.policies import Policy

OWN_MODULES = "strategy."
"""How the names of a strategy's own parameters begin, among those that reach `gradients` and `after_step`."""


def stable_name(parameter: str) -> str:
    """A parameter's name without the wrapper that an adapter puts around its layer."""
    return parameter.replace(".base_layer.", ".")


def trained_weights(policy: Policy) -> dict[str, nn.Parameter]:
    """The policy's parameters that are not frozen, by stable name."""
    return {stable_name(name): each for name, each in policy.named_parameters() if each.requires_grad}


def policy_weights(parameters: Mapping[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    """Of the parameters that a step changes, those of the policy, by stable name."""
    return {stable_name(name): each for name, each in parameters.items() if not name.startswith(OWN_MODULES)}


def snapshot(weights: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Copies of weights, where they are."""
    return {name: each.detach().clone() for name, each in weights.items()}
