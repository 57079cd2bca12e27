"""Converting demonstrations between this package's layout, robomimic's, LIBERO's and LeRobot's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from vla_cl.data.demonstrations import DemonstrationFile
from vla_cl.data.export import write_robomimic
from vla_cl.data.export_libero import write_libero
from vla_cl.data.hdf5 import write_demonstrations
from vla_cl.data.lerobot_reading import LeRobotDataset, is_lerobot
from vla_cl.data.lerobot_writing import write_lerobot
from vla_cl.data.library import demonstration_files
from vla_cl.data.opening import open_demonstrations
from vla_cl.data.recordings import Recordings
from vla_cl.data.schema import Episode, Header, image_key
from vla_cl.errors import ConfigurationError, DataFileError, UnknownNameError
from vla_cl.progress import counted, progress_bar

SUFFIX = ".hdf5"
LEROBOT = "lerobot"
FILE_NAMES = {"vla_cl": "{task}.hdf5", "robomimic": "{task}.hdf5", "libero": "{task}_demo.hdf5"}
LAYOUTS = (*FILE_NAMES, LEROBOT)

Open = Callable[[], AbstractContextManager[Recordings]]


@dataclass(frozen=True)
class Conversion:
    """What is to be converted into what.

    Args:
        sources: How to open the demonstrations of each task.
        layout: One of `LAYOUTS`.
        outputs: The file of each source; for LeRobot, one folder for all.
    """

    sources: tuple[Open, ...]
    layout: str
    outputs: tuple[Path, ...]


def plan_conversion(
    sources: Sequence[Path], layout: str, output: Path, *, cameras: Mapping[str, str] | None = None
) -> Conversion:
    """Open every source once and decide what goes where; nothing is written.

    Args:
        sources: Files of demonstrations in any layout, folders of them, and folders of LeRobot data sets.
        layout: One of `LAYOUTS`.
        output: For LeRobot the data set's folder. Else a file (`*.hdf5`), when there is one task, or a folder, in which
            each task gets a file: `<task>.hdf5`, for LIBERO `<task>_demo.hdf5`.
        cameras: New names for cameras, by the old ones; the others keep theirs.

    Raises:
        UnknownNameError: There is no such layout, or nobody has a camera of that name.
        ConfigurationError: `output` does not fit, or two sources would be written into one file.
        DataFileError: A source cannot be used.
    """
    if layout not in LAYOUTS:
        raise UnknownNameError("layout", layout, LAYOUTS)
    opened: list[Open] = []
    for path in map(Path, sources):
        opened += _lerobot(path) if is_lerobot(path) else map(_hdf5, demonstration_files([path]))
    tasks, seen = [], set()
    for each in opened:
        with each() as recordings:
            if isinstance(recordings, DemonstrationFile):
                recordings.verify()  # a new file must not vouch for damage
            tasks.append(recordings.header.task)
            seen |= set(recordings.header.observation["cameras"])
    for name in cameras or {}:
        if name not in seen:
            raise UnknownNameError("camera", name, seen)
    renamed = tuple(_renamed(each, cameras or {}) for each in opened)
    return Conversion(renamed, layout, _outputs(tasks, layout, Path(output)))


def convert(conversion: Conversion, *, png: bool = False, plugins: Sequence[str] = ()) -> None:
    """Write what was planned; each file, and LeRobot's folder, appears when it is whole, in place of what was there.

    Args:
        conversion: From `plan_conversion`.
        png: For LeRobot, keep images exactly, as PNG inside the tables, instead of as lossy video.
        plugins: Modules or files that register the backends of the demonstrations, for LIBERO's states.

    Raises:
        DataFileError: A source is damaged, sources do not fit together, or a folder that is no LeRobot data set is in
            the way.
        VlaClError: The disk is full or the output cannot be written; nothing half-written stays.
    """
    if conversion.layout == LEROBOT:
        (folder,) = conversion.outputs
        if folder.exists() and not is_lerobot(folder) and not (folder.is_dir() and not any(folder.iterdir())):
            raise DataFileError(
                f"{folder} is there and is no LeRobot data set, so it is not replaced; choose another name"
            )
        with ExitStack() as stack:
            write_lerobot(folder, [stack.enter_context(each()) for each in conversion.sources], png=png)
        return
    for each, path in zip(conversion.sources, conversion.outputs, strict=True):
        with each() as recordings:
            if conversion.layout == "vla_cl":
                _write_ours(path, recordings)
            elif conversion.layout == "libero":
                write_libero(path, recordings, plugins)
            else:
                write_robomimic(path, recordings)


def _write_ours(path: Path, recordings: Recordings) -> None:
    count = len(recordings)
    splits = {name: indices.tolist() for name, indices in recordings.splits.items()}
    with progress_bar(f"converting {recordings.header.task}", count) as advance:
        episodes = map(recordings.episode, counted(range(count), advance))
        write_demonstrations(path, recordings.header, episodes, splits or None)


def _outputs(tasks: Sequence[str], layout: str, output: Path) -> tuple[Path, ...]:
    if layout == LEROBOT:
        if output.suffix == SUFFIX:
            raise ConfigurationError(f"a LeRobot data set is a folder, {output} looks like a file; choose another name")
        return (output,)
    if output.suffix == SUFFIX:
        if len(tasks) > 1:
            raise ConfigurationError(f"there are {len(tasks)} tasks to convert and one file, {output}; give a folder")
        return (output,)
    twice = sorted({task for task in tasks if tasks.count(task) > 1})
    if twice:
        raise ConfigurationError(f"several sources are of task {twice[0]!r}; merge them first (vla-cl data merge)")
    return tuple(output / FILE_NAMES[layout].format(task=task) for task in tasks)


def _hdf5(path: Path) -> Open:
    return lambda: open_demonstrations(path)


def _lerobot(path: Path) -> list[Open]:
    return [lambda task=task: nullcontext(task) for task in LeRobotDataset(path).tasks()]  # type: ignore[misc]


def _renamed(source: Open, cameras: Mapping[str, str]) -> Open:
    if not cameras:
        return source

    def opened() -> AbstractContextManager[Recordings]:
        stack = ExitStack()
        renamed = _Renamed(stack.enter_context(source()), cameras)
        return _Held(renamed, stack)

    return opened


class _Held(nullcontext[Recordings]):
    """Recordings whose file is closed with the block."""

    def __init__(self, recordings: Recordings, stack: ExitStack) -> None:
        super().__init__(recordings)
        self._stack = stack

    def __exit__(self, *details: object) -> None:
        self._stack.close()


class _Renamed:
    """Recordings with other names of cameras."""

    def __init__(self, recordings: Recordings, cameras: Mapping[str, str]) -> None:
        self._recordings, self.splits = recordings, recordings.splits
        self._keys = {image_key(old): image_key(new) for old, new in cameras.items()}
        observation = recordings.header.observation
        names = [cameras.get(name, name) for name in observation["cameras"]]
        if len(set(names)) < len(names):
            raise ConfigurationError(f"cameras cannot share a name: {', '.join(names)}")
        self.header: Header = replace(recordings.header, observation={**observation, "cameras": names})

    def __len__(self) -> int:
        return len(self._recordings)

    def episode(self, index: int) -> Episode:
        episode = self._recordings.episode(index)
        seen = {self._keys.get(key, key): values for key, values in episode.observations.items()}
        return replace(episode, observations=seen)
