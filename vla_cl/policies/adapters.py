"""Low-rank adapters (LoRA, Hu et al., arXiv 2106.09685) on any policy, by peft: what strategies and users need of them.

adapters.add_adapter(policy, "task_3", AdapterOptions(rank=16), seed)
adapters.freeze_base(policy)
with adapters.mixture(policy, {"task_1": 0.3, "task_3": torch.tensor([0.0, 1.0, 0.5])}):
    actions = policy.act(observation, seeds)
adapters.fold(policy, "task_3")
"""

from __future__ import annotations

from vla_cl.policies.adapter_files import load_adapter, save_adapter
from vla_cl.policies.adapter_layers import (
    LowRank,
    adapter_names,
    adapter_parameters,
    add_adapter,
    factors,
    freeze_adapter,
    freeze_base,
    remove_adapter,
    set_active,
    unfreeze_adapter,
)
from vla_cl.policies.adapter_mixture import Route, mixture
from vla_cl.policies.adapter_targets import Adapter, AdapterOptions
from vla_cl.policies.adapter_weights import delta_weights, fold, merge, unmerge

__all__ = [
    "Adapter",
    "AdapterOptions",
    "LowRank",
    "Route",
    "adapter_names",
    "adapter_parameters",
    "add_adapter",
    "delta_weights",
    "factors",
    "fold",
    "freeze_adapter",
    "freeze_base",
    "load_adapter",
    "merge",
    "mixture",
    "remove_adapter",
    "save_adapter",
    "set_active",
    "unfreeze_adapter",
    "unmerge",
]
