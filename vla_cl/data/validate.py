"""Whether a demonstration file is what it says: whole, unchanged, sound, and true to the simulator."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vla_cl.data.demonstrations import DemonstrationFile
from vla_cl.data.integrity import damage_reported
from vla_cl.data.picture import spread
from vla_cl.data.resimulate import resimulate
from vla_cl.data.schema import IMAGE_SUFFIX, SOURCE, Episode, demonstration_name, installed_versions
from vla_cl.envs import make_environment
from vla_cl.errors import VlaClError
from vla_cl.progress import counted, progress_bar

DEFAULT_REPLAYS = 3
FORMAT_PACKAGES = frozenset({"vla_cl", "h5py"})
"""Recorded packages that do not take part in a simulation's arithmetic."""


@dataclass(frozen=True)
class Validation:
    """What came of checking one file.

    Args:
        path: The file.
        problems: What is wrong, one line each; empty when nothing is.
        notes: What may explain a problem, or lead to one.
        demonstrations: How many there are; 0 when the file cannot be read.
        replayed: How many were done again in the simulator.
    """

    path: Path
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    demonstrations: int = 0
    replayed: int = 0

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def validate_demonstrations(
    path: Path, *, replays: int | None = DEFAULT_REPLAYS, plugins: Sequence[str] = ()
) -> Validation:
    """Check one demonstration file; whatever is wrong is in the result, not raised.

    First that it can be read and points nowhere else, with types and shapes that agree; then that its content has the
    checksum it was written with; then the values: finite, actions in [-1, 1], one end, `next_obs` one step after `obs`,
    splits of what is there. At last some demonstrations are done again in the simulator, unless they were converted
    from what did not hold its states.

    Args:
        path: The file.
        replays: How many demonstrations are done again, at equal distances from the first to the last; None is all.
        plugins: Modules or files that register the backend.
    """
    path = Path(path)
    found = Validation(path)
    try:
        with DemonstrationFile(path) as file:
            found = replace(found, demonstrations=len(file), notes=tuple(_version_notes(file)))
            problems = [str(error) for error in _errors(file)]
            vectors = [key for key in file.observation_keys if not key.endswith(IMAGE_SUFFIX)]
            with damage_reported(path):
                for index in range(len(file)):
                    found_here = [*_values(file.episode(index, vectors)), *_stored_twice(file, index)]
                    problems += [f"{demonstration_name(index)}: {what}" for what in found_here]
            found = replace(found, problems=tuple(problems))
            if found.sound and SOURCE in file.header.collection:
                note = "converted from elsewhere, so nothing is done again in the simulator"
                found = replace(found, notes=(*found.notes, note))
            elif found.sound:
                chosen = list(range(len(file))) if replays is None else spread(len(file), replays)
                found = replace(found, problems=tuple(_replayed(file, chosen, plugins)), replayed=len(chosen))
    except VlaClError as error:
        return replace(found, problems=(*found.problems, _without(path, str(error))))
    return found


def _errors(file: DemonstrationFile) -> Iterator[str]:
    """What the file's own checks say."""
    for check in (file.verify, lambda: file.splits):
        try:
            check()
        except VlaClError as error:
            yield _without(file.path, str(error))


def _without(path: Path, line: str) -> str:
    """A line that does not begin with the file's name, which is printed beside it."""
    return line.removeprefix(str(path)).lstrip(": ")


def _version_notes(file: DemonstrationFile) -> Iterator[str]:
    """Packages that are not those of the collection; a simulation need not be the same then."""
    here = installed_versions()
    for package, version in file.header.versions.items():
        if package not in FORMAT_PACKAGES and here.get(package) != version:
            yield f"collected with {package} {version}, here is {here.get(package, 'none')}"


def _values(episode: Episode) -> Iterator[str]:
    vectors = {"actions": episode.actions, "executed_actions": episode.executed_actions, "rewards": episode.rewards}
    vectors |= {f"obs/{key}": values for key, values in episode.observations.items()}
    for name, values in vectors.items():
        if not np.isfinite(values).all():
            yield f"{name} holds a number that is not finite at step {_first_row(~np.isfinite(values))}"
    if np.isinf(episode.states).any():  # a state may hold NaN: what the simulator has not set yet
        yield f"states holds an infinite number at step {_first_row(np.isinf(episode.states))}"
    for name in ("actions", "executed_actions"):
        beyond = np.abs(vectors[name]) > 1.0
        if beyond.any():
            step = _first_row(beyond)
            yield f"{name} leaves [-1, 1] at step {step}: {vectors[name][step][beyond[step]][0]:g}"


def _first_row(wrong: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> int:
    return int(np.argwhere(wrong)[0][0])


def _stored_twice(file: DemonstrationFile, index: int) -> Iterator[str]:
    """What a file says in two ways must agree."""
    dones = file.dataset(index, "dones")[()]
    if dones[:-1].any() or dones[-1] != 1:
        yield "dones must be 1 at the last step only"
    for key in file.observation_keys:
        now, after = (file.dataset(index, f"{place}/{key}") for place in ("obs", "next_obs"))
        if now[1:].tobytes() != after[:-1].tobytes():
            yield f"next_obs/{key} is not obs/{key} one step later"


def _replayed(file: DemonstrationFile, chosen: Sequence[int], plugins: Sequence[str]) -> Iterator[str]:
    """One line for each demonstration of which something else comes."""
    if not chosen:
        return
    observation = replace(file.observation_options, cameras=())
    spec = file.environment_spec(observation, file.rendering_options, plugins)
    with closing(make_environment(spec)) as env, progress_bar(f"replaying {file.path.name}", len(chosen)) as advance:
        for index in counted(chosen, advance):
            divergence = resimulate(env, file.episode(index, keys=()))
            if divergence is None:
                continue
            at = f"step {divergence.step}" if divergence.step >= 0 else "its first state"
            what = "success" if divergence.what == "success" else f"the state, by up to {divergence.difference:.3g}"
            yield f"{demonstration_name(index)}: the simulator differs at {at} in {what}"
