"""Things that stand fast on the table: containers, furniture, and mechanisms with one joint each.

A fixture's origin lies on the table, in its middle; its front looks along -x, towards the robot, until the scene
turns it. Mechanisms stay where they are left: friction holds them, no spring brings them back.
"""

from __future__ import annotations

from vla_cl.envs.tabletop.item import Box, Grip, Item, Material, Mechanism, body, numbers, register_kind

_WOOD = "0.72 0.56 0.38 1"
_METAL = "0.35 0.36 0.40 1"


@register_kind("box")
def box(name: str, material: Material, length: float = 0.1, width: float = 0.1, height: float = 0.05) -> Item:
    """A solid box to put things on."""
    half = (length / 2, width / 2, height / 2)
    xml = body(name, material.geom(f"{name}_g0", "box", numbers(*half), numbers(0, 0, half[2])))
    return Item(
        xml,
        Box((0, 0, half[2]), half),
        support=Box((0, 0, height), (half[0], half[1], 0)),
        movable=False,
    )


@register_kind("basket")
def basket(name: str, material: Material, size: float = 0.14, height: float = 0.05) -> Item:
    """An open square box; `size` is its inner edge in metres."""
    wall, half, rise = 0.004, size / 2, height / 2
    parts = [material.geom(f"{name}_g0", "box", numbers(half, half, 0.003), numbers(0, 0, 0.003))]
    for index, (x, y) in enumerate(((1, 0), (-1, 0), (0, 1), (0, -1)), start=1):
        size_text = numbers(*(wall if x else half + wall, wall if y else half + wall, rise))
        place = numbers(x * (half + wall), y * (half + wall), rise)
        parts.append(material.geom(f"{name}_g{index}", "box", size_text, place))
    outer = half + 2 * wall
    return Item(
        body(name, *parts),
        Box((0, 0, rise), (outer, outer, rise)),
        interior=Box((0, 0, 0.006 + rise), (half, half, rise)),
        movable=False,
    )


@register_kind("mat")
def mat(name: str, material: Material, length: float = 0.16, width: float = 0.16) -> Item:
    """A coloured area of the table, without thickness to anything that moves over it."""
    xml = body(name, material.ghost(f"{name}_g0", "box", numbers(length / 2, width / 2, 0.0005), numbers(0, 0, 0.0005)))
    return Item(
        xml,
        Box((0, 0, 0.0005), (length / 2, width / 2, 0.0005)),
        support=Box((0, 0, 0), (length / 2, width / 2, 0)),
        movable=False,
        solid=False,
    )


@register_kind("drawer")
def drawer(name: str, material: Material) -> Item:
    """A cabinet with one drawer, which slides out of its front by up to 16 cm and has a post to be gripped by."""
    wood = Material(_WOOD, material.friction, material.mass, material.damping)
    metal = Material(_METAL, material.friction, material.mass, material.damping)
    shell = (
        wood.geom(f"{name}_g0", "box", numbers(0.1, 0.1, 0.005), numbers(0, 0, 0.095)),
        wood.geom(f"{name}_g1", "box", numbers(0.1, 0.005, 0.045), numbers(0, 0.095, 0.045)),
        wood.geom(f"{name}_g2", "box", numbers(0.1, 0.005, 0.045), numbers(0, -0.095, 0.045)),
        wood.geom(f"{name}_g3", "box", numbers(0.005, 0.09, 0.045), numbers(0.095, 0, 0.045)),
    )
    slide = (
        f'<joint name="{name}_slide" type="slide" axis="-1 0 0" range="0 0.16" limited="true" '
        f'damping="{8.0 * material.damping:g}" frictionloss="{1.0 * material.damping:g}" armature="0.05"/>'
    )
    inner = body(
        f"{name}_drawer",
        slide,
        material.geom(f"{name}_d0", "box", numbers(0.088, 0.084, 0.004), numbers(0, 0, 0.012), density=200),
        material.geom(f"{name}_d1", "box", numbers(0.088, 0.004, 0.026), numbers(0, 0.08, 0.034), density=200),
        material.geom(f"{name}_d2", "box", numbers(0.088, 0.004, 0.026), numbers(0, -0.08, 0.034), density=200),
        material.geom(f"{name}_d3", "box", numbers(0.004, 0.084, 0.026), numbers(0.084, 0, 0.034), density=200),
        material.geom(f"{name}_d4", "box", numbers(0.005, 0.088, 0.036), numbers(-0.093, 0, 0.044), density=200),
        metal.geom(f"{name}_d5", "box", numbers(0.02, 0.006, 0.006), numbers(-0.116, 0, 0.05), density=200),
        metal.geom(f"{name}_d6", "box", numbers(0.008, 0.009, 0.03), numbers(-0.14, 0, 0.064), density=200),
    )
    return Item(
        body(name, *shell, inner),
        Box((-0.024, 0, 0.05), (0.124, 0.1, 0.05)),
        support=Box((0, 0, 0.1), (0.1, 0.1, 0)),
        interior=Box((0, 0, 0.041), (0.08, 0.076, 0.025)),
        interior_body="drawer",
        grip=Grip((-0.14, 0, 0.078), fold=2, yaw=1.5707963, body="drawer"),
        mechanism=Mechanism("slide", (-1, 0, 0), "drawer", start=0.0, low=0.0, high=0.16, done=0.12, undone=0.015),
        movable=False,
    )


