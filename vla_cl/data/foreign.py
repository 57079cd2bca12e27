"""Files of demonstrations that others wrote: what robomimic's and LIBERO's layouts have in common."""

from __future__ import annotations

import abc
import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from vla_cl.data.columns import Column, FlippedColumn, JoinedColumn, Run, open_column
from vla_cl.data.embedded import embedded_header
from vla_cl.data.integrity import content_checksum, damage_reported
from vla_cl.data.schema import AGENT_POS, ENVIRONMENT_STATE, IMAGE_SUFFIX, UNKNOWN_SEED, Episode, Header, image_key
from vla_cl.data.source import Demonstrations
from vla_cl.errors import DataFileError

ROUNDING = 1e-6
"""How far an action may leave [-1, 1], as numbers that were once stored with fewer digits do; it is cut back to it."""

OWN_STATES = "vla_cl_states"
"""The dataset in which our own exports keep the simulator's states where the layout has other `states`."""


class ForeignDemonstrations(Demonstrations):
    """Demonstrations in somebody else's layout, read as they are: nothing is converted or copied first.

    A subclass says in `_describe` which stored datasets make up which quantity, and in `_rows` which of their rows were
    seen before which action.

    Attributes:
        parts: The stored datasets of each quantity, as in `{"agent_pos": ("obs/ee_states", "obs/gripper_states")}`;
            vectors of several are put side by side.
        upside_down: Whether images are stored from the bottom up.
        first_action: How many actions a demonstration begins with before the first that has an observation.
    """

    parts: Mapping[str, tuple[str, ...]]
    upside_down: bool = False
    first_action: int = 0

    @abc.abstractmethod
    def _describe(self, data: h5py.Group, first: h5py.Group) -> tuple[Header, str]:
        """Set `parts` and the other attributes, and say what is known once: all but `observation`, which is filled in.

        Returns:
            The description, and in words what is not what it was once this is converted.
        """

    @abc.abstractmethod
    def _rows(self, index: int, name: str, following: bool) -> list[Run]:
        """Rows of an observation before each action of a demonstration; `following` adds one after the last."""

    def _read(self) -> None:
        data = self._file.get("data")
        names = sorted((name for name in data if name.startswith("demo_")), key=lambda name: int(name[5:]))
        if not names:
            raise self.refusal("data/", "holds no demonstration (demo_0, demo_1, ...)", "fetch the file again")
        self.names = tuple(names)
        header, note = self._describe(data, data[names[0]])
        self._check_structure()
        self.header = embedded_header(data, header, self._observation(), self.path.name, self.layout, note)
        self.seeds = np.array(
            [int(self.group(index).attrs.get("seed", UNKNOWN_SEED)) for index in range(len(names))], np.int64
        )
        self._check_actions()
        described = content_checksum(self._file, values=lambda name: name.endswith("/actions"))
        self.checksum = hashlib.sha256(f"{self.path.stat().st_size} {described}".encode()).hexdigest()

    def refusal(self, place: str, what: str, way_out: str) -> DataFileError:
        """The one line on what is wrong at a place in the file."""
        return DataFileError(f"{self.path}: {place} {what}; {way_out}")

    def column(self, key: str, episodes: Sequence[int]) -> Column:
        if key == "actions":
            runs = [Run(self.dataset(each, key), self.first_action, int(self.lengths[each])) for each in episodes]
            return JoinedColumn([open_column(self.path, runs)], limit=1.0)
        return self._column(key, episodes, following=False)

    def _column(self, key: str, episodes: Sequence[int], following: bool) -> Column:
        parts = [
            open_column(self.path, [run for each in episodes for run in self._rows(each, name, following)])
            for name in self.parts[key]
        ]
        if not key.endswith(IMAGE_SUFFIX):
            return JoinedColumn(parts)
        return FlippedColumn(parts[0]) if self.upside_down else parts[0]

    def episode(self, index: int, keys: Collection[str] | None = None) -> Episode:
        length = int(self.lengths[index])
        with damage_reported(self.path):
            group = self.group(index)
            actions = self.actions(index)
            executed = group["executed_actions"][self.first_action :] if "executed_actions" in group else actions
            return Episode(
                seed=int(self.seeds[index]),
                attempt=int(group.attrs.get("attempt", index)),
                actions=actions,
                executed_actions=np.asarray(executed, np.float32),
                states=self._states(group, length),
                rewards=np.asarray(self._optional(group, "rewards", length), np.float32),
                observations={
                    key: self._column(key, [index], following=True).read(np.arange(length + 1))
                    for key in self.parts
                    if keys is None or key in keys
                },
                model_file=text(group.attrs.get("model_file", "")),
            )

    def succeeded(self, index: int) -> bool:
        group = self.group(index)
        return bool(group["dones"][-1]) if "dones" in group else bool(self._optional(group, "rewards", 1)[-1] > 0)

    def _states(self, group: h5py.Group, length: int) -> NDArray[np.float64]:
        name = OWN_STATES if OWN_STATES in group else "states"
        values = group[name][self.first_action :] if name in group else np.zeros((length, 0))
        return np.asarray(values, np.float64)

    def _optional(self, group: h5py.Group, name: str, length: int) -> NDArray[Any]:
        stored = group[name][self.first_action :] if name in group else np.zeros(length)
        return np.asarray(stored)

    def _beside(self, group: h5py.Group, name: str, length: int) -> Iterator[tuple[str, int]]:
        """Other datasets that go with an observation of `length` stored rows, and how many rows they must have."""
        return iter(())

    def _observation(self) -> dict[str, Any]:
        cameras = [key.removesuffix(IMAGE_SUFFIX) for key in self.parts if key.endswith(IMAGE_SUFFIX)]
        seen: dict[str, Any] = {"cameras": cameras, "privileged": ENVIRONMENT_STATE in self.parts}
        sizes = {camera: self.dataset(0, self.parts[image_key(camera)][0]).shape[1] for camera in cameras}
        if len(set(sizes.values())) > 1:
            told = ", ".join(f"{camera} {size}" for camera, size in sizes.items())
            raise self.refusal("images", f"of the cameras differ in size ({told} px)", "store one size")
        return seen | ({"image_size": int(sizes[cameras[0]])} if cameras else {})

    def _check_structure(self) -> None:
        first = self.group(0)
        widths: dict[str, int] = {}
        for index, name in enumerate(self.names):
            group = self.group(index)
            self._check_keys(name, group.get("obs", ()), first.get("obs", ()))
            length = len(self._checked(group, "actions", None, first))
            for key, parts in self.parts.items():
                for part in parts:
                    dataset = self._checked(group, part, length, first, image=key.endswith(IMAGE_SUFFIX))
                    for other, rows in self._beside(group, part, length):
                        self._checked(group, other, rows, first, like=dataset)
                widths[key] = sum(first[part].shape[1] for part in parts)
            for optional in ("states", OWN_STATES, "executed_actions", "rewards", "dones"):
                if optional in group or optional in first:
                    self._checked(group, optional, length, first, scalar=optional in ("rewards", "dones"))
        self.lengths = np.array([len(self.dataset(index, "actions")) for index in range(len(self.names))], np.int64)
        self.lengths -= self.first_action
        if (self.lengths < 1).any():
            short = self.names[int(np.argmin(self.lengths))]
            raise self.refusal(f"data/{short}", "is too short: no action has an observation before it", "leave it out")
        self.action_dim = int(first["actions"].shape[1])
        self.agent_pos_dim, self.environment_state_dim = widths[AGENT_POS], widths.get(ENVIRONMENT_STATE, 0)
        self.state_dim = int(self._states(first, 1).shape[1])

    def _check_keys(self, name: str, keys: Collection[str], expected: Collection[str]) -> None:
        for key in sorted({*keys, *expected}):
            if (key in keys) != (key in expected):
                lacking, having = (name, self.names[0]) if key in expected else (self.names[0], name)
                raise self.refusal(
                    f"data/{lacking}", f"has no obs/{key}, which {having} has", f"leave {name} out, or complete it"
                )

    def _checked(
        self,
        group: h5py.Group,
        name: str,
        rows: int | None,
        first: h5py.Group,
        *,
        image: bool = False,
        scalar: bool = False,
        like: h5py.Dataset | None = None,
    ) -> h5py.Dataset:
        """A dataset that has `rows` rows (None: any number), of numbers, shaped as the first demonstration's."""
        place = f"{group.name.lstrip('/')}/{name}"
        if not (isinstance(group.get(name), h5py.Dataset) and isinstance(first.get(name), h5py.Dataset)):
            raise self.refusal(place, "is missing", "leave that demonstration out, or fetch the file again")
        dataset = group[name]
        found = f"{dataset.dtype}{dataset.shape}"
        model = (first[name] if like is None else like).shape[1:]
        if image and (len(model) != 3 or model[0] != model[1] or model[2] != 3 or dataset.dtype != np.uint8):
            raise self.refusal(place, f"is {found}, not uint8 (T, size, size, 3)", "store square colour images")
        expected = (len(dataset) if rows is None else rows, *model)
        flat = image or like is not None or len(model) == (0 if scalar else 1)
        if dataset.shape != expected or not flat or dataset.dtype.kind not in "fiub":
            told = f"numbers {expected}" if flat else "a row of numbers for each step"
            raise self.refusal(place, f"is {found}, expected {told}", "leave that demonstration out")
        return dataset

    def _check_actions(self) -> None:
        for index, name in enumerate(self.names):
            actions = np.asarray(self.dataset(index, "actions")[()], np.float64)
            wrong = ~np.isfinite(actions) | (np.abs(actions) > 1.0 + ROUNDING)
            if wrong.any():
                step, dimension = np.argwhere(wrong)[0]
                raise self.refusal(
                    f"data/{name}/actions",
                    f"is {actions[step, dimension]:g} at step {step}, dimension {dimension}, outside of [-1, 1]",
                    "scale the actions to the controller's range before they are learned",
                )


def text(value: Any) -> str:
    """A text attribute, which some writers store as bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)


def tree(data: h5py.Group, name: str) -> dict[str, Any]:
    """A JSON attribute that is an object; {} where there is none."""
    value = json.loads(text(data.attrs[name])) if name in data.attrs else {}
    return value if isinstance(value, dict) else {}
