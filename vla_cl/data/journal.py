"""Attempts that are done, kept on the disk while a collection runs, so that a killed one goes on where it was."""

from __future__ import annotations

import glob
import hashlib
import json
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vla_cl.data.schema import Episode, canonical_json
from vla_cl.errors import DataFileError
from vla_cl.files import atomic_path, remove_partial_files, write_text

_VECTORS = ("actions", "executed_actions", "states", "rewards")
_OBSERVATION_PREFIX = "obs/"
_HASH_DIGITS = 8


class Journal:
    """One file an attempt, in a hidden folder beside the demonstration file.

    The folder is named after what was asked for, so that a worker that outlives its killed parent by a moment can never
    write into the journal of another request.

    Args:
        path: The demonstration file that is to be.
        request: Everything that decides its content (JSON).
    """

    def __init__(self, path: Path, request: Mapping[str, Any]) -> None:
        self.path = path
        digest = hashlib.sha256(canonical_json(request).encode()).hexdigest()[:_HASH_DIGITS]
        self.folder = path.with_name(f".{path.name}.{digest}.collecting")

    def begin(self) -> dict[int, bool]:
        """Clear away what other requests for the same file and killed processes left.

        Returns:
            Whether it succeeded, for each attempt that is done.
        """
        for other in self.path.parent.glob(f".{glob.escape(self.path.name)}.*.collecting"):
            if other != self.folder:
                shutil.rmtree(other, ignore_errors=True)
        for partial in self.path.parent.glob(f".{glob.escape(self.path.name)}.*.partial"):
            partial.unlink(missing_ok=True)
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
