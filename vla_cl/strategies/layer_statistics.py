"""What single layers of a policy see on a task: second moments of their inputs, gradients of their weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vla_cl.data import Batch, WindowDataset
from vla_cl.policies import Policy
from vla_cl.seeding import numpy_generator, torch_generator

CHUNK = 32
"""Windows that go through a policy at once."""


def base_layer(policy: Policy, name: str) -> Any:
    """A linear layer or convolution by its name, as it is underneath its adapters."""
    layer = policy.get_submodule(name)
    return getattr(layer, "base_layer", layer)


def input_rows(layer: Any, inputs: Tensor) -> Tensor:
    """Inputs as rows (N, D) that multiply the layer's weight (outputs, D), kernels flattened.

    Args:
        layer: A linear layer, or a convolution without groups.
        inputs: What it is called with.
    """
    if isinstance(layer, nn.Linear):
        return inputs.reshape(-1, inputs.shape[-1])
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    patches = F.pad(inputs, layer._reversed_padding_repeated_twice, mode=mode)
    axes = len(layer.kernel_size)
    for axis in range(axes):
        reach = layer.dilation[axis] * (layer.kernel_size[axis] - 1) + 1
        patches = patches.unfold(axis + 2, reach, layer.stride[axis])[..., :: layer.dilation[axis]]
    places = range(2, 2 + axes)
    return patches.permute(0, *places, 1, *range(2 + axes, 2 + 2 * axes)).reshape(-1, layer.weight[0].numel())


@torch.no_grad()
def input_moments(
    policy: Policy, data: WindowDataset, layers: Sequence[str], samples: int, *keys: int | str
) -> dict[str, Tensor]:
    """The sum of x x^T (D, D), float64, over what each layer sees while the imitation loss is computed on some of a
    task's windows, drawn without replacement. The active adapters act. A layer that sees nothing has zeros.

    Memory is D^2 for each layer; a wide policy is adapted in few layers.

    Args:
        policy: On its device.
        data: The task's windows.
        layers: Names of linear layers or convolutions inside the policy.
        samples: How many windows; all where there are fewer.
        keys: Of the draw and the noise.
    """
    bases = {name: base_layer(policy, name) for name in layers}
    sizes = {name: layer.weight[0].numel() for name, layer in bases.items()}
    device = next(policy.parameters()).device
    moments = {name: torch.zeros(size, size, dtype=torch.float64, device=device) for name, size in sizes.items()}

    def record(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            rows = input_rows(bases[name], inputs[0].detach()).double()
            moments[name] += rows.T @ rows

        return hook

    hooks = [policy.get_submodule(name).register_forward_pre_hook(record(name)) for name in layers]
    try:
        for batch, generator in _batches(policy, data, samples, *keys):
            policy.loss(batch, generator)
    finally:
        for hook in hooks:
            hook.remove()
    return moments


def mean_weight_gradients(
    policy: Policy, data: WindowDataset, layers: Sequence[str], samples: int, *keys: int | str
) -> dict[str, Tensor]:
    """The gradient (outputs, D), kernels flattened, of the mean imitation loss on some of a task's windows by the base
    weight of each layer. The active adapters act. What is trained stays as it is; arguments as of `input_moments`.
    """
    weights = {name: base_layer(policy, name).weight for name in layers}
    trained = {name: weight.requires_grad for name, weight in weights.items()}
    totals = {name: torch.zeros_like(weight, dtype=torch.float32) for name, weight in weights.items()}
    count = 0
    try:
        for weight in weights.values():
            weight.requires_grad_(True)
        for batch, generator in _batches(policy, data, samples, *keys):
            loss = policy.loss(batch, generator).sum()
            gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
            for name, gradient in zip(weights, gradients, strict=True):
                if gradient is not None:
                    totals[name] += gradient
            count += len(batch)
    finally:
        for name, weight in weights.items():
            weight.requires_grad_(trained[name])
    return {name: (total / count).flatten(1) for name, total in totals.items()}


def _batches(
    policy: Policy, data: WindowDataset, samples: int, *keys: int | str
) -> Iterator[tuple[Batch, torch.Generator]]:
    """Some windows, on the policy's device, with a generator for each batch."""
    device = next(policy.parameters()).device
    chosen = numpy_generator(*keys).choice(len(data), size=min(samples, len(data)), replace=False)
    windows = np.sort(chosen)
    for start in range(0, len(windows), CHUNK):
        yield data.batch(windows[start : start + CHUNK]).to(device), torch_generator(*keys, start)
