"""LIBERO as its Python package runs it, told from outside what to do. Run by the Python of hf-libero's environment.

    <peer's python> hf_libero.py ROOT WORK SUITE PROBLEM IMAGE_SIZE

ROOT is the folder of LIBERO's files. WORK becomes a copy of it, of links, in which stand-ins take the place of the
meshes and textures that are named and missing: a small box, a grey picture. Both sides of a comparison then show the
same.

Answers are lines of JSON on standard output, the first when the environment stands: `{"build_seconds"}`. Then for each
line of standard input a number N: seconds that N steps took, from the first stored initial state, or seconds that
resetting to the K-th took, for `reset K`.
"""

from __future__ import annotations

import json
import os
import struct
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

CAMERAS = ["agentview", "robot0_eye_in_hand"]
HALF_SIDE = 0.02
"""Half the side of the box that stands in for a mesh, in metres."""


def link(root: Path, work: Path) -> None:
    """Make `work` a tree of folders like `root`, with links in the place of files."""
    for folder, _, names in os.walk(root):
        copy = work / Path(folder).relative_to(root)
        copy.mkdir(parents=True, exist_ok=True)
        for name in names:
            if not (copy / name).exists():
                (copy / name).symlink_to(Path(folder, name).resolve())


def write_box(path: Path, scale: list[float]) -> None:
    """A box in MuJoCo's binary mesh format, of `HALF_SIDE` once it is scaled."""
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
    sides = ((0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3))
    faces = np.array([triangle for a, b, c, d in sides for triangle in ((a, b, c), (a, c, d))])
    parts = [corners * HALF_SIDE / np.array(scale), corners / np.sqrt(3), np.zeros((8, 2))]
    content = b"".join(part.astype("<f4").tobytes() for part in parts)
    path.write_bytes(struct.pack("<4i", 8, 8, 8, len(faces)) + content + faces.astype("<i4").tobytes())


def write_grey(path: Path) -> None:
    """A small grey picture."""
    from PIL import Image

    Image.new("RGB", (16, 16), (128, 128, 128)).save(path)


def complete(assets: Path) -> list[str]:
    """Put stand-ins where an XML names a mesh or a texture that is missing; say which files those are."""
    missing = []
    for xml in sorted(assets.rglob("*.xml")):
        for element in ElementTree.parse(xml).getroot().iter():
            named = element.get("file")
            path = Path(os.path.normpath(xml.parent / named)) if named else assets
            if path.exists() or not path.is_relative_to(assets) or path.suffix not in (".msh", ".png"):
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            if element.tag == "mesh":
                write_box(path, [float(value) for value in element.get("scale", "1 1 1").split()])
            else:
                write_grey(path)
            missing.append(str(path.relative_to(assets)))
    return missing


def complete_styles(textures: Path) -> list[str]:
    """The same for the floors and walls that LIBERO's code names."""
    from libero.libero.envs.arenas.style import STYLE_MAPPING

    names = [name for styles in STYLE_MAPPING.values() for name in styles.values()]
    missing = [name for name in names if not (textures / name).exists()]
    for name in missing:
        write_grey(textures / name)
    return [f"textures/{name}" for name in missing]


def configure(work: Path) -> None:
    """Tell LIBERO where its files are, before it asks on the terminal or downloads them."""
    places = {"benchmark_root": "", "bddl_files": "bddl_files", "init_states": "init_files", "assets": "assets"}
    lines = [f"{key}: {work / place}" for key, place in {**places, "datasets": "datasets"}.items()]
    (work / "config.yaml").write_text("\n".join(lines) + "\n")
    os.environ["LIBERO_CONFIG_PATH"] = str(work)
    import libero.libero

    libero.libero._assets_path_cache = str(work / "assets")


def main() -> None:
    """Build the environment, then do what standard input says until it ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever LIBERO prints goes to standard error
    root, work, suite, problem, size = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5])
    link(root, work)
    configure(work)
    missing = complete(work / "assets") + complete_styles(work / "assets" / "textures")

    import torch
    from libero.libero.envs.env_wrapper import OffScreenRenderEnv

    states = torch.load(work / "init_files" / suite / f"{problem}.pruned_init", weights_only=False)
    started = time.perf_counter()
    env = OffScreenRenderEnv(
        bddl_file_name=str(work / "bddl_files" / suite / f"{problem}.bddl"),
        camera_names=CAMERAS,
        camera_heights=size,
        camera_widths=size,
        horizon=10**9,
    )
    build_seconds = time.perf_counter() - started
    env.seed(0)
    env.reset()
    actions = np.random.RandomState(0).uniform(-1, 1, (1000, 7))
    for action in actions[:2]:  # compiles what is compiled at the first call
        env.step(action)
    answers.write(json.dumps({"build_seconds": build_seconds, "stood_in": missing}) + "\n")

    for line in sys.stdin:
        verb, _, argument = line.strip().rpartition(" ")
        started = time.perf_counter()
        if verb == "reset":
            env.reset()
            env.set_init_state(states[int(argument)])
        else:
            env.set_init_state(states[0])
            started = time.perf_counter()
            for action in actions[: int(argument)]:
                env.step(action)
        answers.write(json.dumps(time.perf_counter() - started) + "\n")
    env.close()


if __name__ == "__main__":
    main()
