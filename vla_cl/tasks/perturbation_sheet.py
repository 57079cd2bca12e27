"""A picture of what a policy sees of one initial state under perturbations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vla_cl.envs import EnvironmentSpec, make_environment
from vla_cl.envs.building import make_perturbable
from vla_cl.envs.perturbations import PERTURBATIONS, Perturbation, check_perturbations, read_perturbation
from vla_cl.envs.perturbations.episodes import PerturbedEnv
from vla_cl.errors import ConfigurationError
from vla_cl.tasks.panels import labelled_panel, write_grid

UNPERTURBED = ""
SHOWN_LEVELS = ("small", "medium", "large")


def perturbation_sheet(
    spec: EnvironmentSpec,
    seed: int,
    panels: Mapping[str, Sequence[str]],
    path: Path,
    *,
    columns: int | None = None,
) -> Path:
    """Draw one labelled panel a perturbation, in a grid, into a PNG file.

    Args:
        spec: The environment, not perturbed. What is drawn is what `observe` shows: its cameras, at their image size.
        seed: Of the initial state, the same in all panels.
        panels: By title, what to show side by side: texts of perturbations ("camera:small+light"), or `UNPERTURBED`.
            Each camera is a row.
        path: The file to write.
        columns: Panels side by side; by default the sheet becomes about as wide as high.

    Returns:
        `path`.

    Raises:
        ConfigurationError: There is no panel, or the task cannot be perturbed like this.
        RenderingError: Nothing here can draw images.
    """
    drawn = []
    with closing(make_perturbable(spec)) as env:
        for title, conditions in panels.items():
            views = [_views(env, condition, seed) for condition in conditions]
            if not views or not views[0]:
                raise ConfigurationError("a sheet of perturbations shows what cameras see, and this policy has none")
            levels = [each.partition(":")[2] or each for each in conditions if each != UNPERTURBED]
            caption = ", ".join(levels) if len(conditions) > 1 else ""
            drawn.append(labelled_panel(title, caption, [], list(zip(*views, strict=True))))
    return write_grid(drawn, path, columns=columns)


def levels_to_show(spec: EnvironmentSpec, seed: int) -> tuple[dict[str, list[str]], dict[str, str]]:
    """All levels of the registered perturbations that show in a first picture of this environment.

    Returns:
        Panels for `perturbation_sheet`, the unperturbed view first; and, by name, why the others are not among them.
    """
    panels, left_out = {"unperturbed": [UNPERTURBED]}, {}
    with closing(make_environment(spec)) as env:
        for name in PERTURBATIONS:
            levels = [f"{name}:{level}" for level in PERTURBATIONS[name].levels if level in SHOWN_LEVELS]
            found = read_perturbation(levels[-1]) if levels else None
            if found is None or not _changes_pictures(found):
                left_out[name] = "it does not show in a picture"
                continue
            env.restart(seed=seed)
            try:
                check_perturbations(env, [found])
            except ConfigurationError as error:
                left_out[name] = str(error)
            else:
                panels[name] = levels
    return panels, left_out


def _changes_pictures(perturbation: Perturbation) -> bool:
    kind = type(perturbation)
    return perturbation.is_seen or kind.start is not Perturbation.start


def _views(env: PerturbedEnv, condition: str, seed: int) -> list[NDArray[np.uint8]]:
    """What each camera sees of the initial state."""
    texts = condition.split("+") if condition else []
    env.perturb_by([text for text in texts if read_perturbation(text).instructions is None])
    env.restart(seed=seed)
    return list(env.observe().get("pixels", {}).values())
