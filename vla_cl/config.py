"""The configuration of an experiment: its keys, and how overrides on the command line compose it.

Hydra composes the groups `policy`, `strategy`, `rendering`, `recipe`, `protocol` and `preset`; a strategy's keys come
from its `Options`, so a plug-in strategy configures like a built-in one. Every mistake ends in one line with the
nearest valid name.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vla_cl.config_schema import (
    drop_foreign_options,
    group_files,
    schema_keys,
    store_schema,
    stored_names,
    strategy_keys,
)
from vla_cl.data import CollectionOptions, check_instructions, given_checksum
from vla_cl.envs import ObservationOptions, RenderingOptions
from vla_cl.errors import ConfigurationError, UnknownNameError
from vla_cl.evaluation import EvaluationOptions
from vla_cl.policies import PolicyConfig
from vla_cl.protocols import protocol_names
from vla_cl.registry import load_plugins
from vla_cl.strategies import STRATEGIES, strategy_names
from vla_cl.tasks import Task, get_suite
from vla_cl.training import FederationOptions, TrainingOptions

_LABEL_LENGTH = 60
GROUPS = ("policy", "strategy", "rendering", "recipe", "protocol", "preset")
_FREE_KEYS = ("policy.backbone_options", "policy.head_options", "policy.adapter", "evaluation.arguments", "assets")
"""Mappings whose keys are not known here; whoever uses them checks them."""
_OF_DATASET = ("dataset_checksum", "dataset_words")
"""What `config.json` says of a given data set beyond the configuration."""


@dataclass
class ExperimentConfig:
    """Everything that decides an experiment's numbers, and where it is written.

    Args:
        suite: Name of a registered suite, or several suites and tasks joined by "+": "mw3+mw5/push".
        order: "default", a named order of the suite, or a seed of a random permutation.
        length: Keep only the first stages; null keeps all.
        seed: Of initial weights, batches, noise and strategy. Initial states of the evaluation do not depend on it.
        policy: Backbone, head and what the policy sees.
        strategy: `name`, and the strategy's own options. `strategy=replay+ewc` runs two together; their options are
            then `strategy.replay.ratio`, `strategy.ewc.strength`.
        boundaries: What the strategy is told of them: "known", or "unknown": no boundary is announced, and only
            strategies that can do without are let run. Which task acts is never told unless a strategy needs it.
        blur: Share of a task's steps, at either end, in which its batches mix with its neighbours' in the sequence,
            0 (sharp) to 0.5; see `vla_cl.training.BlurredStream`.
        dataset: Demonstrations to learn from instead of collecting them: a file, or a folder with one a task, in our
            layout, robomimic's or LIBERO's (see `vla_cl.data.given`).
        dataset_instructions: What the robot is told in training on a `dataset`: "file", its own words, or "task".
        collection: How demonstrations are made.
        training: How a task is fitted.
        federation: Whether several clients learn side by side, and how they hear from each other.
        evaluation: How rollouts are made; `protocol=NAME` sets it as published evaluations do.
        rendering: How images are drawn; `rendering=raycast` is short for `rendering.backend=raycast`.
        threads: Of torch on a CPU. Sums depend on it, so it is part of what decides the numbers; with 1 they are the
            same on every number of cores. More pays for large policies on idle machines only.
        device: "auto", "cpu", "cuda" or "cuda:N".
        output: Folder of all runs; a run's own folder in it is named after what it is.
        data: Folder of demonstrations, shared by runs.
        name: The run's folder inside `output`; null derives it from the configuration.
        plugins: Python modules or files that register suites, policies, strategies or backends.
        assets: Folders of files that simulators need and this package does not hold, by name (`assets.libero=FOLDER`);
            see `vla_cl.envs.assets`.
    """

    suite: str = MISSING
    order: str = "default"
    length: int | None = None
    seed: int = 0
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    strategy: Any = MISSING
    boundaries: str = "known"
    blur: float = 0.0
    dataset: str | None = None
    dataset_instructions: str = "file"
    collection: CollectionOptions = field(default_factory=CollectionOptions)
    training: TrainingOptions = field(default_factory=TrainingOptions)
    federation: FederationOptions = field(default_factory=FederationOptions)
    evaluation: EvaluationOptions = field(default_factory=EvaluationOptions)
    rendering: RenderingOptions = field(default_factory=RenderingOptions)
    threads: int = 1
    device: str = "auto"
    output: str = "runs"
    data: str = "demonstrations"
    name: str | None = None
    plugins: list[str] = field(default_factory=list)
    assets: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.boundaries not in ("known", "unknown"):
            raise ConfigurationError(f"boundaries must be known or unknown, got {self.boundaries!r}")
        if not 0.0 <= self.blur <= 0.5:
            raise ConfigurationError(f"blur must be 0 to 0.5, got {self.blur}")
        if self.dataset is not None:
            check_instructions(self.dataset_instructions, self.training.instructions)

    @property
    def observation(self) -> ObservationOptions:
        """What the policy needs to see."""
        return observation_for(self.policy)

    @property
    def strategy_options(self) -> dict[str, Any]:
        """The strategy's options without its name."""
        return {key: value for key, value in self.strategy.items() if key != "name"}

    def identity(self) -> dict[str, Any]:
        """What decides the numbers: the configuration without places and process counts."""
        values = to_dict(self)
        for key in ("output", "data", "name", "assets", "dataset", "dataset_instructions"):
            values.pop(key)
        values["collection"].pop("processes", None)
        values["evaluation"].pop("processes", None)
        values["evaluation"].pop("workers")
        values["federation"].pop("backend")
        if not self.evaluation.early_stop.asked_for:
            values["evaluation"].pop("early_stop")  # runs without it are what they were before there was any
        if values["training"]["processes"] == 1:
            values["training"].pop("processes")
        return values | self.dataset_identity()

    def dataset_identity(self) -> dict[str, str]:
        """What a given data set adds to the identity: its content, not its place. Nothing where none is given."""
        if self.dataset is None:
            return {}
        root = Path(self.dataset)
        tasks = get_suite(self.suite).sequence(self.order, self.length)
        checksum = given_checksum(root, tasks) if root.exists() else ""
        return {"dataset_checksum": checksum, "dataset_words": self.dataset_instructions}

    @property
    def folder(self) -> Path:
        """The run's folder: the same configuration always means the same folder, which is how a run is resumed."""
        if self.name:
            return Path(self.output) / self.name
        digest = hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()[:8]
        label = (
            f"{self.suite.replace('/', '.')[:_LABEL_LENGTH]}-{self.policy.name}-{self.strategy['name']}-seed{self.seed}"
        )
        return Path(self.output) / f"{label}-{digest}"


