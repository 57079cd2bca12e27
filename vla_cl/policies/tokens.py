"""The `tokens` head: each action dimension a token, one of 256 uniform bins, as OpenVLA and RT-2 have it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vla_cl.errors import ConfigurationError
from vla_cl.policies.autoregression import (
    AutoregressionOptions,
    build_decoder,
    cross_entropy,
    distillation,
    generate,
    greedy,
)
from vla_cl.policies.base import HEADS, ActionHead, Context, ContextShape, masked_mean
from vla_cl.policies.options import check_at_least


@dataclass(frozen=True)
class TokensOptions(AutoregressionOptions):
    """Discretisation and decoding; what is not here is in `AutoregressionOptions`.

    Args:
        bins: Kinds of tokens. Their edges cut [-1, 1] into `bins - 1` intervals.
        temperature: Acting takes the likeliest token at 0, else draws one from the softmax of the scores over this.
    """

    bins: int = 256
    temperature: float = 0.0

    def __post_init__(self) -> None:
        kind = "head 'tokens'"
        self.check(kind)
        check_at_least(kind, self, {"bins": 2})
        if not self.temperature >= 0:
            raise ConfigurationError(f"option temperature of {kind} must be at least 0, got {self.temperature}")


@HEADS.decorator("tokens")
class TokensHead(ActionHead):
    """Autoregression over chunk x A tokens: all dimensions of the first action, then of the second, and so on.

    Normalised actions are clipped to [-1, 1] and discretised as by OpenVLA (Kim et al., arXiv 2406.09246, section 3.2;
    its action tokenizer): token b is the interval [edge b, edge b + 1) of `bins` equally spaced edges, decoded as its
    centre. The last token is 1.0 itself and decodes as the centre below it, so what is decoded lies in
    [-1 + w / 2, 1 - w / 2], w = 2 / (bins - 1).

    A sequence is trained with teacher forcing: padding comes last and tokens see only those before them. Deterministic,
    so the noise of its loss is empty.
    """

    Options = TokensOptions

    edges: Tensor
    centres: Tensor

    def __init__(self, options: TokensOptions, shape: ContextShape, chunk: int, action_dim: int) -> None:
        super().__init__()
        self.chunk, self.action_dim, self.bins = chunk, action_dim, options.bins
        self.temperature, self.distillation_temperature = options.temperature, options.distillation_temperature
        self.decoder = build_decoder("head 'tokens'", options, shape, options.bins, chunk * action_dim)
        self.decoder.number(torch.arange(options.bins), torch.linspace(0.0, 1.0, options.bins), own=0.0)
        self.needs_layers = self.decoder.needs_layers
        edges, centres = bin_edges(options.bins)
        self.register_buffer("edges", edges, persistent=False)
        self.register_buffer("centres", centres, persistent=False)

    def sample_noise(self, batch_size: int, generator: torch.Generator) -> Tensor:
        """(B, 0)."""
        return torch.empty(batch_size, 0)

    def target(self, actions: Tensor, noise: Tensor) -> Tensor:
        """The tokens, one-hot (B, chunk, A * bins)."""
        return F.one_hot(self.discretise(actions), self.bins).float().flatten(2)

    def predict(self, context: Context, actions: Tensor, noise: Tensor) -> Tensor:
        """Scores (B, chunk, A * bins), float32, of each token given the actions' tokens before it."""
        scores: Tensor = self.decoder(context, self.discretise(actions).flatten(1))[0]
        return scores.reshape(len(scores), self.chunk, -1)

    def divergence(self, predicted: Tensor, reference: Tensor, padding: Tensor) -> Tensor:
        """T^2 KL(reference || predicted) (B,), averaged over the tokens of actions that are not padding."""
        shape = (*predicted.shape[:2], self.action_dim, self.bins)
        errors = distillation(predicted.reshape(shape), reference.reshape(shape), self.distillation_temperature)
        return masked_mean(errors.mean(dim=-1), padding)

    def loss(self, context: Context, actions: Tensor, padding: Tensor, noise: Tensor) -> Tensor:
        """Cross-entropy in nats (B,), averaged over the tokens of actions that are not padding."""
        tokens = self.discretise(actions).flatten(1)
        scores, total = self.decoder(context, tokens)
        errors = cross_entropy(scores, total, tokens).view(len(tokens), self.chunk, -1)
        return masked_mean(errors.mean(dim=-1), padding)

    def sample(self, context: Context, initial_noise: Tensor) -> Tensor:
        """The likeliest tokens one after the other, or, at a temperature, tokens drawn with one normal number each."""
        uniforms = torch.special.ndtr(initial_noise.float().flatten(1))

        def draw(scores: Tensor, position: int) -> Tensor:
            return draw_token(scores / self.temperature, uniforms[:, position])

        choose = draw if self.temperature else greedy
        tokens = generate(self.decoder, context, self.chunk * self.action_dim, choose)
        return self.decode(tokens).view(-1, self.chunk, self.action_dim)

    def discretise(self, actions: Tensor) -> Tensor:
        """Tokens (...) of normalised actions (...)."""
        inside = actions.float().contiguous().clamp(-1.0, 1.0)
        below: Tensor = torch.bucketize(inside, self.edges, right=True)
        return (below - 1).clamp(0, self.bins - 1)

    def decode(self, tokens: Tensor) -> Tensor:
        """Normalised actions (...), float32, of tokens (...)."""
        return self.centres[tokens.clamp(max=self.bins - 2)]


def bin_edges(bins: int) -> tuple[Tensor, Tensor]:
    """The edges (bins,) of uniform intervals of [-1, 1], and the intervals' centres (bins - 1,), float32.

    Edges are rounded up: a number of 32 bits is below such an edge exactly if it is below the one of 64 bits.
    """
    exact = np.linspace(-1.0, 1.0, bins)
    rounded = exact.astype(np.float32)
    edges = np.where(rounded < exact, np.nextafter(rounded, np.float32(2)), rounded)
    return torch.from_numpy(edges), torch.from_numpy(((exact[:-1] + exact[1:]) / 2).astype(np.float32))


def draw_token(scores: Tensor, uniforms: Tensor) -> Tensor:
    """Tokens (B,) from the softmax of scores (B, K), by inverting its distribution function at uniforms (B,)."""
    cumulative = scores.softmax(dim=-1).cumsum(dim=-1)
    # of the total, which rounding leaves beside 1, so that what is drawn has a probability that is not 0
    reached = cumulative >= uniforms[:, None] * cumulative[:, -1:]
    return reached.int().argmax(dim=-1)
