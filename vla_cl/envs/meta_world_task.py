"""Meta-World's own environment classes, with shortcuts that change no bit of what they compute."""

from __future__ import annotations

import copy
import functools
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_cl.envs.mujoco_import import import_mujoco
from vla_cl.errors import UnknownNameError


def task_names() -> tuple[str, ...]:
    """Meta-World's names of its fifty tasks ("window-close-v3")."""
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    return tuple(sorted(ALL_V3_ENVIRONMENTS))


def build_task(task: str) -> Any:
    """A `metaworld.SawyerXYZEnv` whose observations hold the goal, ready to be given a random vector.

    Raises:
        UnknownNameError: Meta-World has no such task.
    """
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    if task not in ALL_V3_ENVIRONMENTS:
        raise UnknownNameError("Meta-World task", task, ALL_V3_ENVIRONMENTS)
    env = _with_shortcuts(ALL_V3_ENVIRONMENTS[task])(render_mode=None)
    env._partially_observable = False
    del env.sawyer_observation_space  # cached for the partially observable case
    env.seeded_rand_vec = True
    env._set_task_called = True
    return env


@functools.cache
def _with_shortcuts(task_class: Any) -> Any:
    mujoco = import_mujoco()

    class WithShortcuts(task_class):
        """The same task, with its scene compiled once a process and its observations put together without look-ups."""

        def _initialize_simulation(self) -> tuple[Any, Any]:
            model = copy.copy(_compiled_scene(self.fullpath))
            self._hand, self._right_claw, self._left_claw = (
                model.body(name).id for name in ("hand", "rightclaw", "leftclaw")
            )
            self._pads = [model.geom(name).id for name in ("leftpad_geom", "rightpad_geom")]
            return model, mujoco.MjData(model)

        def _get_curr_obs_combined_no_goal(self) -> NDArray[np.float64]:
            observation = np.zeros(4 + self._obs_obj_max_len)
            positions = self.data.xpos
            observation[:3] = positions[self._hand]
            between_claws = positions[self._right_claw] - positions[self._left_claw]
            observation[3] = min(max(math.sqrt(between_claws.dot(between_claws)) / 0.1, 0.0), 1.0)
            objects = np.reshape(self._get_pos_objects(), (-1, 3))
            rotations = np.reshape(self._get_quat_objects(), (-1, 4))
            start = 4
            for position, rotation in zip(objects, rotations, strict=True):
                observation[start : start + 3] = position
                observation[start + 3 : start + 7] = rotation
                start += 7
            return observation

        def touching_object(self, object_geom_id: int) -> bool:
            pairs = self.data.contact.geom
            with_object = (pairs == object_geom_id).any(axis=1)
            return all(self._force(with_object & (pairs == pad).any(axis=1)) > 0 for pad in self._pads)

        def _force(self, contacts: NDArray[np.bool_]) -> Any:
            addresses = self.data.contact.efc_address[contacts]
            return sum(self.data.efc_force[address] for address in addresses)

    return WithShortcuts


@functools.lru_cache(maxsize=4)
def _compiled_scene(path: str) -> Any:
    """A scene's `mujoco.MjModel`; compiling takes 0.2 s, copying 10 ms."""
    return import_mujoco().MjModel.from_xml_path(path)


@functools.lru_cache(maxsize=4)
def scene_xml(path: str) -> str:
    """A scene as one XML document, includes resolved; it names meshes and textures relative to its own folder."""
    specification = import_mujoco().MjSpec.from_file(path)
    specification.compile()
    return str(specification.to_xml())
