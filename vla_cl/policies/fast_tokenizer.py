"""FAST: chunks of actions as few tokens, by a cosine transform and byte-pair encoding (arXiv 2501.09747)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_cl.errors import CheckpointError

FIRST_CHARACTER = 0xF0000
"""A symbol is a character of Unicode's planes for private use, which no text processing touches."""
MOST_SYMBOLS = 0x1FFFE


def coefficient_limit(chunk: int, scale: float, largest: float) -> int:
    """R, the largest quantised coefficient of a chunk whose actions are at most `largest`.

    The transform keeps lengths, so no coefficient exceeds sqrt(chunk) times the largest action.
    """
    return math.ceil(scale * math.sqrt(chunk) * largest)


def cosine_transform(length: int) -> NDArray[np.float64]:
    """The orthonormal DCT-II (length, length): row k holds cos(pi (t + 1/2) k / length), scaled to length 1."""
    times, frequencies = np.arange(length), np.arange(length)[:, None]
    matrix: NDArray[np.float64] = np.sqrt(2 / length) * np.cos(np.pi * (times + 0.5) * frequencies / length)
    matrix[0] /= math.sqrt(2)
    return matrix


class FastTokenizer:
    """Normalised chunks (chunk, A) to sequences of token ids, and back (Pertsch et al., arXiv 2501.09747, section V).

    Encoding: cosine transform over time, times `scale`, rounded, clipped to [-limit, limit]; the integers, all
    dimensions of the lowest frequency first, are symbols 0 to 2 limit, of which frequent pairs are merged into tokens.
    Since all symbols are tokens themselves, every chunk can be encoded. What does not exceed the limit loses at most
    0.5 / scale a coefficient.

    Args:
        merges: (M, 2) ids of the two tokens that each merge joins, the first merge first. Ids 0 to 2 limit are the
            symbols; each new token takes the next one.
        chunk: Actions in a chunk.
        action_dim: A.
        scale: Of coefficients before they are rounded.
        limit: R.

    Attributes:
        size: How many tokens there are.

    Raises:
        CheckpointError: A merge joins tokens that are not there.
    """

    def __init__(self, merges: NDArray[np.integer[Any]], chunk: int, action_dim: int, scale: float, limit: int) -> None:
        from tokenizers import Tokenizer
        from tokenizers.models import BPE

        self.merges = merges
        self.chunk, self.action_dim, self.scale, self.limit = chunk, action_dim, scale, limit
        self._transform = cosine_transform(chunk)
        texts = _alphabet(limit)
        ids = {text: index for index, text in enumerate(texts)}
        pairs = []
        for left, right in merges.tolist():
            if not (0 <= left < len(texts) and 0 <= right < len(texts)):
                raise CheckpointError(
                    f"the FAST tokenizer is damaged: a merge joins tokens {left} and {right} of {len(texts)}; "
                    "restore the policy from a copy"
                )
            pairs.append((texts[left], texts[right]))
            joined = texts[left] + texts[right]
            if joined not in ids:  # two merges can lead to the same token
                ids[joined] = len(texts)
                texts.append(joined)
        self.size = len(texts)
        self._symbols = [np.array([ord(each) - FIRST_CHARACTER for each in text], np.int64) for text in texts]
        self._bpe = Tokenizer(BPE(vocab=ids, merges=pairs))

    @classmethod
    def train(
        cls, chunks: NDArray[np.floating[Any]], vocabulary: int, scale: float, limit: int, most_merges: int
    ) -> FastTokenizer:
        """Learn the merges from normalised chunks (W, chunk, A). A function of the chunks alone.

        Args:
            chunks: Of a first task.
            vocabulary: Tokens at most, symbols included; fewer where the chunks have no more pairs.
            scale: Of coefficients before they are rounded.
            limit: R.
            most_merges: Merges beyond so many are left out.
        """
        from tokenizers import Tokenizer
        from tokenizers.models import BPE
        from tokenizers.trainers import BpeTrainer

        plain = cls(np.empty((0, 2), np.int64), chunks.shape[1], chunks.shape[2], scale, limit)
        bpe = Tokenizer(BPE())
        trainer = BpeTrainer(
            vocab_size=vocabulary, initial_alphabet=_alphabet(limit), special_tokens=[], show_progress=False
        )
        bpe.train_from_iterator(_texts(plain.quantise(chunks)), trainer)
        ids = {text: index for index, text in enumerate(_alphabet(limit))}
        merges = []
        for left, right in json.loads(bpe.to_str())["model"]["merges"][:most_merges]:
            merges.append((ids[left], ids[right]))
            ids.setdefault(left + right, len(ids))
        return cls(
            np.array(merges, np.int64).reshape(-1, 2), chunks.shape[1], chunks.shape[2], plain.scale, plain.limit
        )

    def encode(self, chunks: NDArray[np.floating[Any]]) -> list[list[int]]:
        """The token ids of each of the normalised chunks (B, chunk, A)."""
        return [self._bpe.encode(text).ids for text in _texts(self.quantise(chunks))]

    def decode(self, sequences: Iterable[Sequence[int]]) -> NDArray[np.float32]:
        """Normalised chunks (B, chunk, A) of B sequences of token ids.

        Any sequence decodes: unknown ids count for nothing, symbols beyond chunk x A are dropped, and missing ones,
        those of the highest frequencies, are 0.
        """
        symbols = [self._expand(sequence) for sequence in sequences]
        return self.restore(np.stack(symbols) if symbols else np.empty((0, self.chunk * self.action_dim), np.int64))

    def first_symbols(self) -> NDArray[np.int64]:
        """The symbol (size,), 0 to 2 limit, with which each token begins."""
        return np.array([symbols[0] for symbols in self._symbols], np.int64)

    def quantise(self, chunks: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
        """Symbols (B, chunk * A), 0 to 2 limit, of normalised chunks (B, chunk, A), low frequencies first."""
        coefficients = np.einsum("kt,bta->bka", self._transform, np.nan_to_num(chunks.astype(np.float64)))
        rounded = np.clip(np.rint(self.scale * coefficients), -self.limit, self.limit)
        symbols: NDArray[np.int64] = rounded.astype(np.int64).reshape(len(chunks), -1) + self.limit
        return symbols

    def restore(self, symbols: NDArray[np.int64]) -> NDArray[np.float32]:
        """Normalised chunks (B, chunk, A) of symbols (B, chunk * A)."""
        coefficients = (symbols - self.limit).reshape(-1, self.chunk, self.action_dim) / self.scale
        chunks: NDArray[np.float32] = np.einsum("kt,bka->bta", self._transform, coefficients).astype(np.float32)
        return chunks

    def _expand(self, sequence: Sequence[int]) -> NDArray[np.int64]:
        length = self.chunk * self.action_dim
        known = [self._symbols[each] for each in sequence if 0 <= each < self.size]
        symbols = np.full(length, self.limit, np.int64)
        found = np.concatenate([symbols[:0], *known])[:length]
        symbols[: len(found)] = found
        return symbols


def _alphabet(limit: int) -> list[str]:
    return [chr(FIRST_CHARACTER + symbol) for symbol in range(2 * limit + 1)]


def _texts(symbols: NDArray[np.int64]) -> list[str]:
    return ["".join(map(chr, row)) for row in (symbols + FIRST_CHARACTER).tolist()]
