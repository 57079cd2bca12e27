"""A checkpoint on its own, of a run or of a policy that somebody saved: load it, roll it out here or from a server."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vla_cl import __version__
from vla_cl.config import observation_for
from vla_cl.envs import EnvironmentPool, ObservationOptions, RenderingOptions
from vla_cl.envs.assets import use_asset_roots
from vla_cl.errors import CheckpointError, ConfigurationError, UnknownNameError
from vla_cl.evaluation import (
    Controller,
    EpisodeRow,
    EvaluationOptions,
    PolicyController,
    RemoteController,
    ServedPolicy,
    check_task,
    rollout,
)
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
        controller: The policy, with the strategy's choice of adapters.
    """

    folder: Path
    config: dict[str, Any]
    policy: Policy
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
    return LoadedCheckpoint(checkpoint, config, policy, controller)


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
    loaded = load_checkpoint(folder, device=device, plugins=plugins)
    return _evaluate(
        loaded.controller,
        _tasks(loaded.config, suite, tasks),
        stage=loaded.stage,
        options=options,
        observation=observation_for(loaded.policy.config),
        rendering=_drawn(loaded.rendering, rendering),
        seed=seed,
        plugins=plugins,
        video_folder=video_folder,
    )


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
    load_plugins(plugins)
    with RemoteController(address, token=token) as controller:
        served = controller.served
        if suite is None and not served.suite:
            raise ConfigurationError("the served checkpoint is not part of a run; say which tasks with --suite NAME")
        names = tasks or (None if suite else served.tasks)
        return _evaluate(
            controller,
            _tasks({}, suite or served.suite, names),
            stage=served.stage,
            options=options,
            observation=controller.observation,
            rendering=_drawn(served.rendering, rendering),
            seed=seed,
            plugins=plugins,
            video_folder=video_folder,
        )


def _evaluate(
    controller: Controller,
    tasks: Sequence[Task],
    *,
    stage: int,
    options: EvaluationOptions,
    observation: ObservationOptions,
    rendering: RenderingOptions,
    seed: int,
    plugins: Sequence[str],
    video_folder: Path | None,
) -> list[EpisodeRow]:
    """The rows of all tasks, which are checked before anything is simulated."""
    for task in tasks:
        check_task(task, options, plugins, tasks)
    rows: list[EpisodeRow] = []
    with (
        EnvironmentPool(options.processes) as pool,
        progress_bar(f"evaluating {len(tasks)} tasks", len(tasks) * options.episodes) as advance,
    ):
        counter = Counter(advance)
        for task in tasks:
            try:
                rows += rollout(
                    controller,
                    task,
                    stage=stage,
                    options=options,
                    observation=observation,
                    rendering=rendering,
                    pool=pool,
                    seed=seed,
                    plugins=plugins,
                    video_folder=video_folder,
                    progress=counter,
                    tasks=tasks,
                )
            except UnknownNameError as error:
                if error.kind != "camera":
                    raise
                raise ConfigurationError(f"the policy needs a camera that task {task.name!r} lacks: {error}") from error
    return rows


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