def observation_for(policy: PolicyConfig) -> ObservationOptions:
    """What environments must show to a policy."""
    cameras = policy.cameras
    return ObservationOptions(
        cameras=() if not policy.pixels else None if cameras is None else tuple(cameras),
        image_size=policy.image_size,
        privileged=policy.privileged,
    )


def check_chunk(config: ExperimentConfig, sequence: Sequence[Task]) -> None:
    """See that no task is over before one chunk of the policy's actions is.

    Raises:
        ConfigurationError: A task's horizon is shorter than that.
    """
    ahead = config.policy.chunk - config.policy.lookback
    for task in sequence:
        horizon = config.evaluation.horizon or task.horizon
        if ahead > horizon:
            raise ConfigurationError(
                f"policy.chunk={config.policy.chunk} is longer than task {task.name!r}, whose horizon is {horizon} "
                f"control steps; lower policy.chunk (and policy.execute) to {horizon + config.policy.lookback} at most"
            )


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain JSON values."""
    values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return values


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested configuration by dotted keys: `{"training.steps": 100}`."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def compose(overrides: Sequence[str], preset: str | None = None) -> list[ExperimentConfig]:
    """Compose the configurations that overrides describe.

    Args:
        overrides: Hydra overrides ("suite=mw5", "training.steps=100"). A list after "=" (`strategy=sequential,replay`)
            sweeps: one configuration for each combination.
        preset: A whole experiment of `configs/preset/`; overrides win over it.

    Raises:
        ConfigurationError: A key or a value cannot be used, or `suite` is missing.
        UnknownNameError: A policy, strategy, preset or key is not known.
    """
    parsed = _parse([*([f"preset={preset}"] if preset else []), *overrides])
    load_plugins([plugin for override in parsed if override.key_or_group == "plugins" for plugin in _plugins(override)])
    _check_names(parsed)
    store_schema(ExperimentConfig, _values(parsed, "strategy"))
    varies = [_is_swept_value(override, parsed) for override in parsed]
    bases: dict[tuple[str, ...], DictConfig] = {}
    configs = []
    for combination in itertools.product(*(_choices(override) for override in parsed)):
        fixed = tuple(text for text, swept in zip(combination, varies, strict=True) if not swept)
        if fixed not in bases:  # Hydra takes a third of a second, which a large grid would feel
            bases[fixed] = _compose_one([_opened(text) for text in fixed])
        configs.append(_varied(bases[fixed], [text for text, swept in zip(combination, varies, strict=True) if swept]))
    return configs


def _is_swept_value(override: Override, parsed: Sequence[Override]) -> bool:
    """Whether an override sweeps over values of a plain key, which nothing else in the configuration hangs on."""
    key = override.key_or_group
    plain = key not in (*GROUPS, "policy.backbone", "policy.head") and not key.startswith(
        tuple(f"{free}." for free in _FREE_KEYS)
    )
    alone = sum(other.key_or_group == key for other in parsed) == 1
    return plain and alone and override.is_sweep_override() and not (override.is_add() or override.is_delete())


def _choices(override: Override) -> list[str]:
    """The overrides that one override sweeps over, itself when it names a single value."""
    line = override.input_line or ""
    if not override.is_sweep_override():
        return [line]
    return [f"{line.split('=', 1)[0]}={value}" for value in override.sweep_string_iterator()]


def preset_names() -> list[str]:
    """Names of the whole experiments that ship with the package."""
    return [name for name in group_files("preset") if name != "none"]


def policy_names() -> list[str]:
    """Names of the policy presets that ship with the package or that a plug-in stored in Hydra's ConfigStore."""
    return sorted({*group_files("policy"), *stored_names("policy")})


