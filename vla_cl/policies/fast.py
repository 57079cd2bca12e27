"""The `fast` head: a chunk as a short sequence of FAST tokens, as in pi0-FAST (Pertsch et al., arXiv 2501.09747)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
from vla_cl.policies.base import HEADS, ActionHead, Context, ContextShape, masked_mean, repeat_last
from vla_cl.policies.fast_tokenizer import MOST_SYMBOLS, FastTokenizer, coefficient_limit
from vla_cl.policies.options import check_at_least

KIND = "head 'fast'"


@dataclass(frozen=True)
class FastOptions(AutoregressionOptions):
    """Tokenizer and decoding; what is not here is in `AutoregressionOptions`.

    Args:
        vocabulary: Tokens of the byte-pair encoding, its symbols included; the end token is one more.
        scale: Of the cosine coefficients before they are rounded: larger is finer, and takes more tokens.
        largest: Normalised actions up to here are encoded without clipping. Normalisations other than "min_max" leave
            some beyond 1.
        max_tokens: P, tokens of the longest sequence, the end token included; a longer one loses its highest
            frequencies. 0 is chunk x A + 1, always enough.
    """

    vocabulary: int = 1024
    scale: float = 10.0
    largest: float = 2.0
    max_tokens: int = 0

    def __post_init__(self) -> None:
        self.check(KIND)
        check_at_least(KIND, self, {"vocabulary": 2, "max_tokens": 0})
        for name in ("scale", "largest"):
            if not 0 < getattr(self, name) < 1e6:
                raise ConfigurationError(
                    f"option {name} of {KIND} must be positive and below a million, got {getattr(self, name)}"
                )


@HEADS.decorator("fast")
class FastHead(ActionHead):
    """Autoregression over the FAST tokens of a chunk, then an end token.

    The tokenizer is learned by `prepare` from the first task's chunks, and encodes any later chunk. It is part of
    `state_dict`, so a policy and its tokenizer never come apart. A chunk is encoded as a whole, so the padding of an
    action chunk is filled with the last action before it: the policy learns to hold it, and nothing from past the
    episode's end leaks. Deterministic, so the noise of its loss is empty.

    Predictions and targets are (B, P, K) with P = `max_tokens` and K = `vocabulary` + 1, the last being the end token;
    rows past the end of a sequence are all zeros, and do not count.

    Attributes:
        merges: (vocabulary, 2) what `FastTokenizer` needs, -1 where there is none.
        prepared: Whether there is a tokenizer.
    """

    Options = FastOptions

    merges: Tensor
    prepared: Tensor

    def __init__(self, options: FastOptions, shape: ContextShape, chunk: int, action_dim: int) -> None:
        super().__init__()
        self.chunk, self.action_dim = chunk, action_dim
        self.vocabulary, self.end = options.vocabulary, options.vocabulary
        self.scale, self.limit = options.scale, coefficient_limit(chunk, options.scale, options.largest)
        self.max_tokens = options.max_tokens or chunk * action_dim + 1
        self.distillation_temperature = options.distillation_temperature
        symbols = 2 * self.limit + 1
        if not symbols <= min(options.vocabulary, MOST_SYMBOLS):
            raise ConfigurationError(
                f"option vocabulary of {KIND} must be at least {symbols}, the number of quantised coefficients, got "
                f"{options.vocabulary}; raise it, or lower scale or largest"
            )
        self.decoder = build_decoder(KIND, options, shape, options.vocabulary + 1, self.max_tokens)
        self.needs_layers = self.decoder.needs_layers
        self.register_buffer("merges", torch.full((options.vocabulary, 2), -1, dtype=torch.int32))
        self.register_buffer("prepared", torch.tensor(False))
        self._tokenizer: FastTokenizer | None = None

    # --- tokenizer -----------------------------------------------------------------------------------------

    def prepare(self, chunks: Tensor, generator: torch.Generator) -> None:
        """Learn the tokenizer. One that is there stays: the policy's weights speak its tokens.

        An own decoder is told which tokens begin with like coefficients.
        """
        if bool(self.prepared):
            return
        learned = FastTokenizer.train(chunks.numpy(), self.vocabulary, self.scale, self.limit, len(self.merges))
        self.merges[: len(learned.merges)] = torch.from_numpy(learned.merges)
        self.prepared.fill_(True)
        self._tokenizer = learned
        first = torch.from_numpy(learned.first_symbols())
        self.decoder.number(torch.arange(learned.size), first / (2 * self.limit), own=1.0)

    @property
    def tokenizer(self) -> FastTokenizer:
        """What `prepare` learned, or the state of another policy brought.

        Raises:
            ConfigurationError: Neither has happened.
            CheckpointError: That state is damaged.
        """
        if self._tokenizer is None:
            if not bool(self.prepared):
                raise ConfigurationError(f"{KIND} has no tokenizer yet; call prepare with a first task's windows")
            merges = self.merges.cpu().numpy()
            self._tokenizer = FastTokenizer(
                merges[(merges >= 0).all(axis=1)], self.chunk, self.action_dim, self.scale, self.limit
            )
        return self._tokenizer

    def _load_from_state_dict(self, *arguments: Any, **named: Any) -> None:
        super()._load_from_state_dict(*arguments, **named)
        self._tokenizer = None

    def encode(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, P), on the actions' device, of normalised actions (B, chunk, A), and which of them (B, P) lie past
        the end.
        """
        sequences = self.tokenizer.encode(actions.detach().float().cpu().numpy())
        ended = [[*sequence, self.end][: self.max_tokens] for sequence in sequences]
        tokens = torch.tensor([each + [self.end] * (self.max_tokens - len(each)) for each in ended], dtype=torch.long)
        lengths = torch.tensor([len(each) for each in ended], dtype=torch.long)
        past = torch.arange(self.max_tokens) >= lengths[:, None]
        return tokens.view(-1, self.max_tokens).to(actions.device), past.to(actions.device)

    # --- the head ------------------------------------------------------------------------------------------

    def sample_noise(self, batch_size: int, generator: torch.Generator) -> Tensor:
        """(B, 0)."""
        return torch.empty(batch_size, 0)

    def target(self, actions: Tensor, noise: Tensor) -> Tensor:
        """The tokens, one-hot (B, P, K), zeros past the end."""
        tokens, past = self.encode(actions)
        return F.one_hot(tokens, self.vocabulary + 1).float().masked_fill(past[:, :, None], 0.0)

    def predict(self, context: Context, actions: Tensor, noise: Tensor) -> Tensor:
        """Scores (B, P, K), float32, of each token given the actions' tokens before it, zeros past the end."""
        tokens, past = self.encode(actions)
        length = _longest(past)
        scores, _ = self.decoder(context, tokens[:, :length])
        scores = scores.masked_fill(past[:, :length, None], 0.0)
        return F.pad(scores, (0, 0, 0, self.max_tokens - length))

    def divergence(self, predicted: Tensor, reference: Tensor, padding: Tensor) -> Tensor:
        """T^2 KL(reference || predicted) (B,), averaged over the tokens that the reference has; 0 where all actions are
        padding.
        """
        past = (reference == 0).all(dim=-1) | padding.all(dim=-1, keepdim=True)
        return masked_mean(distillation(predicted, reference, self.distillation_temperature), past)

    def loss(self, context: Context, actions: Tensor, padding: Tensor, noise: Tensor) -> Tensor:
        """Cross-entropy in nats (B,), averaged over the tokens of a chunk, the end token included; 0 where all actions
        are padding.
        """
        tokens, past = self.encode(repeat_last(actions, padding))
        length = _longest(past)  # the tail that is past the end of all rows is spared
        tokens, past = tokens[:, :length], past[:, :length]
        scores, total = self.decoder(context, tokens)
        return masked_mean(cross_entropy(scores, total, tokens), past | padding.all(dim=1, keepdim=True))

    def sample(self, context: Context, initial_noise: Tensor) -> Tensor:
        """The likeliest tokens one after the other until the end token; the noise is not used."""
        tokenizer = self.tokenizer
        tokens = generate(self.decoder, context, self.max_tokens, greedy, self.end)
        decoded = torch.from_numpy(tokenizer.decode(tokens.tolist()))  # the end token is none of the tokenizer's
        return decoded.to(initial_noise.device)


def _longest(past: Tensor) -> int:
    """The longest of the sequences (B, P) whose past-the-end is given."""
    return int((~past).sum(dim=1).max()) if len(past) else past.shape[1]
