"""A checkpoint on its own, of a run or of a policy that somebody saved: load it, roll it out here or from a server."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vla_cl import __version__
from vla_cl.config import observation_for
from vla_cl.envs import EnvironmentSpec, ObservationOptions, RenderingOptions
from vla_cl.envs.assets import use_asset_roots
from vla_cl.errors import CheckpointError, ConfigurationError, UnknownNameError
from vla_cl.evaluation import (
    Controller,
    EpisodeRow,
    EvaluationOptions,
    PolicyController,
    RemoteController,
    ServedPolicy,
    check_perturbed,
    check_task,
    rollout,
)
from vla_cl.evaluation.workers import simulators
from vla_cl.files import file_checksum
from vla_cl.policies import Policy
from vla_cl.progress import Counter, progress_bar
from vla_cl.registry import load_plugins
from vla_cl.strategies import Strategy, build_strategy
from vla_cl.tasks import Task, get_suite
from vla_cl.training import check_folder, limit_threads, load_tree, resolve_device


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A checkpoint, ready to act.

    Args:
        folder: Where it lies.
        config: Configuration of the run that it belongs to; {} outside of a run.
        policy: On its device.
        strategy: Bound to the policy; None outside of a run.
        controller: The policy, with the strategy's choice of adapters.
    """

    folder: Path
    config: dict[str, Any]
    policy: Policy
    strategy: Strategy | None
    controller: PolicyController

    @property
    def stage(self) -> int:
        """Index of the last learned task; 0 outside of a run."""
        return int(self.folder.name.removeprefix("stage_")) if self.config else 0

    @property
    def rendering(self) -> RenderingOptions:
        """How the images were drawn that it learned from."""
        return RenderingOptions(**self.config.get("rendering", {}))

    def served(self) -> ServedPolicy:
        """What a server says of it."""
        config = self.policy.config
        return ServedPolicy(
            version=__version__,
            policy=config.name,
            fingerprint=_fingerprint(self.folder),
            features=self.policy.features,
            chunk=config.chunk,
            execute=config.execute,
            lookback=config.lookback,
            temporal_ensemble=config.temporal_ensemble,
            stage=self.stage,
            suite=self.config.get("suite", ""),
            tasks=tuple(task.name for task in _tasks(self.config, None, None)) if self.config else (),
            rendering=self.rendering,
            told_task=self.controller.told_task,
        )


def load_checkpoint(folder: Path, *, device: str = "auto", plugins: Sequence[str] = ()) -> LoadedCheckpoint:
    """Read a checkpoint, with the plug-ins that its run loaded.

    Args:
        folder: A run's folder (its last checkpoint), a checkpoint's folder, or what `Policy.save_pretrained` wrote.
        device: "auto", "cpu", "cuda" or "cuda:N".
        plugins: More modules or files that register what is needed.

    Raises:
        CheckpointError: There is no complete checkpoint in `folder`.
        ConfigurationError: The device is absent, or a plug-in fails.
    """
    checkpoint = _latest_checkpoint(Path(folder))
    config = _run_config(checkpoint)
    limit_threads(config.get("threads", 1))
    load_plugins([*config.get("plugins", ()), *plugins])
    use_asset_roots(_present(config.get("assets", {})), keep_environment=True)
    place = resolve_device(device)
    check_folder(checkpoint)
    policy = Policy.from_pretrained(checkpoint).to(place).eval()
    strategy = _strategy(checkpoint, config)
    controller = PolicyController(policy, strategy, place)
    return LoadedCheckpoint(checkpoint, config, policy, strategy, controller)


