"""A finished run under probes: its policies as they were, its demonstrations, and rollouts on its selection states."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from vla_cl.checkpoint import load_checkpoint
from vla_cl.config import ExperimentConfig, read_config
from vla_cl.data import given_demonstrations
from vla_cl.envs import EnvironmentPool
from vla_cl.envs.assets import use_asset_roots
from vla_cl.errors import ConfigurationError
from vla_cl.evaluation import EarlyStop, EvaluationOptions, PolicyController, check_task, rollout
from vla_cl.evaluation.rows import EpisodeRow
from vla_cl.experiment import TaskSequence
from vla_cl.policies import Policy
from vla_cl.probes.options import ProbeOptions
from vla_cl.progress import Counter
from vla_cl.run_folder import RunFolder
from vla_cl.strategies import Strategy, build_strategy
from vla_cl.tasks import Task, get_suite
from vla_cl.training import limit_threads

FOLDER = "probes"
"""Inside the run's; nothing else of a run is written to but its report."""


@dataclass(frozen=True)
class Learned:
    """What a run knew at one moment.

    Args:
        stage: Index of the last learned task; -1 before any.
        policy: On its device.
        strategy: Bound to the policy.
    """

    stage: int
    policy: Policy
    strategy: Strategy


class Subject:
    """A finished run. Use it as `with Subject.of(folder, options) as subject`.

    Attributes:
        run: Its folder.
        config: What was run, and from where it is probed: on which device, with which folder of demonstrations.
        options: How it is probed.
        sequence: The tasks as they were learned.
        places: Of each task, by its name, where in the sequence it was last learned.
        last: Index of the last stage.
        learning: The run's own way to its demonstrations and its untrained policy.
    """

    def __init__(self, run: RunFolder, config: ExperimentConfig, options: ProbeOptions, pool: EnvironmentPool) -> None:
        self.run, self.config, self.options, self.pool = run, config, options, pool
        suite = get_suite(config.suite)
        self.sequence = suite.sequence(config.order, config.length)
        self.places = {task.name: place for place, task in enumerate(self.sequence)}
        self.last = len(self.sequence) - 1
        trained = [stage for stage in range(len(self.sequence)) if self.run.is_trained(stage)]
        if self.last not in trained:
            raise ConfigurationError(
                f"{run.path} is not finished: {max(trained, default=-1) + 1} of {len(self.sequence)} tasks are "
                "learned; run it to its end first"
            )
        self.trained = trained
        self.evaluation: EvaluationOptions = replace(
            config.evaluation,
            episodes=options.episodes,
            split="selection",
            early_stop=EarlyStop(),  # all are played: probes count successes of so many
            videos=0,
            processes=options.processes,
        )
        for name in options.tasks:
            if name not in self.places:
                raise ConfigurationError(f"{run.path} learned no task {name!r}; it learned {', '.join(self.places)}")
        given = given_demonstrations(Path(config.dataset), self.sequence) if config.dataset is not None else {}
        self.learning = TaskSequence(config, suite, self.sequence, self.run, given)
        self.learning.counts = False

    @staticmethod
    @contextmanager
    def of(folder: Path, options: ProbeOptions, data: Path | None = None) -> Iterator[Subject]:
        """A run in its folder, which nobody else may work in meanwhile.

        Args:
            folder: That a run wrote.
            options: How it is probed.
            data: Folder of its demonstrations, where that is another now.

        Raises:
            ConfigurationError: It is no run's folder, or the run is not finished.
            FolderInUseError: Another process works in it.
        """
        config = read_config(folder)
        config.device = options.device
        config.data = config.data if data is None else str(data)
        limit_threads(config.threads)
        use_asset_roots(config.assets, keep_environment=True)
        run = RunFolder(folder)
        with run.locked(), EnvironmentPool(options.processes) as pool:
            yield Subject(run, config, options, pool)

    @property
    def folder(self) -> Path:
        """Where the probes' results go."""
        return self.run.path / FOLDER

    def probed(self) -> tuple[Task, ...]:
        """The tasks to look at, once each, as they were first learned."""
        tasks = {task.name: task for task in self.sequence}
        return tuple(task for name, task in tasks.items() if not self.options.tasks or name in self.options.tasks)

    # --- what it knew ----------------------------------------------------------------------------------------

    def after(self, task: Task) -> Learned:
        """The run right after it last learned a task; of those that clients learned at once, after all of them."""
        return self.at(min(stage for stage in self.trained if stage >= self.places[task.name]))

    def before(self, task: Task) -> Learned:
        """The run as it was about to learn a task for the first time."""
        first = next(place for place, each in enumerate(self.sequence) if each.name == task.name)
        after = min(stage for stage in self.trained if stage >= first)
        return self.at(max((stage for stage in self.trained if stage < after), default=-1))

    def end(self) -> Learned:
        """The run after its last task."""
        return self.at(self.last)

    def at(self, stage: int) -> Learned:
        """The run after a stage of which there is a checkpoint; -1 before any training."""
        if stage < 0:
            return self._untrained()
        loaded = load_checkpoint(self.run.checkpoint(stage), device=self.options.device, plugins=self.config.plugins)
        assert loaded.strategy is not None, "the checkpoint of a run has the state of its strategy"
        return Learned(stage, loaded.policy, loaded.strategy)

    def _untrained(self) -> Learned:
        config = self.config
        policy = self.learning.fresh_policy()
        policy.set_statistics(self.learning.statistics())
        policy.prepare(self.learning.demonstrations(self.sequence[0]), config.seed)
        strategy = build_strategy(config.strategy["name"], config.strategy_options, config.seed)
        strategy.bind(policy)
        return Learned(-1, policy, strategy)

    # --- what it does ----------------------------------------------------------------------------------------

    def check(self, tasks: Sequence[Task]) -> None:
        """See that there are enough selection states.

        Raises:
            ConfigurationError: A task has fewer than episodes are asked for.
        """
        for task in tasks:
            check_task(task, self.evaluation, self.config.plugins, self.sequence)

    def rollout(self, controller: PolicyController, stage: int, task: Task, count: Counter) -> list[EpisodeRow]:
        """Episodes of a task from its selection states: the same states and the same noise at equal stages."""
        return rollout(
            controller,
            task,
            stage=stage,
            options=self.evaluation,
            observation=self.config.observation,
            rendering=self.config.rendering,
            pool=self.pool,
            seed=self.config.seed,
            plugins=self.config.plugins,
            progress=count,
            tasks=self.sequence,
        )

    def successes(self, learned: Learned, task: Task, count: Counter) -> int:
        """How many of the episodes succeed."""
        device = next(learned.policy.parameters()).device
        controller = PolicyController(learned.policy, learned.strategy, device)
        return sum(row.success for row in self.rollout(controller, learned.stage, task, count))
