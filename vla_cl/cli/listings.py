"""`vla-cl suites`, `policies` and `strategies`: what can be named in an experiment."""

from __future__ import annotations

import dataclasses
import itertools
import sys
from typing import Any

from vla_cl.cli.output import JsonOption, PluginOption, first_sentence, print_json, print_table
from vla_cl.registry import load_plugins


def suites(plugin: list[str] | None = PluginOption, as_json: bool = JsonOption) -> None:
    """List the task suites.

    Example: [bold]vla-cl suites --json[/bold]
    """
    from vla_cl.tasks import available_suites

    load_plugins(plugin or [])
    listed: list[dict[str, Any]] = [
        {
            "name": suite.name,
            "description": suite.description,
            "tasks": [task.name for task in suite.tasks],
            "orders": ["default", *suite.orders],
        }
        for suite in available_suites()
    ]
    if as_json:
        print_json(listed)
        return
    rows = [[each["name"], str(len(each["tasks"])), _listed(each["orders"]), each["description"]] for each in listed]
    print_table(["suite", "tasks", "orders", "description"], rows)


def _listed(names: list[str]) -> str:
    """Names in a row; three or more that only count up ("order0", "order1", ...) are told by the first and the last."""
    told: list[str] = []
    while names:
        stem = names[0].rstrip("0123456789")
        start = names[0].removeprefix(stem)
        counted = [f"{stem}{int(start) + index}" for index in range(len(names))] if start else []
        run = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(names, counted, strict=False)))
        told += [f"{names[0]} to {names[run - 1]}"] if run > 2 else names[: max(run, 1)]
        names = names[max(run, 1) :]
    return ", ".join(told)


def policies(plugin: list[str] | None = PluginOption, as_json: bool = JsonOption) -> None:
    """List the policies: presets, and the backbones and action heads they are made of.

    Use a preset with [bold]policy=NAME[/bold]; combine parts with [bold]policy.head=NAME[/bold].
    """
    from vla_cl.policies import BACKBONES, HEADS

    load_plugins(plugin or [])
    listed = {
        "presets": [_preset(name) for name in _preset_names()],
        "backbones": [_part(name, BACKBONES[name]) for name in BACKBONES],
        "heads": [_part(name, HEADS[name]) for name in HEADS],
    }
    if as_json:
        print_json(listed)
        return
    columns = ["name", "backbone", "head", "chunk", "execute", "sees"]
    rows = []
    for each in listed["presets"]:
        sees = [f"{each['image_size']} px images"] if each["pixels"] else []
        sees += ["simulator state"] if each["privileged"] else []
        sees += [f"{each['history']} moments"] if each["history"] > 1 else []
        row = [each["name"], each["backbone"], each["head"], each["chunk"], each["execute"], ", ".join(sees)]
        rows.append([str(value) for value in row])
    print_table(columns, rows, title="policies (policy=NAME)")
    for kind in ("backbones", "heads"):
        rows = [[part["name"], part["description"], _shown(part["options"])] for part in listed[kind]]
        print_table(["name", "description", "options"], rows, title=f"\n{kind} (policy.{kind[:-1]}=NAME)")


def strategies(plugin: list[str] | None = PluginOption, as_json: bool = JsonOption) -> None:
    """List the continual-learning strategies, what they need, and their options.

    Use one with [bold]strategy=NAME strategy.OPTION=VALUE[/bold].
    """
    from vla_cl.strategies import STRATEGIES

    load_plugins(plugin or [])
    listed = []
    for name in STRATEGIES:
        strategy = STRATEGIES[name]
        needs = [need for need, needed in dataclasses.asdict(strategy.needs).items() if needed]
        told = first_sentence(sys.modules[strategy.__module__]) or first_sentence(strategy)  # one file a strategy
        listed.append({**_part(name, strategy), "description": told, "needs": needs})
    if as_json:
        print_json(listed)
        return
    rows = [
        [each["name"], each["description"], ", ".join(each["needs"]) or "-", _shown(each["options"])] for each in listed
    ]
    print_table(["strategy", "description", "needs", "options"], rows)


def _part(name: str, kind: Any) -> dict[str, Any]:
    """A registered class with an `Options` dataclass, described."""
    options = {field.name: _default(field) for field in dataclasses.fields(kind.Options)}
    return {"name": name, "description": first_sentence(kind), "options": options}


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        value = None if field.default is dataclasses.MISSING else field.default
    return value if isinstance(value, int | float | str | bool | list | dict | None) else str(value)


def _shown(options: dict[str, Any]) -> str:
    return ", ".join(f"{key}={_value(value)}" for key, value in options.items()) or "-"


def _value(value: Any) -> str:
    """As it is written on the command line; what would break the line, as its escape."""
    return "null" if value is None else str(value).replace("\n", "\\n")


def _preset_names() -> list[str]:
    from vla_cl.config import policy_names

    return policy_names()


def _preset(name: str) -> dict[str, Any]:
    """A policy preset as the experiment's configuration resolves it."""
    from vla_cl.config import compose
    from vla_cl.tasks import SUITES

    (config,) = compose([f"suite={next(iter(SUITES))}", f"policy={name}"])
    return {**dataclasses.asdict(config.policy), "name": name}
