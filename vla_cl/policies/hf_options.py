"""Options of the `hf_vlm` backbone."""

from __future__ import annotations

from dataclasses import dataclass

from vla_cl.errors import ConfigurationError
from vla_cl.policies.hf_architectures import ARCHITECTURES
from vla_cl.policies.hf_prompt import PLACEHOLDER
from vla_cl.policies.options import check_at_least, check_choice

KIND = "backbone 'hf_vlm'"


@dataclass(frozen=True)
class HfVlmOptions:
    """Which model, and how it is used and trained.

    Args:
        path: Folder that save_pretrained wrote, or hub id; "" for an `architecture`.
        revision: Branch, tag or commit on the hub; "" for its main branch.
        architecture: Built-in sizes with random weights, "tiny_smolvlm" or "smolvlm_500m"; "" for a `path`.
        layers: The language model's first so many layers are kept, as in SmolVLA (arXiv 2506.01844); 0 keeps all.
        freeze_vision: Whether the vision tower keeps its weights.
        freeze_connector: Whether what maps images into the language model keeps its weights.
        freeze_text: Whether the language model keeps its weights.
        attention: "causal", or "bidirectional" among images and prompt, as in PaliGemma and pi0.
        proprioception: "prefix" (a token of the language model after the prompt, which images and prompt do not see),
            "context" (a token behind its output) or "none" (the head takes it in itself, as in pi0).
        prompt: Text around `{instruction}`; pi0 and SmolVLA end it with a new line.
        prompt_tokens: Length of every prompt, padding included; a longer instruction is an error.
        dtype: Of the weights, "float32" or "bfloat16". Where bfloat16 weights are trained, steps smaller than 1/256 of
            a weight are lost: train float32 weights under bf16 autocast instead.
        gradient_checkpointing: Compute the layers' activations again in the backward pass instead of storing them.
        attn_implementation: "sdpa" or "eager".
    """

    path: str = ""
    revision: str = ""
    architecture: str = ""
    layers: int = 0
    freeze_vision: bool = False
    freeze_connector: bool = False
    freeze_text: bool = False
    attention: str = "causal"
    proprioception: str = "prefix"
    prompt: str = "{instruction}\n"
    prompt_tokens: int = 48
    dtype: str = "float32"
    gradient_checkpointing: bool = False
    attn_implementation: str = "sdpa"

    def __post_init__(self) -> None:
        if bool(self.path) == bool(self.architecture):
            known = ", ".join(ARCHITECTURES)
            raise ConfigurationError(f"{KIND} needs either path (a hub id or a folder) or architecture ({known})")
        if self.architecture:
            check_choice(KIND, "architecture", self.architecture, tuple(ARCHITECTURES))
        check_choice(KIND, "attention", self.attention, ("causal", "bidirectional"))
        check_choice(KIND, "proprioception", self.proprioception, ("prefix", "context", "none"))
        check_choice(KIND, "dtype", self.dtype, ("float32", "bfloat16"))
        check_choice(KIND, "attn_implementation", self.attn_implementation, ("sdpa", "eager"))
        check_at_least(KIND, self, {"layers": 0, "prompt_tokens": 1})
        if PLACEHOLDER not in self.prompt:
            raise ConfigurationError(f"option prompt of {KIND} must contain {PLACEHOLDER}, got {self.prompt!r}")
