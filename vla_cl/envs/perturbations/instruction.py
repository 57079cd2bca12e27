"""Other words for the same, or the words for something else."""

from __future__ import annotations

from typing import ClassVar

from vla_cl.envs.perturbations.base import PERTURBATIONS, Perturbation


@PERTURBATIONS.decorator("instruction")
class Instruction(Perturbation):
    """The policy is told in other words, in the words for the other tasks, or nothing."""

    levels: ClassVar = {each: each for each in ("paraphrased", "held_out", "swapped", "dropped")}
    usual: ClassVar = "held_out"
    unit: ClassVar = "kind of instructions"

    @property
    def instructions(self) -> str:
        """The kind of instructions, as `evaluation.instructions` knows them."""
        return str(self.strength)
