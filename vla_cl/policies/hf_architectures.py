"""Vision-language models that need no download: built-in sizes with random weights, and a tokenizer for them."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

TOKENIZER_FILE = Path(__file__).with_name("instruction_bpe.json")
TOKENIZER_SIZE = 1024
PADDING, END = "<pad>", "<end>"
RESERVED = 1280
"""Tokens of the tiny model's vocabulary that no text uses, at its end, for heads that write actions as tokens."""


def tiny_smolvlm() -> Any:
    """2.6 million parameters: SmolVLM's build at a size that a CPU trains; images of 64 pixels become 16 tokens."""
    from transformers import SmolVLMConfig

    return SmolVLMConfig(
        text_config={
            "model_type": "llama",
            "hidden_size": 192,
            "intermediate_size": 384,
            "num_hidden_layers": 4,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "vocab_size": TOKENIZER_SIZE + RESERVED,
            "max_position_embeddings": 2048,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 1,
            "tie_word_embeddings": True,
        },
        vision_config={
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "image_size": 64,
            "patch_size": 16,
        },
        scale_factor=1,
        image_token_id=2,
        pad_token_id=0,
        tie_word_embeddings=True,
    )


def smolvlm_500m() -> Any:
    """The sizes of SmolVLM2-500M-Video-Instruct (Marafioti et al., arXiv 2504.05299), 507 million parameters:
    SigLIP-B/16 at 512 pixels, pixel shuffle by 4 to 64 tokens an image, SmolLM2-360M. For measurements of speed and
    memory.
    """
    from transformers import SmolVLMConfig

    return SmolVLMConfig(
        text_config={
            "model_type": "llama",
            "hidden_size": 960,
            "intermediate_size": 2560,
            "num_hidden_layers": 32,
            "num_attention_heads": 15,
            "num_key_value_heads": 5,
            "head_dim": 64,
            "vocab_size": 49280,
            "max_position_embeddings": 8192,
            "rope_parameters": {"rope_type": "default", "rope_theta": 100_000.0},
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 1,
            "tie_word_embeddings": False,
        },
        vision_config={
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "image_size": 512,
            "patch_size": 16,
        },
        scale_factor=4,
        image_token_id=2,
        pad_token_id=0,
        tie_word_embeddings=False,
    )


ARCHITECTURES = {"tiny_smolvlm": tiny_smolvlm, "smolvlm_500m": smolvlm_500m}


def instruction_tokenizer() -> Any:
    """The tokenizer of the built-in models: `TOKENIZER_FILE` as transformers wraps it."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_file(str(TOKENIZER_FILE)), pad_token=PADDING, eos_token=END
    )


def train_tokenizer(texts: Iterable[str], size: int = TOKENIZER_SIZE) -> str:
    """A byte-level BPE tokenizer (Sennrich et al., arXiv 1508.07909) as JSON: words of the texts become few tokens, and
    every other text still has some. The same texts, in any order and number, give the same tokenizer.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=2,
        special_tokens=[PADDING, END, "<image>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sorted(set(texts)), trainer)
    content: str = tokenizer.to_str(pretty=True)
    return content


@functools.cache
def registered_instructions() -> tuple[str, ...]:
    """Instructions and paraphrases of all tasks of all registered suites; `train_tokenizer` of those that come with the
    package is what `TOKENIZER_FILE` holds. Held-out paraphrases are no part of it.
    """
    from vla_cl.tasks import available_suites

    found: set[str] = set()
    for suite in available_suites():
        for task in suite.tasks:
            found.update((task.instruction, *task.paraphrases))
    return tuple(sorted(found))
