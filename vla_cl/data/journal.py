"""Attempts that are done, kept on the disk while a collection runs, so that a killed one goes on where it was."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vla_cl.data.schema import Episode
from vla_cl.errors import DataFileError
from vla_cl.files import atomic_path, remove_partial_files, write_json, write_text

_REQUEST = "request.json"
_VECTORS = ("actions", "executed_actions", "states", "rewards")
_OBSERVATION_PREFIX = "obs/"


class Journal:
    """One file an attempt, in a hidden folder beside the demonstration file.

    Args:
        path: The demonstration file that is to be.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folder = path.with_name(f".{path.name}.collecting")

    def begin(self, request: Mapping[str, Any]) -> dict[int, bool]:
        """Make the folder ready for `request` (JSON); attempts that were made for another request are removed.

        Returns:
            Whether it succeeded, for each attempt that is done.
        """
        description = self.folder / _REQUEST
        if self.folder.exists() and not _holds(description, request):
            self.remove()
        if not self.folder.exists():
            write_json(description, dict(request))
        remove_partial_files(self.folder)
        done = {int(path.stem): True for path in self.folder.glob("*.npz")}
        return done | {int(path.stem): False for path in self.folder.glob("*.failed")}

    def add(self, attempt: int, episode: Episode | None) -> None:
        """Keep the outcome of an attempt; None is a failure.

        Raises:
            VlaClError: The disk is full; nothing half-written stays.
        """
        if episode is None:
            write_text(self.folder / f"{attempt:06d}.failed", "")
            return
        arrays: dict[str, Any] = {name: getattr(episode, name) for name in _VECTORS}
        arrays |= {_OBSERVATION_PREFIX + key: values for key, values in episode.observations.items()}
        about = json.dumps({"seed": episode.seed, "attempt": episode.attempt, "model_file": episode.model_file})
        with atomic_path(self.folder / f"{attempt:06d}.npz") as temporary, open(temporary, "wb") as file:
            np.savez(file, about=np.array(about), **arrays)

    def episode(self, attempt: int) -> Episode:
        """A successful attempt."""
        path = self.folder / f"{attempt:06d}.npz"
        try:
            with np.load(path, allow_pickle=False) as arrays:
                about = json.loads(str(arrays["about"]))
                observations = {
                    key.removeprefix(_OBSERVATION_PREFIX): arrays[key]
                    for key in arrays.files
                    if key.startswith(_OBSERVATION_PREFIX)
                }
                return Episode(**about, **{name: arrays[name] for name in _VECTORS}, observations=observations)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise DataFileError(f"{path} is damaged ({error}); delete {self.folder} and collect again") from error

    def remove(self) -> None:
        """Remove the folder: its attempts are in the demonstration file, or of no use any more."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _holds(path: Path, value: Mapping[str, Any]) -> bool:
    try:
        return bool(json.loads(path.read_text(encoding="utf-8")) == value)
    except (OSError, ValueError):
        return False
