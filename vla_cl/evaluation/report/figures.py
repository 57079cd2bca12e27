"""The success matrix as a picture, for a README or for TensorBoard, in the colours of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vla_cl.errors import ConfigurationError
from vla_cl.evaluation.matrix import success_matrix
from vla_cl.evaluation.report.colours import VIRIDIS, rate_colour, text_colour
from vla_cl.evaluation.report.heat_map import DENSE_FROM, decimal
from vla_cl.evaluation.report.runs import read_runs
from vla_cl.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg

RULE, MUTED, TEXT = "#c9ced6", "#5b6470", "#1b1f24"
FONT = "DejaVu Sans"  # comes with matplotlib, so a picture is the same everywhere


def success_matrix_figure(
    matrices: Mapping[str, ArrayLike], tasks: Sequence[str], *, dots_per_inch: int = 100
) -> NDArray[np.uint8]:
    """Draw success matrices side by side.

    Args:
        matrices: Title to success matrix (T + 1, T): rates in [0, 1], nan where nothing was measured.
        tasks: The T task names, in the order of learning.
        dots_per_inch: Resolution; at 100 a matrix of five tasks is about 450 pixels wide.

    Returns:
        An RGB image (H, W, 3).

    Raises:
        ConfigurationError: There is no matrix, or one does not fit the tasks.
    """
    canvas = _canvas(matrices, tasks, dots_per_inch)
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()  # type: ignore[no-untyped-call]


def save_success_matrix_figure(run_folders: Sequence[Path], path: Path, *, dots_per_inch: int = 160) -> Path:
    """Write the success matrices of runs of one task sequence, side by side, as a PNG file.

    Args:
        run_folders: Directories that an experiment wrote.
        path: The file to write.
        dots_per_inch: Resolution.

    Returns:
        `path`.

    Raises:
        ConfigurationError: A folder is not a run directory, or the runs learn different sequences.
    """
    runs = read_runs(run_folders)
    for run in runs:
        if run.sequence != runs[0].sequence:
            raise ConfigurationError(
                f"runs {runs[0].label!r} and {run.label!r} learn different sequences; draw them in two figures"
            )
    matrices = {run.label: success_matrix(run.rows, run.sequence) for run in runs}
    canvas = _canvas(matrices, runs[0].sequence, dots_per_inch)
    with atomic_path(Path(path)) as temporary:
        canvas.print_png(str(temporary), metadata={"Software": None})  # type: ignore[no-untyped-call]
    return Path(path)


def _canvas(matrices: Mapping[str, ArrayLike], tasks: Sequence[str], dots_per_inch: int) -> FigureCanvasAgg:
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    if not matrices:
        raise ConfigurationError("no success matrix was given to draw")
    arrays = {title: np.asarray(matrix, np.float64) for title, matrix in matrices.items()}
    for title, array in arrays.items():
        if array.shape != (len(tasks) + 1, len(tasks)):
            raise ConfigurationError(
                f"the matrix of {title!r} has shape {array.shape}, not ({len(tasks) + 1}, {len(tasks)}) as its tasks"
            )
    dense = len(tasks) >= DENSE_FROM
    cell = 0.36 if dense else 0.62
    longest = max(map(len, tasks))
    labels = max(1.75, 0.075 * (len("after ") + longest))
    width = labels + len(arrays) * (len(tasks) * cell + 0.35) + 0.55
    lines = max(name.count("-") for name in tasks) + 1
    header = 0.55 + (0.075 * longest if dense else 0.14 * lines)
    height = header + (len(tasks) + 1) * cell + 0.15
    with rc_context({"font.family": FONT, "font.size": 9, "text.color": TEXT, "hatch.linewidth": 0.6}):
        figure = Figure(figsize=(width, height), dpi=dots_per_inch, facecolor="white")
        canvas = FigureCanvasAgg(figure)
        panel_height = (len(tasks) + 1) * cell / height
        for index, (title, array) in enumerate(arrays.items()):
            left = (labels + index * (len(tasks) * cell + 0.35)) / width
            axes = figure.add_axes((left, 0.15 / height, len(tasks) * cell / width, panel_height))
            _draw(axes, title, array, tasks, dense=dense, row_labels=index == 0)
        scale = figure.add_axes(((width - 0.5) / width, 0.15 / height, 0.12 / width, panel_height))
        colours = LinearSegmentedColormap.from_list("success", VIRIDIS)
        scale.imshow(np.linspace(1, 0, 256)[:, None], aspect="auto", cmap=colours, extent=(0, 1, 0, 1))
        scale.set_xticks([])
        scale.yaxis.tick_right()
        scale.set_yticks([0, 0.5, 1], ["0", "0.5", "1"], color=MUTED, fontsize=8)
        scale.tick_params(length=0)
        for spine in scale.spines.values():
            spine.set_visible(False)
    return canvas


def _draw(
    axes: Axes, title: str, matrix: NDArray[np.float64], tasks: Sequence[str], *, dense: bool, row_labels: bool
) -> None:
    from matplotlib.patches import Rectangle

    for row in range(matrix.shape[0]):
        for column in range(matrix.shape[1]):
            rate = float(matrix[row, column])
            corner = (column + 0.03, row + 0.03)
            if np.isnan(rate):
                hatched = Rectangle(corner, 0.94, 0.94, facecolor="#f6f7f9", edgecolor=RULE, hatch="////", linewidth=0)
                axes.add_patch(hatched)
                continue
            colour = rate_colour(rate)
            frame = {"edgecolor": TEXT, "linewidth": 1.4, "zorder": 2} if row == column + 1 else {"linewidth": 0}
            axes.add_patch(Rectangle(corner, 0.94, 0.94, facecolor=colour, clip_on=False, **frame))
            if row == column + 1:
                inset = (column + 0.06, row + 0.06)
                axes.add_patch(Rectangle(inset, 0.88, 0.88, fill=False, edgecolor="white", linewidth=1, zorder=2))
            text = decimal(rate).lstrip("0") if dense and rate < 1 else decimal(rate)
            axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", color=text_colour(colour),
                      fontsize=7 if dense else 10)  # fmt: skip
    axes.set_xlim(0, matrix.shape[1])
    axes.set_ylim(matrix.shape[0], 0)
    axes.xaxis.tick_top()
    axes.set_xticks(np.arange(len(tasks)) + 0.5, [name if dense else name.replace("-", "-\n") for name in tasks],
                    rotation=90 if dense else 0, fontsize=8, color=MUTED)  # fmt: skip
    names = ["zero-shot", *(f"after {name}" for name in tasks)] if row_labels else []
    axes.set_yticks(np.arange(matrix.shape[0]) + 0.5 if row_labels else [], names, fontsize=8, color=MUTED)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_title(title, fontsize=11, fontweight="bold", loc="left", pad=8)
