"""What hf-libero 0.1.4 makes of LIBERO's 130 tasks, written down for `tests/envs/test_libero_reference.py`.

    <peer's python> libero_reference.py ROOT WORK tests/envs/libero_reference.npz

ROOT and WORK are as for `hf_libero.py`. Takes about ten minutes.

`tasks` in the file is JSON, a list of `{"name", "positions", "joints", "bodies", "goal", "hinges", "objects"}`, where
"positions" is their number. Everything else is an array in which the tasks' parts follow one another; `add` below says
what they are. Rows that repeat are kept once: `X_rows` are the different ones, and `X` their indices.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from hf_libero import complete, complete_styles, configure, link
from numpy.typing import NDArray

Array = NDArray[np.float64]

STORED = (0, 49)
"""Stored initial states that are looked at."""

MADE_UP = 16
"""States a task in which the goal's conditions are looked at."""

GRID = 8192
"""Made-up positions are multiples of 1 / GRID metres or radians, so that both sides can be given the same."""


class Peer:
    """One task in hf-libero, and what it shows. `numpy.random.seed(0)` comes before the scene in which all is seen."""

    def __init__(self, bddl: Path, states: Array) -> None:
        from libero.libero.envs.env_wrapper import ControlEnv

        self.wrapper = ControlEnv(bddl_file_name=str(bddl), use_camera_obs=False, has_offscreen_renderer=False)
        self.env, self.states = self.wrapper.env, states
        self._draws = len(self.env.object_property_initializers)
        self.seed(0)

    def seed(self, seed: int) -> None:
        """What the first reset of a new environment makes of a seed."""
        del self.env.object_property_initializers[self._draws :]  # every reset adds them once more
        np.random.seed(seed)  # noqa: NPY002 (what LIBERO draws from)
        self.wrapper.reset()
        self.model, self.data = self.env.sim.model._model, self.env.sim.data._data

    def poses(self) -> Array:
        """Positions and quaternions of all bodies (B, 7)."""
        return np.hstack([self.data.xpos, self.data.xquat])

    def collision_shapes(self) -> Array:
        """Of each body, the number of its colliding shapes and the sums of what they are like (B, 16)."""
        model = self.model
        columns = [np.ones((model.ngeom, 1)), model.geom_size, model.geom_friction, model.geom_solref]
        columns += [model.geom_solimp, model.geom_condim[:, None], model.geom_margin[:, None]]
        features = np.hstack(columns) * ((model.geom_contype | model.geom_conaffinity) > 0)[:, None]
        sums = np.zeros((model.nbody, features.shape[1]))
        np.add.at(sums, model.geom_bodyid, features)
        return sums

    def agent_pos(self) -> Array:
        """LIBERO's `ee_states` and `gripper_states` (8,)."""
        from robosuite.utils.transform_utils import quat2axisangle

        seen = self.env._get_observations(force_update=True)
        turn = quat2axisangle(seen["robot0_eef_quat"])
        return np.concatenate([seen["robot0_eef_pos"], turn, seen["robot0_gripper_qpos"]])

    def cameras(self) -> Array:
        """Position, rotation and field of view of both cameras (2, 13)."""
        indices = [self.model.camera(name).id for name in ("agentview", "robot0_eye_in_hand")]
        fovy = self.model.cam_fovy[indices][:, None]
        return np.hstack([self.data.cam_xpos[indices], self.data.cam_xmat[indices], fovy])

    def trajectory(self) -> Array:
        """Positions of all joints after 5, 10 and 20 steps (3, nq): five without action, the others drawn."""
        self.wrapper.set_init_state(self.states[0])
        actions = np.vstack([np.zeros((5, 7)), np.random.RandomState(1).uniform(-1, 1, (15, 7))])
        positions = []
        for action in actions:
            self.wrapper.step(action)
            positions.append(self.data.qpos.copy())
        return np.array(positions)[[4, 9, 19]]

    def first_action(self) -> Array:
        """Positions of all joints after one action, the first since the reset, from the last stored state (nq,)."""
        self.wrapper.set_init_state(self.states[STORED[-1]])
        self.wrapper.step(np.random.RandomState(2).uniform(-1, 1, 7))
        return self.data.qpos.copy()

    def made_up(self, random: np.random.RandomState) -> Iterator[tuple[Array, Array, list[bool]]]:
        """Joints of fixtures (H,), positions of the goal's objects (O, 3), and which conditions hold in that state."""
        goal, model, data = self.goal, self.model, self.data
        hinges = [model.joint(name) for name in self.hinges]
        free = [model.joint(self.env.get_object(name).joints[-1]).qposadr[0] for name in self.objects]
        for index in range(MADE_UP):
            self.wrapper.set_init_state(self.states[0])
            ranges = np.array([hinge.range for hinge in hinges]).reshape(-1, 2)
            part = random.uniform(-0.02, 1.02, len(hinges))
            if index % 2:  # at the ends, where things are open, closed, on or off
                near = random.uniform(-0.03, 0.12, len(hinges))
                part = np.where(random.randint(2, size=len(hinges)), 1 - near, near)
            joints = np.round((ranges[:, 0] + part * (ranges[:, 1] - ranges[:, 0])) * GRID) / GRID
            for hinge, position in zip(hinges, joints, strict=True):
                data.qpos[hinge.qposadr] = position
            self.env.sim.forward()
            places = np.zeros((len(free), 3))
            for row, name in enumerate(self.objects):
                target = next(condition[2] for condition in goal if len(condition) == 3 and condition[1] == name)
                wide = 0.02 if index % 2 else 0.1
                height = (-0.03, 0.06) if index % 4 < 2 else (-0.1, 0.1)
                if target in self.env.objects_dict:
                    wide, height = 0.05 if index % 4 == 0 else 0.02, (-0.005, 0.025)
                offset = random.uniform((-wide, -wide, height[0]), (wide, wide, height[1]))
                centre = np.array(self.env.object_states_dict[target].get_geom_state()["pos"])
                places[row] = np.round((centre + offset) * GRID) / GRID
                data.qpos[free[row] : free[row] + 3] = places[row]
            self.env.sim.forward()
            yield joints, places, [bool(self.env._eval_predicate(condition)) for condition in goal]

    @property
    def goal(self) -> list[list[str]]:
        """Conditions: predicate and arguments."""
        return [[str(word) for word in condition] for condition in self.env.parsed_problem["goal_state"]]

    @property
    def objects(self) -> list[str]:
        """What the goal wants moved."""
        return sorted({condition[1] for condition in self.goal if len(condition) == 3})

    @property
    def joints(self) -> list[str]:
        """Names in the order of the state."""
        return [self.model.joint(index).name for index in range(self.model.njnt)]

    @property
    def hinges(self) -> list[str]:
        """Joints of fixtures."""
        kinds = zip(self.joints, self.model.jnt_type, strict=True)
        return [name for name, kind in kinds if kind != 0 and not name.startswith(("robot0", "gripper0"))]


