"""What a perturbation is, and how it is named: "camera", "camera:small", "camera=12", "camera+light".

The axes are those along which robustness benchmarks for manipulation differ from what was trained on: The Colosseum
(Pumacay et al., arXiv 2402.08191), LIBERO-Plus (Fei et al., arXiv 2510.13626), LIBERO-PRO (Zhou et al.,
arXiv 2510.03827). What is drawn for an episode depends on its seed and on the perturbation's name, and not on its
level nor on what it is combined with: under a larger level, the camera goes the same way, only further.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from vla_cl.errors import ConfigurationError
from vla_cl.registry import Registry

if TYPE_CHECKING:
    from vla_cl.envs.base import ManipulationEnv
    from vla_cl.envs.perturbations.changes import Changes

_TEXT = re.compile(r"([A-Za-z]\w*)(?:[:=]([\w.-]+))?")


@dataclass(frozen=True)
class Perturbation:
    """One way in which the world of an evaluation differs from that of the demonstrations.

    A subclass says its levels and implements some of the methods; each has a random generator of its own, seeded by
    the episode. Nothing else may be drawn from, and nothing may be kept between episodes.

    Args:
        label: As rows and tables name it ("camera:small").
        strength: How much: the level's number or word.

    Attributes:
        levels: Of the class: named strengths, "medium" among them unless there is another `usual`.
        usual: Of the class: the level that the name alone stands for.
        unit: Of the class: what a strength counts.
        largest: Of the class: the largest strength that may be given as a number; None where only names may.
        whole: Of the class: whether a strength is a whole number.
        is_seen: Of the class: whether only pictures change, so that a policy without pixels cannot be tried.
    """

    label: str
    strength: float | str

    levels: ClassVar[Mapping[str, float | str]] = {}
    usual: ClassVar[str] = "medium"
    unit: ClassVar[str] = ""
    largest: ClassVar[float | None] = None
    whole: ClassVar[bool] = False
    is_seen: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """Under which it is registered."""
        return re.split("[:=]", self.label)[0]

    @property
    def instructions(self) -> str | None:
        """The kind of instructions that it tells instead; None where it is the environment that it changes."""
        return None

    @property
    def delay(self) -> int:
        """Control steps by which actions are late."""
        return 0

    def check(self, env: ManipulationEnv) -> None:
        """See whether an environment, right after a reset, can be perturbed like this.

        Raises:
            ConfigurationError: It cannot; the message says what it lacks, without naming the task.
        """

    def start(self, env: ManipulationEnv, generator: np.random.Generator) -> None:
        """Change the initial state after a reset: whatever is changed must be part of `env.get_state()`."""

    def dress(self, env: ManipulationEnv, changes: Changes, generator: np.random.Generator) -> None:
        """Change how the world looks for the length of an episode: only through `changes`, which are taken back."""

    def seen(self, image: NDArray[np.uint8], generator: np.random.Generator) -> NDArray[np.uint8]:
        """What becomes of an image (H, W, 3); the generator is seeded by the episode, the step and the camera."""
        return image


PERTURBATIONS: Registry[type[Perturbation]] = Registry("perturbation", "vla_cl.perturbations", "vla-cl perturbations")
"""Perturbations by name."""


def read_perturbation(text: str) -> Perturbation:
    """The perturbation of "camera", "camera:small" or "camera=12".

    Raises:
        UnknownNameError: There is no such perturbation or level.
        ConfigurationError: The text reads otherwise, or the number is out of range.
    """
    match = _TEXT.fullmatch(text.strip())
    if match is None:
        raise ConfigurationError(f"perturbation {text!r} must read like camera, camera:small or action_delay=2")
    name, level = match.groups()
    kind = PERTURBATIONS[name]
    level = kind.usual if level is None else level
    if level in kind.levels:
        return kind(f"{name}:{level}", kind.levels[level])
    try:
        strength = float(level)
    except ValueError:
        strength = np.nan
    known = ", ".join(kind.levels)
    if kind.largest is None or np.isnan(strength):
        raise ConfigurationError(f"perturbation {name!r} has no level {level!r}; known: {known}")
    if not 0 < strength <= kind.largest or (kind.whole and strength != int(strength)):
        number = "a whole number" if kind.whole else "a number"
        raise ConfigurationError(
            f"perturbation {name!r} takes {number} above 0, up to {kind.largest:g} ({kind.unit}), or {known}; "
            f"got {level}"
        )
    return kind(f"{name}={strength:g}", strength)


def read_perturbations(texts: Sequence[str]) -> tuple[Perturbation, ...]:
    """Several that act at once; a text may join some of them ("camera+light").

    Raises:
        UnknownNameError, ConfigurationError: As `read_perturbation`, or one is named twice.
    """
    found = tuple(read_perturbation(part) for text in texts for part in text.split("+"))
    names = [each.name for each in found]
    for each in found:
        if names.count(each.name) > 1:
            raise ConfigurationError(f"perturbation {each.label!r} is named twice; name each once")
    return found


def condition_name(texts: Sequence[str]) -> str:
    """How rows and tables name perturbations that act at once: "" for none, "camera:small+light:medium"."""
    return "+".join(each.label for each in read_perturbations(texts))


def check_perturbations(env: ManipulationEnv, perturbations: Sequence[Perturbation]) -> None:
    """See whether an environment, right after a reset, can be perturbed in each of these ways.

    Raises:
        ConfigurationError: It cannot; the message names the perturbation and the task.
    """
    task = env.specification.task or env.specification.backend
    for each in perturbations:
        if each.is_seen and not env.cameras:
            raise ConfigurationError(f"perturbation {each.label!r} changes pictures, and the policy sees none of them")
        try:
            each.check(env)
        except ConfigurationError as error:
            raise ConfigurationError(f"task {task!r} cannot be perturbed by {each.label!r}: {error}") from error
