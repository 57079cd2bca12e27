"""Actions as a sequence of tokens, each predicted from the context and the tokens before it: what `tokens` and `fast`
share.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vla_cl.errors import ConfigurationError
from vla_cl.policies.base import Context, ContextShape
from vla_cl.policies.options import check_at_least, check_choice
from vla_cl.policies.sequence_decoder import BackboneDecoder, OwnDecoder, SequenceDecoder

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
        if self.width % self.heads or self.width % 2:
            raise ConfigurationError(
                f"option width of {kind} must be even and a multiple of its {self.heads} heads, got {self.width}"
            )
        if not self.distillation_temperature > 0:
            raise ConfigurationError(
                f"option distillation_temperature of {kind} must be positive, got {self.distillation_temperature}"
            )


def build_decoder(
    kind: str, options: AutoregressionOptions, shape: ContextShape, kinds: int, length: int
) -> SequenceDecoder:
    """The decoder that the options name, of sequences of at most `length` tokens of so many kinds.

    Raises:
        ConfigurationError: The backbone has no language model that could go on; `kind` says whose options they are.
    """
    if options.decoder == "own":
        size = {"width": options.width, "layers": options.layers, "heads": options.heads}
        return OwnDecoder(kinds, length, shape.width, **size)
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
