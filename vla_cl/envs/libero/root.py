"""Where LIBERO's own files are on this machine: task files, stored initial states, models and textures."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vla_cl.errors import ConfigurationError, UnknownNameError

ROOT_VARIABLE = "VLA_CL_LIBERO_ROOT"
"""Environment variable that names the folder; `assets.libero=FOLDER` of a run sets it."""

_LAYOUTS = (Path(), Path("libero/libero"), Path("libero"))
"""Where the folders lie in what a user may name: themselves, a checkout or a folder of packages, a package."""

_WAYS_OUT = f"set {ROOT_VARIABLE} (or assets.libero) to a checkout of LIBERO, or run: vla-cl assets fetch libero"


@dataclass(frozen=True)
class LiberoRoot:
    """The benchmark's three folders.

    Args:
        bddl: Task files, `<suite>/<problem>.bddl`.
        initial_states: Stored initial states, `<suite>/<problem>.pruned_init`.
        assets: Models and textures; may be incomplete, or not be there at all.
        found_by: What led here, for people.
    """

    bddl: Path
    initial_states: Path
    assets: Path
    found_by: str

    def problem_path(self, suite: str, problem: str) -> Path:
        """The task file of a problem.

        Args:
            suite: "libero_spatial", "libero_object", "libero_goal", "libero_10", "libero_90", or any other folder of
                task files that is there.
            problem: Name of the file without `.bddl`.

        Raises:
            UnknownNameError: There is no such suite, or no such problem in it.
        """
        return _member(self.bddl, suite, problem, ".bddl")

    def initial_states_path(self, suite: str, problem: str) -> Path:
        """The file of a problem's stored initial states; see `read_initial_states`.

        Raises:
            UnknownNameError: There is no such suite, or no such problem in it.
        """
        return _member(self.initial_states, suite, problem, ".pruned_init")


def _member(folder: Path, suite: str, problem: str, suffix: str) -> Path:
    suites = [each.name for each in folder.iterdir() if each.is_dir()]
    if suite not in suites:
        raise UnknownNameError("LIBERO suite", suite, suites)
    problems = {path.name.removesuffix(suffix): path for path in (folder / suite).glob(f"*{suffix}")}
    if problem not in problems:
        raise UnknownNameError("LIBERO problem", problem, problems, f"vla-cl tasks {suite}")
    return problems[problem]


def libero_root(path: Path | str | None = None) -> LiberoRoot:
    """Find the benchmark's files: where `path` says, else the environment variable, else LIBERO's own configuration
    (`~/.libero/config.yaml`), else what `vla-cl assets fetch libero` has downloaded.

    Models and textures come from the download too, where the place that holds the task files has no folder of them.

    Args:
        path: A folder with `bddl_files/` and `init_files/`, a checkout of LIBERO, or an installed package of it.

    Raises:
        ConfigurationError: There is nothing there; the message says what can be done.
    """
    if path is not None:
        return _laid_out(Path(path), "the given path")
    named = os.environ.get(ROOT_VARIABLE)
    if named:
        return _laid_out(Path(named), ROOT_VARIABLE)
    configured = _configured()
    if configured is not None:
        return configured
    downloaded = download_folder()
    if (downloaded / "bddl_files").is_dir():
        return _laid_out(downloaded, "vla-cl assets fetch libero")
    raise ConfigurationError(f"LIBERO's files were not found; {_WAYS_OUT}")


def download_folder() -> Path:
    """Where `vla-cl assets fetch libero` puts files, unless it is told another place."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "vla_cl" / "libero"


def _laid_out(folder: Path, found_by: str) -> LiberoRoot:
    folder = folder.expanduser().resolve()
    for layout in _LAYOUTS:
        base = folder / layout
        if (base / "bddl_files").is_dir() and (base / "init_files").is_dir():
            return LiberoRoot(base / "bddl_files", base / "init_files", _assets(base / "assets"), found_by)
    raise ConfigurationError(f"{folder} ({found_by}) holds no bddl_files/ and init_files/ of LIBERO; {_WAYS_OUT}")


def _configured() -> LiberoRoot | None:
    """What LIBERO's own configuration names, if it is there and its folders are."""
    folder = os.environ.get("LIBERO_CONFIG_PATH") or Path.home() / ".libero"
    path = Path(folder) / "config.yaml"
    try:
        values: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError:
        return None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not YAML ({' '.join(str(error).split())}); {_WAYS_OUT}") from error
    places = values if isinstance(values, dict) else {}
    bddl, initial_states, assets = (places.get(key) for key in ("bddl_files", "init_states", "assets"))
    if not isinstance(bddl, str) or not isinstance(initial_states, str):
        return None
    if not Path(bddl).is_dir() or not Path(initial_states).is_dir():
        return None
    where = Path(assets) if isinstance(assets, str) else Path(bddl).parent / "assets"
    return LiberoRoot(Path(bddl), Path(initial_states), _assets(where), str(path))


def _assets(folder: Path) -> Path:
    downloaded = download_folder() / "assets"
    return downloaded if downloaded.is_dir() and not folder.is_dir() else folder
