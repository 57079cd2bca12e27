"""robosuite's model classes for what LIBERO brings along: objects, rooms, and its two ways to stand a Panda up."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vla_cl.envs.libero.bddl_regions import Region
from vla_cl.envs.libero.catalogue import category
from vla_cl.envs.libero.standins import stand_in
from vla_cl.envs.libero.workspaces import MOUNTED, ON_THE_GROUND, Workspace
from vla_cl.envs.robosuite_import import import_robosuite
from vla_cl.errors import ConfigurationError

INITIAL_POSTURE = (0.0, -0.161037389, 0.0, -2.44459747, 0.0, 2.2267522, np.pi / 4)
"""Joint positions of LIBERO's Panda at a reset, in radians."""

ZONE_HALF_HEIGHT = 0.007
"""Of the boxes that regions on a table are, in metres."""

_FREE = {"type": "free", "damping": "0.0005"}
_LEG_INSET = 0.1
_LEG_RADIUS = 0.025


class ModelClasses(NamedTuple):
    """robosuite's classes, derived for LIBERO."""

    thing: Any
    room: Any


@functools.cache
def model_classes() -> ModelClasses:
    """Define the classes; robosuite knows the robots by name from here on."""
    import_robosuite()
    from robosuite.models.arenas import Arena
    from robosuite.models.objects import MujocoXMLObject
    from robosuite.models.robots import Panda
    from robosuite.robots import register_robot_class

    class LiberoThing(MujocoXMLObject):
        """An object or a fixture; what its model lacks is stood in for."""

        def __init__(self, name: str, file: Path, free: bool) -> None:
            joints = [dict(_FREE)] if free else None
            super().__init__(str(file), name=name, joints=joints, obj_type="all", duplicate_collision_geoms=False)

        def resolve_asset_dependency(self) -> None:
            super().resolve_asset_dependency()
            self.missing = stand_in(self.root)

    class LiberoRoom(Arena):
        """A room with its table; what its model lacks is stood in for."""

        def __init__(self, file: Path, textures: dict[str, Path]) -> None:
            self._textures = textures
            super().__init__(str(file))

        def resolve_asset_dependency(self) -> None:
            super().resolve_asset_dependency()
            for name, file in self._textures.items():
                texture = self.asset.find(f"./texture[@name='{name}']")
                if texture is not None and (file.is_file() or not os.path.isfile(texture.get("file", ""))):
                    texture.set("file", str(file))
            self.missing = stand_in(self.root)

    def upright_panda(class_name: str, base: str) -> type:
        members = {
            "default_base": property(lambda self: base),
            "init_qpos": property(lambda self: np.array(INITIAL_POSTURE)),
        }
        panda: type = register_robot_class("FixedBaseRobot")(type(class_name, (Panda,), members))
        return panda

    upright_panda(MOUNTED, "RethinkMount")
    upright_panda(ON_THE_GROUND, "NullMount")
    return ModelClasses(LiberoThing, LiberoRoom)


def build_thing(name: str, kind: str, assets: Path, free: bool) -> Any:
    """The model of an object, free to move, or of a fixture. Its `missing` lists the files that were stood in for.

    Raises:
        UnknownNameError: LIBERO has no such category.
        ConfigurationError: The assets lack the category's XML, or the category cannot move freely.
    """
    known = category(kind)
    if free and not known.movable:
        raise ConfigurationError(f"{name!r}: a {kind} cannot be an object; declare it among the fixtures")
    return model_classes().thing(name, _existing(assets / known.xml, kind), free)


def build_room(workspace: Workspace, assets: Path) -> Any:
    """The model of a workspace's room, its table in place, and its camera; `missing` as for things.

    Raises:
        ConfigurationError: The assets lack the room's XML.
    """
    textures = {name: assets / "textures" / file for name, file in _textures(workspace).items()}
    room = model_classes().room(_existing(assets / "scenes" / workspace.arena, "room"), textures)
    if workspace.table is not None:
        _stretch_table(room, workspace)
    room.set_origin([0, 0, 0])
    room.set_camera(camera_name="agentview", pos=list(workspace.camera_position), quat=list(workspace.camera_rotation))
    return room


def add_region(room: Any, name: str, region: Region, workspace: Workspace) -> None:
    """Mark a region of the table with a site: a flat box around the middle of its first rectangle."""
    from robosuite.utils.mjcf_utils import new_site

    x_low, y_low, x_high, y_high = region.ranges[0]
    x, y, z = workspace.site_origin
    body = room.worldbody.find(f"./body[@name='{workspace.site_body}']")
    body.append(
        new_site(
            name=name,
            pos=np.array([x + (x_low + x_high) / 2, y + (y_low + y_high) / 2, z]),
            quat=(1, 0, 0, 0),
            rgba=region.rgba,
            size=((x_high - x_low) / 2, (y_high - y_low) / 2, ZONE_HALF_HEIGHT),
            type="box",
        )
    )


def _textures(workspace: Workspace) -> dict[str, str]:
    return {"texplane": workspace.floor, "tex-wall": workspace.wall}


def _existing(file: Path, what: str) -> Path:
    if not file.is_file():
        raise ConfigurationError(
            f"LIBERO's assets lack the model of the {what}: {file} is not there; "
            "fetch them (vla-cl assets fetch libero) or set VLA_CL_LIBERO_ROOT"
        )
    return file


def _stretch_table(room: Any, workspace: Workspace) -> None:
    """Give the table its size, and put its legs where they belong."""
    from robosuite.utils.mjcf_utils import array_to_string

    table = workspace.table
    assert table is not None
    half = np.array(table.size) / 2
    body = room.worldbody.find("./body[@name='table']")
    body.set("pos", array_to_string(np.array(workspace.offset) - [0.0, 0.0, half[2]]))
    body.find("./geom[@name='table_collision']").set("size", array_to_string(half))
    body.find("./geom[@name='table_collision']").set("friction", array_to_string(np.array(table.friction)))
    body.find("./geom[@name='table_visual']").set("size", array_to_string(half))
    body.find("./site[@name='table_top']").set("pos", array_to_string(np.array([0.0, 0.0, half[2]])))
    height = (workspace.offset[2] - half[2]) / 2.0
    for leg, (x, y) in enumerate(((1, 1), (-1, 1), (-1, -1), (1, -1)), start=1):
        geom = body.find(f"./geom[@name='table_leg{leg}_visual']")
        place = np.array([x * (half[0] - _LEG_INSET), y * (half[1] - _LEG_INSET), -height])
        geom.set("pos", array_to_string(place))
        geom.set("size", array_to_string(np.array([_LEG_RADIUS, height])))
