"""Adapters on disk, as peft keeps them: `adapter_config.json` beside `adapter_model.safetensors`."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vla_cl.errors import CheckpointError, ConfigurationError
from vla_cl.files import atomic_path, write_json
from vla_cl.policies.adapter_layers import (
    adapter_parameters,
    insert_adapter,
    layers_of,
    peft_config,
    refuse_while_merged,
    remove_adapter,
)
from vla_cl.policies.adapter_targets import Adapter, check_adaptable

if TYPE_CHECKING:
    from vla_cl.policies.policy import Policy

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PICKLED_FILE = "adapter_model.bin"
_PREFIX = "base_model.model."
_BEYOND_PLAIN = (
    "use_dora",
    "use_bdlora",
    "rank_pattern",
    "alpha_pattern",
    "modules_to_save",
    "lora_bias",
    "fan_in_fan_out",
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
    "alora_invocation_tokens",
    "arrow_config",
    "velora_config",
    "monteclora_config",
    "kasa_config",
)


def save_adapter(policy: Policy, name: str, folder: str | Path) -> None:
    """Write an adapter as `PeftModel.save_pretrained` does. peft alone can put it into the same policy without
    adapters: `PeftModel.from_pretrained(policy, folder)`.

    Raises:
        UnknownNameError: There is no adapter of this name.
        ConfigurationError: Adapters are merged.
        VlaClError: The disk is full or the folder cannot be written.
    """
    from safetensors.torch import save_file

    folder = Path(folder)
    tensors = {
        _PREFIX + parameter.replace(f".{name}.weight", ".weight"): tensor.detach().cpu().contiguous()
        for parameter, tensor in adapter_parameters(policy, name).items()
    }
    with atomic_path(folder / WEIGHTS_FILE) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})
    config = peft_config(policy.adapters[name])
    config.inference_mode = True
    told = {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
    write_json(folder / CONFIG_FILE, dict(sorted(told.items())))


def load_adapter(policy: Policy, folder: str | Path, name: str) -> None:
    """Give a policy an adapter that `save_adapter` or peft wrote; it is active, and trained.

    Plain LoRA is known, with one rank and one alpha for all layers; dropout is not kept.

    Raises:
        CheckpointError: A file is missing, damaged or pickled, holds another kind of adapter, or one that does not fit
            this policy.
        ConfigurationError: The name is taken, or adapters are merged.
    """
    folder = Path(folder)
    refuse_while_merged(policy, "loaded")
    tensors, config = _read_weights(folder), _read_config(folder)
    adapter = _adapter(tensors, config, folder)
    try:
        check_adaptable(policy, adapter.modules)
    except ConfigurationError as error:
        raise CheckpointError(f"adapter {folder} does not fit: {error}") from error
    insert_adapter(policy, name, adapter)
    try:
        _fill(policy, name, tensors, folder)
    except CheckpointError:
        remove_adapter(policy, name)
        raise


def _read_weights(folder: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / WEIGHTS_FILE
    if not path.is_file():
        if (folder / PICKLED_FILE).is_file():
            raise CheckpointError(
                f"{folder / PICKLED_FILE} is pickled, which can run any code and is not read; have peft save it with "
                "safe_serialization=True"
            )
        raise CheckpointError(f"{folder} holds no adapter: {WEIGHTS_FILE} is missing; give a folder that peft wrote")
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is truncated or damaged ({error}); restore it from a copy") from error
    return tensors


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise CheckpointError(f"{folder} holds no adapter: {CONFIG_FILE} is missing; give a folder that peft wrote")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged ({error}); restore it from a copy") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} is damaged (not a mapping); restore it from a copy")
    return config


def _adapter(tensors: dict[str, Tensor], config: dict[str, Any], folder: Path) -> Adapter:
    """What the files say. The layers are those that there are weights for."""
    path = folder / CONFIG_FILE
    if config.get("peft_type") != "LORA":
        raise CheckpointError(f"{path} is of kind {config.get('peft_type')!r}; only LORA can be loaded")
    for option in _BEYOND_PLAIN:
        if config.get(option):
            raise CheckpointError(f"{path} sets {option}, which is not known here; only plain LoRA can be loaded")
    if config.get("bias", "none") != "none":
        raise CheckpointError(f"{path} trains biases (bias={config['bias']!r}); only plain LoRA can be loaded")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    fits = isinstance(rank, int) and isinstance(alpha, int | float) and rank > 0 and alpha > 0
    if not fits or not math.isfinite(alpha):  # type: ignore[arg-type]
        raise CheckpointError(f"{path} is damaged (r={rank!r}, lora_alpha={alpha!r}); restore it from a copy")
    if config.get("use_rslora"):
        alpha = alpha * math.sqrt(rank)  # type: ignore[operator, arg-type]  # alpha / sqrt(r), Kalajdzievski, arXiv 2312.03732
    modules: dict[str, None] = {}
    for key in tensors:
        module, _, factor = key.removeprefix(_PREFIX).rpartition(".lora_")
        if factor not in ("A.weight", "B.weight") or not key.startswith(_PREFIX):
            raise CheckpointError(f"{folder / WEIGHTS_FILE} has {key!r}, which is no weight of a plain LoRA")
        modules[module] = None
    if not modules:
        raise CheckpointError(f"{folder / WEIGHTS_FILE} holds no weights")
    return Adapter(rank, float(alpha), tuple(sorted(modules)))  # type: ignore[arg-type]


@torch.no_grad()
def _fill(policy: Policy, name: str, tensors: dict[str, Tensor], folder: Path) -> None:
    for module, layer in layers_of(policy, name).items():
        for factor, lora in (("lora_A", layer.lora_A), ("lora_B", layer.lora_B)):
            key, wanted = f"{_PREFIX}{module}.{factor}.weight", lora[name].weight
            if key not in tensors:
                raise CheckpointError(f"{folder / WEIGHTS_FILE} lacks {key!r}")
            if tensors[key].shape != wanted.shape:
                shapes = f"{tuple(tensors[key].shape)}, not {tuple(wanted.shape)}"
                raise CheckpointError(f"adapter {folder} does not fit this policy: {key!r} has shape {shapes}")
            wanted.copy_(tensors[key])
