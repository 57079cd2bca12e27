"""Things that can be picked up or pushed, built from a few primitive shapes each.

All fit between the fingers of the smallest gripper: what is gripped is at most 5 cm wide.
"""

from __future__ import annotations

import math
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray

from vla_cl.envs.mujoco_import import import_mujoco
from vla_cl.envs.tabletop.item import Box, Grip, Item, Material, body, numbers, register_kind
from vla_cl.errors import ConfigurationError


@register_kind("cube")
def cube(name: str, material: Material, size: float = 0.04) -> Item:
    """A cube; `size` is its edge in metres."""
    half = size / 2
    box = Box((0, 0, 0), (half, half, half))
    top = Box((0, 0, half), (half, half, 0))
    xml = body(name, material.geom(f"{name}_g0", "box", numbers(half, half, half)))
    return Item(xml, box, support=top, grip=Grip((0, 0, 0), fold=4))


@register_kind("block")
def block(name: str, material: Material, length: float = 0.08, width: float = 0.035, height: float = 0.035) -> Item:
    """A cuboid that is longer than wide, gripped across."""
    half = (length / 2, width / 2, height / 2)
    xml = body(name, material.geom(f"{name}_g0", "box", numbers(*half)))
    return Item(
        xml,
        Box((0, 0, 0), half),
        support=Box((0, 0, half[2]), (half[0], half[1], 0)),
        grip=Grip((0, 0, 0), fold=2, yaw=math.pi / 2),
    )


@register_kind("can")
def can(name: str, material: Material, radius: float = 0.022, height: float = 0.06) -> Item:
    """An upright cylinder."""
    half = height / 2
    feet = material.feet(name, radius - 0.004, -half)
    xml = body(name, material.geom(f"{name}_g0", "cylinder", numbers(radius, half)), feet)
    side = radius / math.sqrt(2)
    return Item(
        xml,
        Box((0, 0, 0), (radius, radius, half)),
        support=Box((0, 0, half), (side, side, 0)),
        grip=Grip((0, 0, half * 0.3), fold=0),
    )


@register_kind("ball")
def ball(name: str, material: Material, radius: float = 0.023) -> Item:
    """A ball, heavy and with so much rolling friction that it stays where it is put."""
    rolling = (
        material.geom(f"{name}_g0", "sphere", numbers(radius), density=1000)
        .replace('condim="4"', 'condim="6"')
        .replace("0.01 0.0001", "0.01 0.005")
    )
    return Item(body(name, rolling), Box((0, 0, 0), (radius, radius, radius)), grip=Grip((0, 0, 0), fold=0))


@register_kind("bottle")
def bottle(name: str, material: Material) -> Item:
    """A cylinder with a neck and a white cap."""
    cap = Material("0.92 0.92 0.90 1", material.friction, material.mass)
    xml = body(
        name,
        material.geom(f"{name}_g0", "cylinder", numbers(0.022, 0.03), numbers(0, 0, -0.015), density=400),
        material.geom(f"{name}_g1", "cylinder", numbers(0.012, 0.012), numbers(0, 0, 0.027), density=100),
        cap.geom(f"{name}_g2", "cylinder", numbers(0.013, 0.006), numbers(0, 0, 0.039), density=100),
        material.feet(name, 0.018, -0.045),
    )
    return Item(xml, Box((0, 0, 0), (0.022, 0.022, 0.045)), grip=Grip((0, 0, -0.005), fold=0))


@register_kind("carton")
def carton(name: str, material: Material) -> Item:
    """A milk carton: a box with a narrower ridge on top."""
    ridge = Material("0.92 0.92 0.90 1", material.friction, material.mass)
    xml = body(
        name,
        material.geom(f"{name}_g0", "box", numbers(0.02, 0.02, 0.03), numbers(0, 0, -0.01)),
        ridge.geom(f"{name}_g1", "box", numbers(0.02, 0.006, 0.01), numbers(0, 0, 0.03), density=100),
    )
    return Item(xml, Box((0, 0, 0), (0.02, 0.02, 0.04)), grip=Grip((0, 0, 0), fold=4))


@register_kind("mug")
def mug(name: str, material: Material) -> Item:
    """A cylinder with a handle at its side."""
    dark = Material("0.12 0.12 0.13 1", material.friction, material.mass)
    xml = body(
        name,
        material.geom(f"{name}_g0", "cylinder", numbers(0.022, 0.028)),
        dark.ghost(f"{name}_g1", "cylinder", numbers(0.018, 0.001), numbers(0, 0, 0.028)),
        material.geom(f"{name}_g2", "box", numbers(0.008, 0.004, 0.018), numbers(0.03, 0, 0), density=100),
        material.feet(name, 0.018, -0.028),
    )
    return Item(xml, Box((0.008, 0, 0), (0.03, 0.022, 0.028)), grip=Grip((0, 0, 0.008), fold=2, yaw=math.pi / 2))


@register_kind("prism")
def prism(name: str, material: Material, size: float = 0.021, height: float = 0.05) -> Item:
    """An upright hexagonal prism; `size` is half the distance between opposite faces."""
    half, corner = height / 2, size / math.cos(math.pi / 6)
    ring = [(corner * math.cos(math.pi / 3 * k), corner * math.sin(math.pi / 3 * k)) for k in range(6)]
    vertices = " ".join(numbers(x, y, z) for z in (-half, half) for x, y in ring)
    mesh = f'<mesh name="{name}_mesh" vertex="{vertices}"/>'
    geom = material.geom(f"{name}_g0", "mesh", "1", extra=f'mesh="{name}_mesh"').replace('size="1" ', "")
    return Item(
        body(name, geom, material.feet(name, size - 0.004, -half)),
        Box((0, 0, 0), (corner, size, half)),
        assets=mesh,
        support=Box((0, 0, half), (size * 0.7, size * 0.7, 0)),
        grip=Grip((0, 0, 0), fold=6, yaw=math.pi / 2),
    )


