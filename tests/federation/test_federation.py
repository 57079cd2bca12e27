"""A federated stage: one client is plain training, several are averaged, a kill changes nothing, nor does Ray."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.strategies.conftest import make_dataset, make_policy
from vla_cl.config import ExperimentConfig, compose
from vla_cl.data import WindowDataset
from vla_cl.errors import ConfigurationError, UnknownNameError
from vla_cl.federation import Federation, Learner, check_federation
from vla_cl.policies import Policy
from vla_cl.run_folder import RunFolder
from vla_cl.seeding import derive_seed
from vla_cl.strategies import STRATEGIES, Strategy, build_strategy
from vla_cl.tasks import get_suite
from vla_cl.training import FederationOptions, IntervalCheckpoints, TrainingOptions, TrainingRow, fit

OPTIONS = TrainingOptions(
    steps=9, batch_size=8, warmup_steps=2, checkpoint_every=2, log_every=3, learning_rate=3e-3, ema=0.5
)
needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed (pip install 'vla_cl[ray]')"
)
SIZES = {"width": 32, "layers": 1, "heads": 2}


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> list[WindowDataset]:
    folder = tmp_path_factory.mktemp("data")
    names = [task.name for task in get_suite("mw5").tasks[:4]]
    return [make_dataset(folder, name, episodes=3 + index, seed=index) for index, name in enumerate(names)]


def configured(folder: Path, strategy: str = "sequential", **federation: Any) -> ExperimentConfig:
    (config,) = compose(["suite=mw5", "policy=lowdim_transformer", f"strategy={strategy}", f"output={folder}"])
    return replace(config, name="run", training=OPTIONS, device="cpu", federation=FederationOptions(**federation))


def fresh() -> Policy:
    return make_policy(backbone="lowdim_transformer", **SIZES)


class Server:
    """A run without rollouts: the stages of `vla_cl.experiment`, from wherever the folder stands."""

    def __init__(self, config: ExperimentConfig) -> None:
        self.config, self.run = config, RunFolder(config.folder)
        self.rows: list[tuple[int, TrainingRow]] = []

    def learn(self, datasets: Sequence[WindowDataset]) -> tuple[Policy, Strategy]:
        config, run = self.config, self.run
        (run.path / "training").mkdir(parents=True, exist_ok=True)
        policy: Policy = fresh()
        strategy = build_strategy(config.strategy["name"], config.strategy_options, config.seed)
        federation = Federation(config, run)
        try:
            for places in config.federation.stages(len(datasets)):
                stage = places[-1]
                if run.is_trained(stage):
                    policy = run.restore(stage, Policy.from_pretrained(run.checkpoint(stage)), strategy)
                    strategy.bind(policy)
                    federation.states = run.client_states(stage)
                    continue
                learners = [
                    Learner(client, place, datasets[place]) for client, place in config.federation.learners(places)
                ]
                joined = federation.learn(
                    stage, policy, strategy, learners, lambda place, row: self.rows.append((place, row))
                )
                policy, strategy = joined.policy, joined.strategy
                run.store(stage, policy, strategy, federation.states)
        finally:
            federation.close()
        return policy, strategy


def plain(name: str, datasets: Sequence[WindowDataset]) -> Policy:
    policy, strategy = fresh(), build_strategy(name, {}, 0)
    for stage, (task, data) in enumerate(zip(get_suite("mw5").tasks, datasets, strict=False)):
        strategy.begin_task(task, policy, data)
        fit(policy, data, strategy, OPTIONS, seed=0, stage=stage)
        strategy.end_task(task, policy, data)
    return policy


def same(first: Policy, second: Policy) -> bool:
    one, other = first.state_dict(), second.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def files(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in run.glob("checkpoints/**/*") if path.is_file()}


@pytest.mark.parametrize(("name", "rounds"), [("sequential", 1), ("sequential", 4), ("replay+ewc", 2), ("disco", 2)])
def test_one_client_is_plain_training_bit_for_bit(
    name: str, rounds: int, datasets: list[WindowDataset], tmp_path: Path
) -> None:
    policy, _ = Server(configured(tmp_path, name, clients=1, rounds=rounds)).learn(datasets[:2])
    assert same(policy, plain(name, datasets[:2]))


def test_the_rows_of_the_log_are_those_of_plain_training(datasets: list[WindowDataset], tmp_path: Path) -> None:
    server = Server(configured(tmp_path, clients=1, rounds=3))
    server.learn(datasets[:1])
    rows: list[TrainingRow] = []
    policy, strategy = fresh(), build_strategy("sequential", {}, 0)
    fit(policy, datasets[0], strategy, OPTIONS, seed=0, stage=0, on_row=rows.append)
    assert [(place, row.step, row.loss) for place, row in server.rows] == [(0, row.step, row.loss) for row in rows]
    logged = (tmp_path / "run/training/stage_00.jsonl").read_text().splitlines()
    assert len(logged) == len(rows)


def trained(
    data: WindowDataset, place: int, seed: int, folder: Path, until: int, start: Any = None
) -> dict[str, Tensor]:
    policy = fresh()
    checkpoints = IntervalCheckpoints(folder)
    if start is not None:
        checkpoints.save(until - 3, {**(checkpoints.latest() or {}), "policy": start})
    fit(
        policy,
        data,
        build_strategy("sequential", {}, 0),
        replace(OPTIONS, ema=0.0),
        seed=seed,
        stage=place,
        until=until,
        checkpoints=checkpoints,
    )
    return {name: value.clone() for name, value in policy.state_dict().items()}


def test_several_clients_train_from_the_average_of_the_round_before(
    datasets: list[WindowDataset], tmp_path: Path
) -> None:
    config = configured(tmp_path, clients=2, rounds=3)
    policy, _ = Server(replace(config, training=replace(OPTIONS, ema=0.0))).learn(datasets[:2])
    weights = [len(data) / len(datasets[0]) for data in datasets[:2]]
    average: dict[str, Tensor] | None = None
    for until in (3, 6, 9):
        ends = [
            trained(data, place, seed, tmp_path / f"client {place}", until, average)
            for place, (data, seed) in enumerate(zip(datasets[:2], (0, derive_seed(0, "client", 1)), strict=True))
        ]
        average = {
            name: (weights[0] * ends[0][name] + weights[1] * ends[1][name]) / sum(weights)
            if ends[0][name].is_floating_point()
            else ends[0][name]
            for name in ends[0]
        }
    for name, value in policy.state_dict().items():
        assert average is not None
        torch.testing.assert_close(value, average[name], atol=2e-5, rtol=1e-4)
    assert not same(policy, fresh())


class Killed(Exception):
    """Stands for a kill: nothing after it runs."""


class Mortal(STRATEGIES["replay"]):  # type: ignore[misc]
    """Replay in a process that ends when it has made so many steps, or ended so many tasks, in all clients together."""

    steps_left = tasks_left = -1

    def after_step(self, parameters: Any) -> None:
        super().after_step(parameters)
        Mortal.steps_left -= 1
        if Mortal.steps_left == 0:
            raise Killed

    def end_task(self, *arguments: Any) -> None:
        super().end_task(*arguments)
        Mortal.tasks_left -= 1
        if Mortal.tasks_left == 0:
            raise Killed


STRATEGIES.register("mortal", Mortal)


def mortal(folder: Path) -> Server:
    config = configured(folder, "mortal", clients=2, rounds=2)
    return Server(replace(config, training=replace(OPTIONS, steps=6, ema=0.0)))


@pytest.fixture(scope="module")
def whole(datasets: list[WindowDataset], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    mortal(folder).learn(datasets[:3])
    return files(folder / "run")


@pytest.mark.parametrize(
    ("verb", "times"),
    [("steps_left", 2), ("steps_left", 4), ("steps_left", 9), ("steps_left", 15), ("tasks_left", 2)],
    ids=[
        "in the first client's first round",
        "in the second client's first round",
        "in the second round",
        "in the second stage",
        "in the end of a task",
    ],
)
def test_a_killed_federation_ends_with_the_same_files(
    verb: str, times: int, datasets: list[WindowDataset], tmp_path: Path, whole: dict[str, bytes]
) -> None:
    setattr(Mortal, verb, times)
    with pytest.raises(Killed):
        mortal(tmp_path).learn(datasets[:3])
    setattr(Mortal, verb, -1)
    mortal(tmp_path).learn(datasets[:3])
    assert files(tmp_path / "run") == whole


def test_what_a_client_has_seen_stays_with_it(datasets: list[WindowDataset], tmp_path: Path) -> None:
    server = Server(configured(tmp_path, "replay", clients=2))
    server.learn(datasets[:3])
    states = server.run.client_states(2)

    def remembered(client: int) -> list[str]:
        return [Path(entry["dataset"]["path"]).stem for entry in states[client]["memory"].values()]

    assert remembered(0) == [datasets[0].task, datasets[2].task]
    assert remembered(1) == [datasets[1].task], "it had no task in the last stage, and keeps what it had"


def test_clients_that_share_a_task_draw_differently(datasets: list[WindowDataset], tmp_path: Path) -> None:
    config = configured(tmp_path, clients=2, deal="same")
    Server(config).learn(datasets[:1])
    logs = [(tmp_path / "run/training" / name).read_text() for name in ("stage_00.jsonl", "stage_00-client_1.jsonl")]
    assert logs[0] != logs[1]


@needs_ray
@pytest.mark.slow
@pytest.mark.parametrize("name", ["replay", "disco"])
def test_actors_of_ray_end_with_the_same_files(name: str, datasets: list[WindowDataset], tmp_path: Path) -> None:
    for backend in ("process", "ray"):
        Server(configured(tmp_path / backend, name, clients=2, rounds=2, backend=backend)).learn(datasets[:3])
    found = files(tmp_path / "ray/run")
    assert found == files(tmp_path / "process/run") and "checkpoints/stage_02/model.safetensors" in found


@needs_ray
@pytest.mark.slow
def test_an_error_of_an_actor_is_told_as_it_is(datasets: list[WindowDataset], tmp_path: Path) -> None:
    config = configured(tmp_path, clients=2, backend="ray")
    with pytest.raises(UnknownNameError, match="order"):
        Server(replace(config, order="sideways")).learn(datasets[:2])


# --- refusals ------------------------------------------------------------------------------------------------

Change = Callable[[ExperimentConfig], ExperimentConfig]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: replace(config, blur=0.2), "blur=0"),
        (lambda config: replace(config, boundaries="unknown"), "boundaries=known"),
        (lambda config: replace(config, federation=FederationOptions(clients=2, rounds=10)), "rounds=10 .*steps=9"),
        (lambda config: replace(config, federation=FederationOptions(clients=4)), "clients=4 cannot take turns at 3"),
    ],
)
def test_what_a_federation_cannot_be_is_refused(change: Change, message: str, tmp_path: Path) -> None:
    config = change(configured(tmp_path, clients=2))
    with pytest.raises(ConfigurationError, match=message):
        check_federation(config, build_strategy("sequential", {}, 0), 3)


def test_a_strategy_that_must_be_told_the_task_needs_clients_that_know_all_tasks(tmp_path: Path) -> None:
    class Told(Strategy):
        needs = replace(Strategy.needs, task_id_at_test=True)

    with pytest.raises(ConfigurationError, match=r"deal=same"):
        check_federation(configured(tmp_path, clients=2), Told(None, 0), 3)
    check_federation(configured(tmp_path, clients=2, deal="same"), Told(None, 0), 3)
    check_federation(configured(tmp_path, clients=1), Told(None, 0), 3)


def test_a_missing_ray_is_named_with_the_way_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'vla_cl\[ray\]'"):
        check_federation(configured(tmp_path, clients=2, backend="ray"), build_strategy("sequential", {}, 0), 3)


def test_the_backend_does_not_name_the_run(tmp_path: Path) -> None:
    folders = {
        replace(configured(tmp_path, clients=2, backend=backend), name=None).folder for backend in ("process", "ray")
    }
    assert len(folders) == 1