@register_kind("knob")
def knob(name: str, material: Material) -> Item:
    """A dial on a low base with a bar across it, turned about the vertical by up to a half turn either way."""
    base = Material(_METAL, material.friction, material.mass, material.damping)
    pointer = Material("0.92 0.92 0.90 1", material.friction, material.mass)
    hinge = (
        f'<joint name="{name}_hinge" type="hinge" axis="0 0 1" range="-1.8 1.8" limited="true" '
        f'damping="{0.02 * material.damping:g}" frictionloss="{0.02 * material.damping:g}" armature="0.002"/>'
    )
    dial = body(
        f"{name}_dial",
        hinge,
        material.geom(f"{name}_d0", "cylinder", numbers(0.04, 0.008), numbers(0, 0, 0.032)),
        material.geom(f"{name}_d1", "box", numbers(0.034, 0.009, 0.018), numbers(0, 0, 0.058)),
        pointer.ghost(f"{name}_d2", "box", numbers(0.006, 0.0095, 0.0185), numbers(-0.028, 0, 0.058)),
    )
    return Item(
        body(name, base.geom(f"{name}_g0", "box", numbers(0.05, 0.05, 0.0115), numbers(0, 0, 0.0115)), dial),
        Box((0, 0, 0.038), (0.05, 0.05, 0.038)),
        grip=Grip((0, 0, 0.062), fold=2, yaw=1.5707963, body="dial"),
        mechanism=Mechanism("hinge", (0, 0, 1), "dial", start=0.0, low=-1.8, high=1.8, done=1.0, undone=0.1),
        movable=False,
    )


@register_kind("button")
def button(name: str, material: Material) -> Item:
    """A push button that goes down by 2 cm and stays down."""
    base = Material(_METAL, material.friction, material.mass, material.damping)
    slide = (
        f'<joint name="{name}_slide" type="slide" axis="0 0 -1" range="0 0.02" limited="true" solreflimit="0.004 1" '
        f'damping="{10.0 * material.damping:g}" frictionloss="{3.0 * material.damping:g}" armature="0.05"/>'
    )
    cap = body(
        f"{name}_cap",
        slide,
        material.geom(f"{name}_d0", "cylinder", numbers(0.026, 0.015), numbers(0, 0, 0.055)),
    ).replace("<body ", '<body gravcomp="1" ', 1)  # MuJoCo's friction gives way slowly: it would sink by its own weight
    stem = base.ghost(f"{name}_g1", "cylinder", numbers(0.015, 0.011), numbers(0, 0, 0.029))
    return Item(
        body(name, base.geom(f"{name}_g0", "box", numbers(0.045, 0.045, 0.009), numbers(0, 0, 0.009)), stem, cap),
        Box((0, 0, 0.035), (0.045, 0.045, 0.035)),
        grip=Grip((0, 0, 0.07), fold=0, body="cap"),
        mechanism=Mechanism("slide", (0, 0, -1), "cap", start=0.0, low=0.0, high=0.02, done=0.014, undone=0.003),
        movable=False,
    )
