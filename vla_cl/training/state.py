"""Trees of tensors and plain values on disk: safetensors beside JSON, never pickle, whole or absent."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vla_cl.errors import CheckpointError, VlaClError
from vla_cl.files import file_checksum, write_json

_TENSOR = "__tensor__"
_ARRAY = "__array__"
_CHECKSUMS = "checksums.json"


def save_tree(tree: Mapping[str, Any], folder: Path, name: str) -> None:
    """Write nested dicts and lists of tensors, numpy arrays and JSON values as `<name>.json` and `<name>.safetensors`.

    Every tensor is written apart: tensors that share memory come back as copies.
    """
    tensors: dict[str, Tensor] = {}

    def encode(value: Any, path: str) -> Any:
        if isinstance(value, (Tensor, np.ndarray)):
            marker = _TENSOR if isinstance(value, Tensor) else _ARRAY
            tensor = value.detach() if isinstance(value, Tensor) else torch.from_numpy(np.ascontiguousarray(value))
            tensors[path] = tensor.cpu().contiguous().clone()
            return {marker: path}
        if isinstance(value, Mapping):
            return {str(key): encode(each, f"{path}/{key}" if path else str(key)) for key, each in value.items()}
        if isinstance(value, (list, tuple)):
            return [encode(each, f"{path}/{index}") for index, each in enumerate(value)]
        return value

    encoded = encode(tree, "")
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / f"{name}.safetensors")
    (folder / f"{name}.json").write_text(json.dumps(encoded, indent=1), encoding="utf-8")


def load_tree(folder: Path, name: str) -> dict[str, Any]:
    """Read what `save_tree` wrote.

    Raises:
        CheckpointError: A file is missing or damaged.
    """
    try:
        encoded = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / f"{name}.safetensors")
    except FileNotFoundError as error:
        raise CheckpointError(
            f"checkpoint {folder} lacks {Path(error.filename or name).name}; it is not complete"
        ) from error
    except (SafetensorError, ValueError, OSError) as error:
        raise CheckpointError(f"checkpoint {folder} is damaged ({error}); delete the folder and run again") from error

    def decode(value: Any) -> Any:
        if isinstance(value, dict):
            if _TENSOR in value:
                return tensors[value[_TENSOR]]
            if _ARRAY in value:
                return tensors[value[_ARRAY]].numpy()
            return {key: decode(each) for key, each in value.items()}
        if isinstance(value, list):
            return [decode(each) for each in value]
        return value

    tree: dict[str, Any] = decode(encoded)
    return tree


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `folder`; rename it to `folder` on success, remove it on any failure.

    The checksums of what is in it are kept with it, see `check_folder`.

    Raises:
        VlaClError: The disk is full; what was there before is kept.
    """
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.partial")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        checksums = {path.relative_to(temporary).as_posix(): file_checksum(path) for path in _files(temporary)}
        write_json(temporary / _CHECKSUMS, checksums)
        _synchronise(temporary)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(temporary, folder)
    except (OSError, SafetensorError) as error:
        if isinstance(error, SafetensorError) or getattr(error, "errno", None) in (28, 122):
            raise VlaClError(
                f"cannot write {folder}: {error}; free some space and run the same command again to go on"
            ) from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_folder(folder: Path) -> None:
    """Compare the files of a checkpoint with the checksums that were kept with them.

    Raises:
        CheckpointError: A file is missing, or is not what was written. Weights of which a bit has changed load like
            any others.
    """
    if not (folder / _CHECKSUMS).exists():  # put together by hand, or of an earlier version
        return
    try:
        kept: dict[str, str] = json.loads((folder / _CHECKSUMS).read_text(encoding="utf-8"))
        changed = [name for name, checksum in kept.items() if file_checksum(folder / name) != checksum]
    except (ValueError, AttributeError, OSError) as error:
        raise CheckpointError(f"checkpoint {folder} is damaged ({error}); delete the folder and run again") from error
    if changed:
        raise CheckpointError(
            f"checkpoint {folder} is damaged ({changed[0]} is not what was written); delete the folder and run again, "
            f"or, where the change is meant, delete its {_CHECKSUMS}"
        )


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _synchronise(folder: Path) -> None:
    for path in _files(folder):
        with open(path, "rb") as file:
            os.fsync(file.fileno())


def remove_partial_folders(folder: Path) -> None:
    """Remove what killed processes left half-written in `folder`."""
    for path in folder.glob(".*.partial"):
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
