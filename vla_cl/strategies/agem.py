"""Averaged gradient episodic memory: no step that would raise the loss on earlier tasks, to first order.

Chaudhry et al., "Efficient Lifelong Learning with A-GEM", ICLR 2019 (arXiv 1812.00420).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vla_cl.data import Batch
from vla_cl.errors import ConfigurationError
from vla_cl.seeding import numpy_generator, torch_generator
from vla_cl.strategies.base import STRATEGIES
from vla_cl.strategies.rehearsal import Rehearsal


def project(gradient: Sequence[Tensor], reference: Sequence[Tensor]) -> list[Tensor]:
    """The gradient next to g that does not point against a reference gradient (A-GEM, equation 11).

        g~ = g - (g . g_ref) / (g_ref . g_ref) g_ref   where g . g_ref < 0, else g

    Args:
        gradient: g, in parts of any shapes; the dot product is over all of them.
        reference: g_ref, in parts of the same shapes.

    Returns:
        g~, in the same parts.
    """
    dot = torch.stack([(one * other).sum() for one, other in zip(gradient, reference, strict=True)]).sum()
    square = torch.stack([part.square().sum() for part in reference]).sum()
    # 0 where they agree: nothing waits for a GPU to say whether they do
    excess = dot.clamp(max=0.0) / square.clamp(min=torch.finfo(square.dtype).tiny)
    return [one - excess * other for one, other in zip(gradient, reference, strict=True)]


@STRATEGIES.decorator("agem")
class AGEM(Rehearsal):
    """A-GEM: replayed windows are not learned, they forbid.

    At each step the gradient g_ref of the mean imitation loss on windows drawn from the memory is computed; a step's
    gradient g that points against it, g . g_ref < 0, is projected, before it is clipped:

        g~ = g - (g . g_ref) / (g_ref . g_ref) g_ref                                                    (equation 11)

    As in the paper a guarantee of plain gradient steps: what Adam makes of g~ may still point against g_ref a little.
    Without a memory, so with a budget of 0, this is sequential fine-tuning.
    """

    @dataclass
    class Options(Rehearsal.Options):
        """Those of `Rehearsal`, which say what is kept, and the reference.

        Args:
            reference: Windows of which g_ref is the mean gradient, as a share of the batch, more than 0 (1 costs one
                pass more a step; the paper takes 256 windows for batches of 10).
        """

        reference: float = 1.0

    def __init__(self, options: Options, seed: int) -> None:
        super().__init__(options, seed)
        if options.reference <= 0:
            raise ConfigurationError(f"strategy.reference must be more than 0, got {options.reference}")
        self.extra_passes = options.reference
        self.rows = 0
        self.draws = 0

    def batch(self, batch: Batch) -> Batch:
        self.rows = len(batch) if len(self.memory) else 0  # the memory as it was before this batch
        self.observe(batch)
        return batch

    def gradients(self, parameters: Mapping[str, nn.Parameter]) -> None:
        if not self.rows:
            return
        trained = list(parameters.values())
        references = torch.autograd.grad(self.memory_loss(), trained, allow_unused=True, materialize_grads=True)
        gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in trained]
        for parameter, projected in zip(trained, project(gradients, references), strict=True):
            parameter.grad = projected

    def memory_loss(self) -> Tensor:
        """The mean imitation loss on windows drawn from the memory, of which g_ref is the gradient."""
        self.draws += 1
        n = max(1, round(self.options.reference * self.rows))
        batch = self.memory.sample(n, numpy_generator(self.seed, "agem", self.draws))
        batch = batch.to(next(self.policy.parameters()).device)
        with self.training_pass(batch), self.precision():
            return self.policy.loss(batch, torch_generator(self.seed, "agem noise", self.draws)).mean()

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "draws": self.draws}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.draws = int(state["draws"])
