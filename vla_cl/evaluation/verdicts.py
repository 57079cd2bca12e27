"""Whether a forgotten skill is lost, or only hidden: a verdict on what probes of a finished run measured.

A skill that comes back when less of what was learned since acts, or with a little fine-tuning, is still in the weights.
No landscape of the loss is drawn for it. Scaling what was learned: interpolation of weights, Wortsman et al., "Robust
Fine-tuning of Zero-shot Models", CVPR 2022 (arXiv 2109.01903); negated and scaled differences of weights, Ilharco et
al., "Editing Models with Task Arithmetic", ICLR 2023 (arXiv 2212.04089). Relearning faster than learning, as the sign
of a memory that cannot be recalled: the savings of Ebbinghaus, "Memory", 1885.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vla_cl.evaluation.metrics import recovery_steps

KEPT, HIDDEN, LOST, UNKNOWN = "kept", "hidden", "lost", "unknown"


@dataclass(frozen=True)
class Verdict:
    """What became of a task.

    Args:
        former: Successes right after it was learned.
        final: In the end.
        episodes: Of each of the two.
        outcome: "kept", "hidden", "lost"; "unknown" where it is forgotten and nothing more was probed.
        scaled: Whether scales were tried.
        scale: The largest scale, below 1, of what was learned since at which it is back; None where it is at none.
        steps: Of fine-tuning, how many were tried at most; None where none were.
        relearned: Steps until it is back; None where that takes more.
        first: Steps until it is as good when learned for the first time; None where that takes more, or was not tried.
    """

    former: int
    final: int
    episodes: int
    outcome: str
    scaled: bool = False
    scale: float | None = None
    steps: int | None = None
    relearned: int | None = None
    first: int | None = None

    @property
    def savings(self) -> float | None:
        """1 - relearned / first: 1 where nothing had to be learned again, 0 where nothing was left; None where one of
        the two is not known.
        """
        return None if self.relearned is None or not self.first else 1.0 - self.relearned / self.first


def is_forgotten(former: float, final: float, share: float) -> bool:
    """Whether success fell below that share of what it was; what never succeeded cannot be forgotten."""
    return former > 0 and final < share * former


def verdict(
    success: Mapping[str, int],
    scale: Mapping[str, Any] | None,
    recovery: Mapping[str, Any] | None,
    *,
    share: float,
    least_scale: float,
    few: int,
) -> Verdict:
    """Judge a task by what was measured of it.

    Hidden is a skill that is back, at `share` of its former success, at a scale from `least_scale` to below 1, or
    within `few` steps of fine-tuning; where learning it for the first time was measured, too, relearning must also be
    faster than that, since an easy task comes quickly either way.

    Args:
        success: "former" and "final" successes in "episodes".
        scale: Of the scale probe, "scales" and "successes" at each; None where it was not made.
        recovery: Of the recovery probe, "steps" and, at each, successes "relearned" and "first" (which may be None);
            None where it was not made.
        share: Of the former success.
        least_scale: 0 to 1.
        few: Steps.
    """
    former, final, episodes = success["former"], success["final"], success["episodes"]
    if not is_forgotten(former, final, share):
        return Verdict(former, final, episodes, KEPT)
    target = share * former
    back = relearned = first = steps = None
    if scale is not None:
        back = _largest_scale(scale["scales"], scale["successes"], target)
    if recovery is not None:
        steps = int(recovery["steps"][-1])
        relearned = _steps_until(recovery["steps"], recovery["relearned"], target, episodes)
        first = _steps_until(recovery["steps"], recovery["first"], target, episodes) if recovery["first"] else None
    slower = first is not None and relearned is not None and relearned >= first
    quick = relearned is not None and relearned <= few and not slower
    if quick or (back is not None and back >= least_scale):
        outcome = HIDDEN
    else:
        outcome = UNKNOWN if recovery is None and scale is None else LOST
    return Verdict(former, final, episodes, outcome, scale is not None, back, steps, relearned, first)


def _largest_scale(scales: Sequence[float], successes: Sequence[int], target: float) -> float | None:
    back = [scale for scale, success in zip(scales, successes, strict=True) if scale < 1.0 and success >= target]
    return max(back, default=None)


def _steps_until(steps: Sequence[int], successes: Sequence[int], target: float, episodes: int) -> int | None:
    reached = recovery_steps(steps, [success / episodes for success in successes], target / episodes)
    return int(reached) if math.isfinite(reached) else None
