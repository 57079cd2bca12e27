"""LIBERO's HDF5 files, read as they are: its off-by-one undone, its images upright.

Liu et al., "LIBERO: Benchmarking Knowledge Transfer for Lifelong Robot Learning", 2023. Its script records `states[t]`
before `actions[t]`, but `obs[t]` after it. So what was seen before actions[t] is obs[t - 1], and the first action of
a demonstration, before which nothing was recorded, is left out. Files that this package exported hold that
observation, too, in `first_obs`; of those nothing is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

import h5py

from vla_cl.data.columns import Run
from vla_cl.data.foreign import ForeignDemonstrations, text, tree
from vla_cl.data.schema import AGENT_POS, ENVIRONMENT_STATE, Header, image_key
from vla_cl.tasks.libero_language import instruction_of

FIRST_OBSERVATION = "first_obs"
"""Group of a demonstration in our exports: what was seen before the first action, one row under each key of `obs`."""

CAMERA_KEYS = {"agentview": "agentview_rgb", "wrist": "eye_in_hand_rgb"}
"""Our camera, LIBERO's key; other cameras are `<camera>_rgb`."""

END_EFFECTOR, GRIPPER = "ee_states", "gripper_states"
ENVIRONMENT_HORIZON = 1000
OPENGL = "opengl"


def is_libero(data: h5py.Group) -> bool:
    """Whether the group `data` of a file has LIBERO's attributes."""
    return "problem_info" in data.attrs and "bddl_file_name" in data.attrs


class LiberoFile(ForeignDemonstrations):
    """A file of LIBERO's data sets (`<suite>/<task>_demo.hdf5`), as it comes.

    `agent_pos` is `ee_states` (position, 3, metres, and axis-angle, 3) and `gripper_states` (2, metres), (8,) in all;
    `agentview_rgb` is the camera "agentview", `eye_in_hand_rgb` is "wrist". The instruction is the file's
    `language_instruction`. The first action of each demonstration is left out: it has no observation.
    """

    layout = "libero"

    def _describe(self, data: h5py.Group, first: h5py.Group) -> tuple[Header, str]:
        self.upside_down = text(data.attrs.get("macros_image_convention", "")) == OPENGL
        self.first_action = 0 if FIRST_OBSERVATION in first else 1
        stored = first.get("obs", {})
        own = AGENT_POS in stored and END_EFFECTOR not in stored
        self.parts = {AGENT_POS: (f"obs/{AGENT_POS}",) if own else (f"obs/{END_EFFECTOR}", f"obs/{GRIPPER}")}
        if ENVIRONMENT_STATE in stored:
            self.parts[ENVIRONMENT_STATE] = (f"obs/{ENVIRONMENT_STATE}",)
        cameras = {key: camera for camera, key in CAMERA_KEYS.items()}
        images = sorted((key for key in stored if key.endswith("_rgb")), key=lambda key: (key not in cameras, key))
        self.parts |= {image_key(cameras.get(key, key.removesuffix("_rgb"))): (f"obs/{key}",) for key in images}
        problem = PurePath(text(data.attrs["bddl_file_name"]))
        task = problem.stem or PurePath(self.path).stem.removesuffix("_demo")
        env_args = tree(data, "env_args")
        horizon = int(env_args.get("env_kwargs", {}).get("horizon") or ENVIRONMENT_HORIZON)
        header = Header(
            task=task,
            instruction=_instruction(tree(data, "problem_info").get("language_instruction"), task),
            expert="",
            env_name=text(data.attrs.get("env_name", env_args.get("env_name", ""))),
            environment={
                "backend": "libero",
                "arguments": {"suite": problem.parent.name, "problem": task},
                "horizon": horizon,
            },
            observation={},
            rendering={},
        )
        note = "states are LIBERO's: time, qpos, qvel of robosuite 1.4"
        if self.first_action:
            note = f"the first action of each demonstration, which has no observation, is left out; {note}"
        return header, note

    def _rows(self, index: int, name: str, following: bool) -> list[Run]:
        stored = self.dataset(index, name)
        last = len(stored) if following else len(stored) - 1
        runs = [Run(stored, 0, last)] if last else []
        if self.first_action:
            return runs
        return [Run(self.dataset(index, _first_of(name)), 0, 1), *runs]

    def _beside(self, group: h5py.Group, name: str, length: int) -> Iterator[tuple[str, int]]:
        if not self.first_action:
            yield _first_of(name), 1


def _first_of(name: str) -> str:
    """Where our exports keep the first row of an observation."""
    return name.replace("obs/", f"{FIRST_OBSERVATION}/", 1)


def _instruction(stored: Any, task: str) -> str:
    """LIBERO stores a text, a list of its parts, or either in quotation marks."""
    told = ("".join(map(str, stored)) if isinstance(stored, list) else str(stored or "")).strip().strip('"').strip()
    return told or instruction_of(task)
