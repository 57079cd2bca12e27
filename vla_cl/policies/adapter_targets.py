"""Which layers of a policy LoRA adapts."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from vla_cl.errors import ConfigurationError
from vla_cl.policies.options import check_at_least

if TYPE_CHECKING:
    from vla_cl.policies.base import ActionHead, Backbone
    from vla_cl.policies.policy import Policy

KIND = "adapter"
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class AdapterOptions:
    """A low-rank adapter (LoRA, Hu et al., arXiv 2106.09685, section 4.1): W x becomes W x + alpha / rank B A x.

    Args:
        rank: r, of A (r, inputs) and B (outputs, r).
        alpha: Scale of the change, over the rank. OpenVLA (arXiv 2406.09246) takes rank 32 and alpha 16.
        targets: "auto" (the linear layers of the backbone's transformer, or what else it names), "attention" (those of
            them that belong to attention), "linear" (every linear layer of the backbone), or a regular expression that
            matches whole names of linear layers or convolutions inside the backbone (`layers\\.0\\..*`).
        head: Whether the head is adapted too, and in the same way; its "auto" is every linear layer that is trained.
    """

    rank: int = 16
    alpha: float = 16.0
    targets: str = "auto"
    head: bool = False

    def __post_init__(self) -> None:
        check_at_least(KIND, self, {"rank": 1})
        if not 0 < self.alpha < math.inf:
            raise ConfigurationError(f"option alpha of {KIND} must be positive, got {self.alpha}")
        try:
            re.compile(self.targets)
        except re.error as error:
            raise ConfigurationError(
                f"option targets of {KIND} must be auto, attention, linear or a regular expression, "
                f"got {self.targets!r} ({error})"
            ) from error


@dataclass(frozen=True)
class Adapter:
    """An adapter that a policy has.

    Args:
        rank: r.
        alpha: Its change is scaled by alpha / rank.
        modules: Names, inside the policy, of the layers that it adapts.
    """

    rank: int
    alpha: float
    modules: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.rank < 1 or not 0 < self.alpha < math.inf or not self.modules:
            layers = f"{len(self.modules)} layers"
            raise ConfigurationError(f"an adapter cannot have rank {self.rank}, alpha {self.alpha} and {layers}")


def resolve_targets(policy: Policy, options: AdapterOptions) -> tuple[str, ...]:
    """Names, inside the policy, of the layers that the options mean. A layer whose weights another shares is none.

    Raises:
        ConfigurationError: They mean none.
    """
    parts: dict[str, Backbone | ActionHead] = {"backbone": policy.backbone}
    if options.head:
        parts["head"] = policy.head
    found: list[str] = []
    for part, module in parts.items():
        own = module.adapter_targets
        found += (f"{part}.{name}" for name, layer in _adaptable(module) if _meant(options.targets, name, layer, own))
    if not found:
        linear = [name for name, layer in _adaptable(policy.backbone) if isinstance(layer, nn.Linear)]
        example = f"; it has, for instance, {linear[0]}" if linear else ""
        raise ConfigurationError(
            f"option targets={options.targets!r} of {KIND} names no linear layer of backbone "
            f"{policy.config.backbone!r}{example}"
        )
    return tuple(found)


def check_adaptable(policy: Policy, modules: tuple[str, ...]) -> None:
    """Check that layers of these names can be adapted.

    Raises:
        ConfigurationError: One is not there, or is no layer that can.
    """
    known = {f"backbone.{name}" for name, _ in _adaptable(policy.backbone)}
    known |= {f"head.{name}" for name, _ in _adaptable(policy.head)}
    for module in modules:
        if module not in known:
            raise ConfigurationError(f"policy {policy.config.name!r} has no layer {module!r} that can be adapted")


def _adaptable(part: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Names and layers, adapted ones as they are underneath.

    Exact types only: whoever subclasses a layer may compute something else from its weights, past an adapter.
    """
    named = list(part.named_modules(remove_duplicate=False))
    uses = Counter(id(each) for _, module in named for each in module._parameters.values() if each is not None)
    adapted = {name for name, module in named if hasattr(module, "base_layer") and hasattr(module, "lora_A")}
    for name, module in named:
        inside = any(name.startswith(f"{wrapper}.") for wrapper in adapted)
        layer = module.base_layer if name in adapted else module
        fits = type(layer) is nn.Linear or (type(layer) in _CONVOLUTIONS and layer.groups == 1)
        if fits and not inside and uses[id(layer.weight)] == 1:
            yield name, layer


def _meant(targets: str, name: str, layer: nn.Module, auto: str) -> bool:
    if targets in ("auto", "attention", "linear"):
        within = targets == "linear" or re.fullmatch(auto, name) is not None
        attention = targets != "attention" or "attn" in name or "attention" in name
        return isinstance(layer, nn.Linear) and within and attention
    return re.fullmatch(targets, name) is not None
