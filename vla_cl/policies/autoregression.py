"""Actions as a sequence of tokens, each predicted from the context and the tokens before it: what `tokens` and `fast`
share.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vla_cl.errors import ConfigurationError
from vla_cl.policies.base import Context, ContextShape, Decoder
from vla_cl.policies.layers import Memory, TransformerLayer, causal_mask, token
from vla_cl.policies.options import check_at_least, check_choice

DECODERS = ("own", "backbone")


@dataclass(frozen=True)
class AutoregressionOptions:
    """The decoder.

    Args:
        decoder: "own", a causal transformer of the head that cross-attends to the context tokens, for any backbone; or
            "backbone", the language model itself, which goes on after its context.
        width: Of the own decoder's hidden layers.
        layers: Its layers.
        heads: Of its attention.
        skip_tokens: How many of the backbone's last token ids are left alone; action tokens are the ids before them. 0
            as OpenVLA, 128 as openpi, since some vocabularies end with special tokens.
        distillation_temperature: T, of the distributions that distillation compares.
    """

    decoder: str = "own"
    width: int = 256
    layers: int = 3
    heads: int = 4
    skip_tokens: int = 0
    distillation_temperature: float = 2.0

    def check(self, kind: str) -> None:
        """Check the ranges.

        Raises:
            ConfigurationError: A value cannot be used; `kind` says whose.
        """
        check_choice(kind, "decoder", self.decoder, DECODERS)
        check_at_least(kind, self, {"width": 2, "layers": 1, "heads": 1, "skip_tokens": 0})
        if self.width % self.heads:
            raise ConfigurationError(
                f"option width of {kind} must be a multiple of its {self.heads} heads, got {self.width}"
            )
        if not self.distillation_temperature > 0:
            raise ConfigurationError(
                f"option distillation_temperature of {kind} must be positive, got {self.distillation_temperature}"
            )


class SequenceDecoder(nn.Module, abc.ABC):
    """The distribution of each of P tokens, of K kinds, given a context and the tokens before it.

    What is fed in are tokens 0 to K - 1, and K, which begins a sequence and is never predicted.

    Args:
        kinds: K.

    Attributes:
        needs_layers: Whether contexts must hold `layers`.
    """

    needs_layers: bool = False

    def __init__(self, kinds: int) -> None:
        super().__init__()
        self.kinds = kinds

    @abc.abstractmethod
    def forward(self, context: Context, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Teacher forcing: one pass for all of a known sequence.

        Args:
            context: Of B observations.
            tokens: The sequence (B, P).

        Returns:
            Scores (B, P, K), float32, of what may stand at each place, and the logarithm (B, P) of the sum of the
            exponentials of all that the decoder could have said there, which may be more than the K kinds.
        """

    @abc.abstractmethod
    def begin(self, context: Context) -> Any:
        """The state before the first token; the context is digested once."""

    @abc.abstractmethod
    def step(self, state: Any, tokens: Tensor) -> tuple[Tensor, Any]:
        """Scores (B, K), float32, of what follows one more token a row (B,), and the state after it."""

    def inputs(self, tokens: Tensor) -> Tensor:
        """What is fed in (B, P) so that `tokens` (B, P) come out: the same, one place later."""
        return F.pad(tokens[:, :-1], (1, 0), value=self.kinds)


@dataclass(frozen=True)
class _OwnState:
    """What the own decoder remembers.

    Args:
        context: Of each layer, keys and values of the context.
        past: Of each layer, those of the tokens so far; empty before the first.
        position: How many they are.
    """

    context: list[Memory]
    past: list[Memory]
    position: int


class OwnDecoder(SequenceDecoder):
    """A pre-norm causal transformer that cross-attends to the context tokens.

    Args:
        kinds: K.
        length: The longest sequence.
        context_dim: D of the context tokens.
        options: Width, layers and heads.
    """

    def __init__(self, kinds: int, length: int, context_dim: int, options: AutoregressionOptions) -> None:
        super().__init__(kinds)
        self.embedding = token(kinds + 1, options.width)
        self.positions = token(length, options.width)
        self.layers = nn.ModuleList(
            TransformerLayer(options.width, options.heads, context_dim) for _ in range(options.layers)
        )
        self.norm = nn.LayerNorm(options.width)
        self.output = nn.Linear(options.width, kinds)

    def forward(self, context: Context, tokens: Tensor) -> tuple[Tensor, Tensor]:
        length = tokens.shape[1]
        hidden = F.embedding(self.inputs(tokens), self.embedding) + self.positions[:length]
        mask = causal_mask(length, tokens.device)
        for layer, memory in zip(self.layers, self._remember(context), strict=True):
            hidden = layer(hidden, memory, mask)
        scores: Tensor = self.output(self.norm(hidden)).float()
        return scores, scores.logsumexp(dim=-1)

    def begin(self, context: Context) -> _OwnState:
        return _OwnState(self._remember(context), [], 0)

    def step(self, state: _OwnState, tokens: Tensor) -> tuple[Tensor, _OwnState]:
        hidden = F.embedding(tokens[:, None], self.embedding) + self.positions[state.position]
        past: list[Memory] = []
        for index, each in enumerate(self.layers):
            layer = cast(TransformerLayer, each)
            normed = layer.attention_norm(hidden)
            seen = layer.attention.remember(normed)
            if state.past:
                before = state.past[index]
                seen = Memory(torch.cat([before.keys, seen.keys], 2), torch.cat([before.values, seen.values], 2))
            past.append(seen)
            hidden = hidden + layer.attention(normed, seen)
            if layer.cross is not None and layer.cross_norm is not None:
                hidden = hidden + layer.cross(layer.cross_norm(hidden), state.context[index])
            hidden = hidden + layer.mlp(hidden)
        scores: Tensor = self.output(self.norm(hidden)).float()
        return scores[:, 0], _OwnState(state.context, past, state.position + 1)

    def _remember(self, context: Context) -> list[Memory]:
        return [layer.cross.remember(context.tokens, context.mask) for layer in self.layers]  # type: ignore[union-attr, operator]


