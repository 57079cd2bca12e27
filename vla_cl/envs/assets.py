"""Files that simulators need and this package does not hold: where they are, what is missing, how to get them.

A set of such files has a name ("libero") and an environment variable that says where it is. The configuration's
`assets.libero=FOLDER` sets that variable, so that processes started from then on look there, too.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vla_cl.errors import ConfigurationError
from vla_cl.registry import Registry


@dataclass(frozen=True)
class AssetInventory:
    """What of a set of files is on this machine.

    Args:
        folder: Where it was found.
        found_by: What led there ("VLA_CL_LIBERO_ROOT").
        present: Numbers of files that are there, by kind ("task files", "textures").
        missing: Files that others ask for and that are not there, by kind.
    """

    folder: Path
    found_by: str
    present: Mapping[str, int] = field(default_factory=dict)
    missing: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class AssetSource:
    """A set of files by name.

    Args:
        variable: Environment variable that names its folder.
        description: One line on what it is.
        find: Looks for it; raises `ConfigurationError` with the ways out where there is nothing.
        fetch: Downloads it into a folder, None being the one in the user's cache where `find` looks; returns the
            folder.
    """

    variable: str
    description: str
    find: Callable[[], AssetInventory]
    fetch: Callable[[Path | None], Path]


ASSETS: Registry[AssetSource] = Registry("set of assets", "vla_cl.envs", "vla-cl assets list")
"""Sets of files by name; modules among the entry points `vla_cl.envs` register them."""


def use_asset_roots(roots: Mapping[str, str], keep_environment: bool = False) -> None:
    """Let this process, and those that it starts from now on, look for assets in these folders.

    Args:
        roots: Folders by name: `{"libero": "/data/libero"}`.
        keep_environment: Whether a variable that is set already wins.

    Raises:
        UnknownNameError: There is no such set of assets.
        ConfigurationError: A folder does not exist.
    """
    for name, folder in roots.items():
        source = ASSETS[name]
        if keep_environment and os.environ.get(source.variable):
            continue
        path = Path(folder).expanduser().resolve()
        if not path.is_dir():
            raise ConfigurationError(f"assets.{name}: {path} is not a folder; vla-cl assets list shows what is found")
        os.environ[source.variable] = str(path)
