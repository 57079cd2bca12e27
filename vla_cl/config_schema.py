"""What Hydra is told of the configuration: its keys, their types and defaults."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Sequence
from dataclasses import field
from importlib import resources
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from vla_cl.policies import BACKBONES, HEADS
from vla_cl.strategies import STRATEGIES, strategy_names


def store_schema(root: type[Any], strategies: Sequence[str]) -> None:
    """Tell Hydra the keys and types: the root's, each registered strategy's, and those of compositions."""
    store = ConfigStore.instance()
    schema = OmegaConf.structured(root)
    for key in ("collection", "training", "federation", "evaluation", "rendering", "policy"):
        OmegaConf.set_readonly(schema[key], None)
    store.store(name="schema", node=schema)
    nodes = {name: _options_node(STRATEGIES[name].Options, [("name", str, field(default=name))]) for name in STRATEGIES}
    for name in strategies:
        parts = strategy_names(name)
        if len(parts) > 1:
            own: list[Any] = [("name", str, field(default=name))]
            own += [(each, *_nested(_options_node(STRATEGIES[each].Options, []))) for each in parts]
            nodes[name] = dataclasses.make_dataclass("Composition", own)
    for name, node in nodes.items():
        store.store(group="strategy", name=name, node=node)


def _options_node(options: type[Any], fields: list[Any]) -> type[Any]:
    """A structured configuration with these fields, then a strategy's options."""
    hints = typing.get_type_hints(options)
    named = [(each.name, hints[each.name], _field_default(each)) for each in dataclasses.fields(options)]
    return dataclasses.make_dataclass(options.__qualname__.replace(".", ""), [*fields, *named])


def _nested(node: type[Any]) -> tuple[type[Any], Any]:
    return node, field(default_factory=node)


def _field_default(each: dataclasses.Field[Any]) -> Any:
    if each.default_factory is not dataclasses.MISSING:
        return field(default_factory=each.default_factory)
    return field(default=MISSING if each.default is dataclasses.MISSING else each.default)


def strategy_keys(names: Sequence[str]) -> list[str]:
    """The options of the chosen strategies; one that a swept strategy lacks is refused when that run is composed."""
    keys = []
    for name in names:
        parts = strategy_names(name)
        for part in parts:
            prefix = f"strategy.{part}." if len(parts) > 1 else "strategy."
            keys += [f"{prefix}{each.name}" for each in dataclasses.fields(STRATEGIES[part].Options)]
    return keys


def schema_keys(root: type[Any]) -> list[str]:
    """Every key of a structured configuration, dotted."""

    def walk(kind: type, prefix: str) -> list[str]:
        keys = []
        hints = typing.get_type_hints(kind)
        for each in dataclasses.fields(kind):
            nested = hints[each.name]
            keys.append(f"{prefix}{each.name}")
            if dataclasses.is_dataclass(nested):
                keys += walk(nested, f"{prefix}{each.name}.")  # type: ignore[arg-type]
        return keys

    return walk(root, "")


def drop_foreign_options(composed: DictConfig, chosen: Sequence[str]) -> None:
    """Where another backbone or head was chosen than the preset's, leave out the preset's options that it lacks.

    What the user said himself stays, so that a slip of the pen is refused as ever.

    Args:
        composed: The composed configuration; changed in place.
        chosen: Dotted keys of all overrides.
    """
    for part, registry in (("backbone", BACKBONES), ("head", HEADS)):
        name = composed.policy[part]
        if f"policy.{part}" not in chosen or name not in registry:
            continue
        known = {each.name for each in dataclasses.fields(registry[name].Options)}
        known |= {key.rsplit(".", 1)[-1] for key in chosen if key.startswith(f"policy.{part}_options.")}
        place = f"{part}_options"
        kept = {key: value for key, value in composed.policy[place].items() if key in known}
        OmegaConf.update(composed, f"policy.{place}", kept, merge=False, force_add=True)


def group_files(group: str) -> list[str]:
    """Names of what ships with the package in a configuration group ("protocol")."""
    folder = resources.files("vla_cl.configs") / group
    return sorted(Path(each.name).stem for each in folder.iterdir() if each.name.endswith(".yaml"))


def stored_names(group: str) -> list[str]:
    """Names of what plug-ins stored for a configuration group in Hydra's ConfigStore."""
    node = ConfigStore.instance().repo.get(group, {})
    return [Path(name).stem for name in node]
