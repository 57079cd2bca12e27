"""Mixtures of low-rank experts inside layers: every token is told by its layer's router which experts act on it.

The E experts of a layer share one adapter: expert i is the i-th of E equal parts of its rank, that is of the rows of A
and of the columns of B. One adapter whose code A x is weighed part by part is the sum of the weighed experts, at the
cost of one adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vla_cl.errors import ConfigurationError
from vla_cl.policies import Policy
from vla_cl.policies.adapters import mixture

Gate = Callable[[str, Tensor], Tensor]
"""Name of a layer and its input (..., D) to the experts' weights (..., E)."""


class TokenRouters(nn.Module):
    """One linear router a layer, without bias: weights softmax(W x) of the experts for each token x.

    Args:
        widths: D of each layer's tokens, by the layer's name.
        experts: E.
    """

    def __init__(self, widths: Mapping[str, int], experts: int) -> None:
        super().__init__()
        self.layers = nn.ModuleDict(
            {_key(layer): nn.Linear(width, experts, bias=False) for layer, width in widths.items()}
        )

    def forward(self, layer: str, tokens: Tensor) -> Tensor:
        """Weights (..., E), float32, non-negative, with sum 1, of the experts for tokens (..., D) of a layer."""
        router = self.layers[_key(layer)]
        weights: Tensor = router(tokens.to(router.weight.dtype))  # type: ignore[arg-type]
        return weights.float().softmax(dim=-1)

    @staticmethod
    def like(state: Mapping[str, Tensor]) -> TokenRouters:
        """Routers of the sizes of those that a state dict is of, with its weights."""
        weights = {key.removeprefix("layers.").removesuffix(".weight"): weight for key, weight in state.items()}
        experts = len(next(iter(weights.values())))
        routers = TokenRouters({key.replace(":", "."): weight.shape[1] for key, weight in weights.items()}, experts)
        routers.load_state_dict(state)
        return routers


def token_widths(policy: Policy, adapter: str) -> dict[str, int]:
    """D of the tokens of each layer that an adapter is in.

    Raises:
        ConfigurationError: One is a convolution, which has no tokens.
    """
    widths = {}
    for module in policy.adapters[adapter].modules:
        layer: Any = policy.get_submodule(module)
        if not isinstance(layer.base_layer, nn.Linear):
            raise ConfigurationError(f"experts are mixed a token, and layer {module!r} is a convolution without tokens")
        widths[module] = layer.base_layer.in_features
    return widths


@contextmanager
def token_mixture(policy: Policy, adapter: str, gate: Gate) -> Iterator[None]:
    """Let the experts in an adapter act, weighed token by token: every layer adds alpha / r sum_i gate(x)_i B_i A_i x.

    Args:
        policy: Whose adapter it is.
        adapter: Of the experts, its rank a multiple of their number.
        gate: Their weights.
    """
    handles = []
    for module in policy.adapters[adapter].modules:
        layer: Any = policy.get_submodule(module)
        gated = _GatedLayer(module, gate)
        handles.append(layer.register_forward_pre_hook(gated.look))
        handles.append(layer.lora_B[adapter].register_forward_pre_hook(gated.weigh))
    try:
        with mixture(policy, {adapter: 1.0}):
            yield
    finally:
        for handle in handles:
            handle.remove()


class _GatedLayer:
    """A layer's gate: it sees what the layer is given, then weighs the code A x before B takes it up."""

    def __init__(self, module: str, gate: Gate) -> None:
        self.module = module
        self.gate = gate
        self.tokens = torch.empty(0)

    def look(self, layer: nn.Module, inputs: Any) -> None:
        self.tokens = inputs[0]

    def weigh(self, layer: nn.Module, inputs: Any) -> tuple[Tensor]:
        (code,) = inputs
        weights = self.gate(self.module, self.tokens)
        parts = code.unflatten(-1, (weights.shape[-1], -1))
        return ((parts * weights.to(code.dtype)[..., None]).flatten(-2),)


def _key(layer: str) -> str:
    """A layer's name as a module's may be."""
    return layer.replace(".", ":")
