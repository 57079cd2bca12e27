"""A BDDL problem inside robosuite: its room, its robot, its things."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np

from vla_cl.envs.libero.bddl import Problem, by_category
from vla_cl.envs.libero.models import ZONE_HALF_HEIGHT, add_region, build_room, build_thing, model_classes
from vla_cl.envs.libero.sampling import CannotPlaceError, Part, Placement
from vla_cl.envs.libero.standins import name_once
from vla_cl.envs.libero.workspaces import Workspace, workspace
from vla_cl.envs.mujoco_import import import_mujoco
from vla_cl.envs.robosuite_import import import_robosuite
from vla_cl.errors import SimulationError

ENVIRONMENT = "VlaClLibero"
"""The name under which robosuite knows the class."""

_RESETS = 20  # draws of a whole scene before it is given up
_JOINT_DRAWS = 2  # LIBERO builds its scene twice until the first reset, and adds its draws of joints each time


@functools.cache
def register_world() -> str:
    """Define the robosuite environment that builds BDDL problems, and return its name."""
    import_robosuite()
    from robosuite.environments.manipulation.manipulation_env import ManipulationEnv
    from robosuite.models.tasks import ManipulationTask

    model_classes()

    class VlaClLibero(ManipulationEnv):
        """A robosuite environment that a BDDL file declares.

        Args:
            problem: The declaration.
            assets: Folder of LIBERO's models.
            arm_noise: Standard deviation of the arm's joint positions at a reset, in radians.
            **arguments: As for every robosuite environment.

        Attributes:
            placement_seed: What the next reset draws from.
            objects, fixtures: robosuite's models by name, in the order of the state.
            parts: Regions with a site, by name.
        """

        def __init__(self, problem: Problem, assets: Path, arm_noise: float, **arguments: Any) -> None:
            self.problem, self.workspace = problem, workspace(problem.name)
            self._assets, self._arm_noise, self.placement_seed = assets, arm_noise, 0
            super().__init__(**arguments)

        def _load_model(self) -> None:
            super()._load_model()
            self._stands: list[tuple[int, Any, Any]] = []
            robot = self.robots[0].robot_model
            robot.set_base_xpos(np.array(self.workspace.base))
            room = build_room(self.workspace, self._assets)
            kinds, fixed = self.problem.objects, self.problem.fixtures
            self.fixtures = {
                name: build_thing(name, fixed[name], self._assets, free=False)
                for name in by_category(fixed)
                if fixed[name] != self.workspace.category
            }
            self.objects = {
                name: build_thing(name, kinds[name], self._assets, free=True) for name in by_category(kinds)
            }
            things = {**self.objects, **self.fixtures}
            name_once((file for model in (room, *things.values()) for file in model.missing), self._assets)
            self.parts = _zones(self.problem, self.workspace, room) | _marked_parts(self.problem, things)
            self._placement = Placement(self.problem, self.workspace, things, self.parts)
            self.model = ManipulationTask(
                mujoco_arena=room, mujoco_robots=[robot], mujoco_objects=list(things.values())
            )

        def _setup_references(self) -> None:
            super()._setup_references()
            if self._stands:
                return  # robosuite comes here at every reset, when fixtures have been moved
            model = self.sim.model._model
            bodies = [int(model.body(thing.root_body).id) for thing in self.fixtures.values()]
            self._stands = [(body, model.body_pos[body].copy(), model.body_quat[body].copy()) for body in bodies]

        def _reset_internal(self) -> None:
            super()._reset_internal()
            if not self.deterministic_reset:
                self._place_everything(np.random.RandomState(self.placement_seed))

        def _place_everything(self, random: np.random.RandomState) -> None:
            model, data = self.sim.model._model, self.sim.data._data
            for body, position, quaternion in self._stands:
                model.body_pos[body], model.body_quat[body] = position, quaternion
            robot = self.robots[0]
            for attempt in range(_RESETS):
                noise = random.randn(len(robot.init_qpos)) * self._arm_noise
                data.qpos[robot._ref_joint_pos_indexes] = robot.init_qpos + noise
                for joint, position in self._placement.draw_joints(random, _JOINT_DRAWS + attempt).items():
                    data.qpos[model.joint(joint).qposadr] = position
                import_mujoco().mj_kinematics(model, data)
                try:
                    placed = self._placement.draw_places(random, lambda site: np.array(data.site(site).xpos))
                except CannotPlaceError as error:
                    failure = error
                    continue
                break
            else:
                raise SimulationError(f"after {_RESETS} draws: {failure}; give its region more room")
            for name, where in placed.items():
                if name in self.objects:
                    address = int(model.joint(self.objects[name].joints[-1]).qposadr[0])
                    data.qpos[address : address + 7] = np.concatenate([where.position, where.quaternion])
                else:
                    body = model.body(self.fixtures[name].root_body).id
                    model.body_pos[body], model.body_quat[body] = where.position, where.quaternion

        def _setup_observables(self) -> Any:
            return {}

        def reward(self, action: Any = None) -> float:
            """Ours is given by the environment around this one."""
            return 0.0

        def _check_success(self) -> bool:
            return False

    return ENVIRONMENT


def _zones(problem: Problem, workspace: Workspace, room: Any) -> dict[str, Part]:
    """Regions on the table or the floor; they get a site in the room."""
    zones = {}
    for name, region in problem.regions.items():
        if region.target == workspace.surface and region.ranges:
            add_region(room, name, region, workspace)
            x_low, y_low, x_high, y_high = region.ranges[0]
            size = np.array([(x_high - x_low) / 2, (y_high - y_low) / 2, ZONE_HALF_HEIGHT])
            zones[name] = Part("", (), size)
    return zones


def _marked_parts(problem: Problem, things: dict[str, Any]) -> dict[str, Part]:
    """Regions that the model of a thing marks by a site, with the joints that move them."""
    parts = {}
    for name in problem.regions:
        for thing_name, thing in things.items():
            for body in thing.worldbody.find("body").findall(".//body"):
                sites = body.findall(".//site")
                if not sites:
                    break
                for site in sites:
                    if site.get("name") == name:
                        joints = tuple(joint.get("name") for joint in body.findall("./joint"))
                        size = np.array([float(value) for value in site.get("size", "0").split()])
                        parts[name] = Part(thing_name, joints, size)
    return parts
