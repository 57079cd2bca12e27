"""Options of backbones and heads: plain values from a preset or a checkpoint, checked against a dataclass."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any

from vla_cl.errors import ConfigurationError, UnknownNameError


def build_options(kind: str, options_class: type, values: Mapping[str, Any]) -> Any:
    """An instance of a frozen dataclass of options from plain values.

    Args:
        kind: Whose options, for error messages ("backbone 'compact'").
        options_class: The dataclass; its fields are bool, int, float or str.
        values: What differs from the defaults.

    Raises:
        UnknownNameError: An option is unknown; the error names the nearest.
        ConfigurationError: A value is of another type, or out of range.
    """
    types = typing.get_type_hints(options_class)
    names = [field.name for field in dataclasses.fields(options_class)]
    for name, value in values.items():
        if name not in names:
            raise UnknownNameError(f"option of {kind}", name, names, "vla-cl policies")
        if not _fits(value, types[name]):
            raise ConfigurationError(f"option {name} of {kind} must be {types[name].__name__}, got {value!r}")
    return options_class(**values)


def _fits(value: Any, wanted: type) -> bool:
    if isinstance(value, bool):
        return wanted is bool
    return isinstance(value, (int, float) if wanted is float else wanted)


def check_at_least(kind: str, options: Any, bounds: Mapping[str, int]) -> None:
    """Check lower bounds of numeric options.

    Raises:
        ConfigurationError: A value is too small.
    """
    for name, bound in bounds.items():
        if getattr(options, name) < bound:
            raise ConfigurationError(f"option {name} of {kind} must be at least {bound}, got {getattr(options, name)}")


def check_choice(kind: str, name: str, value: str, choices: tuple[str, ...]) -> None:
    """Check an option that names one of a few things.

    Raises:
        UnknownNameError: It names none of them.
    """
    if value not in choices:
        raise UnknownNameError(f"{name} of {kind}", value, choices)
