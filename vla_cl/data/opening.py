"""The one door to files of demonstrations: which layout it is, the content says."""

from __future__ import annotations

from pathlib import Path

import h5py

from vla_cl.data.demonstrations import DemonstrationFile
from vla_cl.data.foreign import text
from vla_cl.data.integrity import damage_reported, open_safely
from vla_cl.data.libero_file import LiberoFile, is_libero
from vla_cl.data.robomimic_file import RobomimicFile, is_robomimic
from vla_cl.data.schema import SCHEMA
from vla_cl.data.source import Demonstrations


def open_demonstrations(path: Path | str) -> Demonstrations:
    """Open a file of demonstrations: ours, LIBERO's or robomimic's. Close it, or use it as a context manager.

    Raises:
        DataFileError: The file is absent, truncated, of no known layout, inconsistent, or points out of itself.
    """
    path = Path(path)
    file = open_safely(path)
    try:
        with damage_reported(path):
            layout = _layout(file)
    except BaseException:
        file.close()
        raise
    return layout(path, file)


def _layout(file: h5py.File) -> type[Demonstrations]:
    data = file.get("data")
    if not isinstance(data, h5py.Group) or text(data.attrs.get("schema", "")) == SCHEMA:
        return DemonstrationFile
    if is_libero(data):
        return LiberoFile
    return RobomimicFile if is_robomimic(data) else DemonstrationFile
