"""Moving what a reset has placed, where there is room for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vla_cl.envs.mujoco_import import import_mujoco
from vla_cl.envs.surroundings import robot_roots
from vla_cl.errors import ConfigurationError

if TYPE_CHECKING:
    from vla_cl.envs.base import ManipulationEnv

TRIES = 30
"""Places that are drawn for a thing before it stays where it is, and whole scenes before the last one is taken."""

_DEEPER = 1e-3
"""Metres by which two things may come to overlap more than they did."""

_UNEVEN = 3e-3
"""Metres by which what is below a thing may be lower or higher than where it came from."""

_LEAST = 0.5
"""Share of the distance that a thing is moved at least."""


def displace(env: ManipulationEnv, generator: np.random.Generator, distance: float, angle: float) -> None:
    """Move the things of a MuJoCo scene sideways and turn them, one after another; see `ManipulationEnv.displace`.

    A thing goes `distance` / 2 to `distance` far. It must then touch what it touched before, no deeper, and stand
    above ground of the same height; after `TRIES` places that are not like that it stays where it was. Scenes that
    are solved already are drawn again.

    Raises:
        ConfigurationError: The scene has neither bodies with a free joint nor such that resets place.
    """
    things = [*_free_bodies(env.model), *(int(body) for body in env.placed_bodies())]
    if not things:
        raise ConfigurationError("nothing can be moved: the scene has no body with a free joint and places none")
    start = env.data.qpos.copy(), env.model.body_pos.copy(), env.model.body_quat.copy()
    for _ in range(TRIES):
        env.data.qpos[:], env.model.body_pos[:], env.model.body_quat[:] = start
        for body in things:
            _move(env.model, env.data, body, generator, distance, angle)
        import_mujoco().mj_fwdPosition(env.model, env.data)
        if not env.is_solved():
            return


def _free_bodies(model: Any) -> list[int]:
    """Bodies that float freely and are no robots."""
    free = import_mujoco().mjtJoint.mjJNT_FREE
    robots = robot_roots(model)
    joints = np.flatnonzero(model.jnt_type == free)
    return [int(body) for body in model.jnt_bodyid[joints] if int(model.body_rootid[body]) not in robots]


def _move(model: Any, data: Any, body: int, generator: np.random.Generator, distance: float, angle: float) -> None:
    """Move one body to the first place drawn that it fits into."""
    mujoco = import_mujoco()
    position, quaternion = _pose(model, data, body)
    before = position.copy(), quaternion.copy()
    mujoco.mj_fwdPosition(model, data)
    contacts, ground = _contacts(model, data, body), _ground(model, data, body)
    for _ in range(TRIES):
        bearing, turn = generator.uniform(0.0, 2.0 * np.pi), generator.uniform(-angle, angle)
        reach = distance * generator.uniform(_LEAST, 1.0)
        position[:2] = before[0][:2] + reach * np.array([np.cos(bearing), np.sin(bearing)])
        yaw = np.array([np.cos(turn / 2), 0.0, 0.0, np.sin(turn / 2)])
        mujoco.mju_mulQuat(quaternion, yaw, before[1])
        mujoco.mj_fwdPosition(model, data)
        if _fits(contacts, _contacts(model, data, body)) and abs(_ground(model, data, body) - ground) < _UNEVEN:
            return
    position[:], quaternion[:] = before


def _pose(model: Any, data: Any, body: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Live views of where a body is (3,) and how it is turned (4,), in `qpos` or in the model."""
    joint = int(model.body_jntadr[body])
    if joint >= 0 and model.jnt_type[joint] == import_mujoco().mjtJoint.mjJNT_FREE:
        address = int(model.jnt_qposadr[joint])
        return data.qpos[address : address + 3], data.qpos[address + 3 : address + 7]
    return model.body_pos[body], model.body_quat[body]


def _contacts(model: Any, data: Any, body: int) -> dict[tuple[int, int], float]:
    """What touches a body or the parts that hang on it: the smallest distance, negative inside, by pair of bodies."""
    own = _with_parts(model, body)
    smallest: dict[tuple[int, int], float] = {}
    for contact in range(data.ncon):
        first, second = (int(model.geom_bodyid[geom]) for geom in data.contact.geom[contact])
        if own[first] != own[second]:
            pair = (min(first, second), max(first, second))
            smallest[pair] = min(smallest.get(pair, np.inf), float(data.contact.dist[contact]))
    return smallest


def _fits(before: Mapping[tuple[int, int], float], after: Mapping[tuple[int, int], float]) -> bool:
    """Whether the same bodies touch, none of them deeper."""
    return before.keys() == after.keys() and all(after[pair] > before[pair] - _DEEPER for pair in before)


def _with_parts(model: Any, body: int) -> NDArray[np.bool_]:
    """Which bodies (B,) hang on a body, itself included; a body's number is above its parent's."""
    own = np.zeros(model.nbody, bool)
    own[body] = True
    for part in range(body + 1, model.nbody):
        own[part] = own[model.body_parentid[part]]
    return own


def _ground(model: Any, data: Any, body: int) -> float:
    """Height, in metres, of what is below the middle of a body."""
    geom = np.zeros(1, np.int32)
    start = data.xpos[body]
    depth = import_mujoco().mj_ray(model, data, start, np.array([0.0, 0.0, -1.0]), None, 1, body, geom)
    return float(start[2] - depth) if geom[0] >= 0 else -np.inf