def evaluate_checkpoint(
    folder: Path,
    *,
    suite: str | None = None,
    tasks: Sequence[str] | None = None,
    options: EvaluationOptions,
    seed: int = 0,
    device: str = "auto",
    rendering: str | None = None,
    plugins: Sequence[str] = (),
    video_folder: Path | None = None,
) -> list[EpisodeRow]:
    """Success of one checkpoint on tasks of a suite.

    Args:
        folder: A run's folder (its last checkpoint), a checkpoint's folder, or what `Policy.save_pretrained` wrote.
        suite: Where the tasks come from; None is the suite that the run learned, cut to its sequence.
        tasks: Names of the tasks to try; None is all.
        options: Episodes, initial states, instructions.
        seed: Of the policy's noise.
        device: "auto", "cpu", "cuda" or "cuda:N".
        rendering: Backend that draws the images; None is the run's.
        plugins: Modules or files that register what is needed.
        video_folder: Where each task's first episodes are filmed; None films nothing.

    Returns:
        One row an episode; `stage` is the checkpoint's stage, or 0 outside of a run.

    Raises:
        CheckpointError: There is no complete checkpoint in `folder`.
        ConfigurationError: No suite is given and none is known, a task is not in it, or cannot be evaluated like this.
    """
    opened = checkpoint_trial(folder, suite=suite, tasks=tasks, device=device, rendering=rendering, plugins=plugins)
    with opened as trial:
        return evaluate_trial(trial, [options], seed=seed, plugins=plugins, video_folder=video_folder)[0]


def evaluate_server(
    address: str,
    *,
    token: str | None = None,
    suite: str | None = None,
    tasks: Sequence[str] | None = None,
    options: EvaluationOptions,
    seed: int = 0,
    rendering: str | None = None,
    plugins: Sequence[str] = (),
    video_folder: Path | None = None,
) -> list[EpisodeRow]:
    """Success of the policy that `vla-cl serve` serves: the rows of `evaluate_checkpoint` on the server's machine.

    Simulators run here. Plug-ins are not fetched from the server: what the tasks need is named in `plugins`.

    Args:
        address: "ws://host:port".
        token: What the server wants to be shown, if it wants something.
        suite, tasks, options, seed, rendering, plugins, video_folder: As of `evaluate_checkpoint`.

    Raises:
        ServerError: There is no such server, or it went away and stayed away.
        ConfigurationError: As of `evaluate_checkpoint`, or a task lacks a camera that the policy sees.
    """
    opened = server_trial(address, token=token, suite=suite, tasks=tasks, rendering=rendering, plugins=plugins)
    with opened as trial:
        return evaluate_trial(trial, [options], seed=seed, plugins=plugins, video_folder=video_folder)[0]


@dataclass(frozen=True)
class Trial:
    """A policy and the tasks that it is to be tried on.

    Args:
        controller: Who acts.
        tasks: What is tried.
        stage: Of the checkpoint; 0 outside of a run.
        observation: What the policy sees.
        rendering: How that is drawn.
    """

    controller: Controller
    tasks: tuple[Task, ...]
    stage: int
    observation: ObservationOptions
    rendering: RenderingOptions

    def environment_spec(self, task: Task, options: EvaluationOptions, plugins: Sequence[str] = ()) -> EnvironmentSpec:
        """The recipe of a task's environment, as an evaluation builds it."""
        return options.applied_to(task.environment_spec(self.observation, self.rendering, plugins))


@contextmanager
def checkpoint_trial(
    folder: Path,
    *,
    suite: str | None = None,
    tasks: Sequence[str] | None = None,
    device: str = "auto",
    rendering: str | None = None,
    plugins: Sequence[str] = (),
) -> Iterator[Trial]:
    """A checkpoint, to be tried under one condition or several; arguments and errors as of `evaluate_checkpoint`."""
    loaded = load_checkpoint(folder, device=device, plugins=plugins)
    yield Trial(
        loaded.controller,
        tuple(_tasks(loaded.config, suite, tasks)),
        loaded.stage,
        observation_for(loaded.policy.config),
        _drawn(loaded.rendering, rendering),
    )


@contextmanager
def server_trial(
    address: str,
    *,
    token: str | None = None,
    suite: str | None = None,
    tasks: Sequence[str] | None = None,
    rendering: str | None = None,
    plugins: Sequence[str] = (),
) -> Iterator[Trial]:
    """A served policy, to be tried under one condition or several; arguments and errors as of `evaluate_server`."""
    load_plugins(plugins)
    with RemoteController(address, token=token) as controller:
        served = controller.served
        if suite is None and not served.suite:
            raise ConfigurationError("the served checkpoint is not part of a run; say which tasks with --suite NAME")
        names = tasks or (None if suite else served.tasks)
        found = tuple(_tasks({}, suite or served.suite, names))
        yield Trial(controller, found, served.stage, controller.observation, _drawn(served.rendering, rendering))


