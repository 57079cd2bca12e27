"""What a policy's layers make of observations, and how alike two such representations are.

Centered kernel alignment: Kornblith et al., "Similarity of Neural Network Representations Revisited", ICML 2019 (arXiv
1905.00414). Its unbiased form: Nguyen, Raghu and Kornblith, "Do Wide and Deep Networks Learn the Same Things?", ICLR
2021 (arXiv 2010.15327), after Song et al., "Feature Selection via Dependence Maximization", JMLR 2012.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from vla_cl.errors import ConfigurationError

if TYPE_CHECKING:
    from vla_cl.policies.policy import Policy

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
LEAST_INPUTS = 4
"""Of the unbiased estimate."""


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Linear centered kernel alignment: HSIC(X, Y) / sqrt(HSIC(X, X) HSIC(Y, Y)), HSIC(X, Y) = |Yc^T Xc|_F^2.

    1 for representations that differ by an orthogonal map and a scale, 0 for those without any linear relation.

    Args:
        x: Representations (n, D) of n inputs; its columns are centered here.
        y: Others (n, E) of the same inputs.

    Returns:
        0 to 1; 1 where one of the two does not vary at all.
    """
    x, y = (each.double() - each.double().mean(dim=0) for each in (x, y))
    # sums over pairs of inputs, which are fewer than pairs of features
    kernels = [each @ each.T for each in (x, y)]
    scale = float(kernels[0].norm() * kernels[1].norm())
    return float((kernels[0] * kernels[1]).sum()) / scale if scale > 0 else 1.0


def debiased_cka(x: Tensor, y: Tensor) -> float:
    """Linear CKA from unbiased estimates of HSIC. `linear_cka` finds likeness in any two wide representations of few
    inputs (unrelated ones of D features each have about D / (n + D)); this one is 0 for them on average.

    Args:
        x: Representations (n, D) of n >= 4 inputs.
        y: Others (n, E) of the same inputs.

    Returns:
        At most 1, and that for representations that differ by an orthogonal map, a scale and a shift; negative by
        chance where nothing relates them. 1 where one of the two does not vary at all.

    Raises:
        ConfigurationError: There are fewer than 4 inputs.
    """
    if len(x) < LEAST_INPUTS:
        raise ConfigurationError(f"unbiased CKA takes at least {LEAST_INPUTS} inputs, got {len(x)}")
    # a shift changes nothing but rounding
    kernels = [each @ each.T for each in (every.double() - every.double().mean(dim=0) for every in (x, y))]
    for kernel in kernels:
        kernel.fill_diagonal_(0.0)
    product, first, second = _unbiased(*kernels), _unbiased(kernels[0], kernels[0]), _unbiased(kernels[1], kernels[1])
    if min(first, second) <= 0.0:
        return 1.0
    return min(1.0, product / math.sqrt(first * second))


def _unbiased(first: Tensor, second: Tensor) -> float:
    """n (n - 3) times the unbiased HSIC of two symmetric kernels (n, n) whose diagonals are 0."""
    n = len(first)
    trace = (first * second).sum()
    sums = first.sum() * second.sum() / ((n - 1) * (n - 2))
    rows = first.sum(dim=0) @ second.sum(dim=0) * 2 / (n - 2)
    return float(trace + sums - rows)


@contextmanager
def recorded(policy: Policy, layers: Sequence[str]) -> Iterator[dict[str, list[Tensor]]]:
    """Keep what layers put out while this is in force.

    Args:
        policy: Whose.
        layers: Names of modules inside the policy.

    Yields:
        By layer, one tensor (rows, D) on the CPU for each call: the mean over tokens, or places of a map, of each row.
    """
    found: dict[str, list[Tensor]] = {layer: [] for layer in layers}

    def keep(layer: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) and output else output
            if isinstance(first, Tensor) and first.is_floating_point() and first.ndim > 1:
                found[layer].append(_pooled(module, first.detach()))

        return hook

    handles = [policy.get_submodule(layer).register_forward_hook(keep(layer)) for layer in layers]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _pooled(module: nn.Module, output: Tensor) -> Tensor:
    """The mean over tokens (rows, ..., D), or over places (rows, D, ...) where the module makes maps."""
    maps = output.ndim > 2 and any(
        isinstance(each, _CONVOLUTIONS) and each.weight.ndim == output.ndim for each in module.modules()
    )
    tokens = output.flatten(2).mT if maps else output
    return tokens.float().reshape(len(tokens), -1, tokens.shape[-1]).mean(dim=1).cpu()


def layers_to_watch(policy: Policy) -> tuple[str, ...]:
    """Names of the modules inside a policy that count as its layers when one asks where it changed: the elements of its
    stacks (the blocks of a transformer or a network of residuals, the stages of an encoder) and, outside of stacks,
    each single layer with a matrix of weights. In the order in which they are declared, which is that of computation
    for all built-in policies.
    """
    return tuple(_layers("", policy))


def _layers(name: str, module: nn.Module) -> Iterator[str]:
    inside = f"{name}." if name else ""
    if isinstance(module, nn.ModuleList | nn.ModuleDict):
        for key, child in module.named_children():
            if isinstance(child, nn.ModuleList | nn.ModuleDict):
                yield from _layers(f"{inside}{key}", child)
            elif _weighs(child):
                yield f"{inside}{key}"
    elif isinstance(module, nn.Sequential) or hasattr(module, "base_layer") or not any(module.children()):
        if name and _weighs(module):
            yield name
    else:
        for key, child in module.named_children():
            yield from _layers(f"{inside}{key}", child)


def _weighs(module: nn.Module) -> bool:
    """Whether it has more than vectors: norms and biases are no layers."""
    return any(parameter.ndim > 1 for parameter in module.parameters())
