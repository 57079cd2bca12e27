"""Feed-forward layers that grow bottleneck adapters, and autoencoders that tell which of them an input belongs to."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vla_cl.data import Batch
from vla_cl.errors import ConfigurationError
from vla_cl.policies import Policy
from vla_cl.policies.layers import zeroed
from vla_cl.seeding import torch_generator

FEED_FORWARD = re.compile(r"(.*\.)?(mlp|ffn|feed_forward|feedforward|blocks\.\d+)")
"""Names that feed-forward layers go by."""
BASE = -1
"""In place of an adapter's index: the layer as it is."""

LayerCall = Callable[[str, Tensor], Tensor | None]
"""Name of a layer and its input to what is added to its output, if anything."""


class Bottleneck(nn.Module):
    """An adapter of a feed-forward layer: W_up relu(W_down x), 0 until it is trained."""

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__()
        self.down = nn.Linear(inputs, width)
        self.up = zeroed(nn.Linear(width, outputs))

    def forward(self, tokens: Tensor) -> Tensor:
        added: Tensor = self.up(self.down(tokens.float()).relu())
        return added.to(tokens.dtype)


class Discriminator(nn.Module):
    """An autoencoder of what a layer is given in one task, and the adapter that belongs to it.

    Args:
        width: D, of the layer's input.
        hidden: Of the code; less than D, so that only what is like the task is reconstructed.
        adapter: Index, or `BASE`.

    Attributes:
        mean: Of the reconstruction errors of the task's rows.
        deviation: Their standard deviation.
    """

    adapter: Tensor
    mean: Tensor
    deviation: Tensor

    def __init__(self, width: int, hidden: int, adapter: int) -> None:
        super().__init__()
        self.encoder = nn.Linear(width, hidden)
        self.decoder = nn.Linear(hidden, width)
        self.register_buffer("adapter", torch.tensor(adapter))
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("deviation", torch.ones(()))

    def errors(self, tokens: Tensor) -> Tensor:
        """Mean squared error (rows,) of each row of a layer's input (rows, ..., D), its tokens normalised."""
        normed = F.layer_norm(tokens.float(), tokens.shape[-1:])
        rebuilt: Tensor = self.decoder(self.encoder(normed).relu())
        return (rebuilt - normed).square().flatten(1).mean(dim=1)

    def z_score(self, errors: Tensor) -> float:
        """How many standard deviations other rows' mean error (rows,) lies above that of the task's own."""
        return float((errors.mean() - self.mean) / self.deviation.clamp(min=1e-8))


class ExpandableLayer(nn.Module):
    """What one layer has grown: adapters, and a discriminator of each task.

    Args:
        inputs: D of the layer's input.
        outputs: Of its output.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.inputs, self.outputs = inputs, outputs
        self.adapters = nn.ModuleList()
        self.discriminators = nn.ModuleList()

    def nearest(self, tokens: Tensor) -> Tensor:
        """Of each row of the layer's input (rows, ..., D), the adapter whose discriminator errs least (rows,)."""
        known = list(self.discriminators)
        errors = torch.stack([each.errors(tokens) for each in known])  # type: ignore[operator]
        adapters = torch.stack([each.adapter for each in known])  # type: ignore[misc]
        return adapters[errors.argmin(dim=0)]

    def routed(self, tokens: Tensor) -> Tensor:
        """What the adapters of `nearest` add, row by row."""
        chosen = self.nearest(tokens).view(-1, *[1] * (tokens.ndim - 1))
        added = tokens.new_zeros(*tokens.shape[:-1], self.outputs)
        for index, adapter in enumerate(self.adapters):
            if bool((chosen == index).any()):
                added = torch.where(chosen == index, adapter(tokens), added)
        return added

    def sizes(self) -> dict[str, Any]:
        """JSON from which `of_sizes` builds as many parts of the same shapes."""
        return {
            "inputs": self.inputs,
            "outputs": self.outputs,
            "adapters": [each.down.out_features for each in self.adapters],  # type: ignore[union-attr]
            "discriminators": [each.encoder.out_features for each in self.discriminators],  # type: ignore[union-attr]
        }

    @staticmethod
    def of_sizes(sizes: Mapping[str, Any]) -> ExpandableLayer:
        """A layer with parts of these shapes, whose weights are about to be loaded; all frozen."""
        layer = ExpandableLayer(int(sizes["inputs"]), int(sizes["outputs"]))
        layer.adapters.extend(Bottleneck(layer.inputs, width, layer.outputs) for width in sizes["adapters"])
        layer.discriminators.extend(Discriminator(layer.inputs, hidden, BASE) for hidden in sizes["discriminators"])
        return layer.requires_grad_(False)


