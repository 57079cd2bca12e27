"""Low-rank adapters in a policy's layers: added, removed, switched, frozen. The layers are peft's."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from vla_cl.errors import ConfigurationError, UnknownNameError
from vla_cl.policies.adapter_targets import Adapter, AdapterOptions, check_adaptable, resolve_targets
from vla_cl.seeding import derive_seed

if TYPE_CHECKING:
    from vla_cl.policies.policy import Policy

_NAME = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class LowRank:
    """The factors of an adapter in one layer, as parameters: its change is scale * up @ down.

    Args:
        down: A, (r, inputs), of a convolution (r, inputs, *kernel).
        up: B, (outputs, r), of a convolution (outputs, r, 1, ...).
        scale: alpha / rank.
    """

    down: nn.Parameter
    up: nn.Parameter
    scale: float


def add_adapter(policy: Policy, name: str, options: AdapterOptions | None = None, seed: int = 0) -> None:
    """Give a policy one more adapter: active, trained, and without effect until it is (B = 0). Which of the other
    adapters are active, and what of the policy is trained, stays.

    Args:
        policy: On any device.
        name: Letters, digits, "_" and "-".
        options: Rank and layers; None takes the defaults.
        seed: A is a function of it and of the name, drawn as peft does (uniform, Kaiming with a = sqrt 5).

    Raises:
        ConfigurationError: The name is taken or has other characters, or no layer is meant.
    """
    options = options or AdapterOptions()
    adapter = Adapter(options.rank, options.alpha, resolve_targets(policy, options))
    insert_adapter(policy, name, adapter, seed)


def insert_adapter(policy: Policy, name: str, adapter: Adapter, seed: int = 0) -> None:
    """`add_adapter` where the layers are known.

    Raises:
        ConfigurationError: The name is taken or has other characters, or a layer is not there.
    """
    from peft import inject_adapter_in_model

    if not _NAME.fullmatch(name) or hasattr(nn.ModuleDict(), name):
        raise ConfigurationError(f"an adapter's name has letters, digits, '_' and '-', and cannot be {name!r}")
    if name in policy.adapters:
        raise ConfigurationError(f"policy {policy.config.name!r} already has an adapter {name!r}; choose another name")
    refuse_while_merged(policy, "added")
    check_adaptable(policy, adapter.modules)
    trained = {id(parameter): parameter.requires_grad for parameter in policy.parameters()}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, "adapter", name))
        inject_adapter_in_model(peft_config(adapter), policy, name)
    del policy.peft_config  # peft's record; ours is `policy.adapters`
    policy.adapters[name] = adapter
    for layer in layers_of(policy, name).values():
        layer.lora_A[name].float()  # steps of training would be lost in bfloat16
        layer.lora_B[name].float()
    for parameter in policy.parameters():  # peft froze all but the new ones
        parameter.requires_grad_(trained.get(id(parameter), True))
    policy.train(policy.training)
    set_active(policy, [*policy.active_adapters, name])


def remove_adapter(policy: Policy, name: str) -> None:
    """Take an adapter away. A layer without any other is again what it was before it had one.

    Raises:
        UnknownNameError: There is none of this name.
        ConfigurationError: Adapters are merged.
    """
    layers = layers_of(policy, name)
    refuse_while_merged(policy, "removed")
    set_active(policy, [other for other in policy.active_adapters if other != name])
    for module, layer in layers.items():
        layer.delete_adapter(name)
        if not layer.lora_A:
            policy.set_submodule(module, layer.base_layer)
    del policy.adapters[name]


def adapter_names(policy: Policy) -> tuple[str, ...]:
    """A policy's adapters, in the order in which they were added."""
    return tuple(policy.adapters)


def set_active(policy: Policy, names: Iterable[str]) -> None:
    """Let these adapters act, with weight 1 each, and no others. What is trained stays as it is.

    Raises:
        UnknownNameError: There is no adapter of a name.
        ConfigurationError: Adapters are merged.
    """
    names = list(names)
    check_known(policy, names)
    refuse_while_merged(policy, "switched")
    policy.active_adapters = tuple(name for name in policy.adapters if name in names)
    activate_layers(policy)


