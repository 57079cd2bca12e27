"""Policies: a backbone turns what is seen and told into a context, a head turns the context into a chunk of actions."""

from __future__ import annotations

from vla_cl.policies import (  # noqa: F401  register the built-in parts
    act,
    compact,
    diffusion,
    fast,
    flow,
    gmm,
    hf_vlm,
    lowdim,
    pretrained_compact,
    regression,
    resnet_film,
    tokens,
    vqbet,
)
from vla_cl.policies.base import (
    BACKBONES,
    HEADS,
    ActionHead,
    Backbone,
    Context,
    ContextShape,
    Decoder,
    LayersShape,
    PolicyConfig,
    PolicyFeatures,
    PolicyOutput,
)
from vla_cl.policies.policy import Policy, build_policy, check_policy

__all__ = [
    "BACKBONES",
    "HEADS",
    "ActionHead",
    "Backbone",
    "Context",
    "ContextShape",
    "Decoder",
    "LayersShape",
    "Policy",
    "PolicyConfig",
    "PolicyFeatures",
    "PolicyOutput",
    "build_policy",
    "check_policy",
]
