"""Declared scenes behind the environment contract."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_cl.envs.base import BACKENDS, EnvironmentSpec
from vla_cl.envs.robosuite.contacts import Contacts
from vla_cl.envs.robosuite.env import JOINT_SLOTS, RobosuiteEnv
from vla_cl.envs.tabletop import fixtures, objects
from vla_cl.envs.tabletop.item import Item
from vla_cl.envs.tabletop.predicates import holds
from vla_cl.envs.tabletop.scene import Scene
from vla_cl.envs.tabletop.world import TABLE_HEIGHT, register_world
from vla_cl.errors import ConfigurationError

THING_SLOTS = 12
"""`environment_state` has room for this many things' poses."""

BUILT_IN_KINDS = (objects, fixtures)
"""Modules that register what can be declared."""


class TabletopEnv(RobosuiteEnv):
    """A scene with a goal on robosuite's table. It is solved when all conditions of the goal hold at once.

    Observations and actions are `RobosuiteEnv`'s, but for `environment_state` (97,): `agent_pos` (7), up to twelve
    things' positions (3) in metres and quaternions (4, w first), and up to six mechanisms' joints, in the order of the
    declaration.

    Args:
        spec: How to build it.
        render_mode: None or "rgb_array".
        scene: The declaration, as `Scene.from_mapping` reads it.
        robot, gripper, stepper, rebuild, action_delay: As for `RobosuiteEnv`.

    Raises:
        UnknownNameError: The scene names something that does not exist.
        ConfigurationError: The scene cannot be built.
    """

    def __init__(
        self,
        spec: EnvironmentSpec,
        render_mode: str | None = None,
        *,
        scene: Mapping[str, Any],
        robot: str = "Panda",
        gripper: str = "default",
        stepper: str = "fast",
        rebuild: bool = False,
        action_delay: int = 0,
    ) -> None:
        self.scene = Scene.from_mapping(scene)
        self.items = self.scene.items()
        if spec.observation.privileged and len(self.items) > THING_SLOTS:
            raise ConfigurationError(
                f"the privileged state has room for {THING_SLOTS} things, the scene has {len(self.items)}; use fewer"
            )
        super().__init__(
            spec,
            render_mode,
            environment=register_world(),
            robot=robot,
            gripper=gripper,
            stepper=stepper,
            rebuild=rebuild,
            action_delay=action_delay,
            options={"scene": self.scene},
        )

    def judge(self, action: NDArray[np.float32]) -> tuple[float, bool, dict[str, Any]]:
        """1 and True when every condition of the goal holds; `info["conditions"]` tells them apart."""
        conditions = {
            str(condition): holds(self, condition.predicate, condition.arguments, condition.negated)
            for condition in self.scene.goal
        }
        success = all(conditions.values())
        return float(success), success, {"conditions": conditions}

    def is_solved(self) -> bool:
        """Whether the goal holds."""
        return self.judge(np.zeros(7, np.float32))[1]

    def environment_state(self) -> NDArray[np.float64]:
        """`agent_pos` (7), things' poses (12 x 7) and mechanisms' joint positions (6), zero where there are none."""
        state = np.zeros(7 + 7 * THING_SLOTS + JOINT_SLOTS)
        state[:7] = self.gripper.proprioception()
        bodies = list(self._bodies.values())[:THING_SLOTS]
        poses = state[7 : 7 + 7 * len(bodies)].reshape(-1, 7)
        poses[:, :3], poses[:, 3:] = self.data.xpos[bodies], self.data.xquat[bodies]
        joints = list(self._joints.values())[:JOINT_SLOTS]
        state[-JOINT_SLOTS:][: len(joints)] = self.data.qpos[joints]
        return state

    # --- what predicates and experts look at -------------------------------------------------------------------

    def item(self, name: str) -> Item:
        """What a thing is made of."""
        return self.items[name]

    def pose(self, name: str, part: str = "") -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Position (3,) in metres from the middle of the table's top, and rotation (3, 3), of a thing or a part."""
        body = self._part_bodies[name, part] if part else self._bodies[name]
        position = np.array(self.data.xpos[body])
        position[2] -= TABLE_HEIGHT
        return position, np.array(self.data.xmat[body]).reshape(3, 3)

    def joint(self, name: str) -> float:
        """Position of a fixture's mechanism, in metres or radians."""
        return float(self.data.qpos[self._joints[name]])

    def touching(self, first: str, second: str) -> bool:
        """Whether two things are in contact."""
        return self._contacts.between(first, second)

    def held(self, name: str) -> bool:
        """Whether the robot touches a thing."""
        return self._contacts.with_robot(name)

    # --- inside ------------------------------------------------------------------------------------------------

    def _find_things(self) -> None:
        model = self.model
        self._bodies = {name: int(model.body(name).id) for name in self.items}
        self._joints = {
            name: int(model.joint(f"{name}_{item.mechanism.joint}").qposadr[0])
            for name, item in self.items.items()
            if item.mechanism is not None
        }
        parts = {
            (name, part)
            for name, item in self.items.items()
            for part in (
                item.interior_body,
                item.mechanism.part if item.mechanism else "",
                item.grip and item.grip.body,
            )
            if part
        }
        self._part_bodies = {(name, part): int(model.body(f"{name}_{part}").id) for name, part in parts}
        self._contacts = Contacts(model, self.data, self._bodies)


BACKENDS.register("tabletop", TabletopEnv)
