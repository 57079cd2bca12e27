"""What predicts a sequence of tokens one after the other: a transformer of the head's own, or the backbone's model."""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vla_cl.errors import ConfigurationError
from vla_cl.policies.base import Context, Decoder
from vla_cl.policies.layers import Memory, TransformerLayer, causal_mask, time_embedding, token

SHORTEST_PERIOD = 0.1
"""Of the sines and cosines that numbers start with, the range of all numbers being 1."""


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

    def number(self, kinds: Tensor, numbers: Tensor, own: float) -> None:
        """Let tokens that stand for like numbers start alike; called before training.

        Args:
            kinds: Which tokens (M,).
            numbers: What they stand for (M,), in [0, 1].
            own: How much they keep of their random vectors; 0 where no two stand for the same number.
        """

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
        width: Of hidden layers, even.
        layers: How many.
        heads: Of its attention; a divisor of `width`.
    """

    def __init__(self, kinds: int, length: int, context_dim: int, *, width: int, layers: int, heads: int) -> None:
        super().__init__(kinds)
        self.embedding = token(kinds + 1, width)
        self.positions = token(length, width)
        self.layers = nn.ModuleList(TransformerLayer(width, heads, context_dim) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, kinds)

    @torch.no_grad()
    def number(self, kinds: Tensor, numbers: Tensor, own: float) -> None:
        """Sines and cosines of the numbers become input and output vectors, so that what is learned of one is at first
        learned of its neighbours, too; hundreds of unrelated classes need far more data.
        """
        places = time_embedding(numbers, self.embedding.shape[1], shortest=SHORTEST_PERIOD)
        places = places / places.std()
        self.embedding[kinds] = own * self.embedding[kinds] + 0.02 * places
        self.output.weight[kinds] = own * self.output.weight[kinds] + places / math.sqrt(self.embedding.shape[1])

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
        for index, layer in enumerate(self.layers):
            before = state.past[index] if state.past else None
            hidden, seen = cast(TransformerLayer, layer).step(hidden, before, state.context[index])
            past.append(seen)
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
