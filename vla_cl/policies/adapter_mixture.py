"""Routes: which adapters act with which weights, for a whole batch or a row each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from vla_cl.errors import ConfigurationError, UnknownNameError
from vla_cl.policies.adapter_layers import activate_layers, check_known, refuse_while_merged, switch_layers

if TYPE_CHECKING:
    from vla_cl.policies.policy import Policy

Weight = float | Tensor
"""Of an adapter: a number, a tensor () or one weight a row (B,)."""
Route = Mapping[str, "Weight | Mapping[str, Weight]"]
"""Weights by adapter; where they differ from layer to layer, a mapping of its layers' names (`Adapter.modules`) to
weights. Adapters and layers that are not named do not act."""


@contextmanager
def mixture(policy: Policy, route: Route) -> Iterator[None]:
    """Let a mixture of adapters act: every layer adds sum_i weight_i * alpha_i / rank_i B_i A_i x. The products are
    summed, never the factors.

    Inside, `Policy.context`, `act` and the losses follow the route, gradients with respect to weights included. What
    is active outside comes back at the end; of nested mixtures, the innermost holds. Where activations are computed
    again in the backward pass (gradient checkpointing), that pass too must happen inside.

    Args:
        policy: Its adapters, none of them merged.
        route: {} is the base alone. With one weight a row, only batches of so many observations fit.

    Raises:
        UnknownNameError: There is no adapter of a name, or it does not adapt a layer that is named.
        ConfigurationError: A weight is not finite, not float, or has another shape, or adapters are merged.
    """
    mixing = Mixing.of(policy, route)
    outer = policy.mixing
    if outer:
        outer.end()
    policy.mixing = mixing
    mixing.begin(policy)
    try:
        yield
    finally:
        mixing.end()
        policy.mixing = outer
        if outer:
            outer.begin(policy)
        else:
            activate_layers(policy)


@dataclass
class Mixing:
    """A route in force.

    Args:
        weights: By layer, those of the adapters that act there, on the policy's device.
        rows: B where a weight is given for each row, else None.
    """

    weights: dict[str, dict[str, Weight]]
    rows: int | None
    _hooks: list[RemovableHandle] = field(default_factory=list)

    @staticmethod
    def of(policy: Policy, route: Any) -> Mixing:
        """What a route means for a policy, checked."""
        if not isinstance(route, Mapping) or (route and not policy.adapters):
            found = "" if policy.adapters else f"policy {policy.config.name!r} has no adapters; "
            raise ConfigurationError(
                f"{found}a route is None or a mapping of adapters' names to weights, got {_shown(route)}"
            )
        check_known(policy, route)
        refuse_while_merged(policy, "mixed")
        device = next(policy.parameters()).device
        weights: dict[str, dict[str, Weight]] = {}
        for name, adapter in policy.adapters.items():  # in the order in which their sum is always taken
            for module, weight in _by_layer(name, route.get(name, 0.0), adapter.modules, device).items():
                if not _is(weight, 0.0):
                    weights.setdefault(module, {})[name] = weight
        told = [each for name in route for each in _values(route[name])]
        rows = {len(weight) for weight in told if isinstance(weight, Tensor) and weight.ndim}
        if len(rows) > 1:
            raise ConfigurationError(f"the weights of a route must be for as many rows each, got {sorted(rows)}")
        return Mixing(weights, next(iter(rows), None))

    def begin(self, policy: Policy) -> None:
        """Switch the layers, and weigh what adapters add there."""
        switch_layers(policy, self.weights)
        for module, weights in self.weights.items():
            moments = policy.features.history if module.startswith("backbone.") else 1
            layer: Any = policy.get_submodule(module)
            for name, weight in weights.items():
                if not _is(weight, 1.0):
                    weighed = _Weighed(module, weight, moments)
                    self._hooks.append(layer.lora_B[name].register_forward_hook(weighed))

    def end(self) -> None:
        """Undo `begin`, but for the switch."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def check(self, rows: int) -> None:
        """Check that a batch of so many observations is what the route is for.

        Raises:
            ConfigurationError: It is not.
        """
        if self.rows not in (None, rows):
            raise ConfigurationError(f"the route weighs adapters for {self.rows} rows, got {rows} observations")


@dataclass(frozen=True)
class _Weighed:
    """Weighs what an adapter adds in a layer.

    Args:
        module: Name of the layer.
        weight: A number, () or (B,).
        moments: Of the history, where the layer sees them.
    """

    module: str
    weight: Weight
    moments: int

    def __call__(self, layer: nn.Module, inputs: Any, delta: Tensor) -> Tensor:
        if not isinstance(self.weight, Tensor):
            return delta * self.weight
        weight = self.weight
        if weight.ndim:
            spread = spread_rows(weight, len(delta), self.moments, self.module)
            weight = spread.view(-1, *[1] * (delta.ndim - 1))
        return (delta.float() * weight).to(delta.dtype)


def spread_rows(values: Tensor, seen: int, moments: int, module: str) -> Tensor:
    """What is given for each of B observations (B, ...), for each of the rows that a layer sees at once.

    The layer's batch may be larger than that of the observations: a backbone sees the moments of a history one after
    another, all B rows each (`Policy.context`), and within that each row's cameras or a head's draws in a row.

    Args:
        values: One a row of the observations.
        seen: Rows of the layer's batch; 1 where it broadcasts.
        moments: Of the history, where the layer sees them.
        module: Name of the layer.

    Raises:
        ConfigurationError: The layer's rows are no multiple of the observations'.
    """
    values = torch.cat([values] * moments)
    rows = len(values)
    if seen % rows and seen != 1:
        raise ConfigurationError(
            f"layer {module!r} sees {seen} rows at once, so that {rows} rows cannot be weighed one by one"
        )
    return values.repeat_interleave(max(1, seen // rows), dim=0)


def _by_layer(name: str, weight: object, modules: Sequence[str], device: torch.device) -> dict[str, Weight]:
    """An adapter's weight in each of its layers."""
    if not isinstance(weight, Mapping):
        return dict.fromkeys(modules, _checked(name, weight, device))
    for module in weight:
        if module not in modules:
            raise UnknownNameError(f"layer of adapter {name!r}", module, modules)
    return {module: _checked(name, each, device) for module, each in weight.items()}


def _values(weight: Any) -> Sequence[Any]:
    return list(weight.values()) if isinstance(weight, Mapping) else [weight]


def _checked(name: str, weight: object, device: torch.device) -> Weight:
    if isinstance(weight, Tensor):
        if weight.ndim > 1 or not weight.is_floating_point():
            raise ConfigurationError(
                f"the weight of adapter {name!r} must be a float, or floats of shape (rows,), got {_shown(weight)}"
            )
        return weight.to(device, torch.float32)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
        raise ConfigurationError(f"the weight of adapter {name!r} must be a finite number, got {_shown(weight)}")
    return float(weight)


def _is(weight: Weight, value: float) -> bool:
    return not isinstance(weight, Tensor) and weight == value


def _shown(value: object) -> str:
    return f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
