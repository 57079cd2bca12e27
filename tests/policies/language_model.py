"""A small language model behind a context, for tests of heads that let it go on."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from vla_cl.policies import Context, ContextShape, LayersShape

WIDTH, VOCABULARY = 32, 300


class LanguageModel:
    """A Llama with random weights, as a `base.Decoder`, and contexts from it."""

    def __init__(self, seed: int = 0, vocabulary: int = VOCABULARY) -> None:
        torch.manual_seed(seed)
        self.config = LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            initializer_range=0.3,
            pad_token_id=None,
            bos_token_id=None,
            eos_token_id=None,
        )
        self.model = LlamaForCausalLM(self.config).eval()
        self.passes = 0

    @property
    def shape(self) -> ContextShape:
        layers = LayersShape(2, WIDTH, 4, 2, WIDTH // 4, self.config.vocab_size)
        return ContextShape(WIDTH, agent_pos_dim=3, layers=layers)

    def context(self, inputs: Tensor) -> Context:
        """Of input embeddings (B, N, WIDTH), which the model has read."""
        cache = DynamicCache()
        hidden = self.model.model(inputs_embeds=inputs, past_key_values=cache, use_cache=True).last_hidden_state
        layers = tuple((layer.keys, layer.values) for layer in cache.layers)
        return Context(hidden, torch.zeros(len(inputs), 3), layers=layers, decoder=self)

    def whole(self, inputs: Tensor, tokens: Tensor) -> Tensor:
        """The logits (B, M, vocabulary) after each of M tokens (B, M) that follow the inputs, in one plain pass."""
        embeddings = torch.cat([inputs, self.embed(tokens)], dim=1)
        return self.model(inputs_embeds=embeddings, use_cache=False).logits[:, inputs.shape[1] :]

    def embed(self, tokens: Tensor) -> Tensor:
        return self.model.get_input_embeddings()(tokens)

    def extend(self, context: Context, embeddings: Tensor, *, causal: bool) -> tuple[Tensor, Context]:
        assert causal
        self.passes += 1
        cache = DynamicCache(list(context.layers))
        hidden = self.model.model(inputs_embeds=embeddings, past_key_values=cache, use_cache=True).last_hidden_state
        layers = tuple((layer.keys, layer.values) for layer in cache.layers)
        return hidden, replace(context, tokens=torch.cat([context.tokens, hidden], dim=1), layers=layers)

    def logits(self, hidden: Tensor) -> Tensor:
        return self.model.lm_head(hidden).float()

    def rotary(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        return self.model.model.rotary_emb(torch.empty(0), position_ids=positions)
