"""Ways to evaluate, by name: those that ship with the package, and those of plug-ins."""

from __future__ import annotations

from importlib import resources
from typing import Any

import yaml
from hydra.core.config_store import ConfigStore

from vla_cl.config_schema import group_files
from vla_cl.errors import ConfigurationError, UnknownNameError
from vla_cl.evaluation import EvaluationOptions
from vla_cl.registry import Registry

GROUP = "protocol"

PROTOCOLS: Registry[dict[str, Any]] = Registry(GROUP, "vla_cl.protocols")
"""Fields of `EvaluationOptions`, by name, of the protocols of plug-ins."""


def protocol_names() -> list[str]:
    """Names of the ways to evaluate that ship with the package or that a plug-in registered."""
    return sorted({*group_files(GROUP), *PROTOCOLS})


def protocol_options(name: str, **changes: Any) -> EvaluationOptions:
    """The options of a named way to evaluate, outside of an experiment.

    Args:
        name: One of `protocol_names`.
        changes: Fields of `EvaluationOptions` to set differently; entries of `arguments` are added one by one.

    Raises:
        UnknownNameError: There is no such protocol.
        ConfigurationError: A value cannot be used.
    """
    if name not in protocol_names():
        raise UnknownNameError(GROUP, name, protocol_names())
    values = _values(name)
    arguments = {**values.get("arguments", {}), **changes.get("arguments", {})}
    return EvaluationOptions(**{**values, **changes, "arguments": arguments})


def register_protocol(name: str, **evaluation: Any) -> None:
    """Let `protocol=NAME` and `--protocol NAME` stand for these options, as a plug-in file does when it is loaded.

    Args:
        name: Of the protocol.
        evaluation: Fields of `EvaluationOptions` that differ from its defaults.

    Raises:
        ConfigurationError: A field is unknown or a value cannot be used, or the name belongs to another protocol.
    """
    try:
        EvaluationOptions(**evaluation)
    except TypeError as error:
        raise ConfigurationError(f"protocol {name!r} cannot be registered: {error}") from error
    if name in group_files(GROUP):
        raise ConfigurationError(f"protocol {name!r} ships with the package; choose another name")
    if PROTOCOLS.is_taken(name) and PROTOCOLS[name] == evaluation:
        return  # a plug-in that is loaded again
    PROTOCOLS.register(name, evaluation)
    ConfigStore.instance().store(group=GROUP, name=name, node={"evaluation": evaluation}, package="_global_")


def _values(name: str) -> dict[str, Any]:
    """What a protocol says of the evaluation."""
    if name not in group_files(GROUP):
        return PROTOCOLS[name]
    path = resources.files("vla_cl.configs") / GROUP / f"{name}.yaml"
    content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    return dict(content.get("evaluation", {}))
