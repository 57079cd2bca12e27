"""Which parts of a MuJoCo scene are the robot, the task's things, and what is around them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vla_cl.envs.mujoco_import import import_mujoco

if TYPE_CHECKING:
    from vla_cl.envs.base import ManipulationEnv

SHOWN_GROUPS = 3
"""Groups of geoms that MuJoCo draws unless told otherwise: 0, 1 and 2."""


def robot_roots(model: Any) -> set[int]:
    """Bodies under the world from which something hangs that an actuator moves, or a mocap body drags along."""
    mujoco = import_mujoco()
    roots = set()
    for actuator in range(model.nu):
        target, kind = int(model.actuator_trnid[actuator, 0]), model.actuator_trntype[actuator]
        match kind:
            case mujoco.mjtTrn.mjTRN_JOINT | mujoco.mjtTrn.mjTRN_JOINTINPARENT:
                roots.add(int(model.body_rootid[model.jnt_bodyid[target]]))
            case mujoco.mjtTrn.mjTRN_SITE:
                roots.add(int(model.body_rootid[model.site_bodyid[target]]))
            case mujoco.mjtTrn.mjTRN_BODY:
                roots.add(int(model.body_rootid[target]))
            case mujoco.mjtTrn.mjTRN_TENDON:
                roots |= {int(model.body_rootid[body]) for body in _tendon_bodies(model, target)}
    return roots - {0}


def stands_still(model: Any, body: int) -> bool:
    """Whether a body is fixed to the world, or to a robot's base whose own joints nobody drives."""
    base = int(model.body_weldid[body])
    if base == 0:
        return True
    joints = {int(model.body_jntadr[base]) + index for index in range(int(model.body_jntnum[base]))}
    mujoco = import_mujoco()
    by_joint = np.isin(model.actuator_trntype, [mujoco.mjtTrn.mjTRN_JOINT, mujoco.mjtTrn.mjTRN_JOINTINPARENT])
    driven = {int(joint) for joint in model.actuator_trnid[by_joint, 0]}
    floats = any(model.jnt_type[joint] == mujoco.mjtJoint.mjJNT_FREE for joint in joints)
    on_world = model.body_weldid[model.body_parentid[base]] == 0
    return bool(on_world and not floats and not joints & driven and model.body_mocapid[base] < 0)


def _tendon_bodies(model: Any, tendon: int) -> list[int]:
    """Bodies whose joints a tendon is made of."""
    start = int(model.tendon_adr[tendon])
    wraps = range(start, start + int(model.tendon_num[tendon]))
    joint = import_mujoco().mjtWrap.mjWRAP_JOINT
    return [int(model.jnt_bodyid[model.wrap_objid[wrap]]) for wrap in wraps if model.wrap_type[wrap] == joint]


def surrounding_geoms(env: ManipulationEnv) -> NDArray[np.bool_]:
    """Which geoms (G,) are table, floor, walls and furniture: they are seen, never move, and no reset places them."""
    model = env.model
    own = np.zeros(model.nbody, bool)  # bodies of the robot and of the task
    own[list(env.placed_bodies())] = True
    robots = robot_roots(model)
    for body in range(1, model.nbody):
        own[body] |= int(model.body_rootid[body]) in robots or own[model.body_parentid[body]]
    bodies = model.geom_bodyid
    around: NDArray[np.bool_] = (model.body_weldid[bodies] == 0) & (model.body_mocapid[bodies] < 0) & ~own[bodies]
    return around & shown_geoms(env)


def shown_geoms(env: ManipulationEnv) -> NDArray[np.bool_]:
    """Which geoms (G,) are drawn."""
    model = env.model
    shown: NDArray[np.bool_] = (model.geom_group < SHOWN_GROUPS) & (surface_colours(model)[:, 3] > 0)
    if env.renderer is not None:
        shown &= ~np.isin(model.geom_group, env.renderer.hidden_groups)
    return shown


_NO_COLOUR = np.array([0.5, 0.5, 0.5, 1.0], np.float32)


def surface_colours(model: Any) -> NDArray[np.float32]:
    """Colours of geoms (G, 4): their own, else their material's. A texture is multiplied by them."""
    by_material = (model.geom_matid >= 0) & (model.geom_rgba == _NO_COLOUR).all(axis=1)
    colours: NDArray[np.float32] = model.geom_rgba.copy()
    colours[by_material] = model.mat_rgba[model.geom_matid[by_material]]
    return colours


def cast(env: ManipulationEnv, start: NDArray[np.float64], direction: NDArray[np.float64]) -> tuple[int, float]:
    """The geom that is seen from a point in a direction (3,), -1 for none, and its distance in metres.

    Geoms that are not drawn may be hit, too, where they share a group with drawn ones.
    """
    groups = np.zeros(6, np.uint8)
    groups[:SHOWN_GROUPS] = 1
    if env.renderer is not None:
        groups[list(env.renderer.hidden_groups)] = 0
    geom = np.zeros(1, np.int32)
    distance = import_mujoco().mj_ray(env.model, env.data, start, direction, groups, 1, -1, geom)
    return int(geom[0]), float(distance)
