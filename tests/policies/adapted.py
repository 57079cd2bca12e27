"""Policies with adapters that say something."""

from __future__ import annotations

from typing import Any

import torch

from tests.policies.conftest import make_policy
from vla_cl.policies import Policy
from vla_cl.policies.adapters import AdapterOptions, add_adapter, factors

BACKBONES: dict[str, dict[str, Any]] = {
    "compact": {"backbone_options": {"instruction_encoder": "learned"}},
    "vit": {"backbone_options": {"encoder": "vit", "patch": 16, "instruction_encoder": "learned"}},
    "pretrained_compact": {
        "backbone": "pretrained_compact",
        "backbone_options": {"instruction_encoder": "learned"},
    },
    "lowdim": {"backbone": "lowdim", "backbone_options": {"instruction_encoder": "learned"}},
    "hf_vlm": {"backbone": "hf_vlm", "backbone_options": {"architecture": "tiny_smolvlm", "prompt_tokens": 16}},
}
"""What makes a policy of every backbone, two cameras where it sees."""


def speaking(policy: Policy) -> Policy:
    """Outputs that start as the zero function say something from now on."""
    with torch.no_grad():
        for number, parameter in enumerate(policy.head.parameters()):
            if parameter.requires_grad and not parameter.any():
                parameter.normal_(std=0.05, generator=torch.Generator().manual_seed(number))
    return policy


def backbone_policy(name: str, **changes: Any) -> Policy:
    """A policy on a backbone under a small flow head."""
    head = {"head_options": {"width": 32, "layers": 1, "steps": 2}}
    return speaking(make_policy(**{**head, **BACKBONES[name], **changes}))


def adapt(policy: Policy, name: str, seed: int = 0, std: float = 0.1, **options: Any) -> None:
    """Add an adapter whose B is not zero, so that it changes what the policy does."""
    add_adapter(policy, name, AdapterOptions(**options), seed)
    with torch.no_grad():
        for number, factor in enumerate(factors(policy, name).values()):
            factor.up.normal_(std=std, generator=torch.Generator().manual_seed(100 * seed + number))