def evaluate_trial(
    trial: Trial,
    conditions: Sequence[EvaluationOptions],
    *,
    seed: int = 0,
    plugins: Sequence[str] = (),
    video_folder: Path | None = None,
) -> list[list[EpisodeRow]]:
    """Roll a policy out on its tasks under each condition in turn, from the same initial states.

    Args:
        trial: Policy and tasks.
        conditions: Episodes, initial states, instructions, perturbations. All are checked before anything is simulated.
        seed: Of the policy's noise.
        plugins: Modules or files that register what is needed.
        video_folder: Where each task's first episodes are filmed; None films nothing.

    Returns:
        For each condition one row an episode.

    Raises:
        ConfigurationError: A task cannot be evaluated like this, or lacks a camera that the policy sees.
    """
    for task in trial.tasks:
        with _about_cameras(task):
            for options in conditions:
                check_task(task, options, plugins, trial.tasks)
            check_perturbed(task, conditions, trial.observation, plugins)
    total = len(trial.tasks) * sum(options.episodes for options in conditions)
    rows: list[list[EpisodeRow]] = []
    with (
        simulators(conditions[0]) as pool,
        progress_bar(f"evaluating {len(trial.tasks)} tasks", total) as advance,
    ):
        counter = Counter(advance)
        for options in conditions:
            rows.append([])
            for task in trial.tasks:
                with _about_cameras(task):
                    rows[-1] += rollout(
                        trial.controller,
                        task,
                        stage=trial.stage,
                        options=options,
                        observation=trial.observation,
                        rendering=trial.rendering,
                        pool=pool,
                        seed=seed,
                        plugins=plugins,
                        video_folder=video_folder,
                        progress=counter,
                        tasks=trial.tasks,
                    )
    return rows


@contextmanager
def _about_cameras(task: Task) -> Iterator[None]:
    """Say of a missing camera that it is the policy that needs it."""
    try:
        yield
    except UnknownNameError as error:
        if error.kind != "camera":
            raise
        raise ConfigurationError(f"the policy needs a camera that task {task.name!r} lacks: {error}") from error


def _drawn(learned_from: RenderingOptions, backend: str | None) -> RenderingOptions:
    return learned_from if backend is None else replace(learned_from, backend=backend)


def _fingerprint(checkpoint: Path) -> str:
    """Names what a checkpoint's folder holds: policy and, in a run, strategy."""
    files = sorted([*checkpoint.glob("*.json"), *checkpoint.glob("*.safetensors")])
    told = "\n".join(f"{path.name} {file_checksum(path)}" for path in files)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _present(roots: dict[str, str]) -> dict[str, str]:
    """The folders of a run's assets that are on this machine, which need not be the one that ran it."""
    return {name: folder for name, folder in roots.items() if Path(folder).expanduser().is_dir()}


def _latest_checkpoint(folder: Path) -> Path:
    if (folder / "model.safetensors").exists():
        return folder
    stages = sorted((folder / "checkpoints").glob("stage_*"))
    if not stages:
        raise CheckpointError(f"{folder} holds no checkpoint; give a run's folder or a folder with model.safetensors")
    return stages[-1]


def _run_config(checkpoint: Path) -> dict[str, Any]:
    """The configuration of the run that a checkpoint belongs to, or {}."""
    path = checkpoint.parent.parent / "config.json"
    if checkpoint.parent.name != "checkpoints" or not path.exists():
        return {}
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return config


def _strategy(checkpoint: Path, config: dict[str, Any]) -> Strategy | None:
    if not config:
        return None
    options = {key: value for key, value in config["strategy"].items() if key != "name"}
    strategy = build_strategy(config["strategy"]["name"], options, config["seed"])
    strategy.load_state_dict(load_tree(checkpoint, "strategy"))
    return strategy


def _tasks(config: dict[str, Any], suite: str | None, names: Sequence[str] | None) -> list[Task]:
    if suite is None and not config:
        raise ConfigurationError("this checkpoint is not part of a run; say which tasks with --suite NAME")
    found = get_suite(suite or config["suite"])
    if names:
        return [found.task(name) for name in names]
    sequence = found.tasks if suite else found.sequence(config["order"], config["length"])
    return list({task.name: task for task in sequence}.values())
