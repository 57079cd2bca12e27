"""Roll out a checkpoint on its own: of a finished run, of a run in progress, or a policy that somebody saved."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vla_cl.config import observation_for
from vla_cl.envs import EnvironmentPool, RenderingOptions
from vla_cl.envs.assets import use_asset_roots
from vla_cl.errors import CheckpointError, ConfigurationError
from vla_cl.evaluation import EpisodeRow, EvaluationOptions, PolicyController, check_task, rollout
from vla_cl.policies import Policy
from vla_cl.progress import Counter, progress_bar
from vla_cl.registry import load_plugins
from vla_cl.strategies import Strategy, build_strategy
from vla_cl.tasks import Task, get_suite
from vla_cl.training import limit_threads, load_tree, resolve_device


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
    checkpoint = _latest_checkpoint(Path(folder))
    config = _run_config(checkpoint)
    limit_threads(config.get("threads", 1))
    load_plugins([*config.get("plugins", ()), *plugins])
    use_asset_roots(_present(config.get("assets", {})), keep_environment=True)
    policy = Policy.from_pretrained(checkpoint).to(resolve_device(device)).eval()
    strategy = _strategy(checkpoint, config)
    stage = int(checkpoint.name.removeprefix("stage_")) if config else 0
    chosen = _tasks(config, suite, tasks)
    for task in chosen:
        check_task(task, options, plugins)
    drawn = RenderingOptions(**config.get("rendering", {}))
    if rendering is not None:
        drawn = replace(drawn, backend=rendering)
    rows: list[EpisodeRow] = []
    with (
        EnvironmentPool(options.processes) as pool,
        progress_bar(f"evaluating {len(chosen)} tasks", len(chosen) * options.episodes) as advance,
    ):
        counter = Counter(advance)
        controller = PolicyController(policy, strategy.route if strategy else None, resolve_device(device))
        for task in chosen:
            rows += rollout(
                controller,
                task,
                stage=stage,
                options=options,
                observation=observation_for(policy.config),
                rendering=drawn,
                pool=pool,
                seed=seed,
                plugins=plugins,
                video_folder=video_folder,
                progress=counter,
            )
    return rows


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
