"""DISCO: an adapter for each kind of knowledge, told apart by the text of tasks, among clients of a federation.

Guo et al., "Federated Continual Instruction Tuning", ICCV 2025 (arXiv 2503.12897): dynamic knowledge organisation, by
the server, in training, and subspace selective activation when acting.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vla_cl.data import ObservationBatch, WindowDataset
from vla_cl.errors import ConfigurationError
from vla_cl.policies import Policy
from vla_cl.policies.adapters import Route, adapter_parameters, add_adapter, freeze_adapter
from vla_cl.strategies.averaging import ClientUpdate, weighted_mean
from vla_cl.strategies.base import STRATEGIES
from vla_cl.strategies.choice import Choice
from vla_cl.strategies.features import text_features
from vla_cl.strategies.knowledge import Knowledge, activation, mean_text, organised
from vla_cl.strategies.low_rank import LowRankStrategy
from vla_cl.tasks import Task


@STRATEGIES.decorator("disco")
class Disco(LowRankStrategy):
    """Slots of knowledge, each an adapter with the mean text features of what it was learned from.

    - Dynamic knowledge organisation: a task goes to the slot whose text is like its own, cos > `threshold`, and trains
      that adapter on; else to a new one. The server compares what its clients bring in the same way, and in every
      round averages B and A of those who share a slot, by windows.
    - Subspace selective activation: Delta W = sum_i w_i B_i A_i, w = softmax(cos(text, slot_i) / `temperature`), row by
      row, from the instruction alone.

    Without a federation it is the same with one client. Ours: the sentence encoder in place of CLIP's; text features
    reach the server with the weights of the first round, but are compared before training, too, with the slots known
    by then (the paper's clients all begin in one adapter and are parted after the first round); with
    `first_task="full"` the tasks of the first stage train the base weights, averaged over all clients, and their slots
    have no adapter, which leaves their share of w to the base.

    Attributes:
        slots: What is known, by slot.
        own: What the present task brings; the slot is named as this client's adapter is.
        arrivals: What all clients bring, in the server's slots, in the clients' order; of one alone, its own.
        learning: Whether a task is being learned.
    """

    @dataclass
    class Options(LowRankStrategy.Options):
        """Beside those of adapters, what is alike.

        Args:
            threshold: Cosine of mean text features above which two tasks share a slot; the paper's is .9.
            temperature: Of the softmax over slots when acting; the paper's is .05.
        """

        threshold: float = 0.9
        temperature: float = 0.05

    def __init__(self, options: Any, seed: int) -> None:
        super().__init__(options, seed)
        if not -1.0 <= options.threshold <= 1.0:
            raise ConfigurationError(f"strategy.threshold must be -1 to 1, got {options.threshold}")
        if not options.temperature > 0.0:
            raise ConfigurationError(f"strategy.temperature must be above 0, got {options.temperature}")
        self.slots: dict[str, Knowledge] = {}
        self.own: Knowledge | None = None
        self.arrivals: list[Knowledge] = []
        self.learning = False

    def begin_task(self, task: Task, policy: Policy, data: WindowDataset) -> None:
        new = Knowledge("slot_" + re.sub(r"[^A-Za-z0-9_-]", "_", task.name), mean_text(data), len(data))
        self.arrivals = organised([new], list(self.slots.values()), self.options.threshold)
        (self.own,) = self.arrivals
        self.learning = True
        super().begin_task(task, policy, data)

    def adapter_name(self, task: Task) -> str:
        return self.own_slot

    @property
    def own_slot(self) -> str:
        """The slot of the present task, as this client calls it."""
        assert self.own is not None
        return self.own.slot

    def end_task(self, task: Task, policy: Policy, data: WindowDataset) -> None:
        super().end_task(task, policy, data)
        for arrival in self.arrivals:
            slot = self.slots.get(arrival.slot)
            self.slots[arrival.slot] = arrival if slot is None else slot.joined(arrival)
        self.learning = False

    def route(self, observation: ObservationBatch) -> Route | None:
        if not self.slots:
            return None
        weights = self.activations(observation)
        return {name: weights[:, row] for row, name in enumerate(self.slots) if name in self.policy.adapters}

    def activations(self, observation: ObservationBatch) -> Tensor:
        """w (B, slots)."""
        device = next(self.policy.parameters()).device
        known = torch.stack([slot.text for slot in self.slots.values()]).to(device)
        return activation(text_features(observation.instruction, device), known, self.options.temperature)

    def choice(self, observation: ObservationBatch) -> Choice | None:
        if not self.slots:
            return None
        known = {name: name if name in self.policy.adapters else None for name in self.slots}
        owners = tuple(tuple(task for task, owner in self.owners.items() if owner == known[name]) for name in known)
        return Choice(tuple(known), owners, self.activations(observation))

    # --- the server ------------------------------------------------------------------------------------------

    @torch.no_grad()
    def aggregate(self, updates: Sequence[ClientUpdate]) -> None:
        super().aggregate(updates)  # base weights, where the first task trains them
        clients = [_disco(update) for update in updates]
        if clients[0].learning:
            brought = [client.own for client in clients if client.own is not None]
            arrivals = organised(brought, list(clients[0].slots.values()), self.options.threshold)
            for slot in dict.fromkeys(arrival.slot for arrival in arrivals):
                _average([u for u, arrival in zip(updates, arrivals, strict=True) if arrival.slot == slot])
            for client in clients:
                client.arrivals = arrivals
        else:
            for update, arrival in zip(updates, clients[0].arrivals, strict=True):
                clients[0].take(updates[0].policy, update, arrival.slot)
            for client in clients[1:]:
                client.load_state_dict(clients[0].state_dict())

    def take(self, policy: Policy, update: ClientUpdate, slot: str) -> None:
        """Put what a client has learned into a slot of the server's policy, and know its tasks."""
        client = _disco(update)
        self.owners |= {task: slot if name == client.own_slot else name for task, name in client.owners.items()}
        if client.own_slot not in update.policy.adapters:
            return  # it is in the base weights
        if slot not in policy.adapters:
            add_adapter(policy, slot, self.adapter_options, self.seed)
            self.adapters.append(slot)
        for mine, theirs in zip(_adapter(policy, slot), _adapter(update.policy, client.own_slot), strict=True):
            mine.copy_(theirs)
        freeze_adapter(policy, slot)

    # --- state -----------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "slots": [slot.state_dict() for slot in self.slots.values()],
            "own": self.own.state_dict() if self.own else None,
            "arrivals": [arrival.state_dict() for arrival in self.arrivals],
            "learning": self.learning,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.slots = {each["slot"]: Knowledge(**each) for each in state["slots"]}
        self.own = Knowledge(**state["own"]) if state["own"] else None
        self.arrivals = [Knowledge(**each) for each in state["arrivals"]]
        self.learning = bool(state["learning"])


def _disco(update: ClientUpdate) -> Disco:
    assert isinstance(update.strategy, Disco)
    return update.strategy


def _adapter(policy: Policy, name: str) -> list[Tensor]:
    """An adapter's parameters, layer by layer; none where there is no such adapter."""
    return list(adapter_parameters(policy, name).values()) if name in policy.adapters else []


def _average(updates: Sequence[ClientUpdate]) -> None:
    """Average the adapters that clients learn in one slot, whatever each calls it."""
    own = [_adapter(update.policy, _disco(update).own_slot) for update in updates]
    for tensors in zip(*own, strict=True):
        mean = weighted_mean(tensors, [update.windows for update in updates])
        for tensor in tensors:
            tensor.copy_(mean)
