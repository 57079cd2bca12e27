"""The sentence encoder all-MiniLM-L6-v2 in torch's own layers, from the files of its package.

Wang et al., "MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression of Pre-Trained Transformers", 2020
(arXiv 2002.10957), fine-tuned on pairs of sentences (sbert.net). transformers' BERT computes the same, but to import it
takes seconds, at the start of every command.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn


class SentenceEncoder(nn.Module):
    """A BERT without pooling and without weights yet, for one text at a time.

    Args:
        words, places: Sizes of the vocabulary, and of the longest text.
        width: D, of a token.
        layers, heads, hidden: Of the transformer; `hidden` is the width of its feed-forward layers.
        eps: Of its layer norms.
    """

    def __init__(self, words: int, places: int, width: int, layers: int, heads: int, hidden: int, eps: float) -> None:
        super().__init__()
        self.words = nn.Embedding(words, width)
        self.places = nn.Embedding(places, width)
        self.segments = nn.Embedding(2, width)
        self.norm = nn.LayerNorm(width, eps=eps)
        layer = nn.TransformerEncoderLayer(
            width, heads, hidden, dropout=0.0, activation="gelu", layer_norm_eps=eps, batch_first=True
        )
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Last hidden states (L, D) of tokens (L,)."""
        embedded = self.words(tokens) + self.places.weight[: len(tokens)] + self.segments.weight[0]
        states: Tensor = self.layers(self.norm(embedded)[None])[0]
        return states


def load_sentence_encoder(folder: Path) -> tuple[SentenceEncoder, Tokenizer]:
    """The encoder, frozen, and its tokenizer, from a folder of BERT's `config.json`, `model.safetensors` and
    `tokenizer.json`. Global random generators are left alone.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    with torch.random.fork_rng(devices=[]):
        model = SentenceEncoder(
            words=config["vocab_size"],
            places=config["max_position_embeddings"],
            width=config["hidden_size"],
            layers=config["num_hidden_layers"],
            heads=config["num_attention_heads"],
            hidden=config["intermediate_size"],
            eps=config["layer_norm_eps"],
        )
    weights = _renamed(load_file(folder / "model.safetensors"), config["num_hidden_layers"])
    model.load_state_dict(weights)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    return model.eval().requires_grad_(False), tokenizer


def _renamed(bert: dict[str, Tensor], layers: int) -> dict[str, Tensor]:
    """BERT's weights by our names."""
    named = {
        "words.weight": bert["embeddings.word_embeddings.weight"],
        "places.weight": bert["embeddings.position_embeddings.weight"],
        "segments.weight": bert["embeddings.token_type_embeddings.weight"],
    }
    for kind in ("weight", "bias"):
        named[f"norm.{kind}"] = bert[f"embeddings.LayerNorm.{kind}"]
        for index in range(layers):
            ours, theirs = f"layers.layers.{index}", f"encoder.layer.{index}"
            projections = [bert[f"{theirs}.attention.self.{part}.{kind}"] for part in ("query", "key", "value")]
            named[f"{ours}.self_attn.in_proj_{kind}"] = torch.cat(projections)
            for one, other in (
                ("self_attn.out_proj", "attention.output.dense"),
                ("norm1", "attention.output.LayerNorm"),
                ("linear1", "intermediate.dense"),
                ("linear2", "output.dense"),
                ("norm2", "output.LayerNorm"),
            ):
                named[f"{ours}.{one}.{kind}"] = bert[f"{theirs}.{other}.{kind}"]
    return named
