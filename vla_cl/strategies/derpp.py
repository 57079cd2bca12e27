"""Dark experience replay++: replay what was seen, and what the policy thought of it then.

Buzzega et al., "Dark Experience for General Continual Learning: a Strong, Simple Baseline", NeurIPS 2020 (arXiv
2004.07211).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vla_cl.data import Batch, ReplayMemory
from vla_cl.errors import ConfigurationError
from vla_cl.policies import PolicyOutput
from vla_cl.seeding import numpy_generator, torch_generator
from vla_cl.strategies.base import STRATEGIES, Needs, Strategy


def reservoir_slots(seen: int, n: int, capacity: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Where the next n items of a stream go in a memory of `capacity` slots, so that it holds a uniform sample of the
    stream at any time (Vitter, "Random Sampling with a Reservoir", 1985, algorithm R): slots (n,), -1 for nowhere.

    Args:
        seen: Items before these.
        n: Items.
        capacity: Of the memory.
        generator: Draws one number an item.
    """
    positions = np.arange(seen, seen + n)
    slots = np.where(positions < capacity, positions, generator.integers(0, positions + 1))
    return np.where(slots < capacity, slots, -1)


def placed(stored: Tensor, slots: Sequence[int], values: Tensor) -> Tensor:
    """Stored rows with values in some ascending slots, in place unless there are new slots at the end."""
    missing = slots[-1] + 1 - len(stored)
    if missing > 0:
        grown = values.new_zeros(missing, *values.shape[1:])
        stored = torch.cat([stored, grown]) if len(stored) else grown
    stored[slots] = values
    return stored


@STRATEGIES.decorator("derpp")
class DERPP(Strategy):
    """DER++: the imitation loss on what comes in, and on two independent draws (x', x'') from the memory

        alpha D(f(x'), z') + beta L(x'', y'')                                                        (equation 6)

    z' is what the policy predicted of x' when it was stored. The memory is a reservoir over the stream of rows, which
    enter it with the prediction of the step in which they are learned: so it needs no boundaries, and predictions come
    from all along the training, as in the paper. Ours: D is the divergence of the policy's head (the paper's squared
    distance of logits, for flow and diffusion of predictions at the same noise, which is therefore stored, too); both
    draws pass through the policy at once.
    """

    needs: ClassVar[Needs] = Needs(raw_data=True)
    task_free: ClassVar[bool] = True
    whole_batches: ClassVar[str] = "it stores what the policy predicts of every row of a batch"

    @dataclass
    class Options:
        """Memory and weights.

        Args:
            capacity: Rows in the memory, at least 0; 0 is sequential fine-tuning.
            alpha: Weight of the divergence from stored predictions, at least 0.
            beta: Weight of the imitation loss on stored rows, at least 0.
            ratio: Rows of each draw as a share of the batch, more than 0. The paper's is 1, which costs two more passes
                a step; .5 costs one.
        """

        capacity: int = 1000
        alpha: float = 0.3
        beta: float = 0.5
        ratio: float = 0.5

    def __init__(self, options: Options, seed: int) -> None:
        super().__init__(options, seed)
        for name in ("capacity", "alpha", "beta"):
            if getattr(options, name) < 0:
                raise ConfigurationError(f"strategy.{name} must be at least 0, got {getattr(options, name)}")
        if options.ratio <= 0:
            raise ConfigurationError(f"strategy.ratio must be more than 0, got {options.ratio}")
        self.extra_passes = 2 * options.ratio
        self.memory = ReplayMemory()
        self.noise = torch.empty(0, 0)  # (n, M), (n, P, K): of the memory's rows
        self.predictions = torch.empty(0, 0, 0)
        self.seen = 0
        self.draws = 0

    def loss(self, batch: Batch, output: PolicyOutput) -> Tensor | float:
        replayed = self._replayed(max(1, round(self.options.ratio * len(batch)))) if len(self.memory) else 0.0
        self._remember(batch, output)
        return replayed

    def _replayed(self, n: int) -> Tensor:
        """alpha D(f(x'), z') + beta L(x'', y''), with n rows in each draw."""
        self.draws += 1
        generator = numpy_generator(self.seed, "derpp", self.draws)
        dark, plain = generator.integers(len(self.memory), size=(2, n))
        policy, device = self.policy, next(self.policy.parameters()).device
        both = self.memory.read(np.concatenate([dark, plain])).to(device)
        both, noise = policy.draw(both, torch_generator(self.seed, "derpp noise", self.draws))
        context = policy.context(both.observation)
        actions = policy.normalise_actions(both.actions)

        then = torch.from_numpy(dark)
        predicted = policy.head.predict(context[:n], actions[:n], self.noise[then].to(device))
        divergence = policy.head.divergence(predicted, self.predictions[then].to(device), both.padding[:n])
        imitation = policy.head.loss(context[n:], actions[n:], both.padding[n:], noise[n:])
        total: Tensor = self.options.alpha * divergence.mean() + self.options.beta * imitation.mean()
        return total

    @torch.no_grad()
    def _remember(self, batch: Batch, output: PolicyOutput) -> None:
        """Store those rows that the reservoir takes, with what the policy predicts of them now."""
        generator = numpy_generator(self.seed, "reservoir", self.seen)
        slots = reservoir_slots(self.seen, len(batch), self.options.capacity, generator)
        self.seen += len(batch)
        taken = {int(slot): row for row, slot in enumerate(slots) if slot >= 0}  # the last of those for one slot
        if not taken:
            return
        chosen = sorted(taken)
        rows = torch.tensor([taken[slot] for slot in chosen])
        there = rows.to(output.noise.device)
        kept, context, noise = batch[rows], output.context[there], output.noise[there]
        predictions = self.policy.head.predict(context, self.policy.normalise_actions(kept.actions), noise)
        self.memory.take(kept[len(kept) - max(0, chosen[-1] + 1 - len(self.memory)) :])  # new slots follow each other
        self.memory.replace(chosen, kept)
        self.noise = placed(self.noise, chosen, noise.cpu())
        self.predictions = placed(self.predictions, chosen, predictions.cpu())

    @property
    def memory_bytes(self) -> int:
        return self.memory.bytes

    def state_dict(self) -> dict[str, Any]:
        stored = {"memory": self.memory.state_dict(), "noise": self.noise, "predictions": self.predictions}
        return {**super().state_dict(), **stored, "seen": self.seen, "draws": self.draws}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.memory.load_state_dict(state["memory"])
        self.noise, self.predictions = (state[name].cpu().clone() for name in ("noise", "predictions"))
        self.seen, self.draws = int(state["seen"]), int(state["draws"])
