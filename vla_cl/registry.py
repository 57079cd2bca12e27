"""Named registries, filled by decorators and by entry points, so that built-ins and plug-ins use one door."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Generic, TypeVar

from vla_cl.errors import ConfigurationError, UnknownNameError

T = TypeVar("T")

logger = logging.getLogger(__name__)


class Registry(Generic[T]):
    """A mapping from a public name to a thing, which also knows where else such things may be declared.

    Args:
        kind: What is registered, in the singular, for error messages ("suite", "strategy").
        entry_point_group: Group of entry points whose modules register more things when loaded
            ("vla_cl.tasks"). They are loaded on the first look-up, not at import.
        listing: The command that lists what is registered, for error messages.
    """

    def __init__(self, kind: str, entry_point_group: str = "", listing: str = "") -> None:
        self.kind = kind
        self._group = entry_point_group
        self._listing = listing
        self._things: dict[str, T] = {}
        self._loaded = False

    def register(self, name: str, thing: T) -> T:
        """Register `thing` under `name`. Registering the same object twice is harmless; a clash is an error."""
        known = self._things.get(name)
        if known is not None and known is not thing and not _same_definition(known, thing):
            raise ConfigurationError(f"{self.kind} {name!r} is already registered by {known!r}; choose another name")
        self._things[name] = thing
        return thing

    def decorator(self, name: str) -> Callable[[T], T]:
        """`register` as a decorator."""

        def register(thing: T) -> T:
            return self.register(name, thing)

        return register

    def __getitem__(self, name: str) -> T:
        self._load_entry_points()
        try:
            return self._things[name]
        except KeyError:
            raise UnknownNameError(self.kind, name, self._things, self._listing) from None

    def __contains__(self, name: object) -> bool:
        self._load_entry_points()
        return name in self._things

    def __iter__(self) -> Iterator[str]:
        self._load_entry_points()
        return iter(sorted(self._things))

    def __len__(self) -> int:
        self._load_entry_points()
        return len(self._things)

    def _load_entry_points(self) -> None:
        """Import the plug-ins; one that fails is left out with a warning, so that it does not take the rest along."""
        if self._loaded or not self._group:
            return
        self._loaded = True
        for entry_point in entry_points(group=self._group):
            try:
                entry_point.load()
            except Exception as error:  # noqa: BLE001  a plug-in may fail in any way
                logger.warning("plug-in %s (%s) is left out: %s", entry_point.name, entry_point.value, error)


def _same_definition(first: object, second: object) -> bool:
    """Whether two classes or functions are one definition, imported twice (a plug-in file loaded again)."""
    return (
        callable(first)
        and getattr(first, "__qualname__", None) == getattr(second, "__qualname__", "")
        and getattr(first, "__module__", None) == getattr(second, "__module__", "")
    )


def load_plugins(plugins: Sequence[str]) -> None:
    """Import plug-ins named on the command line: dotted modules, or paths of Python files.

    A plug-in is code that the user chose to run. Worker processes call this too, so that a task registered
    by a plug-in exists there.

    Raises:
        ConfigurationError: The file or module does not exist.
    """
    for plugin in plugins:
        if plugin.endswith(".py"):
            path = Path(plugin).resolve()
            name = f"vla_cl_plugin_{path.stem}"
            if name in sys.modules:
                continue
            spec = importlib.util.spec_from_file_location(name, path)
            if spec is None or spec.loader is None or not path.is_file():
                raise ConfigurationError(f"plugin {plugin!r} is not a Python file; give its path or a module name")
            module = importlib.util.module_from_spec(spec)
            sys.modules[name] = module
            spec.loader.exec_module(module)
        else:
            try:
                importlib.import_module(plugin)
            except ModuleNotFoundError as error:
                raise ConfigurationError(f"plugin {plugin!r} cannot be imported: {error}") from error