@register_kind("hammer")
def hammer(name: str, material: Material) -> Item:
    """A handle with a dark head across its end, lying; gripped at the handle."""
    head = Material("0.20 0.20 0.22 1", material.friction, material.mass)
    xml = body(
        name,
        material.geom(f"{name}_g0", "box", numbers(0.045, 0.01, 0.012)),
        head.geom(f"{name}_g1", "box", numbers(0.012, 0.03, 0.012), numbers(0.045, 0, 0)),
    )
    return Item(xml, Box((0.006, 0, 0), (0.051, 0.03, 0.012)), grip=Grip((0.015, 0, 0), fold=2, yaw=math.pi / 2))


@register_kind("cross")
def cross(name: str, material: Material) -> Item:
    """A plus sign, lying."""
    xml = body(
        name,
        material.geom(f"{name}_g0", "box", numbers(0.035, 0.011, 0.015)),
        material.geom(f"{name}_g1", "box", numbers(0.011, 0.035, 0.015)),
    )
    return Item(xml, Box((0, 0, 0), (0.035, 0.035, 0.015)), grip=Grip((0.024, 0, 0), fold=2, yaw=math.pi / 2))


@register_kind("ring")
def ring(name: str, material: Material, radius: float = 0.035) -> Item:
    """A lying ring of eight short boxes, gripped across its rim."""
    parts = []
    width = radius * math.tan(math.pi / 8) + 0.004
    for k in range(8):
        angle = math.pi / 4 * k
        place = numbers(radius * math.cos(angle), radius * math.sin(angle), 0)
        turn = f'euler="0 0 {angle:.6g}"'
        parts.append(material.geom(f"{name}_g{k}", "box", numbers(0.007, width, 0.014), place, extra=turn))
    outer = radius + 0.007
    parts.append(material.feet(name, radius, -0.014))
    return Item(body(name, *parts), Box((0, 0, 0), (outer, outer, 0.014)), grip=Grip((radius, 0, 0.002), fold=1))


@register_kind("plate")
def plate(name: str, material: Material, radius: float = 0.06) -> Item:
    """A flat disc that things can be put on and that can be pushed; too wide for the fingers.

    It collides as an octagon of four boxes: MuJoCo lets a cylinder this flat sink into the table.
    """
    wide, narrow = radius * math.cos(math.pi / 8), radius * math.sin(math.pi / 8)
    parts = [
        material.unseen(
            f"{name}_g{k}", "box", numbers(wide, narrow, 0.009), density=190, extra=f'euler="0 0 {math.pi / 4 * k:.6g}"'
        )
        for k in range(4)
    ]
    xml = body(name, *parts, material.ghost(f"{name}_seen", "cylinder", numbers(radius, 0.009)))
    side = radius / math.sqrt(2)
    return Item(xml, Box((0, 0, 0), (radius, radius, 0.009)), support=Box((0, 0, 0.009), (side, side, 0)))


@register_kind("mesh")
def mesh(name: str, material: Material, file: str, scale: float = 1.0, grip_fold: int = 4) -> Item:
    """A thing of your own, from an STL or OBJ file; it collides as its convex hull.

    Args:
        name, material: As everywhere.
        file: Path of the mesh; the origin should lie in the middle.
        scale: Metres per unit of the file.
        grip_fold: Symmetry of its grip, see `Grip.fold`.

    Raises:
        ConfigurationError: There is no such file, or it holds no mesh.
    """
    path = Path(file)
    if not path.is_file():
        raise ConfigurationError(
            f"mesh {file!r} of object {name!r} does not exist; give the path of an STL or OBJ file"
        )
    asset = f'<mesh name="{name}_mesh" file={quoteattr(str(path.resolve()))} scale="{numbers(scale, scale, scale)}"/>'
    low, high = _mesh_bounds(name, file, asset)
    middle, half = (low + high) / 2, (high - low) / 2
    geom = material.geom(f"{name}_g0", "mesh", "1", extra=f'mesh="{name}_mesh"').replace('size="1" ', "")
    bounds = Box(tuple(map(float, middle)), tuple(map(float, half)))  # type: ignore[arg-type]
    return Item(body(name, geom), bounds, assets=asset, grip=Grip(bounds.centre, fold=grip_fold))


def _mesh_bounds(name: str, file: str, asset: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower and upper corner (3,) of a mesh, as MuJoCo reads it."""
    mujoco = import_mujoco()
    xml = f'<mujoco><asset>{asset}</asset><worldbody><geom type="mesh" mesh="{name}_mesh"/></worldbody></mujoco>'
    try:
        model = mujoco.MjModel.from_xml_string(xml)
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise ConfigurationError(f"mesh {file!r} of object {name!r} cannot be read: {reason}") from error
    rotation = np.empty(9)
    mujoco.mju_quat2Mat(rotation, model.geom_quat[0])
    vertices = model.mesh_vert @ rotation.reshape(3, 3).T + model.geom_pos[0]
    return vertices.min(axis=0), vertices.max(axis=0)
