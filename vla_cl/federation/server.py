"""The server of a federation: it sends its policy out, and joins what comes back as the strategy says."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vla_cl.config import ExperimentConfig
from vla_cl.data import WindowDataset
from vla_cl.federation.client import Client, StageFolder, restored_strategy
from vla_cl.federation.ray_clients import RayClients
from vla_cl.meter import Spent
from vla_cl.policies import Policy
from vla_cl.progress import progress_bar
from vla_cl.run_folder import RunFolder
from vla_cl.strategies import ClientUpdate, Strategy, trained_bytes
from vla_cl.training import TrainingRow, atomic_folder, save_tree


@dataclass(frozen=True)
class Learner:
    """A client in a stage.

    Args:
        client: From 0.
        place: Of its task in the sequence.
        data: What it has of that task, pixels and all.
    """

    client: int
    place: int
    data: WindowDataset


@dataclass(frozen=True)
class Joined:
    """What a federated stage leaves.

    Args:
        policy: The server's, on the CPU.
        strategy: The server's, bound to it.
        spent: By the clients on learning, for each place in the sequence.
        communicated_bytes: Trained weights that were sent, there and back, for each place.
    """

    policy: Policy
    strategy: Strategy
    spent: Mapping[int, Spent]
    communicated_bytes: Mapping[int, int]


class LocalClients:
    """Clients that take turns in this process."""

    def __init__(self, config: ExperimentConfig) -> None:
        self.config = config
        self.clients: dict[int, Client] = {}

    def call(self, method: str, arguments: Mapping[int, tuple[Any, ...]]) -> dict[int, Any]:
        """Call a method of some clients, each with its arguments; what each returns."""
        for client in arguments.keys() - self.clients.keys():
            self.clients[client] = Client(self.config, client)
        return {client: getattr(self.clients[client], method)(*each) for client, each in arguments.items()}

    def close(self) -> None:
        """Let the clients go."""
        self.clients.clear()


class Federation:
    """The server, for a whole run.

    Args:
        config: Of the run.
        run: Its folder.

    Attributes:
        states: Of the clients' strategies, between stages.
    """

    def __init__(self, config: ExperimentConfig, run: RunFolder) -> None:
        self.config = config
        self.run = run
        self.states: dict[int, dict[str, Any]] = {}
        self.clients = RayClients(config) if config.federation.backend == "ray" else LocalClients(config)

    def close(self) -> None:
        """Let the clients go."""
        self.clients.close()

    def learn(
        self,
        stage: int,
        policy: Policy,
        strategy: Strategy,
        learners: Sequence[Learner],
        on_row: Callable[[int, TrainingRow], None],
    ) -> Joined:
        """One stage: rounds in which every client trains and the strategy joins what they learned, then the task's end.

        Args:
            stage: The last of the places in the sequence that are learned.
            policy: The server's, from which all begin.
            strategy: The server's.
            learners: The clients of the stage.
            on_row: Told the place and each row of the training log, of the first client of a place.
        """
        folder, rounds = StageFolder(self.run.interval_checkpoints(stage).folder), self.config.federation.rounds
        done = max((each + 1 for each in range(rounds) if folder.answer(each).is_dir()), default=0)
        self._send_out(folder, policy)
        logs = _logs(learners)
        begin = {each.client: (folder.path, each.place, each.data, logs[each.client]) for each in learners}
        self.clients.call("begin", begin)
        spent = {each.place: Spent(0.0, 0.0) for each in learners}
        sent = dict.fromkeys(spent, 0)

        with progress_bar(f"training {len(learners)} clients", rounds) as advance:
            for round_index in range(done, rounds):
                reports = self.clients.call("train", {each.client: (round_index,) for each in learners})
                for each in learners:
                    for row in reports[each.client].rows if logs[each.client] == _log(each.place) else ():
                        on_row(each.place, row)
                updates = self._received(folder, learners)
                strategy.aggregate(updates)
                self._answer(folder, round_index, learners, updates)
                advance(round_index + 1)

        reports = self.clients.call("end", {each.client: () for each in learners})
        for each in learners:
            spent[each.place] += reports[each.client].spent
            sent[each.place] += 2 * rounds * reports[each.client].trained_bytes
        updates = self._received(folder, learners)
        strategy.aggregate(updates)
        strategies = {each.client: update.strategy for each, update in zip(learners, updates, strict=True)}
        self.states |= {client: each.state_dict() for client, each in strategies.items()}
        return Joined(updates[0].policy, updates[0].strategy, spent, sent)

    def _send_out(self, folder: StageFolder, policy: Policy) -> None:
        """Write what all clients begin from, unless it is there."""
        if not folder.start.is_dir():
            with atomic_folder(folder.start) as start:
                policy.save_pretrained(start)
                for client, state in self.states.items():
                    save_tree(state, start, f"client_{client}")

    def _received(self, folder: StageFolder, learners: Sequence[Learner]) -> list[ClientUpdate]:
        """What the clients sent, on the CPU."""
        updates = []
        for each in learners:
            policy = Policy.from_pretrained(folder.update(each.client))
            strategy = restored_strategy(self.config, folder.update(each.client), "strategy", policy)
            updates.append(ClientUpdate(policy, strategy, len(each.data)))
        return updates

    def _answer(
        self, folder: StageFolder, round_index: int, learners: Sequence[Learner], updates: Sequence[ClientUpdate]
    ) -> None:
        """Write what all clients go on from; from here a killed run does not do the round again."""
        with atomic_folder(folder.answer(round_index)) as answer:
            for each, update in zip(learners, updates, strict=True):
                tree = {
                    "policy": update.policy.state_dict(),
                    "strategy": update.strategy.state_dict(),
                    "trained_bytes": trained_bytes(update),
                }
                save_tree(tree, answer, f"client_{each.client}")
        if round_index:
            shutil.rmtree(folder.answer(round_index - 1), ignore_errors=True)


def _log(place: int) -> str:
    return f"stage_{place:02d}.jsonl"


def _logs(learners: Sequence[Learner]) -> dict[int, str]:
    """The training log of each client: its task's, which is the first one's where several clients share a task."""
    owners: dict[int, int] = {}
    for each in learners:
        owners.setdefault(each.place, each.client)
    return {
        each.client: _log(each.place)
        if owners[each.place] == each.client
        else f"stage_{each.place:02d}-client_{each.client}.jsonl"
        for each in learners
    }
