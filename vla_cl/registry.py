"""Named registries, filled by decorators and by entry points, so that built-ins and plug-ins use one door."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Generic, TypeVar

from vla_cl.errors import ConfigurationError, UnknownNameError, VlaClError

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

    def is_taken(self, name: str) -> bool:
        """Whether `name` is registered so far. Loads no entry points, so modules may ask while they are imported."""
        return name in self._things

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
            except (Exception, SystemExit) as error:  # noqa: BLE001  a plug-in may fail in any way
                logger.warning("plug-in %s (%s) is left out: %s", entry_point.name, entry_point.value, error)


def _same_definition(first: object, second: object) -> bool:
    """Whether two classes or functions are one definition, imported twice (a plug-in file loaded again)."""
    return (
        callable(first)
        and getattr(first, "__qualname__", None) == getattr(second, "__qualname__", "")
        and getattr(first, "__module__", None) == getattr(second, "__module__", "")
    )


PLUGIN_LOADERS: dict[str, Callable[[Path], object]] = {}
"""What loads a plug-in file, by its suffix (".py"). Higher layers add theirs: `vla_cl.tasks` loads ".yaml"."""

_loaded_files: set[Path] = set()


def load_plugins(plugins: Sequence[str], folder: Path = Path()) -> None:
    """Load plug-ins named on the command line: dotted modules, or paths of files with a suffix in `PLUGIN_LOADERS`.

    A plug-in is code that the user chose to run. Worker processes call this too, so that a task registered
    by a plug-in exists there. Each is loaded once a process.

    Args:
        plugins: Modules and files.
        folder: Where relative paths start.

    Raises:
        ConfigurationError: A file or module does not exist, or fails while it is loaded; the message names the line.
    """
    for plugin in plugins:
        loader = PLUGIN_LOADERS.get(Path(plugin).suffix)
        if loader is not None:
            _load_file(plugin, (folder / plugin).resolve(), loader)
            continue
        try:
            importlib.import_module(plugin)
        except ModuleNotFoundError as error:
            raise ConfigurationError(f"plugin {plugin!r} cannot be imported: {error}") from error
        except (Exception, SystemExit) as error:
            raise ConfigurationError(f"plugin {plugin!r} cannot be imported: {_told(error)}") from error


def _load_file(plugin: str, path: Path, loader: Callable[[Path], object]) -> None:
    if path in _loaded_files:
        return
    if not path.is_file():
        raise ConfigurationError(f"plugin {plugin!r} is not a file; give its path or a module name")
    if any(path.name == known.name and _same_bytes(path, known) for known in _loaded_files):
        return  # a copy of what is loaded already
    _loaded_files.add(path)
    try:
        loader(path)
    except BaseException:
        _loaded_files.remove(path)
        raise


def _same_bytes(first: Path, second: Path) -> bool:
    try:
        return first.read_bytes() == second.read_bytes()
    except OSError:  # the one that was loaded may be gone
        return False


def _load_python_file(path: Path) -> None:
    """Import a file as a module of its own, whose name says nothing about the folder that it lies in."""
    namesakes = sum(each.stem == path.stem for each in _loaded_files - {path})
    name = f"vla_cl_plugin_{path.stem}" + (f"_{namesakes + 1}" if namesakes else "")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # for a file that ends in .py there is always a loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else 1
        raise ConfigurationError(f"plugin {path.name!r}, line {line}: {_told(error)}") from error


def _told(error: BaseException) -> str:
    """An error in one line: our own speak for themselves, others need their kind."""
    if isinstance(error, VlaClError):
        return str(error)
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {' '.join(text.split())}"


PLUGIN_LOADERS[".py"] = _load_python_file
