"""What an experiment needs from a machine, looked at one by one. Each check says how to mend what it finds.

Heavy packages are imported in child processes that run at the same time: a check takes as long as the slowest of
them, and a library that crashes on import, as GL drivers do, takes nobody along.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

GIGABYTE = 1024**3
PROBE_SECONDS = 120
DEBIAN = "sudo apt-get install -y --no-install-recommends"

Status = Literal["ok", "note", "broken"]


@dataclass(frozen=True)
class Check:
    """What was found.

    Args:
        name: What was looked at.
        status: "ok"; "note": something optional is missing; "broken": nothing will work without.
        found: What is there.
        mend: What to do about it, "" when there is nothing to do.
    """

    name: str
    status: Status
    found: str
    mend: str = ""


class Probe:
    """Python code running in a process of its own, started now and looked at later."""

    def __init__(self, code: str) -> None:
        environment = {**os.environ, "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def result(self) -> tuple[bool, str]:
        """Whether it succeeded, and its last line of output, or of complaint."""
        try:
            output, complaint = self._process.communicate(timeout=PROBE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            return False, f"no answer within {PROBE_SECONDS} s"
        if self._process.returncode < 0:
            return False, f"killed by signal {-self._process.returncode}"
        succeeded = self._process.returncode == 0
        lines = (output if succeeded else complaint).strip().splitlines()
        return succeeded, lines[-1] if lines else ""


RENDERING_PROBE = """
from vla_cl.envs.gl import choice
from vla_cl.envs.rendering import available_backends
print(choice() or "auto", *available_backends())
"""
ACCELERATOR_PROBE = """
import torch
names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
print("; ".join(names), f"(CUDA {torch.version.cuda})" if names else "")
"""
GL = {"egl": "libegl1 libgl1-mesa-dri", "osmesa": "libosmesa6"}
SIMULATORS = {"metaworld": "import metaworld", "robosuite": "import robosuite"}


def run_checks(folder: Path) -> Iterator[Check]:
    """Look at everything, in the order in which to mend it.

    Args:
        folder: Where runs and demonstrations would be written.
    """
    renderer, accelerator = Probe(RENDERING_PROBE), Probe(ACCELERATOR_PROBE)
    simulators = {name: Probe(code) for name, code in SIMULATORS.items()}
    yield _python()
    yield from _packages()
    for name, probe in simulators.items():
        yield _simulator(name, probe)
    yield rendering(renderer)
    yield _accelerator(accelerator)
    yield Check("cores", "ok", str(len(os.sched_getaffinity(0))))
    yield _disk(folder)
    yield _video()
    yield _browser()


def _python() -> Check:
    version = ".".join(str(part) for part in sys.version_info[:3])
    if (3, 11) <= sys.version_info[:2] < (3, 13):
        return Check("python", "ok", f"{version} at {sys.executable}")
    return Check("python", "broken", version, "make a virtual environment with Python 3.11 or 3.12")


def _packages() -> Iterator[Check]:
    """The requirements of the installed distribution against what is installed."""
    for text in importlib.metadata.requires("vla_cl") or []:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        mend = f"pip install '{requirement.name}{requirement.specifier}'"
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            yield Check(requirement.name, "broken", "not installed", mend)
            continue
        fits = requirement.specifier.contains(version, prereleases=True)
        found = version if fits else f"{version}, but {requirement.specifier} is needed"
        yield Check(requirement.name, "ok" if fits else "broken", found, "" if fits else mend)


def _simulator(name: str, probe: Probe) -> Check:
    succeeded, said = probe.result()
    if succeeded:
        return Check(f"import {name}", "ok", "works")
    mend = f"pip install --force-reinstall --no-deps '{name}=={_pinned(name)}'"
    return Check(f"import {name}", "broken" if name == "metaworld" else "note", said, mend)


def _pinned(name: str) -> str:
    for text in importlib.metadata.requires("vla_cl") or []:
        requirement = Requirement(text)
        if requirement.name == name:
            return str(requirement.specifier).removeprefix("==")
    return "*"


def rendering(probe: Probe) -> Check:
    """Which renderer "auto" means here."""
    succeeded, said = probe.result()
    if not succeeded:
        return Check("rendering", "broken", said, "unset MUJOCO_GL, or let it name a library that is there")
    wanted, *working = said.split()
    if wanted == "raycast":
        return Check("rendering", "note", "ray casting: MUJOCO_GL declines OpenGL", "unset MUJOCO_GL for OpenGL")
    if wanted != "auto" and wanted not in working:
        return Check(
            "rendering",
            "broken",
            f"MUJOCO_GL names {wanted}, which does not draw",
            f"unset it, or {DEBIAN} {GL[wanted]}",
        )
    if not working:
        found = "ray casting, as neither EGL nor OSMesa draws: plainer pictures"
        return Check("rendering", "note", found, f"{DEBIAN} {GL['egl']}   (or: {GL['osmesa']})")
    used = working[0] if wanted == "auto" else wanted
    others = [f"{name} works, too" for name in working if name != used]
    return Check("rendering", "ok", ", ".join([used, *others]))


def _accelerator(probe: Probe) -> Check:
    succeeded, said = probe.result()
    if not succeeded:
        return Check("torch", "broken", said, "pip install --force-reinstall 'torch==2.13.0'")
    if said:
        return Check("accelerator", "ok", said.strip())
    return Check("accelerator", "note", "no CUDA device: everything runs on the CPU")


def _disk(folder: Path) -> Check:
    existing = next(path for path in (folder.resolve(), *folder.resolve().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        found = f"{existing} cannot be written: {error.strerror}"
        return Check("disk", "broken", found, "run in another folder, or give --output")
    free = shutil.disk_usage(existing).free / GIGABYTE
    found = f"{free:.1f} GB free in {existing}"
    if free < 0.5:
        return Check("disk", "broken", found, "free some space: a run from pixels needs about 0.5 GB")
    if free < 5:
        return Check("disk", "note", found, "long sequences from pixels need several GB")
    return Check("disk", "ok", found)


def _video() -> Check:
    try:
        from imageio_ffmpeg import get_ffmpeg_exe

        return Check("ffmpeg", "ok", get_ffmpeg_exe())
    except (ImportError, RuntimeError) as error:
        return Check("ffmpeg", "note", str(error), "pip install imageio-ffmpeg; without it there are no videos")


def _browser() -> Check:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return Check("chromium", "ok", path)
    return Check(
        "chromium", "note", "not found", f"optional, to test the report as a browser shows it: {DEBIAN} chromium"
    )