def activate_layers(policy: Policy) -> None:
    """Let the layers apply the adapters that are active."""
    active = policy.active_adapters
    switch_layers(policy, {module: active for adapter in policy.adapters.values() for module in adapter.modules})


def switch_layers(policy: Policy, names: Mapping[str, Iterable[str]]) -> None:
    """Let each layer apply adapters of these names, whatever the policy says is active; layers that are not named apply
    none.
    """
    for module in {module for adapter in policy.adapters.values() for module in adapter.modules}:
        layer: Any = policy.get_submodule(module)
        layer._active_adapter = list(names.get(module, ()))  # peft's `set_adapter` would also decide what is trained


# --- parameters ----------------------------------------------------------------------------------------------


def adapter_parameters(policy: Policy, name: str) -> dict[str, nn.Parameter]:
    """An adapter's parameters by their names in `policy.named_parameters()`.

    Raises:
        UnknownNameError: There is none of this name.
    """
    found = {}
    for module, layer in layers_of(policy, name).items():
        found[f"{module}.lora_A.{name}.weight"] = layer.lora_A[name].weight
        found[f"{module}.lora_B.{name}.weight"] = layer.lora_B[name].weight
    return found


def factors(policy: Policy, name: str) -> dict[str, LowRank]:
    """An adapter's factors by layer.

    Raises:
        UnknownNameError: There is none of this name.
    """
    return {
        module: LowRank(layer.lora_A[name].weight, layer.lora_B[name].weight, layer.scaling[name])
        for module, layer in layers_of(policy, name).items()
    }


def freeze_adapter(policy: Policy, name: str) -> None:
    """Train an adapter's parameters no more."""
    for parameter in adapter_parameters(policy, name).values():
        parameter.requires_grad_(False)


def unfreeze_adapter(policy: Policy, name: str) -> None:
    """Train an adapter's parameters."""
    for parameter in adapter_parameters(policy, name).values():
        parameter.requires_grad_(True)


def freeze_base(policy: Policy, *, head: bool = False) -> None:
    """Train the backbone's own weights no more (`Backbone.freeze`), and, where asked, those of the head. Adapters stay
    as they are.
    """
    of_adapters = [each for name in policy.adapters for each in adapter_parameters(policy, name).values()]
    trained = [parameter.requires_grad for parameter in of_adapters]
    policy.backbone.freeze()
    if head:
        policy.head.requires_grad_(False)
    for parameter, before in zip(of_adapters, trained, strict=True):
        parameter.requires_grad_(before)


# --- for the other modules of adapters -------------------------------------------------------------------------


def layers_of(policy: Policy, name: str) -> dict[str, Any]:
    """peft's layers that hold an adapter, by their names in the policy.

    Raises:
        UnknownNameError: There is no adapter of this name.
    """
    check_known(policy, [name])
    return {module: policy.get_submodule(module) for module in policy.adapters[name].modules}


def check_known(policy: Policy, names: Iterable[str]) -> None:
    """Check that a policy has these adapters.

    Raises:
        UnknownNameError: It lacks one.
    """
    for name in names:
        if name not in policy.adapters:
            raise UnknownNameError("adapter", name, policy.adapters)


def refuse_while_merged(policy: Policy, what: str) -> None:
    """Refuse what would not be what it seems while adapters are in the base weights.

    Raises:
        ConfigurationError: Some are.
    """
    if policy.merged_adapters:
        merged = ", ".join(policy.merged_adapters)
        raise ConfigurationError(f"adapters cannot be {what} while {merged} are merged; call unmerge first, or fold")


def peft_config(adapter: Adapter) -> Any:
    """What peft knows an adapter by: plain LoRA without dropout or biases."""
    from peft import LoraConfig

    alpha = int(adapter.alpha) if float(adapter.alpha).is_integer() else adapter.alpha
    return LoraConfig(r=adapter.rank, lora_alpha=alpha, target_modules=list(adapter.modules))
