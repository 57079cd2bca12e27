"""A policy on disk: `config.json` says what it is, `model.safetensors` holds its weights and statistics; adapters lie
beside them once more, as peft reads them.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from vla_cl.errors import CheckpointError, ConfigurationError, VlaClError
from vla_cl.files import atomic_path, write_json
from vla_cl.policies.adapter_files import save_adapter
from vla_cl.policies.adapter_layers import insert_adapter, refuse_while_merged, set_active
from vla_cl.policies.adapter_targets import Adapter
from vla_cl.policies.base import PolicyConfig, PolicyFeatures

if TYPE_CHECKING:
    from vla_cl.policies.policy import Policy

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
ADAPTERS = "adapters"
FORMAT = "vla_cl.policy"
FORMAT_VERSION = 1


def save_policy(policy: Policy, folder: Path) -> None:
    """Write a policy into a folder, the weights first: a folder with a configuration is complete."""
    from safetensors.torch import save_file

    from vla_cl.policies.policy import BACKBONE_FILES

    refuse_while_merged(policy, "saved")
    policy.backbone.save_files(folder / BACKBONE_FILES)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in policy.state_dict().items()}
    with atomic_path(folder / WEIGHTS_FILE) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})
    _save_adapters(policy, folder / ADAPTERS)
    config = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "vla_cl_version": _package_version(),
        "policy": dataclasses.asdict(policy.config),
        "features": dataclasses.asdict(policy.features),
        "adapters": {name: dataclasses.asdict(adapter) for name, adapter in policy.adapters.items()},
        "active_adapters": list(policy.active_adapters),
        "frozen": _frozen(policy),
    }
    write_json(folder / CONFIG_FILE, config)


def load_policy(folder: Path) -> Policy:
    """Read a policy, on the CPU.

    Raises:
        CheckpointError: A file is missing or damaged, or the weights are those of another policy.
    """
    from vla_cl.policies.policy import build_policy

    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise CheckpointError(
                f"{folder} holds no policy: {name} is missing; give a folder that save_pretrained wrote"
            )
    content = _read_config(folder / CONFIG_FILE)
    try:
        policy = build_policy(content.config, content.features, seed=0, files=folder)
        for name, adapter in content.adapters.items():
            insert_adapter(policy, name, adapter)
        set_active(policy, content.active)
    except CheckpointError:
        raise
    except VlaClError as error:
        raise CheckpointError(f"policy {folder} cannot be built here: {error}") from error
    tensors = _read_tensors(folder / WEIGHTS_FILE)
    _check_same(tensors, policy.state_dict(), folder)
    policy.load_state_dict(tensors)
    if content.frozen is not None:
        _freeze(policy, content.frozen, folder)
    return policy.eval()


def _save_adapters(policy: Policy, folder: Path) -> None:
    """Every adapter in a folder of its name, and none that is no more."""
    kept = set(policy.adapters)
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name not in kept:
            shutil.rmtree(path)
    for name in policy.adapters:
        save_adapter(policy, name, folder / name)
    if folder.is_dir() and not kept:
        folder.rmdir()


def _frozen(module: nn.Module, prefix: str = "") -> list[str]:
    """What is not trained: names of the largest modules of which nothing is, and of single parameters."""
    parameters = list(module.parameters())
    if not any(each.requires_grad for each in parameters):
        return [prefix.removesuffix(".")] if parameters else []
    own = [f"{prefix}{name}" for name, each in module.named_parameters(recurse=False) if not each.requires_grad]
    return own + [name for child, part in module.named_children() for name in _frozen(part, f"{prefix}{child}.")]


def _freeze(policy: Policy, names: Sequence[str], folder: Path) -> None:
    """Restore what `_frozen` told."""
    for parameter in policy.parameters():
        parameter.requires_grad_(True)
    parts = {**dict(policy.named_modules()), **dict(policy.named_parameters())}
    for name in names:
        if name not in parts:
            raise CheckpointError(f"{folder / CONFIG_FILE} freezes {name!r}, which this policy lacks")
        parts[name].requires_grad_(False)


@dataclasses.dataclass(frozen=True)
class _Content:
    """What `config.json` says; `frozen` is None in files from before there were adapters."""

    config: PolicyConfig
    features: PolicyFeatures
    adapters: dict[str, Adapter]
    active: list[str]
    frozen: list[str] | None


def _read_config(path: Path) -> _Content:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if content.get("format") != FORMAT:
            raise CheckpointError(
                f"{path} is not the configuration of a vla_cl policy (format {content.get('format')!r})"
            )
        if content["format_version"] > FORMAT_VERSION:
            raise CheckpointError(
                f"{path} was written by vla_cl {content['vla_cl_version']}, which is newer; upgrade vla_cl to read it"
            )
        features = {**content["features"], "cameras": tuple(content["features"]["cameras"])}
        adapters = {
            name: Adapter(int(each["rank"]), float(each["alpha"]), tuple(each["modules"]))
            for name, each in content.get("adapters", {}).items()
        }
        active = list(content.get("active_adapters", ()))
        config = PolicyConfig(**content["policy"])
        return _Content(config, PolicyFeatures(**features), adapters, active, content.get("frozen"))
    except (ValueError, KeyError, TypeError, AttributeError, ConfigurationError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); restore it from a copy") from error


def _read_tensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is truncated or damaged ({error}); restore it from a copy") from error
    return tensors


def _check_same(found: dict[str, Tensor], wanted: dict[str, Tensor], folder: Path) -> None:
    """Name the first tensor that differs."""
    weights = f"{folder / WEIGHTS_FILE} belongs to another policy than {CONFIG_FILE} describes"
    for name, tensor in wanted.items():
        if name not in found:
            raise CheckpointError(f"{weights}: it lacks {name!r}")
        if found[name].shape != tensor.shape:
            shapes = f"{tuple(found[name].shape)}, not {tuple(tensor.shape)}"
            raise CheckpointError(f"{weights}: {name!r} has shape {shapes}")
    for name in found:
        if name not in wanted:
            raise CheckpointError(f"{weights}: it has {name!r}, which this policy lacks")


def _package_version() -> str:
    try:
        return importlib.metadata.version("vla_cl")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
