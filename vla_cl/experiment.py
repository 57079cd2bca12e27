"""The task-sequence loop. Read this file first.

Demonstrations come from scripted experts, one training loop fits the policy under a strategy's seven verbs, rollouts
on every task measure what is known after every task, and all that was measured is written where a killed run goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vla_cl.config import ExperimentConfig, check_chunk, to_dict
from vla_cl.data import (
    Statistics,
    WindowDataset,
    check_given,
    collection_steps,
    compute_statistics,
    demonstrations_for,
    given_demonstrations,
    needed_cameras,
)
from vla_cl.energy import machine_energy
from vla_cl.envs.assets import use_asset_roots
from vla_cl.evaluation import (
    EpisodeRow,
    PolicyController,
    check_perturbed,
    evaluate_stage,
    ledger_totals,
    summarise,
    tasks_at_stage,
)
from vla_cl.evaluation.report import write_report
from vla_cl.evaluation.together import rows_in_turn
from vla_cl.evaluation.workers import simulators
from vla_cl.federation import Federation, Learner, check_federation
from vla_cl.files import write_json
from vla_cl.ledger import costs
from vla_cl.meter import Meter
from vla_cl.needs import check_boundaries, check_needs, check_training, enforce_needs
from vla_cl.policies import Policy, PolicyFeatures, build_policy
from vla_cl.progress import Counter, progress_bar
from vla_cl.run_folder import RunFolder
from vla_cl.seeding import derive_seed
from vla_cl.strategies import (
    Strategy,
    build_strategy,
    combined_needs,
    strategy_names,
    trained_parameters,
)
from vla_cl.tasks import Task, TaskSuite, common_dimensions, dimensions_of, get_suite
from vla_cl.tensorboard import TensorBoardLog
from vla_cl.training import (
    BlurredStream,
    TaskStream,
    TrainingRow,
    caches_features,
    dealt_windows,
    emulates_bfloat16,
    fit,
    limit_threads,
    resolve_device,
    training_processes,
    with_cached_features,
)

logger = logging.getLogger(__name__)


def run_experiment(config: ExperimentConfig) -> Path:
    """Run a task sequence from wherever its folder stands, and return the folder.

    A run that was killed at any moment goes on and ends with the numbers that it would have had; a finished one only
    computes its metrics and its report again.

    Raises:
        VlaClError: Something in the configuration, the data or the machine stops it; what is done so far stays.
    """
    limit_threads(config.threads)
    use_asset_roots(config.assets)
    suite = get_suite(config.suite)
    sequence = suite.sequence(config.order, config.length)
    check_chunk(config, sequence)
    given = given_demonstrations(Path(config.dataset), sequence) if config.dataset is not None else {}
    run = RunFolder(config.folder)
    if not run.path.exists():
        check_given(given, sequence, config.observation)
    with run.opened(config, sequence, machine_energy(resolve_device(config.device)).names):
        TaskSequence(config, suite, sequence, run, given).learn()
        finish(run, config, sequence)
    return run.path


class TaskSequence:
    """A policy and a strategy on their way through a sequence of tasks.

    Args:
        config: The experiment.
        suite: Where the tasks come from.
        sequence: The tasks in the order in which they are learned.
        run: Where everything is written.
        given: Demonstration files by task; those of other tasks are collected.

    Attributes:
        counts: Whether the ledger counts what collecting takes: not where a finished run is only looked at.
    """

    counts: bool = True

    def __init__(
        self,
        config: ExperimentConfig,
        suite: TaskSuite,
        sequence: tuple[Task, ...],
        run: RunFolder,
        given: Mapping[str, Path],
    ) -> None:
        self.config = config
        self.suite = suite
        self.sequence = sequence
        self.run = run
        self.given = given
        self.dimensions = common_dimensions(sequence, config.observation)
        self.energy = machine_energy(resolve_device(config.device))

    def learn(self) -> None:
        """Learn the tasks one after another, and measure all of them after each."""
        run, config = self.run, self.config
        self.strategy: Strategy = build_strategy(config.strategy["name"], config.strategy_options, config.seed)
        stages = config.federation.stages(len(self.sequence))  # one task each, unless clients learn some at once
        learned = max((stage + 1 for stage in range(len(self.sequence)) if run.is_trained(stage)), default=0)
        check_boundaries(config, self.strategy)
        check_training(config, self.strategy)
        check_federation(config, self.strategy, len(self.sequence))
        self.policy: Policy = self.fresh_policy()
        check_needs(config, self.strategy, self.policy)
        for task in {task.name: task for task in self.sequence}.values():
            check_perturbed(task, [config.evaluation], config.observation, config.plugins)
        if config.training.precision == "bfloat16" and emulates_bfloat16(resolve_device(config.device)):
            logger.warning("this CPU emulates bfloat16, many times slower than training.precision=float32")
        self.policy.set_statistics(self.statistics())
        self.federation = Federation(config, run)
        if learned:
            self.policy = run.restore(learned - 1, self.policy, self.strategy)
            self.strategy.bind(self.policy)
            self.federation.states = run.client_states(learned - 1)
        else:
            self.policy.prepare(self.demonstrations(self.sequence[0]), config.seed)
        replays = self.strategy.needs.raw_data and learned < len(self.sequence)
        if replays and caches_features(self.policy, config.training):
            for places in stages:  # what it replays from may have gone since
                for learner in self.learners(places) if places[-1] < learned else ():
                    self.featured(learner.data)

        with ExitStack() as stack:
            self.pool = stack.enter_context(simulators(config.evaluation))
            tensorboard = TensorBoardLog(run.path / "tensorboard", config.training.steps)
            self.log = stack.enter_context(closing(tensorboard))
            stack.enter_context(closing(self.federation))
            if learned < len(self.sequence):
                self.replicas = stack.enter_context(
                    training_processes(config.training, config.device, config.threads, config.plugins)
                )
            if not learned and config.evaluation.zero_shot:
                self.evaluate([-1])
            for places in stages:
                if places[-1] >= learned:
                    self.learn_at_once(places) if config.federation.clients else self.learn_task(places[-1])
                if places[-1] >= learned - 1:
                    self.evaluate(places)

    def learn_task(self, stage: int) -> None:
        """One stage: demonstrations, training under the strategy, checkpoint."""
        task = self.sequence[stage]
        demonstrations = self.demonstrations(task)
        if self.config.blur:  # its neighbours' are collected before the clock of training runs
            for neighbour in self.sequence[max(0, stage - 1) : stage + 2]:
                self.demonstrations(neighbour)
        meter = Meter(self.energy)
        told = self.config.boundaries == "known"
        if told or stage == 0:
            self.strategy.begin_task(task, self.policy, demonstrations)
        if trained_parameters(self.policy, self.strategy):  # now that it is known what is
            demonstrations = self.featured(demonstrations)
        log = self.run.training_log(stage)

        def on_row(row: TrainingRow) -> None:
            log.add(row)
            self.log.training(stage, row)

        with progress_bar(f"training {task.name}", self.config.training.steps) as advance:
            fit(
                self.policy,
                self.stream(stage, demonstrations),
                self.strategy,
                self.config.training,
                seed=self.config.seed,
                stage=stage,
                checkpoints=self.run.interval_checkpoints(stage),
                meter=meter,
                on_row=on_row,
                on_step=advance,
                replicas=self.replicas,
            )
        if told:
            self.strategy.end_task(task, self.policy, demonstrations)
        enforce_needs(self.strategy)
        self.run.ledger.put(
            stage,
            **self.learned_from(task, demonstrations.path),
            **meter.spent().named("train"),
            **costs(self.policy, self.strategy),
        )
        self.run.store(stage, self.policy, self.strategy)

    def learn_at_once(self, places: tuple[int, ...]) -> None:
        """One stage of a federation: its clients learn the tasks at these places, the server joins them, checkpoint."""
        learners = self.learners(places)
        joined = self.federation.learn(places[-1], self.policy, self.strategy, learners, self.log.training)
        self.policy, self.strategy = joined.policy.to(resolve_device(self.config.device)), joined.strategy
        self.strategy.bind(self.policy)
        enforce_needs(self.strategy)
        for place in places:
            path = next(learner.data.path for learner in learners if learner.place == place)
            self.run.ledger.put(
                place,
                **self.learned_from(self.sequence[place], path),
                **joined.spent[place].named("train"),
                communicated_bytes=joined.communicated_bytes[place],
                **costs(self.policy, self.strategy),
            )
        self.run.store(places[-1], self.policy, self.strategy, self.federation.states)

    def learned_from(self, task: Task, path: Path) -> dict[str, Any]:
        """What the ledger says of a task's demonstrations."""
        horizon = None if task.name in self.given else task.horizon
        return {
            "task": task.name,
            "collect_steps": collection_steps(path, horizon),
            "demonstration_bytes": path.stat().st_size,
        }

    def evaluate(self, places: Sequence[int]) -> None:
        """Roll out on every task that the protocol asks for after those at these places were learned (-1: before any),
        unless the rows are there already.
        """
        stage = places[-1]
        if self.run.episodes_path(stage).exists():
            return
        meter = Meter(self.energy)
        options = self.config.evaluation
        tried = len(tasks_at_stage(self.sequence, stage, options))
        controller = PolicyController(self.policy, self.strategy, resolve_device(self.config.device))
        rows: list[EpisodeRow] = []
        with progress_bar(f"evaluating {tried} tasks", tried * options.episodes) as advance:
            rows += evaluate_stage(
                controller,
                self.sequence,
                stage=stage,
                options=options,
                observation=self.config.observation,
                rendering=self.config.rendering,
                pool=self.pool,
                seed=self.config.seed,
                plugins=self.config.plugins,
                video_folder=self.run.video_folder(stage),
                progress=Counter(advance),
            )
        names = [task.name for task in self.sequence]
        before = [row for row in self.run.rows() if options.upper_triangle and row.stage == places[0] - 1]
        self.run.ledger.put(
            stage,
            **meter.spent().named("evaluate"),
            evaluate_steps=sum(row.steps for row in rows),
            acting_seconds=controller.seconds,
            acting_milliseconds=controller.milliseconds,
        )
        for place, told in rows_in_turn(places, names, rows, before).items():
            self.run.store_rows(place, told)
        self.log.evaluation(stage, self.run.rows(), names)

    def learners(self, places: tuple[int, ...]) -> list[Learner]:
        """Who learns the tasks at these places of the sequence, from which windows."""
        options, seed = self.config.federation, self.config.seed
        known = {place: self.demonstrations(self.sequence[place]) for place in places}
        return [
            Learner(client, place, dealt_windows(known[place], client, options, seed))
            for client, place in options.learners(places)
        ]

    def stream(self, stage: int, demonstrations: WindowDataset) -> TaskStream:
        """What training reads at a stage: the task's windows, near blurry boundaries mixed with its neighbours'."""
        options, seed = self.config.training, derive_seed(self.config.seed, "train", stage)
        if not self.config.blur:
            return TaskStream(demonstrations, options.batch_size, seed)
        before = self.featured(self.demonstrations(self.sequence[stage - 1])) if stage else None
        last = stage == len(self.sequence) - 1
        return BlurredStream(
            demonstrations,
            before,
            None if last else self.featured(self.demonstrations(self.sequence[stage + 1])),
            steps=options.steps,
            blur=self.config.blur,
            batch_size=options.batch_size,
            seed=seed,
        )

    def featured(self, demonstrations: WindowDataset) -> WindowDataset:
        """The windows with what a frozen backbone makes of them in place of pixels, where that is known beforehand."""
        return with_cached_features(self.policy, demonstrations, self.config.training)

    def demonstrations(self, task: Task) -> WindowDataset:
        """The windows of a task's demonstrations: given, or collected unless they are there."""
        config = self.config
        if task.name in self.given:
            own_words = config.dataset_instructions == "file"
            return WindowDataset(
                self.given[task.name],
                config.policy.chunk,
                cameras=needed_cameras(task, config.observation),
                privileged=config.policy.privileged,
                instructions=None if own_words else task.instructions(config.training.instructions),
                history=config.policy.history,
                lookback=config.policy.lookback,
                dimensions=self.dimensions,
            )
        meter = Meter(self.energy)
        path = demonstrations_for(
            task,
            Path(config.data),
            config.collection,
            config.observation,
            config.rendering,
            processes=config.collection.processes,
            plugins=config.plugins,
        )
        first = next(place for place, each in enumerate(self.sequence) if each.name == task.name)
        if self.counts:
            self.run.ledger.add(first, "collect", meter.spent())
        return WindowDataset(
            path,
            config.policy.chunk,
            privileged=config.policy.privileged,
            instructions=task.instructions(config.training.instructions),
            history=config.policy.history,
            lookback=config.policy.lookback,
            dimensions=self.dimensions,
        )

    def statistics(self) -> Statistics:
        """What normalisation is made of: declared by the suite, or those of the first task's demonstrations."""
        declared = self.suite.ranges
        return (
            Statistics.from_ranges(declared) if declared else compute_statistics(self.demonstrations(self.sequence[0]))
        )

    def fresh_policy(self) -> Policy:
        """An untrained policy for what the environments show and take; its normalisation is set later."""
        config, first = self.config, self.sequence[0]
        sizes = self.dimensions or dimensions_of(first, config.observation)
        features = PolicyFeatures(
            action_dim=sizes["actions"],
            agent_pos_dim=sizes["agent_pos"],
            cameras=needed_cameras(first, config.observation) if config.policy.pixels else (),
            image_size=config.policy.image_size,
            history=config.policy.history,
            environment_state_dim=sizes["environment_state"] if config.policy.privileged else 0,
        )
        policy = build_policy(config.policy, features, derive_seed(config.seed, "weights"))
        return policy.to(resolve_device(config.device)).eval()


def finish(run: RunFolder, config: ExperimentConfig, sequence: tuple[Task, ...]) -> dict[str, Any]:
    """Compute the metrics from the episode rows, and draw the report."""
    metrics = summarise(run.rows(), [task.name for task in sequence])
    spent = metrics["ledger"] = ledger_totals(run.ledger.entries())
    metrics["seconds"] = sum(spent[f"{work}_seconds"] or 0.0 for work in ("collect", "train", "evaluate"))
    metrics["strategy_needs"] = asdict(combined_needs(strategy_names(config.strategy["name"])))
    write_json(run.path / "metrics.json", metrics)
    with closing(TensorBoardLog(run.path / "tensorboard", config.training.steps)) as log:
        log.results(to_dict(config), metrics)
    write_report([run.path], run.path / "report.html")
    return metrics
