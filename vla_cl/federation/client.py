"""A client of a federation: it learns its task from where the server's policy stands, round by round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vla_cl.config import ExperimentConfig
from vla_cl.data import WindowDataset
from vla_cl.energy import EnergyCounter, machine_energy
from vla_cl.envs.assets import use_asset_roots
from vla_cl.meter import Meter, Spent
from vla_cl.policies import Policy
from vla_cl.registry import load_plugins
from vla_cl.run_folder import TrainingLog
from vla_cl.seeding import derive_seed
from vla_cl.strategies import Strategy, build_strategy
from vla_cl.tasks import get_suite
from vla_cl.training import (
    IntervalCheckpoints,
    TrainingRow,
    atomic_folder,
    fit,
    limit_threads,
    load_tree,
    resolve_device,
    save_tree,
    with_cached_features,
)


class StageFolder:
    """What server and clients pass to each other inside a stage: files, so that the stage goes on after a kill.

        start/                 the server's policy, and the state of each client's strategy, before the stage
        client_1/step_.../     a client's latest state inside the stage, as `fit` keeps it
        client_1/update/       what the client sends: its policy, and its strategy's state
        round_0002/            what the server answers to that round: weights and strategy's state, for each client

    Every folder appears whole or not at all, and the same work writes the same again.

    Args:
        path: Of the stage.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.start = path / "start"

    def checkpoints(self, client: int) -> IntervalCheckpoints:
        """Where a client's training keeps its latest state."""
        return IntervalCheckpoints(self.path / f"client_{client}")

    def update(self, client: int) -> Path:
        """What a client sent last."""
        return self.path / f"client_{client}" / "update"

    def answer(self, round_index: int) -> Path:
        """What the server made of a round, from 0."""
        return self.path / f"round_{round_index:04d}"


@dataclass(frozen=True)
class ClientReport:
    """What a client tells beside what it sends.

    Args:
        spent: On learning in this stage so far.
        rows: Of the training log.
        trained_bytes: What the weights that it trains weigh; told at the end.
    """

    spent: Spent
    rows: tuple[TrainingRow, ...] = ()
    trained_bytes: int = 0


class Client:
    """One client, for a whole run.

    What it holds of a stage after a round (adapters grown, teachers remembered) is what a training holds that was
    killed in the middle of a task, and it is built again in the same way: so it does not matter whether a client lives
    on between rounds, and the server needs to send weights and states alone.

    Args:
        config: Of the run.
        index: Of the client, from 0. The first draws what the only learner of a run without federation would.
    """

    def __init__(self, config: ExperimentConfig, index: int) -> None:
        limit_threads(config.threads)
        load_plugins(config.plugins)
        use_asset_roots(config.assets)
        self.config = config
        self.index = index
        self.seed = config.seed if index == 0 else derive_seed(config.seed, "client", index)
        self.sequence = get_suite(config.suite).sequence(config.order, config.length)
        alone = config.federation.backend == "process"  # what several processes of a machine used cannot be told apart
        self.energy = machine_energy(resolve_device(config.device)) if alone else EnergyCounter(())

    def begin(self, folder: Path, place: int, data: WindowDataset, log: str) -> None:
        """Take up a stage, at its beginning or where it stands.

        Args:
            folder: Of the stage.
            place: Of the client's task in the sequence.
            data: What the client has of it.
            log: Name of the file, in the run's folder, of its training log.
        """
        self.folder, self.place, self.task, self.log = StageFolder(folder), place, self.sequence[place], log
        self.checkpoints = self.folder.checkpoints(self.index)
        self.policy = Policy.from_pretrained(self.folder.start).to(resolve_device(self.config.device))
        self.strategy = restored_strategy(self.config, self.folder.start, f"client_{self.index}", self.policy)
        self.strategy.begin_task(self.task, self.policy, data)
        self.data = with_cached_features(self.policy, data, self.config.training)

    def train(self, round_index: int) -> ClientReport:
        """Do a round: go on from the server's answer to the one before, and send what was learned."""
        first, last = self.config.federation.bounds(round_index, self.config.training.steps)
        if round_index and (self.checkpoints.step or 0) <= first:  # not in the middle of this round already
            answer = self._answer(round_index - 1)
            own = self.checkpoints.latest() or {}
            self.checkpoints.save(first, {**own, "policy": answer["policy"], "strategy": answer["strategy"]})
        meter = Meter(self.energy)
        log = TrainingLog(self.config.folder / "training" / self.log)
        rows: list[TrainingRow] = []

        def on_row(row: TrainingRow) -> None:
            log.add(row)
            rows.append(row)

        fit(
            self.policy,
            self.data,
            self.strategy,
            self.config.training,
            seed=self.seed,
            stage=self.place,
            until=last,
            checkpoints=self.checkpoints,
            meter=meter,
            on_row=on_row,
        )
        spent = meter.spent()
        self._send()
        return ClientReport(spent, tuple(rows))

    def end(self) -> ClientReport:
        """After the last round: end the task on what the server made of all clients' learning, and send that."""
        meter = Meter(self.energy)
        learned = (self.checkpoints.latest() or {}).get("spent")  # nothing where nothing is trained
        if learned:
            meter.load_state_dict(learned)
        answer = self._answer(self.config.federation.rounds - 1)
        self.strategy.begin_training(self.config.training.steps)
        self.policy.load_state_dict(answer["policy"])
        self.strategy.load_state_dict(answer["strategy"])
        self.strategy.end_task(self.task, self.policy, self.data)
        spent = meter.spent()
        self._send()
        del self.policy, self.strategy, self.data
        return ClientReport(spent, trained_bytes=int(answer["trained_bytes"]))

    def _answer(self, round_index: int) -> Mapping[str, Any]:
        return load_tree(self.folder.answer(round_index), f"client_{self.index}")

    def _send(self) -> None:
        with atomic_folder(self.folder.update(self.index)) as folder:
            self.policy.save_pretrained(folder)
            save_tree(self.strategy.state_dict(), folder, "strategy")


def restored_strategy(config: ExperimentConfig, folder: Path, name: str, policy: Policy) -> Strategy:
    """The run's strategy with the state that a folder holds under a name, bound to a policy; fresh where it holds none.

    All strategies of a run have its seed: what they begin with (an adapter's first values) must be the same in all
    clients, or it could not be averaged.
    """
    strategy = build_strategy(config.strategy["name"], config.strategy_options, config.seed)
    if (folder / f"{name}.json").exists():
        strategy.load_state_dict(load_tree(folder, name))
        strategy.bind(policy)
    return strategy
