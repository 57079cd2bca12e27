"""Soft prompts: learned vectors that pass through a backbone's transformer beside its own tokens.

Lester et al., "The Power of Scale for Parameter-Efficient Prompt Tuning", EMNLP 2021 (arXiv 2104.08691), for prompts in
the input; Li and Liang, "Prefix-Tuning", ACL 2021 (arXiv 2101.00190), for keys and values in the layers.

prompts = SoftPrompts(tokens=learned.expand(len(observation), -1, -1))
with prompted(policy, prompts):
    actions = policy.act(observation, seeds)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vla_cl.errors import ConfigurationError
from vla_cl.policies.layers import TransformerLayer

if TYPE_CHECKING:
    from vla_cl.policies.policy import Policy


@dataclass(frozen=True)
class SoftPrompts:
    """The prompts of B observations.

    A head never sees them: what they do, they do to the backbone's own tokens, whose number and positions stay.

    Args:
        tokens: (B, P, D) beside the tokens that enter the transformer; None for none.
        prefixes: By the index of a layer, keys and values (B, P, D) that its self-attention also sees. They stand
            behind the projections to keys and values, before the cut into heads.
    """

    tokens: Tensor | None = None
    prefixes: Mapping[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    @property
    def parts(self) -> list[Tensor]:
        """All tensors in it."""
        prefixes = [each for pair in self.prefixes.values() for each in pair]
        return prefixes if self.tokens is None else [self.tokens, *prefixes]

    def check(self, rows: int) -> None:
        """Check that a batch of so many observations is what they are for.

        Raises:
            ConfigurationError: It is not.
        """
        if given := {len(each) for each in self.parts} - {rows}:
            raise ConfigurationError(f"soft prompts are for {given.pop()} rows, got {rows} observations")

    def for_rows(self, rows: int) -> SoftPrompts:
        """For as many rows as a backbone sees at once: all observations' first moments, then their second ones, ..."""
        moments = rows // len(self.parts[0]) if self.parts else 1
        if moments == 1:
            return self
        return SoftPrompts(
            None if self.tokens is None else self.tokens.repeat(moments, 1, 1),
            {
                layer: (keys.repeat(moments, 1, 1), values.repeat(moments, 1, 1))
                for layer, (keys, values) in self.prefixes.items()
            },
        )


def check_prompts(policy: Policy, *, prefixes: bool = False) -> int:
    """Check that a policy takes soft prompts, in its layers, too, where `prefixes` asks.

    Returns:
        D, the width of a prompt.

    Raises:
        ConfigurationError: It does not.
    """
    backbone = policy.backbone
    if backbone.prompt_width is None:
        raise ConfigurationError(
            f"backbone {policy.config.backbone!r} takes no prompts: it has no transformer layers in which its tokens "
            "would look at them; use lowdim_transformer, compact, pretrained_compact or hf_vlm, with layers"
        )
    if prefixes and not backbone.prefix_layers:
        raise ConfigurationError(
            f"backbone {policy.config.backbone!r} takes prompts in its input alone, none in its layers"
        )
    return backbone.prompt_width


def expect_prompts(policy: Policy) -> None:
    """Let a policy know that prompts will pass through it, so that nothing is computed beforehand that they change.

    Raises:
        ConfigurationError: It takes none.
    """
    check_prompts(policy)
    policy.backbone.expects_prompts = True


@contextmanager
def prompted(policy: Policy, prompts: SoftPrompts | None) -> Iterator[None]:
    """Let prompts pass through a policy's backbone.

    Inside, `Policy.context`, `act` and the losses see them, gradients with respect to prompts included. Of nested ones,
    the innermost hold; None is without. Where activations are computed again in the backward pass, that pass too must
    happen inside.

    Raises:
        ConfigurationError: The backbone takes no such prompts, or one is of another width or not in step with others.
    """
    backbone = policy.backbone
    if prompts is not None:
        _check(policy, prompts)
    outer, backbone.soft_prompts = backbone.soft_prompts, prompts
    try:
        yield
    finally:
        backbone.soft_prompts = outer


def through_layers(layers: Iterable[nn.Module], hidden: Tensor, prompts: SoftPrompts | None) -> Tensor:
    """Hidden states (R, N, D) through a trunk of `TransformerLayer`s without masks, with prompts where there are any.
    Prompts among the tokens come first, and are dropped after the last layer.
    """
    if prompts is None:
        for layer in layers:
            hidden = layer(hidden)
        return hidden
    prompts = prompts.for_rows(len(hidden))
    length = hidden.shape[1]
    if prompts.tokens is not None:
        hidden = torch.cat([prompts.tokens.to(hidden.dtype), hidden], dim=1)
    for index, layer in enumerate(layers):
        if index in prompts.prefixes:
            assert isinstance(layer, TransformerLayer)
            hidden = layer.prefixed(hidden, *prompts.prefixes[index])
        else:
            hidden = layer(hidden)
    return hidden[:, hidden.shape[1] - length :]


def _check(policy: Policy, prompts: SoftPrompts) -> None:
    width = check_prompts(policy, prefixes=bool(prompts.prefixes))
    rows = {len(each) for each in prompts.parts}
    widths = {each.shape[-1] for each in prompts.parts}
    if any(each.ndim != 3 for each in prompts.parts) or len(rows) > 1 or widths - {width}:
        shapes = ", ".join(str(tuple(each.shape)) for each in prompts.parts)
        raise ConfigurationError(f"soft prompts must be (rows, prompts, {width}), all for as many rows, got {shapes}")
    for layer, (keys, values) in prompts.prefixes.items():
        if not 0 <= layer < policy.backbone.prefix_layers or keys.shape != values.shape:
            raise ConfigurationError(
                f"prefixes are as many keys as values in layers 0 to {policy.backbone.prefix_layers - 1}, got "
                f"{tuple(keys.shape)} and {tuple(values.shape)} in layer {layer}"
            )
