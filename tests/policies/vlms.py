"""Small vision-language models of several families, as folders that save_pretrained wrote."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForImageTextToText,
    Idefics3Config,
    InternVLConfig,
    LlavaConfig,
    PaliGemmaConfig,
    PreTrainedTokenizerFast,
    SmolVLMConfig,
)

from tests.policies.conftest import make_policy
from vla_cl.policies import Policy

IMAGE, PATCH, WIDTH, VOCABULARY, IMAGE_TOKEN = 32, 8, 48, 320, 2
TEXTS = ("close the window", "open the window", "turn the faucet", "pick up the red cube and place it in the bin")
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": IMAGE,
    "patch_size": PATCH,
}


def text_config(model_type: str, **changes: Any) -> dict[str, Any]:
    """A decoder of four layers: 6 heads of 8, two for keys and values."""
    return {
        "model_type": model_type,
        "hidden_size": WIDTH,
        "intermediate_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 512,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 1,
        **changes,
    }


def smolvlm_config() -> Any:
    return SmolVLMConfig(
        text_config=text_config("llama"), vision_config=VISION, scale_factor=2, image_token_id=IMAGE_TOKEN
    )


def idefics3_config() -> Any:
    return Idefics3Config(
        text_config=text_config("llama"), vision_config=VISION, scale_factor=2, image_token_id=IMAGE_TOKEN
    )


def paligemma_config() -> Any:
    return PaliGemmaConfig(
        text_config=text_config("gemma"),
        vision_config={"model_type": "siglip_vision_model", **VISION, "vision_use_head": False},
        projection_dim=WIDTH,
        image_token_id=IMAGE_TOKEN,
    )


def llava_config() -> Any:
    """With a CLIP tower, whose class token is left out, under Mistral; its output embeddings are its own."""
    return LlavaConfig(
        text_config=text_config("mistral", sliding_window=None),
        vision_config={"model_type": "clip_vision_model", **VISION},
        vision_feature_layer=-2,
        image_token_id=IMAGE_TOKEN,
        image_seq_length=(IMAGE // PATCH) ** 2,
        tie_word_embeddings=False,
    )


def internvl_config() -> Any:
    return InternVLConfig(
        text_config=text_config("qwen2"),
        vision_config={**VISION, "image_size": [IMAGE, IMAGE], "patch_size": [PATCH, PATCH]},
        downsample_ratio=0.5,
        image_token_id=IMAGE_TOKEN,
        image_seq_length=4,
    )


def paligemma2_config() -> Any:
    """Over Gemma 2, whose scores are capped, in attention and in its output."""
    return PaliGemmaConfig(
        text_config=text_config("gemma2", query_pre_attn_scalar=8),
        vision_config={"model_type": "siglip_vision_model", **VISION, "vision_use_head": False},
        projection_dim=WIDTH,
        image_token_id=IMAGE_TOKEN,
    )


CONFIGS: dict[str, Callable[[], Any]] = {
    "smolvlm": smolvlm_config,
    "idefics3": idefics3_config,
    "paligemma": paligemma_config,
    "llava": llava_config,
    "internvl": internvl_config,
}
"""Those that `hf_vlm` serves with layers."""
OTHERS: dict[str, Callable[[], Any]] = {"paligemma2": paligemma2_config}


def tokenizer(*, begins: bool = False) -> PreTrainedTokenizerFast:
    """Byte-level BPE of a few merges; one that `begins` puts <s> before every text, as Llama's and Gemma's do."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=["<pad>", "<s>", "<image>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    if begins:
        inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="<s>")


def make_model(family: str, seed: int = 0) -> Any:
    """A small model of a family, its weights large enough that what it sees and is told matters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config({**CONFIGS, **OTHERS}[family](), dtype=torch.float32).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim >= 2:
                    parameter.normal_(std=0.15)
    return model


def save_vlm(folder: Path, family: str = "smolvlm", seed: int = 0) -> Path:
    """A small model with its tokenizer in a folder, as a user has it."""
    make_model(family, seed).save_pretrained(folder)
    tokenizer(begins=family in ("paligemma", "llava")).save_pretrained(folder)
    return folder


FolderOf = Callable[[str], Path]


def saved_once(root: Path) -> FolderOf:
    """Gives the folder of a family's model, which it saves when it is first asked."""

    def folder(family: str) -> Path:
        return root / family if (root / family).is_dir() else save_vlm(root / family, family)

    return folder


def policy_from(
    folder: Path | str, *, layers_wanted: bool = False, cameras: list[str] | None = None, **options: Any
) -> Policy:
    """A policy over the model of a folder or hub id, under a small flow head that says something from the beginning."""
    policy = make_policy(
        backbone="hf_vlm",
        backbone_options={"path": str(folder), "prompt_tokens": 24, **options},
        head_options={"width": 32},
        cameras=cameras,
    )
    policy.backbone.layers_wanted = layers_wanted
    generator = torch.Generator().manual_seed(5)
    torch.nn.init.normal_(policy.head.network.output.weight, std=0.1, generator=generator)
    return policy
