"""A Hugging Face language model as the decoder behind a context."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vla_cl.errors import ConfigurationError
from vla_cl.policies.base import Context, LayersShape
from vla_cl.policies.layers import causal_mask

Layers = tuple[tuple[Tensor, Tensor], ...]

ORDINARY = ("llama", "mistral", "gemma", "qwen2")
"""Language models of one build: keys are rotary(k_proj(input_layernorm(x))), every layer sees all tokens, and one
rotary embedding serves them all. Heads that read layers need one of these."""


class LanguageDecoder:
    """Runs the language model of a vision-language model on embeddings; a `base.Decoder`.

    Not a module: the weights stay in `model` and `lm_head`, and what is injected there (LoRA) counts.

    Args:
        model: The vision-language model without its language modelling head.
        lm_head: That head; None if it shares the weights of the input embeddings.
        eager: Whether its attention adds masks to scores, instead of taking booleans.
        checkpointing: Whether the layers' activations are computed again in the backward pass.
    """

    def __init__(
        self, model: Any, lm_head: nn.Linear | None, *, eager: bool = False, checkpointing: bool = False
    ) -> None:
        self.model, self.lm_head, self.eager, self.checkpointing = model, lm_head, eager, checkpointing
        self.config = model.config.get_text_config()

    @property
    def text(self) -> Any:
        """The language model."""
        return self.model.get_decoder()

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights."""
        dtype: torch.dtype = self.model.get_input_embeddings().weight.dtype
        return dtype

    @property
    def shape(self) -> LayersShape | None:
        """Of its layers; None where heads cannot read them."""
        config = self.config
        if config.model_type not in ORDINARY:
            return None
        heads = config.num_attention_heads
        return LayersShape(
            count=config.num_hidden_layers,
            width=config.hidden_size,
            heads=heads,
            key_value_heads=config.num_key_value_heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
            vocabulary=config.vocab_size,
        )

    def run(
        self, embeddings: Tensor, visible: Tensor, positions: Tensor, past: Layers = (), *, layers: bool = False
    ) -> tuple[Tensor, Layers]:
        """Hidden states (B, M, width) after the last norm, and each layer's keys and values where `layers` asks.

        Args:
            embeddings: (B, M, width).
            visible: What each token sees (B, 1, M, N + M) bool, of the past and then of the new ones.
            positions: (B, M).
            past: Keys and values of N tokens before; they are not changed.
            layers: Whether the keys and values of all N + M tokens are wanted.
        """
        from transformers import DynamicCache

        embeddings = embeddings.to(self.dtype)
        mask = visible
        if self.eager:
            mask = torch.zeros_like(visible, dtype=embeddings.dtype)
            mask = mask.masked_fill(~visible, torch.finfo(embeddings.dtype).min)
        if self.checkpointing and torch.is_grad_enabled() and not past:
            with checkpointed(self.text):
                output = self.text(
                    inputs_embeds=embeddings,
                    attention_mask=mask,
                    position_ids=positions,
                    use_cache=False,
                    output_hidden_states=layers,
                )
            return output.last_hidden_state, self._layers(output.hidden_states, positions) if layers else ()
        cache = None
        if past or layers:
            cache = DynamicCache([(keys.to(self.dtype), values.to(self.dtype)) for keys, values in past])
        output = self.text(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=cache is not None,
        )
        found = () if cache is None else tuple((layer.keys, layer.values) for layer in cache.layers)
        return output.last_hidden_state, found

    def _layers(self, inputs: Sequence[Tensor], positions: Tensor) -> Layers:
        """Keys and values from the input of each layer: with checkpointing, transformers keeps none."""
        text = self.text
        cosines, sines = self.rotary(positions)
        cosines, sines = cosines[:, None], sines[:, None]
        found = []
        for layer, hidden in zip(text.layers, inputs, strict=False):  # after the last layer's comes the final output
            normed = layer.input_layernorm(hidden)
            shape = (*normed.shape[:2], -1, layer.self_attn.head_dim)
            keys = layer.self_attn.k_proj(normed).view(shape).transpose(1, 2)
            values = layer.self_attn.v_proj(normed).view(shape).transpose(1, 2)
            first, second = keys.chunk(2, dim=-1)
            rotated = keys * cosines.to(hidden.dtype) + torch.cat([-second, first], dim=-1) * sines.to(hidden.dtype)
            found.append((rotated, values))
        return tuple(found)

    # --- base.Decoder --------------------------------------------------------------------------------------

    def embed(self, tokens: Tensor) -> Tensor:
        """Input embeddings (B, M, width) of tokens (B, M)."""
        embeddings: Tensor = self.model.get_input_embeddings()(tokens)
        return embeddings

    def extend(self, context: Context, embeddings: Tensor, *, causal: bool) -> tuple[Tensor, Context]:
        """See `base.Decoder.extend`. Its activations are kept even with checkpointing."""
        batch, new = embeddings.shape[:2]
        device = embeddings.device
        mask = context.mask
        if mask is None:
            mask = torch.ones(context.tokens.shape[:2], dtype=torch.bool, device=device)
        among = causal_mask(new, device) if causal else torch.ones(new, new, dtype=torch.bool, device=device)
        visible = torch.cat([mask[:, None, None].expand(-1, 1, new, -1), among.expand(batch, 1, -1, -1)], dim=-1)
        positions = mask.sum(dim=1, keepdim=True) + torch.arange(new, device=device)
        hidden, layers = self.run(embeddings, visible, positions, context.layers, layers=True)
        hidden = outward(hidden)
        extended = replace(
            context,
            tokens=torch.cat([context.tokens, hidden], dim=1),
            mask=None if context.mask is None else F.pad(mask, (0, new), value=True),
            layers=outward_layers(layers),
        )
        return hidden, extended

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores (B, M, vocabulary), float32, of the next token."""
        head = self.model.get_input_embeddings() if self.lm_head is None else self.lm_head
        hidden = hidden.to(self.dtype)
        scores = (F.linear(hidden, head.weight) if self.lm_head is None else head(hidden)).float()
        cap = getattr(self.config, "final_logit_softcapping", None)
        return scores if cap is None else torch.tanh(scores / cap) * cap

    def rotary(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines (B, M, head_dim), float32, that rotate queries and keys at positions (B, M)."""
        like = torch.empty(0, dtype=torch.float32, device=positions.device)
        cosines, sines = self.text.rotary_emb(like, position_ids=positions)
        return cosines, sines