def _opened(override: str) -> str:
    """Let Hydra add free keys."""
    free = override.startswith(tuple(f"{key}." for key in _FREE_KEYS))
    return f"++{override}" if free else override


def _compose_one(overrides: list[str]) -> DictConfig:
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module("vla_cl.configs", version_base="1.3"):
            composed = hydra_compose("config", overrides=overrides)
    except HydraException as error:
        raise ConfigurationError(_one_line(error)) from error
    drop_foreign_options(composed, [override.key_or_group for override in _parse(overrides)])
    return composed


def _varied(base: DictConfig, overrides: list[str]) -> ExperimentConfig:
    """The experiment of a composed configuration with some of its plain values changed."""
    composed = copy.deepcopy(base) if overrides else base
    try:
        for override in _parse(overrides):
            OmegaConf.update(composed, override.key_or_group, override.value())
        if OmegaConf.is_missing(composed, "suite"):
            raise ConfigurationError("no suite was given; say suite=NAME (vla-cl suites lists all)")
        values: dict[str, Any] = OmegaConf.to_container(composed, resolve=True)  # type: ignore[assignment]
        return _instantiate(values)
    except OmegaConfBaseException as error:
        raise ConfigurationError(_one_line(error)) from error


def read_config(folder: Path) -> ExperimentConfig:
    """The configuration that a run wrote into its folder.

    Raises:
        ConfigurationError: There is none, or another version of this package wrote it.
    """
    path = Path(folder) / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigurationError(f"{folder} is not a run's folder: it holds no config.json") from None
    except ValueError as error:
        raise ConfigurationError(f"{path} is not readable as JSON ({error}); run it again") from error
    try:
        load_plugins(values.get("plugins", ()))
        return _instantiate({key: value for key, value in values.items() if key not in _OF_DATASET})
    except (KeyError, TypeError) as error:
        raise ConfigurationError(f"{path} was written by another version of vla_cl ({error}); run it again") from error