def add(parts: dict[str, list[Any]], peer: Peer, random: np.random.RandomState) -> None:
    """Append what is known of one task: B bodies, nq positions, G conditions, H fixtures' joints, O objects.

    `reset_0`, `reset_1` (nq each) and `reset_0_poses`, `reset_1_poses` (B rows of 7) after seeds 0 and 1; `bodies`
    (B rows of 4: mass, principal inertia), `shapes` (B rows of 16), `stored_0`, `stored_49` (B rows of 7); `cameras`
    (26), `agent_pos` (8), `trajectory` (3 nq), `first_action` (nq); `made_up_joints` (16 H) and `made_up_places` (48 O)
    in units of 1 / GRID, `made_up_truth` (16 G).
    """
    parts["reset_0"].append(peer.data.qpos.copy())
    parts["reset_0_poses"].append(peer.poses())
    parts["bodies"].append(np.hstack([peer.model.body_mass[:, None], peer.model.body_inertia]))
    parts["shapes"].append(peer.collision_shapes())
    for index in reversed(STORED):
        peer.wrapper.set_init_state(peer.states[index])
        parts[f"stored_{index}"].append(peer.poses())
    parts["cameras"].append(peer.cameras().astype(np.float32).ravel())
    parts["agent_pos"].append(peer.agent_pos())
    for joints, places, truth in peer.made_up(random):
        parts["made_up_joints"].append(np.round(joints * GRID).astype(np.int32))
        parts["made_up_places"].append(np.round(places * GRID).astype(np.int32).ravel())
        parts["made_up_truth"].append(np.array(truth))
    parts["trajectory"].append(peer.trajectory().astype(np.float32).ravel())
    peer.seed(0)
    parts["first_action"].append(peer.first_action().astype(np.float32))
    peer.seed(1)
    parts["reset_1"].append(peer.data.qpos.copy())
    parts["reset_1_poses"].append(peer.poses())


def main() -> None:
    """Look at every task, and write the file."""
    root, work, file = (Path(argument).resolve() for argument in sys.argv[1:4])
    link(root, work)
    configure(work)
    complete(work / "assets"), complete_styles(work / "assets" / "textures")
    import torch

    names = "reset_0 reset_0_poses reset_1 reset_1_poses bodies shapes cameras agent_pos trajectory first_action "
    names += "made_up_joints made_up_places made_up_truth"
    parts: dict[str, list[Any]] = {name: [] for name in [*names.split(), *(f"stored_{index}" for index in STORED)]}
    tasks = []
    for bddl in sorted((work / "bddl_files").rglob("*.bddl")):
        name = f"{bddl.parent.name}/{bddl.stem}"
        states = torch.load(work / "init_files" / f"{name}.pruned_init", weights_only=False)
        peer = Peer(bddl, states)
        bodies = [peer.model.body(index).name for index in range(peer.model.nbody)]
        tasks.append({"name": name, "positions": peer.model.nq, "joints": peer.joints, "bodies": bodies})
        tasks[-1] |= {"goal": peer.goal, "hinges": peer.hinges, "objects": peer.objects}
        add(parts, peer, np.random.RandomState(len(tasks)))
        peer.wrapper.close()
        print(name, flush=True)
    arrays = {name: np.concatenate(values) for name, values in parts.items()}
    for name in [name for name, values in arrays.items() if values.ndim == 2]:
        rounded = np.round(arrays[name], 7) + 0.0 if name.startswith(("reset", "stored")) else arrays[name]
        rows, indices = np.unique(rounded, axis=0, return_inverse=True)
        single = np.float32 if name.startswith(("reset", "stored")) else np.float64
        arrays[name], arrays[f"{name}_rows"] = indices.astype(np.uint16), rows.astype(single)
    partial = file.with_name(file.name + ".part.npz")
    np.savez_compressed(partial, tasks=np.array(json.dumps(tasks)), **arrays)
    os.replace(partial, file)


if __name__ == "__main__":
    main()
