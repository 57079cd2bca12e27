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
from omegaconf import MISSING, OmegaConf

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


def group_files(group: str) -> list[str]:
    """Names of what ships with the package in a configuration group ("protocol")."""
    folder = resources.files("vla_cl.configs") / group
    return sorted(Path(each.name).stem for each in folder.iterdir() if each.name.endswith(".yaml"))


def stored_names(group: str) -> list[str]:
    """Names of what plug-ins stored for a configuration group in Hydra's ConfigStore."""
    node = ConfigStore.instance().repo.get(group, {})
    return [Path(name).stem for name in node]
