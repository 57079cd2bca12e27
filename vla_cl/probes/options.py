"""How a finished run is probed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from vla_cl.errors import ConfigurationError

RECOVERY_SHARES = (0.01, 0.02, 0.05, 0.1, 0.2)
"""Where recovery is measured unless steps are given: shares of the steps that the task was trained for."""


@dataclass(frozen=True)
class ProbeOptions:
    """What probes measure, and on how much.

    Args:
        episodes: Of each success rate, from the selection split: no probe looks at a test state.
        share: Of its former success that makes a task count as back; below it in the end, it counts as forgotten.
        steps: Of fine-tuning after which recovery is measured, ascending; None takes `RECOVERY_SHARES`.
        few: Steps within which a hidden skill comes back; None is 5 % of those that the task was trained for.
        rate: Learning rate of the fine-tuning, constant; None is the peak of the run's.
        control: Whether recovery is compared with how the same fine-tuning teaches the task for the first time.
        scales: Of what was learned since a task, ascending: 0 acts as right after the task, 1 as in the end.
        least_scale: A skill that is back at this scale or above was hidden; below it, too little of what was learned
            since is left.
        windows: Of a task's demonstrations on which drift is measured.
        tasks: Names of the tasks to probe; () is all (routing, drift), or all that were forgotten (recovery, scale).
        device: "auto", "cpu", "cuda" or "cuda:N".
        processes: Simulator processes; None is one for each core.

    Raises:
        ConfigurationError: A value cannot be used.
    """

    episodes: int = 20
    share: float = 0.9
    steps: tuple[int, ...] | None = None
    few: int | None = None
    rate: float | None = None
    control: bool = True
    scales: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)
    least_scale: float = 0.5
    windows: int = 256
    tasks: tuple[str, ...] = ()
    device: str = "auto"
    processes: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("episodes", 1), ("windows", 4)):
            if getattr(self, name) < least:
                raise ConfigurationError(f"a probe's {name} must be at least {least}, got {getattr(self, name)}")
        if not 0.0 < self.share <= 1.0:
            raise ConfigurationError(f"a probe's share must be above 0, at most 1, got {self.share}")
        if self.rate is not None and not self.rate > 0.0:
            raise ConfigurationError(f"a probe's learning rate must be positive, got {self.rate}")
        if not 0.0 < self.least_scale < 1.0:
            raise ConfigurationError(f"a probe's least scale must lie between 0 and 1, got {self.least_scale}")
        if not _ascends(self.scales) or self.scales[0] < 0:
            raise ConfigurationError(f"a probe's scales must ascend from at least 0, got {_shown(self.scales)}")
        if self.steps is not None and (not _ascends(self.steps) or self.steps[0] < 1):
            raise ConfigurationError(f"a probe's steps must ascend from at least 1, got {_shown(self.steps)}")
        if self.few is not None and self.few < 1:
            raise ConfigurationError(f"a probe's few steps must be at least 1, got {self.few}")

    def recovery_steps(self, trained: int) -> tuple[int, ...]:
        """Where recovery is measured, of a run that trained each task for so many steps."""
        if self.steps is not None:
            return self.steps
        return tuple(sorted({max(1, round(share * trained)) for share in RECOVERY_SHARES}))

    def few_steps(self, trained: int) -> int:
        """Within how many steps a hidden skill comes back."""
        return self.few if self.few is not None else max(1, round(0.05 * trained))


def _ascends(values: Sequence[float]) -> bool:
    return bool(values) and all(first < second for first, second in pairwise(values))


def _shown(values: Sequence[float]) -> str:
    return ", ".join(f"{each:g}" for each in values) or "none"
