"""Small registered ways in which an evaluation differs from what was learned in; see docs/robustness.md."""

from __future__ import annotations

from vla_cl.envs.perturbations.base import (
    PERTURBATIONS,
    Perturbation,
    check_perturbations,
    condition_name,
    read_perturbation,
    read_perturbations,
)
from vla_cl.envs.perturbations.changes import Changes

__all__ = [
    "PERTURBATIONS",
    "Changes",
    "Perturbation",
    "check_perturbations",
    "condition_name",
    "read_perturbation",
    "read_perturbations",
]
