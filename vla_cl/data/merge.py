"""Putting the demonstrations of several files of one task into one file."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vla_cl.data.demonstrations import DemonstrationFile
from vla_cl.data.hdf5 import write_demonstrations
from vla_cl.data.schema import Episode, Header, demonstration_name
from vla_cl.errors import ConfigurationError, DataFileError
from vla_cl.progress import counted, progress_bar

MUST_AGREE = ("task", "instruction", "expert", "environment", "observation")
"""Fields of the header that describe every demonstration of a file; so does `rendering`, if anything was drawn."""

DIMENSIONS = ("action_dim", "state_dim", "agent_pos_dim", "environment_state_dim")


@dataclass(frozen=True)
class Merged:
    """What a merge wrote.

    Args:
        path: The file.
        demonstrations: How many it holds.
        dropped: How many were left out because another was the same.
    """

    path: Path
    demonstrations: int
    dropped: int


@dataclass(frozen=True)
class _Source:
    """One file to be merged, and which of its demonstrations are kept."""

    path: Path
    header: Header
    checksum: str
    kept: list[int]
    splits: Mapping[str, Sequence[int]]
    traits: Mapping[str, Any]


def merge_demonstrations(paths: Sequence[Path], output: Path, *, drop_duplicates: bool = False) -> Merged:
    """Write the demonstrations of several files into one, numbered through in the order of the files.

    Two demonstrations are the same when their initial-state seed and their actions are. A demonstration stays in the
    splits that it was in. `header.collection["merged"]` says for each file its name, checksum, collection, package
    versions and how many demonstrations came from it.

    Args:
        paths: At least two demonstration files; their checksums must be right.
        output: Where the new file goes; may be one of `paths`.
        drop_duplicates: Keep the first of demonstrations that are the same, instead of refusing them.

    Raises:
        ConfigurationError: There are fewer than two files.
        DataFileError: A file cannot be used or was changed after it was written, the files differ in the task,
            environment, observation, rendering or a dimension, or demonstrations are the same.
    """
    if len(paths) < 2:
        raise ConfigurationError(f"merging needs at least two files, got {len(paths)}")
    sources, dropped = _sources([Path(path) for path in paths], drop_duplicates)
    total = sum(len(source.kept) for source in sources)
    header = replace(
        sources[0].header,
        collection=_collection(sources, total),
        versions=_versions([source.header.versions for source in sources]),
    )
    with progress_bar(f"merging {header.task}", total) as advance:
        write_demonstrations(output, header, counted(_episodes(sources), advance), _splits(sources))
    return Merged(Path(output), total, dropped)


def _sources(paths: Sequence[Path], drop_duplicates: bool) -> tuple[list[_Source], int]:
    """The files, checked against the first and against each other, and the number of duplicates left out."""
    sources: list[_Source] = []
    seen: dict[bytes, str] = {}
    dropped = 0
    for path in paths:
        with DemonstrationFile(path) as file:
            traits = _traits(file)
            if sources:
                _require_equal(sources[0], path, traits)
            file.verify()  # a new checksum must not vouch for damage
            kept = []
            for index in range(len(file)):
                key = _identity(file, index)
                here = f"{demonstration_name(index)} of {path}"
                if key not in seen:
                    seen[key] = here
                    kept.append(index)
                elif drop_duplicates:
                    dropped += 1
                else:
                    raise DataFileError(
                        f"{here} is the same as {seen[key]} (seed {file.seeds[index]}, equal actions); "
                        "leave such out with --drop-duplicates"
                    )
            splits = {name: indices.tolist() for name, indices in file.splits.items()}
            sources.append(_Source(path, file.header, file.checksum, kept, splits, traits))
    return sources, dropped


def _identity(file: DemonstrationFile, index: int) -> bytes:
    actions = file.dataset(index, "actions")[()]
    return hashlib.sha256(f"{file.seeds[index]} {actions.shape}".encode() + actions.tobytes()).digest()


def _traits(file: DemonstrationFile) -> dict[str, Any]:
    """What must agree, each leaf of a tree under its own dotted name; options that are not there are the default."""
    flat: dict[str, Any] = {}

    def add(name: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key, part in value.items():
                add(f"{name}.{key}", part)
        else:
            flat[name] = value

    for name in MUST_AGREE:
        add(name, getattr(file.header, name))
    if file.cameras:
        add("rendering", asdict(file.rendering_options))
    return flat | {name: getattr(file, name) for name in DIMENSIONS}


def _require_equal(first: _Source, path: Path, traits: Mapping[str, Any]) -> None:
    for name in {**first.traits, **traits}:
        one, two = first.traits.get(name), traits.get(name)
        if one != two:
            drawn = name.startswith(("observation", "rendering"))
            way_out = "vla-cl data rerender draws one like the other" if drawn else "such files cannot be merged"
            raise DataFileError(f"{name} is {one!r} in {first.path}, but {two!r} in {path}; {way_out}")


def _collection(sources: Sequence[_Source], total: int) -> dict[str, Any]:
    """What all collections say alike, and in "merged" what each of them said."""
    first = sources[0].header.collection
    common = {
        key: value
        for key, value in first.items()
        if all(source.header.collection.get(key) == value for source in sources)
    }
    merged = [
        {
            "file": source.path.name,
            "checksum": source.checksum,
            "demonstrations": len(source.kept),
            "collection": dict(source.header.collection),
            "versions": dict(source.header.versions),
        }
        for source in sources
    ]
    return {**common, "episodes": total, "merged": merged}


def _versions(versions: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """One version a package; those that differ between the files are named side by side."""
    found: dict[str, list[str]] = defaultdict(list)
    for each in versions:
        for package, version in each.items():
            if version not in found[package]:
                found[package].append(version)
    return {package: " and ".join(values) for package, values in found.items()}


def _splits(sources: Sequence[_Source]) -> dict[str, list[int]]:
    splits: dict[str, list[int]] = {}
    start = 0
    for source in sources:
        positions = {index: start + position for position, index in enumerate(source.kept)}
        for name, indices in source.splits.items():
            splits.setdefault(name, []).extend(positions[index] for index in indices if index in positions)
        start += len(source.kept)
    return splits


def _episodes(sources: Sequence[_Source]) -> Iterator[Episode]:
    for source in sources:
        with DemonstrationFile(source.path) as file:
            for index in source.kept:
                yield file.episode(index)
