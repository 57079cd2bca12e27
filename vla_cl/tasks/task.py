"""What is to be done: a task, its instruction, its initial states, and how to make it an environment."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from vla_cl.envs import EnvironmentSpec, ManipulationEnv, ObservationOptions, RenderingOptions, make_environment
from vla_cl.errors import ConfigurationError

DEFAULT_STORED_STATES = 50
TASK_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
"""What a task may be called: its name becomes part of file names and of a Gymnasium id."""


INSTRUCTIONS = "canonical, paraphrased, held_out or declared"


@dataclass(frozen=True)
class SeedSplit:
    """Three disjoint ranges of initial-state seeds.

    Demonstrations draw from `train`, model selection from `selection`, reported numbers from `test`.
    """

    train: range = range(1_000_000)
    selection: range = range(1_000_000, 1_010_000)
    test: range = range(2_000_000, 2_010_000)

    def __post_init__(self) -> None:
        for split in ("train", "selection", "test"):
            seeds = self[split]
            if len(seeds) == 0 or seeds.start < 0 or seeds.step < 1:
                raise ConfigurationError(f"{split} seeds {seeds} must be an ascending, non-empty range from 0 up")
        ranges = sorted((self.train, self.selection, self.test), key=lambda seeds: seeds.start)
        for earlier, later in pairwise(ranges):
            if earlier.stop > later.start:
                raise ConfigurationError(f"seed ranges {earlier} and {later} overlap; make the splits disjoint")

    def __getitem__(self, split: str) -> range:
        if split not in ("train", "selection", "test"):
            raise ConfigurationError(f"split {split!r} is unknown; use train, selection or test")
        seeds: range = getattr(self, split)
        return seeds


@dataclass(frozen=True)
class Task:
    """One manipulation task.

    Args:
        name: Unique identifier, by convention lower-case with dashes ("window-close"); matches `TASK_NAME`.
        instruction: What the robot is told.
        paraphrases: Other ways to say it, free to be trained on.
        held_out_paraphrases: Other ways to say it, never trained on.
        horizon: Steps until an episode is truncated.
        backend: Simulator, a name in `vla_cl.envs.BACKENDS`.
        arguments: What the backend needs to build the scene.
        expert: Name in `vla_cl.tasks.EXPERTS`, or "" when there is none.
        seeds: Initial states, split in three.
        declared_language: Reads the instruction that the task's own files give, from `arguments`; None where it has no
            such files.
    """

    name: str
    instruction: str
    horizon: int
    backend: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    paraphrases: tuple[str, ...] = ()
    held_out_paraphrases: tuple[str, ...] = ()
    expert: str = ""
    seeds: SeedSplit = SeedSplit()
    declared_language: Callable[[Mapping[str, Any]], str] | None = None

    def __post_init__(self) -> None:
        if not TASK_NAME.fullmatch(self.name):
            raise ConfigurationError(f"task name {self.name!r} is not usable; use letters, digits, - _ and .")

    def environment_spec(
        self,
        observation: ObservationOptions = ObservationOptions(),
        rendering: RenderingOptions = RenderingOptions(),
        plugins: Sequence[str] = (),
    ) -> EnvironmentSpec:
        """The picklable recipe of this task's environment."""
        return EnvironmentSpec(
            backend=self.backend,
            arguments=dict(self.arguments),
            horizon=self.horizon,
            init_state_seeds=tuple(self.seeds.test[:DEFAULT_STORED_STATES]),
            observation=observation,
            rendering=rendering,
            plugins=tuple(plugins),
            task=self.name,
        )

    def environment(
        self,
        observation: ObservationOptions = ObservationOptions(),
        rendering: RenderingOptions = RenderingOptions(),
        render_mode: str | None = None,
    ) -> ManipulationEnv:
        """Build the environment in this process."""
        return make_environment(self.environment_spec(observation, rendering), render_mode=render_mode)

    def instructions(self, kind: str = "canonical") -> tuple[str, ...]:
        """What the robot is told.

        Args:
            kind: "canonical", the instruction; "paraphrased", its training paraphrases too; "held_out", only the
                paraphrases that are never trained on; "declared", what the task's own files say.

        Raises:
            ConfigurationError: There is no such kind, or the task has none of it.
        """
        match kind:
            case "canonical":
                return (self.instruction,)
            case "paraphrased":
                return (self.instruction, *self.paraphrases)
            case "held_out":
                if not self.held_out_paraphrases:
                    raise ConfigurationError(f"task {self.name!r} has no held-out paraphrases; use canonical")
                return self.held_out_paraphrases
            case "declared":
                if self.declared_language is None:
                    raise ConfigurationError(f"task {self.name!r} has no files that tell it; use canonical")
                return (self.declared_language(self.arguments),)
        raise ConfigurationError(f"instructions {kind!r} is unknown; use {INSTRUCTIONS}")