@contextmanager
def added_to(policy: Policy, layers: Mapping[str, Any], call: LayerCall) -> Iterator[None]:
    """Show `call` what the layers are given, and add to what they put out what it returns."""

    def hook(name: str) -> Any:
        def after(layer: nn.Module, inputs: Any, output: Tensor) -> Tensor | None:
            added = call(name, inputs[0])
            return None if added is None else output + added

        return after

    handles = [policy.get_submodule(name).register_forward_hook(hook(name)) for name in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def feed_forward_layers(policy: Policy, pattern: str, head: bool, batch: Batch) -> dict[str, ExpandableLayer]:
    """The layers of a policy that can be expanded, in the order in which a training step reaches them.

    Args:
        policy: Any.
        pattern: "auto", or a regular expression that matches whole names of modules inside the policy. "auto" means the
            feed-forward layers of the backbone's transformer (where its `adapter_targets` lie), by name.
        head: Whether "auto" means those of the head, too.
        batch: A window, to see what they are given.

    Raises:
        ConfigurationError: There are none.
    """
    found: dict[str, ExpandableLayer] = {}

    def look(name: str) -> Any:
        def hook(layer: nn.Module, inputs: Any, output: Any) -> None:
            tensors = inputs and isinstance(inputs[0], Tensor) and isinstance(output, Tensor)
            if tensors and output.ndim > 1 and inputs[0].shape[:-1] == output.shape[:-1]:
                found.setdefault(name, ExpandableLayer(inputs[0].shape[-1], output.shape[-1]))

        return hook

    names = feed_forward_names(policy, pattern, head)
    handles = [policy.get_submodule(name).register_forward_hook(look(name)) for name in names]
    try:
        policy.loss(batch, torch_generator(0))
    finally:
        for handle in handles:
            handle.remove()
    if not found:
        raise _no_layer(policy, pattern)
    return found


def feed_forward_names(policy: Policy, pattern: str, head: bool) -> list[str]:
    """Names of the modules that `feed_forward_layers` looks at; its arguments, and its error where there are none."""
    names = [name for name, module in policy.named_modules() if _meant(policy, name, module, pattern, head)]
    names = [name for name in names if not any(other.startswith(f"{name}.") for other in names)]  # the innermost
    if not names:
        raise _no_layer(policy, pattern)
    return names


def _no_layer(policy: Policy, pattern: str) -> ConfigurationError:
    return ConfigurationError(
        f"strategy.layers={pattern!r} names no feed-forward layer of backbone {policy.config.backbone!r}"
    )


def _meant(policy: Policy, name: str, module: nn.Module, pattern: str, head: bool) -> bool:
    linear = [each for each, inner in module.named_modules() if isinstance(inner, nn.Linear)]
    if pattern != "auto":
        return bool(linear) and re.fullmatch(pattern, name) is not None
    part, _, inside = name.partition(".")
    if len(linear) < 2 or not FEED_FORWARD.fullmatch(name) or part not in ("backbone", *(["head"] if head else [])):
        return False
    return part == "head" or any(re.fullmatch(policy.backbone.adapter_targets, f"{inside}.{each}") for each in linear)
