"""The picture of a suite, drawn by the real renderer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from vla_cl.envs import ObservationOptions
from vla_cl.errors import ConfigurationError
from vla_cl.tasks import contact_sheet
from vla_cl.tasks.meta_world import meta_world_task
from vla_cl.tasks.panels import MARGIN, labelled_panel

SMALL = ObservationOptions(image_size=64)


def test_a_sheet_shows_start_and_success_of_every_task(tmp_path):
    tasks = [meta_world_task("drawer-close"), replace(meta_world_task("drawer-open"), expert="")]
    path = contact_sheet(tasks, tmp_path / "sheet.png", SMALL, columns=2)
    sheet = np.asarray(Image.open(path).convert("RGB")).astype(int)
    bottom, gap, margin = -8, 2, 8
    views = [
        sheet[bottom - 64 : bottom, left : left + 64]
        for panel in (margin, 2 * margin + 128 + gap)
        for left in (panel, panel + 64 + gap)
    ]
    start, success, start_without_expert, nothing = views
    assert min(view.std() for view in (start, success, start_without_expert)) > 10
    assert np.abs(start - success).mean() > 1
    assert nothing.std() == 0
    assert list(tmp_path.iterdir()) == [path]


def test_a_sheet_of_nothing_is_an_error(tmp_path):
    with pytest.raises(ConfigurationError, match="at least one task"):
        contact_sheet([], tmp_path / "sheet.png")
    with pytest.raises(ConfigurationError, match="columns must be at least 1"):
        contact_sheet([meta_world_task("push")], tmp_path / "sheet.png", columns=0)


def test_a_long_title_leaves_the_caption_its_room() -> None:
    frame = np.zeros((32, 200, 3), np.uint8)
    panel = np.asarray(labelled_panel("a_title_as_long_as_only_libero_gives_them", "expert: 206 steps", [], [[frame]]))
    alone = np.asarray(labelled_panel("", "expert: 206 steps", [], [[frame]]))
    caption = np.flatnonzero((alone[:15] < 200).any(axis=(0, 2)))[0]
    assert caption > 60
    np.testing.assert_array_equal(panel[:15, caption - MARGIN :], alone[:15, caption - MARGIN :])
    assert (panel[:15, : caption - MARGIN] < 200).any()
