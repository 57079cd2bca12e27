"""MuJoCo, imported late and with its warnings in `logging`."""

from __future__ import annotations

import functools
import importlib
import logging
import os
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_cl.errors import RenderingError

logger = logging.getLogger(__name__)

INSTALL = {
    "egl": "apt-get install libegl1 libgl1-mesa-dri",
    "osmesa": "apt-get install libosmesa6",
}
"""How to get the GL libraries that MuJoCo draws with on Debian and Ubuntu, without a GPU's own driver."""


@functools.cache
def import_mujoco() -> ModuleType:
    """The `mujoco` module. Its warnings go to `logging`, not to a file MUJOCO_LOG.TXT in the working folder.

    Raises:
        RenderingError: `MUJOCO_GL` names a GL library that is not there, which MuJoCo's own import trips over.
    """
    try:
        mujoco = importlib.import_module("mujoco")
    except (ImportError, AttributeError, RuntimeError) as error:
        choice = os.environ.get("MUJOCO_GL", "")
        if not choice:
            raise
        remedy = f" or run `{INSTALL[choice]}`" if choice in INSTALL else ""
        raise RenderingError(f"MuJoCo cannot be imported with MUJOCO_GL={choice}; unset it{remedy}") from error
    if mujoco.get_mju_user_warning() is None:
        mujoco.set_mju_user_warning(_log_warning)
    return mujoco


def instability_counters(data: Any) -> NDArray[np.intc]:
    """A live view (3,) of a `mujoco.MjData`'s counters of NaN or huge positions, velocities and accelerations."""
    warning = import_mujoco().mjtWarning
    kinds = [int(kind) for kind in (warning.mjWARN_BADQPOS, warning.mjWARN_BADQVEL, warning.mjWARN_BADQACC)]
    counters: NDArray[np.intc] = data.warning.number[min(kinds) : max(kinds) + 1]
    assert len(counters) == len(kinds), "the three counters lie side by side"
    return counters


def _log_warning(message: str) -> None:
    logger.warning("MuJoCo: %s", message)
