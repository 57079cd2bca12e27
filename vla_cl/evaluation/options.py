"""How a policy is evaluated: episodes, initial states, instructions, places, videos."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from vla_cl.envs import EnvironmentSpec
from vla_cl.envs.perturbations import read_perturbations
from vla_cl.errors import ConfigurationError
from vla_cl.evaluation.instructions import TOLD
from vla_cl.evaluation.stopping import EarlyStop

LOCAL, OWN_CLUSTER = "local", "ray"
_ADDRESS = re.compile(r"\S+:\d+")


@dataclass
class EvaluationOptions:
    """The configuration group `evaluation`.

    Args:
        episodes: Episodes of each task at each stage. Episode e always starts in the e-th initial state of the split,
            so stages, strategies and runs are compared on the same states.
        split: Initial states: "test" for what is reported, "selection" for choosing hyper-parameters.
        instructions: What the policy is told, in turn: "canonical", "paraphrased", "held_out", "declared", the
            instruction of the task's own files, "swapped", those of the other tasks, or "dropped", nothing.
        horizon: Control steps after which an episode is truncated; None is each task's own.
        arguments: Of the tasks' backend, in place of the tasks' own: `{"settle_steps": 5}`. They change how an episode
            begins or runs, not what the policy was trained on.
        perturbations: What is different from the world that was learned in, all at once: ["camera:small", "light"]; see
            `vla_cl.envs.perturbations`.
        slots: Episodes that run at the same time. Part of the protocol, not of the machine: batches are made of
            slots, and rows do not depend on how many processes serve them.
        zero_shot: Evaluate all tasks before any training.
        upper_triangle: Evaluate tasks that were not learned yet at every stage, too.
        task_identity: Whether strategies that ask for it are told which task they face; without, they are refused.
        early_stop: When a task's remaining episodes at a stage are left out; all are played by default.
        videos: Episodes of each task that are filmed, the first ones.
        processes: Simulator processes; None is one for each core.
        workers: Where they are: "local", on this machine; "ray", on the Ray cluster that this process belongs to or
            that `RAY_ADDRESS` names, else on one of this machine's cores; or a cluster's "HOST:PORT". Rows do not
            depend on it.

    Raises:
        ConfigurationError: A value cannot be used.
    """

    episodes: int = 20
    split: str = "test"
    instructions: str = "canonical"
    horizon: int | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    perturbations: list[str] = field(default_factory=list)
    slots: int = 10
    zero_shot: bool = True
    upper_triangle: bool = False
    task_identity: bool = True
    early_stop: EarlyStop = field(default_factory=EarlyStop)
    videos: int = 1
    processes: int | None = None
    workers: str = LOCAL

    def __post_init__(self) -> None:
        if isinstance(self.early_stop, Mapping):  # of a file
            self.early_stop = EarlyStop(**self.early_stop)
        if self.episodes < 1:
            raise ConfigurationError(f"evaluation.episodes must be at least 1, got {self.episodes}")
        if self.slots < 1:
            raise ConfigurationError(f"evaluation.slots must be at least 1, got {self.slots}")
        if self.videos < 0:
            raise ConfigurationError(f"evaluation.videos must be 0 or more, got {self.videos}")
        if self.processes is not None and self.processes < 1:
            raise ConfigurationError(
                f"evaluation.processes must be at least 1, or null for one a core, got {self.processes}"
            )
        if self.workers not in (LOCAL, OWN_CLUSTER, "auto") and not _ADDRESS.fullmatch(self.workers):
            raise ConfigurationError(
                f"evaluation.workers must be local, ray, or the HOST:PORT of a Ray cluster, got {self.workers!r}"
            )
        if self.split not in ("test", "selection"):
            raise ConfigurationError(f"evaluation.split must be test or selection, got {self.split!r}")
        if self.horizon is not None and self.horizon < 1:
            raise ConfigurationError(
                f"evaluation.horizon must be at least 1, or null for each task's own, got {self.horizon}"
            )
        if self.instructions not in TOLD:
            raise ConfigurationError(
                f"evaluation.instructions must be one of {', '.join(TOLD)}, got {self.instructions!r}"
            )

        told = [each.label for each in read_perturbations(self.perturbations) if each.instructions is not None]
        if told and self.instructions != "canonical":
            raise ConfigurationError(
                f"evaluation.instructions={self.instructions} and perturbation {told[0]!r} both say what the policy is "
                "told; use one of them"
            )

    @property
    def told(self) -> str:
        """The kind of instructions that the policy gets: `instructions`, unless a perturbation says otherwise."""
        kinds = [each.instructions for each in read_perturbations(self.perturbations)]
        return next((kind for kind in kinds if kind is not None), self.instructions)

    @property
    def world_perturbations(self) -> tuple[str, ...]:
        """Labels of the perturbations that change the environment, not only the instructions."""
        return tuple(each.label for each in read_perturbations(self.perturbations) if each.instructions is None)

    def applied_to(self, spec: EnvironmentSpec) -> EnvironmentSpec:
        """The recipe of a task's environment, as the evaluation wants it."""
        return replace(
            spec,
            horizon=spec.horizon if self.horizon is None else self.horizon,
            arguments={**spec.arguments, **self.arguments},
            perturbations=(*spec.perturbations, *self.world_perturbations),
        )
