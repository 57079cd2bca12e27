"""What stands in for meshes and textures that are not there.

Physics does not change: collision shapes are primitives of the XML, and robosuite counts no visual mesh for inertia.
"""

from __future__ import annotations

import copy
import logging
import threading
import xml.etree.ElementTree as ElementTree
import zlib
from collections.abc import Iterable
from pathlib import Path

logger = logging.getLogger(__name__)

_COLOURS = {
    "black": (0.13, 0.13, 0.14),
    "white": (0.90, 0.90, 0.88),
    "yellow": (0.88, 0.74, 0.22),
    "red": (0.70, 0.16, 0.14),
    "blue": (0.25, 0.38, 0.66),
    "wooden": (0.48, 0.31, 0.18),
    "wood": (0.60, 0.44, 0.28),
    "basket": (0.70, 0.55, 0.36),
    "plate": (0.88, 0.86, 0.83),
    "sauce": (0.45, 0.12, 0.08),
    "gray": (0.66, 0.66, 0.66),
    "ceramic": (0.66, 0.66, 0.66),
    "plaster": (0.78, 0.78, 0.76),
    "linen": (0.85, 0.80, 0.66),
    "metal": (0.60, 0.61, 0.63),
}
_VISUAL = {"group": "1", "contype": "0", "conaffinity": "0", "mass": "0"}
_NOT_FOR_LOOKS = ("solref", "solimp", "friction", "density", "name", "condim", "margin", "gap", "priority")

_named: set[Path] = set()
_naming = threading.Lock()


def stand_in(root: ElementTree.Element) -> list[Path]:
    """Replace what a model refers to and is not there, in place.

    A texture becomes a plain colour. Of a mesh, its shapes are left out, and the body's collision shapes are shown.

    Args:
        root: The model, its files absolute.

    Returns:
        The files that are missing.
    """
    asset = root.find("asset")
    if asset is None:
        return []
    missing = {node: Path(node.get("file", "")) for node in asset.findall("./*[@file]")}
    missing = {node: file for node, file in missing.items() if not file.is_file()}
    meshes = set()
    for node, file in missing.items():
        if node.tag == "texture":
            _make_plain(node, file)
        elif node.tag == "mesh":
            meshes.add(node.get("name", file.stem))
            asset.remove(node)
    if meshes:
        colours = {name: plain_colour(name) for name in meshes}
        for body in list(root.iter("body")) + list(root.iter("worldbody")):
            _show_collision_shapes(body, colours)
    return list(missing.values())


def name_once(files: Iterable[Path], assets: Path) -> None:
    """Log the missing files that were not logged before, all in one line.

    Args:
        files: What `stand_in` returned.
        assets: Folder that they are named relative to.
    """
    with _naming:
        new = sorted(set(files) - _named)
        _named.update(new)
    if new:
        names = [str(file.relative_to(assets) if file.is_relative_to(assets) else file) for file in new]
        logger.warning(
            "LIBERO's assets lack %d files, plain shapes and colours stand in: %s", len(names), ", ".join(names)
        )


def plain_colour(name: str) -> tuple[float, float, float]:
    """A colour for a thing of that name: one that the name tells, else some dull one that is always the same."""
    for word, colour in _COLOURS.items():
        if word in name.lower():
            return colour
    digest = zlib.crc32(name.encode())
    red, green, blue = ((digest >> shift) % 100 / 500 + 0.4 for shift in (0, 8, 16))
    return red, green, blue


def _make_plain(texture: ElementTree.Element, file: Path) -> None:
    del texture.attrib["file"]
    colour = " ".join(f"{value:g}" for value in plain_colour(f"{file.parent.name} {file.stem}"))
    texture.attrib.update(builtin="flat", width="16", height="16", rgb1=colour, rgb2=colour)


def _show_collision_shapes(body: ElementTree.Element, colours: dict[str, tuple[float, float, float]]) -> None:
    gone = [geom for geom in body.findall("geom") if geom.get("mesh") in colours]
    for geom in gone:
        body.remove(geom)
    if not gone or body.tag == "worldbody":
        return
    colour = colours[gone[0].get("mesh", "")]
    for geom in body.findall("geom"):
        if geom.get("group", "0") == "0" and geom.get("type") != "mesh":
            shown = copy.deepcopy(geom)
            for attribute in _NOT_FOR_LOOKS:
                shown.attrib.pop(attribute, None)
            shown.attrib.update(_VISUAL, rgba=" ".join(f"{value:g}" for value in (*colour, 1.0)))
            body.append(shown)
