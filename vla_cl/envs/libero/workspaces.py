"""LIBERO's problem classes: the room, the table, the robot's place and the camera that each of them chooses."""

from __future__ import annotations

from dataclasses import dataclass

from vla_cl.errors import UnknownNameError

MOUNTED, ON_THE_GROUND = "LiberoMountedPanda", "LiberoGroundPanda"
"""The Panda on Rethink's pedestal, and without one."""

Vector = tuple[float, ...]

_STEEP: Vector = (0.6380177736282349, 0.3048497438430786, 0.30484986305236816, 0.6380177736282349)
_FLAT: Vector = (0.6182166934013367, 0.3432307541370392, 0.3432314395904541, 0.6182177066802979)


@dataclass(frozen=True)
class Table:
    """A table whose model is stretched to a size.

    Args:
        size: Full (3,), in metres.
        friction: Sliding, torsional and rolling.
    """

    size: Vector
    friction: Vector


@dataclass(frozen=True)
class Workspace:
    """A problem class.

    Args:
        surface: What regions are declared on; the name of the fixture that is the table or the floor.
        category: That fixture's category.
        arena: Model of the room, below the assets' scenes.
        floor, wall: Their textures, below the assets' textures.
        offset: Where regions have their origin (3,), in metres; its height is the surface's.
        fixture_drop: Height at which fixtures are put, relative to the surface.
        robot: `MOUNTED` or `ON_THE_GROUND`.
        base: Where the robot's foot is (3,), in metres.
        camera_position, camera_rotation: Of "agentview": (3,) in metres, quaternion (4,), w first.
        site_body: The body in the room's model that regions' sites belong to.
        site_origin: Where that body has the regions' origin (3,).
        table: A table to be stretched, or None where the room's model has the table as it is.
        keeps_margin: Whether objects are put so that they lie inside of a region, rather than with their middle in it.
    """

    surface: str
    category: str
    arena: str
    floor: str
    wall: str
    offset: Vector
    fixture_drop: float
    robot: str
    base: Vector
    camera_position: Vector
    camera_rotation: Vector
    site_body: str
    site_origin: Vector
    table: Table | None = None
    keeps_margin: bool = True


_WORKSPACES = {
    "libero_tabletop_manipulation": Workspace(
        surface="main_table",
        category="table",
        arena="libero_tabletop_base_style.xml",
        floor="light-gray-floor-tile.png",
        wall="light-gray-plaster.png",
        offset=(0.0, 0.0, 0.9),
        fixture_drop=-0.04,
        robot=MOUNTED,
        base=(-0.66, 0.0, 0.0),
        camera_position=(0.6586131746834771, 0.0, 1.6103500240372423),
        camera_rotation=_STEEP,
        site_body="table",
        site_origin=(0.0, 0.0, 0.02),
        table=Table(size=(1.0, 1.2, 0.05), friction=(0.6, 0.005, 0.0001)),
    ),
    "libero_kitchen_tabletop_manipulation": Workspace(
        surface="kitchen_table",
        category="kitchen_table",
        arena="libero_kitchen_tabletop_base_style.xml",
        floor="gray_ceramic_tile.png",
        wall="yellow_linen_wall_texture.png",
        offset=(0.0, 0.0, 0.9),
        fixture_drop=-0.04,
        robot=MOUNTED,
        base=(-0.66, 0.0, 0.0),
        camera_position=(0.6586131746834771, 0.0, 1.6103500240372423),
        camera_rotation=_STEEP,
        site_body="table",
        site_origin=(0.0, 0.0, 0.0),
        table=Table(size=(1.0, 1.2, 0.05), friction=(1.0, 0.005, 0.0001)),
        keeps_margin=False,
    ),
    "libero_living_room_tabletop_manipulation": Workspace(
        surface="living_room_table",
        category="living_room_table",
        arena="libero_living_room_tabletop_base_style.xml",
        floor="seamless_wood_planks_floor.png",
        wall="light-gray-plaster.png",
        offset=(0.0, 0.0, 0.41),
        fixture_drop=-0.014,
        robot=ON_THE_GROUND,
        base=(-0.51, 0.0, 0.42),
        camera_position=(0.6065773716836134, 0.0, 0.96),
        camera_rotation=_FLAT,
        site_body="living_room_table",
        site_origin=(0.0, 0.0, 0.41),
        keeps_margin=False,
    ),
    "libero_study_tabletop_manipulation": Workspace(
        surface="study_table",
        category="study_table",
        arena="libero_study_base_style.xml",
        floor="light-gray-floor-tile.png",
        wall="light-gray-plaster.png",
        offset=(-0.2, 0.0, 0.867),
        fixture_drop=-0.04,
        robot=MOUNTED,
        base=(-0.75, 0.0, 0.0),
        camera_position=(0.4586131746834771, 0.0, 1.6103500240372423),
        camera_rotation=_STEEP,
        site_body="study_table",
        site_origin=(-0.2, 0.0, 0.867),
        keeps_margin=False,
    ),
    "libero_floor_manipulation": Workspace(
        surface="floor",
        category="floor",
        arena="libero_floor_base_style.xml",
        floor="light-gray-floor-tile.png",
        wall="light-gray-plaster.png",
        offset=(0.0, 0.0, -0.035),
        fixture_drop=-0.025,
        robot=ON_THE_GROUND,
        base=(-0.6, 0.0, 0.0),
        camera_position=(0.8965773716836134, 5.216182733499864e-07, 0.65),
        camera_rotation=_FLAT,
        site_body="floor",
        site_origin=(0.0, 0.0, 0.02),
    ),
    "libero_coffee_table_manipulation": Workspace(
        surface="coffee_table",
        category="coffee_table",
        arena="libero_coffee_table_base_style.xml",
        floor="seamless_wood_planks_floor.png",
        wall="light-gray-plaster.png",
        offset=(0.0, 0.0, 0.41),
        fixture_drop=-0.014,
        robot=ON_THE_GROUND,
        base=(-0.51, 0.0, 0.41),
        camera_position=(1.5, 0.0, 0.9),
        camera_rotation=(0.56, 0.43, 0.43, 0.56),
        site_body="coffee_table",
        site_origin=(0.0, 0.0, 0.02),
    ),
}


def workspace(problem: str) -> Workspace:
    """The workspace of a problem class ("libero_tabletop_manipulation").

    Raises:
        UnknownNameError: LIBERO has no such class.
    """
    if problem not in _WORKSPACES:
        raise UnknownNameError("LIBERO problem class", problem, _WORKSPACES)
    return _WORKSPACES[problem]
