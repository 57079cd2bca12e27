"""How the tests of this folder describe tabletop scenes, and how they put things where they want them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from vla_cl.envs import EnvironmentSpec, ObservationOptions, make_environment
from vla_cl.envs.tabletop.env import TabletopEnv
from vla_cl.envs.tabletop.item import COLOURS, KINDS, Item, Material
from vla_cl.envs.tabletop.placement import Placed, PlacedView
from vla_cl.envs.tabletop.world import TABLE_HEIGHT

OPEN_HAND = np.array([0, 0, 0, 0, 0, 0, -1], np.float32)
CLOSED_HAND = np.array([0, 0, 0, 0, 0, 0, 1], np.float32)


def at(x: float, y: float, yaw: float | list[float] = 0.0, **more: Any) -> dict[str, Any]:
    """A region that is a point."""
    return {"x": [x, x], "y": [y, y], "yaw": yaw, **more}


def thing(kind: str, x: float, y: float, yaw: float = 0.0, **more: Any) -> dict[str, Any]:
    return {"kind": kind, "region": at(x, y, yaw), **more}


def tabletop(
    things: Mapping[str, Any], goal: Any, *, cameras: tuple[str, ...] = (), privileged: bool = False, **arguments: Any
) -> TabletopEnv:
    scene = {"things": things, "goal": goal}
    for key in ("dynamics", "camera", "referents", "steps"):
        if key in arguments:
            scene[key] = arguments.pop(key)
    options = ObservationOptions(cameras, 64, privileged)
    env = make_environment(EnvironmentSpec("tabletop", {"scene": scene, **arguments}, 400, observation=options))
    assert isinstance(env, TabletopEnv)
    return env


def item(kind: str, name: str = "it", **options: Any) -> Item:
    return KINDS[kind](name, Material(COLOURS["red"]), **options)


def view(**placed: tuple[str, float, float] | tuple[str, float, float, float]) -> PlacedView:
    """Things on the table: `a=("cube", x, y, yaw)`."""
    items = {name: item(entry[0], name) for name, entry in placed.items()}
    places = {
        name: Placed(
            np.array([entry[1], entry[2], -items[name].bounds.bottom if items[name].movable else 0.0]),
            entry[3] if len(entry) > 3 else 0.0,
        )
        for name, entry in placed.items()
    }
    return PlacedView(items, places)


def put(env: TabletopEnv, name: str, position: Any, axis: Any = (0, 0, 1), angle: float = 0.0) -> None:
    """Set a movable thing at a position (3,) above the table's middle, turned by an angle about an axis, at rest."""
    joint = env.model.joint(f"{name}_free")
    quaternion = np.empty(4)
    mujoco.mju_axisAngle2Quat(quaternion, np.array(axis, float) / np.linalg.norm(axis), angle)
    address, velocity = int(joint.qposadr[0]), int(joint.dofadr[0])
    env.data.qpos[address : address + 3] = np.add(position, [0, 0, TABLE_HEIGHT])
    env.data.qpos[address + 3 : address + 7] = quaternion
    env.data.qvel[velocity : velocity + 6] = 0
    mujoco.mj_forward(env.model, env.data)


def set_joint(env: TabletopEnv, name: str, position: float) -> None:
    """Move a fixture's mechanism."""
    env.data.qpos[env._joints[name]] = position
    mujoco.mj_forward(env.model, env.data)


def wait(env: TabletopEnv, seconds: float, action: NDArray[np.float32] = OPEN_HAND) -> None:
    for _ in range(math.ceil(seconds * 20)):
        env.advance(action)
        env.elapsed_steps = 0


def grip_here(env: TabletopEnv, name: str) -> None:
    """Close the hand about a thing that is put between its fingers."""
    for _ in range(16):
        put(env, name, env.gripper.position - [0, 0, TABLE_HEIGHT])
        env.advance(CLOSED_HAND)
    wait(env, 0.2, CLOSED_HAND)