def prefix_visibility(mask: Tensor, prefix: int, *, bidirectional: bool) -> Tensor:
    """What each of N tokens sees (B, 1, N, N), given which are real (B, N): itself and those before it; in a
    bidirectional prefix of so many tokens, all of that prefix. What comes after the prefix is never seen from within.
    """
    length = mask.shape[1]
    visible = causal_mask(length, mask.device)
    if bidirectional:
        visible[:prefix, :prefix] = True
    return visible & mask[:, None, None]


def positions_of(mask: Tensor) -> Tensor:
    """The number of real tokens before each (B, N)."""
    counted = mask.long()
    return counted.cumsum(dim=1) - counted


def outward(tensor: Tensor) -> Tensor:
    """As heads take it: float32, so that bfloat16 weights here ask nothing of theirs; unchanged under autocast."""
    return tensor if torch.is_autocast_enabled(tensor.device.type) else tensor.float()


def outward_layers(layers: Layers) -> Layers:
    """`outward` for keys and values."""
    return tuple((outward(keys), outward(values)) for keys, values in layers)


def enable_checkpointing(model: nn.Module) -> None:
    """Let a model's layers be computed again in the backward pass of what is run under `checkpointed`.

    Raises:
        ConfigurationError: Its layers cannot.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers: list[Any] = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise ConfigurationError(
            f"{type(model).__name__} of transformers knows no gradient checkpointing; set gradient_checkpointing=false"
        )
    for layer in layers:
        layer.gradient_checkpointing = True
        # nothing is random in them, so no generator's state need be kept
        layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)


@contextmanager
def checkpointed(model: nn.Module) -> Iterator[None]:
    """Checkpoint a model's layers where that is enabled. transformers does so in layers that are in training mode; only
    the layers themselves are, not what is in them.
    """
    layers = [module for module in model.modules() if getattr(module, "gradient_checkpointing", False)]
    for layer in layers:
        layer.training = True
    try:
        yield
    finally:
        for layer in layers:
            layer.training = False
