"""Values that several words of a command line make up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from vla_cl.errors import ConfigurationError, UnknownNameError

if TYPE_CHECKING:
    from vla_cl.envs import RenderingOptions

TRUTH = {"true": True, "false": False}


def camera_names(text: str) -> tuple[str, ...]:
    """The cameras of "corner2,gripperPOV"; none of "none".

    Raises:
        ConfigurationError: A name is empty, or there twice.
    """
    if text == "none":
        return ()
    names = tuple(text.split(","))
    if not all(names) or len(set(names)) < len(names):
        raise ConfigurationError(f"--cameras must name different cameras, separated by commas, got {text!r}")
    return names


def shares_of(text: str) -> dict[str, float]:
    """The shares of "train=0.8,validation=0.2".

    Raises:
        ConfigurationError: It does not read like that.
    """
    shares: dict[str, float] = {}
    for part in text.split(","):
        name, _, share = part.partition("=")
        try:
            value = float(share)
        except ValueError:
            raise ConfigurationError(f"--into must read like train=0.8,validation=0.2, got {part!r}") from None
        if name in shares:
            raise ConfigurationError(f"--into names split {name!r} twice")
        shares[name] = value
    return shares


def arguments_of(words: Sequence[str]) -> dict[str, Any]:
    """The arguments of "settle_steps=5", one a word; values are read as YAML does.

    Raises:
        ConfigurationError: A word does not read like that.
    """
    import yaml

    arguments: dict[str, Any] = {}
    for word in words:
        key, separator, text = word.partition("=")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            separator = ""
        if not key or not separator:
            raise ConfigurationError(f"--argument must read like settle_steps=5, got {word!r}")
        arguments[key] = value
    return arguments


def changed_rendering(options: RenderingOptions, words: Sequence[str]) -> RenderingOptions:
    """Options with some fields changed, one KEY=VALUE a word; a word alone is the backend.

    Raises:
        UnknownNameError: There is no such field.
        ConfigurationError: A value is not of the field's type, or there is no such backend.
    """
    known = {field.name: getattr(options, field.name) for field in fields(options)}
    for word in words:
        key, text = word.split("=", 1) if "=" in word else ("backend", word)
        if key not in known:
            raise UnknownNameError("rendering option", key, known)
        kind = type(known[key])
        try:
            known[key] = TRUTH[text.lower()] if kind is bool else kind(text)
        except (KeyError, ValueError):
            expected = "true or false" if kind is bool else f"of type {kind.__name__}"
            raise ConfigurationError(f"rendering option {key} must be {expected}, got {text!r}") from None
    return replace(options, **known)
