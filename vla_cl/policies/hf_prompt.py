"""Instructions as the prompts of a language model: a template, a tokenizer, a fixed length."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vla_cl.errors import ConfigurationError
from vla_cl.files import atomic_path
from vla_cl.policies.hf_source import first_line, quiet

PLACEHOLDER = "{instruction}"


class Prompts:
    """Instructions to token ids, each tokenized once.

    Special tokens are left out, as pi0 and SmolVLA do, but for the one that the tokenizer begins every text with.

    Args:
        tokenizer: A `transformers` tokenizer.
        template: Text around `{instruction}`.
        length: T, of every prompt, padding included.
        vocabulary: Tokens that the language model knows.
    """

    def __init__(self, tokenizer: Any, template: str, length: int, vocabulary: int) -> None:
        self.tokenizer, self.template, self.length, self.vocabulary = tokenizer, template, length, vocabulary
        begin = tokenizer.bos_token_id
        self._begin = [begin] if begin is not None and tokenizer("a").input_ids[:1] == [begin] else []
        self._padding = 0  # whatever it is, nobody looks at it
        self._known: dict[str, list[int]] = {}

    def encode(self, instruction: str) -> list[int]:
        """Token ids of a prompt, without padding.

        Raises:
            ConfigurationError: They are more than `length`, or the language model does not know one.
        """
        if instruction not in self._known:
            text = self.template.replace(PLACEHOLDER, instruction)
            ids = self._begin + list(self.tokenizer(text, add_special_tokens=False).input_ids)
            if len(ids) > self.length:
                raise ConfigurationError(
                    f"the prompt of instruction {instruction[:60]!r} has {len(ids)} tokens; "
                    f"set policy.backbone_options.prompt_tokens to at least {len(ids)}, not {self.length}"
                )
            if max(ids, default=0) >= self.vocabulary:
                raise ConfigurationError(
                    f"the tokenizer writes token {max(ids)}, the language model knows {self.vocabulary}; "
                    "put the tokenizer into the folder that the model was trained with"
                )
            self._known[instruction] = ids
        return self._known[instruction]

    def __call__(self, instructions: Sequence[str], device: torch.device) -> tuple[Tensor, Tensor]:
        """Ids (B, T), padded on the right, and where they are real (B, T) bool."""
        encoded = [self.encode(text) for text in instructions]
        ids = torch.tensor([each + [self._padding] * (self.length - len(each)) for each in encoded])
        real = torch.tensor([len(each) for each in encoded])[:, None] > torch.arange(self.length)
        return ids.to(device), real.to(device)

    def description(self) -> str:
        """Everything that decides over ids, for a fingerprint."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        content = backend.to_str() if backend is not None else repr(sorted(self.tokenizer.get_vocab().items()))
        return f"{self.template}\n{self.length}\n{self._begin}\n{content}"

    def save(self, folder: Path) -> None:
        """Write the tokenizer into a folder, each file whole or not at all."""
        with tempfile.TemporaryDirectory() as temporary, quiet():
            self.tokenizer.save_pretrained(temporary)
            for file in sorted(Path(temporary).rglob("*")):
                if file.is_file():
                    with atomic_path(folder / file.relative_to(temporary)) as target:
                        shutil.copyfile(file, target)


def read_tokenizer(folder: Path) -> Any:
    """The tokenizer of a model's folder.

    Raises:
        ConfigurationError: There is none, or it is damaged.
    """
    from transformers import AutoTokenizer

    names = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")
    if not any((folder / name).is_file() for name in names):
        raise ConfigurationError(f"{folder} holds no tokenizer; put the model's tokenizer.json there")
    try:
        with quiet():
            return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:
        raise ConfigurationError(
            f"the tokenizer in {folder} cannot be read ({first_line(error)}); download it again"
        ) from error