def _instantiate(values: dict[str, Any]) -> ExperimentConfig:
    """Plain values to dataclasses, so that everything behind this line is plain Python."""
    nested = {
        "policy": PolicyConfig,
        "collection": CollectionOptions,
        "training": TrainingOptions,
        "federation": FederationOptions,
        "evaluation": EvaluationOptions,
        "rendering": RenderingOptions,
    }
    return ExperimentConfig(**values | {key: kind(**values[key]) for key, kind in nested.items()})


def _parse(overrides: Sequence[str]) -> list[Override]:
    for text in overrides:
        if "=" not in text:
            raise ConfigurationError(f"override {text!r} has no '='; write key=value, e.g. suite=mw5")
    try:
        return OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise ConfigurationError(_one_line(error)) from error


def _plugins(override: Override) -> list[str]:
    value = override.value()
    return [str(each) for each in value] if isinstance(value, list) else [str(value)]


def _check_names(overrides: Sequence[Override]) -> None:
    """Nearest-name errors, which Hydra's own messages lack."""
    known = {
        "policy": (policy_names(), "vla-cl policies"),
        "strategy": (list(STRATEGIES), "vla-cl strategies"),
        "rendering": (group_files("rendering"), ""),
        "recipe": (group_files("recipe"), ""),
        "protocol": (protocol_names(), ""),
        "preset": (group_files("preset"), ""),
    }
    for key, (names, listing) in known.items():
        for value in _values(overrides, key):
            for name in strategy_names(value) if key == "strategy" else [value]:
                if name not in names:
                    raise UnknownNameError(key, name, names, listing)
    keys = schema_keys(ExperimentConfig) + strategy_keys(_values(overrides, "strategy") or ["sequential"])
    for override in overrides:
        if override.key_or_group not in known and not override.is_add() and not override.is_delete():
            _check_key(override.key_or_group, keys)


def _values(overrides: Sequence[Override], key: str) -> list[str]:
    """What the last override of a group names, or sweeps over."""
    values: list[str] = []
    for override in overrides:
        if override.key_or_group == key:
            swept = override.is_sweep_override()
            values = list(override.sweep_string_iterator()) if swept else [str(override.value())]
    return values


def _check_key(key: str, keys: Sequence[str]) -> None:
    if key in keys or key.startswith(tuple(f"{free}." for free in _FREE_KEYS)):
        return
    leaf = key.rsplit(".", 1)[-1]
    leaves = {name.rsplit(".", 1)[-1]: name for name in keys}
    near = difflib.get_close_matches(key, keys, n=1, cutoff=0.6)
    near_leaf = difflib.get_close_matches(leaf, leaves, n=1, cutoff=0.5)
    suggestion = leaves.get(leaf) or (near[0] if near else leaves[near_leaf[0]] if near_leaf else None)
    hint = f"; did you mean {suggestion!r}?" if suggestion else ""
    raise ConfigurationError(f"key {key!r} is unknown{hint} (vla-cl run --dry-run suite=mw5 prints all)")


def _one_line(error: Exception) -> str:
    """The telling part of Hydra's and OmegaConf's messages, in one line, the key first."""
    cause = error.__cause__ or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    noise = ("reference_type", "object_type", "See https", "Set the env", "full_key")
    told = " ".join(line for line in lines if not line.startswith(noise)) or type(error).__name__
    keys = [line.split(":", 1)[1].strip() for line in lines if line.startswith("full_key:")]
    return f"{keys[0]}: {told[0].lower()}{told[1:]}" if keys else told