class BackboneDecoder(SequenceDecoder):
    """The backbone's language model goes on after its context, with token ids from the end of its vocabulary, as in
    RT-2 (Brohan et al., arXiv 2307.15818) and OpenVLA (arXiv 2406.09246, section 3.2): token k is id
    `vocabulary - skip - 1 - k`. It has no weights of its own. Training scores the whole vocabulary; acting chooses
    among action tokens, so that nothing else can ever come out.

    Args:
        kinds: K.
        vocabulary: Of the language model.
        skip: How many of its last ids are left alone.

    Raises:
        ConfigurationError: The vocabulary is too small.
    """

    needs_layers = True

    def __init__(self, kinds: int, vocabulary: int, skip: int) -> None:
        super().__init__(kinds)
        if vocabulary < kinds + 1 + skip:
            raise ConfigurationError(
                f"{kinds} action tokens, one that begins and {skip} skipped ones do not fit into the backbone's "
                f"vocabulary of {vocabulary}; use decoder='own', or fewer tokens"
            )
        self.last = vocabulary - skip - 1

    def forward(self, context: Context, tokens: Tensor) -> tuple[Tensor, Tensor]:
        decoder = _decoder_of(context)
        hidden, _ = decoder.extend(context, decoder.embed(self.last - self.inputs(tokens)), causal=True)
        logits = decoder.logits(hidden).float()
        return self._scores(logits), logits.logsumexp(dim=-1)

    def begin(self, context: Context) -> Context:
        return context

    def step(self, state: Context, tokens: Tensor) -> tuple[Tensor, Context]:
        decoder = _decoder_of(state)
        hidden, longer = decoder.extend(state, decoder.embed(self.last - tokens[:, None]), causal=True)
        return self._scores(decoder.logits(hidden).float())[:, 0], longer

    def _scores(self, logits: Tensor) -> Tensor:
        """Those (..., K) of the action tokens among those (..., vocabulary) of all."""
        return logits[..., self.last - self.kinds + 1 : self.last + 1].flip(-1)


def _decoder_of(context: Context) -> Decoder:
    if context.decoder is None:
        raise ConfigurationError("decoder='backbone' needs a context with a decoder, this one has none; use 'own'")
    return context.decoder


def build_decoder(
    kind: str, options: AutoregressionOptions, shape: ContextShape, kinds: int, length: int
) -> SequenceDecoder:
    """The decoder that the options name, of sequences of at most `length` tokens of so many kinds.

    Raises:
        ConfigurationError: The backbone has no language model that could go on; `kind` says whose options they are.
    """
    if options.decoder == "own":
        return OwnDecoder(kinds, length, shape.width, options)
    if shape.layers is None:
        raise ConfigurationError(
            f"option decoder='backbone' of {kind} needs a backbone that is a language model; use decoder='own', or "
            "backbone hf_vlm"
        )
    return BackboneDecoder(kinds, shape.layers.vocabulary, options.skip_tokens)


@torch.no_grad()
def generate(
    decoder: SequenceDecoder,
    context: Context,
    length: int,
    choose: Callable[[Tensor, int], Tensor],
    end: int | None = None,
) -> Tensor:
    """Sequences (B, length), token by token; keys and values of what came before are computed once.

    Args:
        decoder: Gives the scores.
        context: Of B observations.
        length: P, at most.
        choose: Tokens (B,) from scores (B, K) and the position.
        end: The token that ends a row; generation stops when all rows have, the rest is filled with it.
    """
    rows, device = len(context), context.tokens.device
    tokens = torch.full((rows, length), 0 if end is None else end, dtype=torch.long, device=device)
    last = torch.full((rows,), decoder.kinds, dtype=torch.long, device=device)
    ended = torch.zeros(rows, dtype=torch.bool, device=device)
    state = decoder.begin(context)
    for position in range(length):
        scores, state = decoder.step(state, last)
        last = choose(scores, position)
        if end is not None:
            last = torch.where(ended, end, last)
            ended = last == end
        tokens[:, position] = last
        if end is not None and bool(ended.all()):
            break
    return tokens


def greedy(scores: Tensor, position: int) -> Tensor:
    """The likeliest tokens (B,) of scores (B, K)."""
    return scores.argmax(dim=-1)


def cross_entropy(scores: Tensor, total: Tensor, tokens: Tensor) -> Tensor:
    """-log p(token) (B, P), from what `SequenceDecoder.forward` returns and the tokens (B, P)."""
    return total - scores.gather(-1, tokens[..., None])[..., 0]


def distillation(predicted: Tensor, reference: Tensor, temperature: float) -> Tensor:
    """T^2 KL(reference || predicted) (...) of two sets of scores (..., K), float32, both softened by T.

    Source: Hinton et al., arXiv 1503.02531, section 2 (T^2 keeps the gradient's scale); LwF (Li and Hoiem, arXiv
    1606.09282, equation 2) up to the reference's entropy, which is constant.
    """
    predicted, reference = (F.log_softmax(scores.float() / temperature, dim=-1) for scores in (predicted, reference))
    return temperature**2 * F.kl_div(predicted, reference, reduction="none", log_target=True).sum(dim=-1)
