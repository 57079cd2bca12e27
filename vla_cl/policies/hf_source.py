"""Vision-language models of Hugging Face: from a hub id, a folder or a configuration, safetensors only."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vla_cl.errors import ConfigurationError

CONFIG_FILE = "config.json"
EXAMPLE = "HuggingFaceTB/SmolVLM2-500M-Video-Instruct"
_WANTED = ["*.json", "*.safetensors", "*.jinja", "*.txt", "tokenizer.model"]


def model_folder(path: str, revision: str = "") -> Path:
    """The folder that holds a model, fetched from the hub, or from its cache, if `path` is a hub id.

    Args:
        path: A folder, or a hub id "owner/name".
        revision: Branch, tag or commit on the hub; "" for its main branch.

    Raises:
        ConfigurationError: There is no such folder, or the hub does not give the model.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    if path.startswith(("/", ".", "~")) or path.count("/") != 1:
        raise ConfigurationError(f"there is no model folder {path!r}; give a folder or a hub id such as {EXAMPLE}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        with quiet():
            return Path(snapshot_download(path, revision=revision or None, allow_patterns=_WANTED))
    except GatedRepoError as error:
        raise ConfigurationError(
            f"model {path!r} is gated: accept its license on huggingface.co, then `hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise ConfigurationError(f"model {path!r} has no revision {revision!r}; leave it out for main") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise ConfigurationError(
            f"the hub knows no model {path!r}, and there is no such folder; check the name, or `hf auth login` first"
        ) from error
    except (HfHubHTTPError, OSError, ValueError, RuntimeError) as error:
        raise ConfigurationError(
            f"model {path!r} cannot be fetched from the hub from here; run `hf download {path} --local-dir FOLDER` "
            "on a machine with network and give that folder as path"
        ) from error


def read_config(folder: Path, layers: int = 0) -> Any:
    """The configuration of an image-text-to-text model, a `transformers.PretrainedConfig`.

    Args:
        folder: With config.json.
        layers: How many of the language model's layers are kept, the first ones; 0 for all.

    Raises:
        ConfigurationError: It is no such model, or not one that this backbone can feed.
    """
    from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING as KNOWN
    from transformers import AutoConfig

    if not (folder / CONFIG_FILE).is_file():
        raise ConfigurationError(f"{folder} holds no model: {CONFIG_FILE} is missing; give what save_pretrained wrote")
    try:
        with quiet():
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (ValueError, OSError, KeyError, TypeError, AttributeError) as error:
        raise ConfigurationError(
            f"{folder / CONFIG_FILE} describes no model that transformers can build without remote code "
            f"({first_line(error)}); give another model"
        ) from error
    if type(config) not in KNOWN:
        raise ConfigurationError(
            f"{folder} holds a {config.model_type!r} model, which is no image-text-to-text model; "
            f"give a vision-language model such as {EXAMPLE}"
        )
    check_feedable(KNOWN[type(config)], config.model_type)
    return truncated(config, layers)


def check_feedable(model_class: type[nn.Module], model_type: str) -> None:
    """Refuse models whose images are anything but pixels of one size.

    Raises:
        ConfigurationError: The model is one of these.
    """
    features = getattr(model_class, "get_image_features", None)
    if features is None or "image_grid_thw" in inspect.signature(features).parameters:
        why = "offers no get_image_features" if features is None else "takes flattened patches with grid sizes"
        raise ConfigurationError(
            f"backbone 'hf_vlm' feeds images of one size, but model type {model_type!r} {why}; "
            "give SmolVLM2, Idefics3, PaliGemma, LLaVA or InternVL"
        )


def truncated(config: Any, layers: int) -> Any:
    """The configuration with the first `layers` layers of the language model (SmolVLA, arXiv 2506.01844, section 3.1).

    Raises:
        ConfigurationError: There are not so many.
    """
    text = config.get_text_config()
    if layers > text.num_hidden_layers:
        raise ConfigurationError(
            f"layers={layers} of backbone 'hf_vlm' are more than the {text.num_hidden_layers} of the language model"
        )
    if layers:
        text.num_hidden_layers = layers
        if getattr(text, "layer_types", None):
            text.layer_types = text.layer_types[:layers]
    return config


def check_weights(folder: Path) -> None:
    """See that a folder holds weights that can be read.

    Raises:
        ConfigurationError: It holds none, or only pickled ones.
    """
    if not any(folder.glob("*.safetensors")):
        pickled = any(folder.glob("*.bin")) or any(folder.glob("*.pt*"))
        why = "only pickled weights, which can run code" if pickled else "no weights"
        raise ConfigurationError(
            f"{folder} holds {why}; save the model with save_pretrained, which writes model.safetensors"
        )


def load_model(folder: Path, config: Any, dtype: torch.dtype, attention: str) -> Any:
    """The model of a folder with its weights.

    Raises:
        ConfigurationError: Weights are missing, damaged, pickled or of another model.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForImageTextToText

    check_weights(folder)
    try:
        with quiet():
            model, report = AutoModelForImageTextToText.from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                attn_implementation=attention,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                ignore_mismatched_sizes=True,  # they are named below
                output_loading_info=True,
            )
    except (SafetensorError, OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
        if "support an attention implementation" in str(error):
            raise ConfigurationError(
                f"model type {config.model_type!r} has no {attention!r} attention in transformers; "
                "set attn_implementation=eager"
            ) from error
        raise ConfigurationError(
            f"the weights in {folder} are truncated, damaged or of another model ({first_line(error)}); "
            "download them again"
        ) from error
    wrong = sorted(report["missing_keys"]) or sorted(name for name, *_ in report["mismatched_keys"])
    if wrong:
        what = "lack" if report["missing_keys"] else "have another size of"
        raise ConfigurationError(
            f"the weights in {folder} {what} {wrong[0]!r}, against {CONFIG_FILE}; download both again"
        )
    return model


def new_model(config: Any, dtype: torch.dtype, attention: str, *, initialised: bool = True) -> Any:
    """The model of a configuration, with random weights of torch's default generator, or, where they are about to be
    given, with any.
    """
    from transformers import AutoModelForImageTextToText
    from transformers.initialization import no_init_weights

    with quiet():
        if initialised:
            return AutoModelForImageTextToText.from_config(config, dtype=dtype, attn_implementation=attention)
        with no_init_weights():
            model = AutoModelForImageTextToText.from_config(config, dtype=dtype, attn_implementation=attention)
        model.tie_weights()
        return model


def first_line(error: BaseException) -> str:
    """An error's message, short enough to be part of one of ours."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].split(". ")[0][:200]


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers and the hub from writing to the terminal."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from transformers.utils import logging as library

    level, bars, hub_bars = library.get_verbosity(), library.is_progress_bar_enabled(), are_progress_bars_disabled()
    library.set_verbosity(logging.CRITICAL)
    library.disable_progress_bar()
    disable_progress_bars()
    try:
        yield
    finally:
        library.set_verbosity(level)
        if bars:
            library.enable_progress_bar()
        if not hub_bars:
            enable_progress_bars()
