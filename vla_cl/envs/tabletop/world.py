"""A declared scene inside robosuite: its arm, its table, and our things on it."""

from __future__ import annotations

import functools
import xml.etree.ElementTree as ElementTree
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_cl.envs.robosuite_import import import_robosuite
from vla_cl.envs.tabletop.item import TABLE_SIZE, Item
from vla_cl.envs.tabletop.placement import Placed, place
from vla_cl.envs.tabletop.scene import Camera, Scene

TABLE_HEIGHT = 0.8
"""Of the table's top above the floor, in metres."""

_PLAIN = {
    "floorplane": "0.62 0.60 0.58 1",
    "walls_mat": "0.72 0.72 0.72 1",
    "table_ceramic": "0.80 0.78 0.74 1",
    "table_legs_metal": "0.55 0.55 0.57 1",
}

ENVIRONMENT = "VlaClTabletop"
"""The name under which robosuite knows the class."""


@functools.cache
def register_world() -> str:
    """Define the robosuite environment that builds declared scenes, and return its name."""
    import_robosuite()
    from robosuite.environments.manipulation.manipulation_env import ManipulationEnv
    from robosuite.models.arenas import TableArena
    from robosuite.models.tasks import ManipulationTask

    class VlaClTabletop(ManipulationEnv):
        """A robosuite environment whose things are declared.

        Args:
            scene: What stands on the table.
            **arguments: As for every robosuite environment.
        """

        def __init__(self, scene: Scene, **arguments: Any) -> None:
            self.scene, self.items = scene, scene.items()
            super().__init__(**arguments)

        def _load_model(self) -> None:
            super()._load_model()
            robot = self.robots[0].robot_model
            robot.set_base_xpos(robot.base_xpos_offset["table"](0.8))
            arena = TableArena(table_full_size=TABLE_SIZE, table_offset=(0.0, 0.0, TABLE_HEIGHT))
            arena.set_origin([0, 0, 0])
            if self.scene.dynamics.friction != 1.0:
                _scale_friction(arena.worldbody, self.scene.dynamics.friction)
                _scale_friction(robot.worldbody, self.scene.dynamics.friction)
            _make_plain(arena)
            _add_things(arena, self.items)
            _add_camera(arena, self.scene.camera)
            self.model = ManipulationTask(mujoco_arena=arena, mujoco_robots=[robot], mujoco_objects=[])

        def _reset_internal(self) -> None:
            super()._reset_internal()
            if not self.deterministic_reset:
                _put(self.sim, self.items, place(self.scene, self.items, self.rng))

        def _setup_observables(self) -> Any:
            return {}

        def reward(self, action: Any = None) -> float:
            """Ours is given by the environment around this one."""
            return 0.0

        def _check_success(self) -> bool:
            return False

    return ENVIRONMENT


def _make_plain(arena: Any) -> None:
    """Paint table, floor and walls in plain dull colours: quick to draw, and pictures compress to a fraction."""
    for material in arena.asset.findall("material"):
        colour = _PLAIN.get(material.get("name"))
        if colour is not None:
            for attribute in ("texture", "texrepeat", "texuniform"):
                material.attrib.pop(attribute, None)
            material.attrib.update(rgba=colour, specular="0", shininess="0", reflectance="0")
    used = {material.get("texture") for material in arena.asset.findall("material")}
    for texture in arena.asset.findall("texture"):
        if texture.get("type") != "skybox" and texture.get("name") not in used:
            arena.asset.remove(texture)


def _add_things(arena: Any, items: dict[str, Item]) -> None:
    for name, item in items.items():
        element = ElementTree.fromstring(item.xml)
        if item.movable:
            element.insert(0, ElementTree.Element("freejoint", name=f"{name}_free"))
        arena.worldbody.append(element)
        for asset in ElementTree.fromstring(f"<asset>{item.assets}</asset>"):
            arena.asset.append(asset)


def _scale_friction(tree: ElementTree.Element, factor: float) -> None:
    """Scale the sliding friction of all shapes: of two that touch, MuJoCo takes the larger one."""
    for geom in tree.iter("geom"):
        sliding, *others = geom.get("friction", "1").split()
        geom.set("friction", " ".join([f"{float(sliding) * factor:g}", *others]))


def _add_camera(arena: Any, camera: Camera) -> None:
    table = np.array([0.0, 0.0, TABLE_HEIGHT])
    arena.set_camera(
        camera_name="agentview",
        pos=np.array(camera.position) + table,
        quat=look_at(np.array(camera.position), np.array(camera.target)),
        camera_attribs={"fovy": str(camera.field_of_view)},
    )


def look_at(position: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Quaternion (4,), w first, of an upright camera at `position` that looks at `target`."""
    from vla_cl.envs.mujoco_import import import_mujoco

    backwards = (position - target) / np.linalg.norm(position - target)
    right = np.cross([0.0, 0.0, 1.0], backwards)
    if np.linalg.norm(right) < 1e-6:  # from straight above, as from the front: what is right stays right
        right = np.array([0.0, 1.0, 0.0])
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(backwards, right), backwards], axis=1)
    quaternion = np.empty(4)
    import_mujoco().mju_mat2Quat(quaternion, rotation.ravel())
    return quaternion


def _put(sim: Any, items: dict[str, Item], placed: dict[str, Placed]) -> None:
    """Write a placement into the simulation."""
    model, data = sim.model._model, sim.data._data
    for name, where in placed.items():
        position = where.position + np.array([0.0, 0.0, TABLE_HEIGHT])
        quaternion = np.array([np.cos(where.yaw / 2), 0.0, 0.0, np.sin(where.yaw / 2)])
        item = items[name]
        if item.movable:
            address = int(model.joint(f"{name}_free").qposadr[0])
            data.qpos[address : address + 3] = position
            data.qpos[address + 3 : address + 7] = quaternion
        else:
            body = int(model.body(name).id)
            model.body_pos[body], model.body_quat[body] = position, quaternion
        if item.mechanism is not None:
            data.qpos[int(model.joint(f"{name}_{item.mechanism.joint}").qposadr[0])] = where.joint
