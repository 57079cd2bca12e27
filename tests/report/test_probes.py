"""The section of a report about probes, and their picture, from files as probes write them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import pytest

from tests.report.conftest import write_run
from vla_cl.errors import ConfigurationError
from vla_cl.evaluation.report import write_report
from vla_cl.evaluation.report.probe_figure import save_probe_figure
from vla_cl.files import write_json, write_text

FIRST, SECOND, THIRD = "window-close", "push", "faucet-close"
VERDICT = {
    "former": 20,
    "final": 2,
    "episodes": 20,
    "outcome": "hidden",
    "scaled": True,
    "scale": 0.5,
    "steps": 120,
    "relearned": 12,
    "first": None,
    "savings": None,
}
FOUND: dict[str, dict[str, Any]] = {
    "verdicts": {FIRST: VERDICT, SECOND: VERDICT | {"final": 20, "outcome": "kept", "steps": None, "scaled": False}},
    "recovery": {FIRST: {"steps": [0, 12, 120], "relearned": [2, 18, 20], "first": [0, 1, 9], "episodes": 20}},
    "scale": {
        FIRST: {
            "scales": [0.0, 0.5, 1.0],
            "successes": [20, 19, 2],
            "newest": THIRD,
            "newest_successes": [0, 3, 20],
            "episodes": 20,
        }
    },
    "drift": {
        FIRST: {
            "learned": 0,
            "stages": [1, 2],
            "layers": ["context", "<head>.blocks.0"],
            "cka": [[0.9, 0.8], [0.7, 0.6]],
            "unbiased_cka": [[0.81, 0.71], [0.61, -0.03]],
        }
    },
    "routing": {
        FIRST: {
            "parts": ["a", "b"],
            "owners": [[FIRST], [SECOND]],
            "decisions": 4,
            "accuracy": 0.75,
            "confusion": {FIRST: 0.75, SECOND: 0.25},
            "shares": [0.7, 0.3],
            "heaviest": [3, 1],
            "episodes": [{"episode": 0, "success": True, "right": 0.75}],
        }
    },
}


def probed_run(folder: Path, **found: dict[str, Any]) -> Path:
    run = write_run(folder, "sequential", videos=False)
    for name, tasks in (found or FOUND).items():
        write_json(run / "probes" / f"{name}.json", {"settings": {}, "tasks": tasks})
    return run


def section(run: Path) -> str:
    page = write_report([run], run / "report.html").read_text()
    found = re.search(r'<section aria-labelledby="probes">.*?</section>', page, re.DOTALL)
    return found[0] if found else ""


def test_a_report_tells_what_probes_found(tmp_path: Path) -> None:
    told = section(probed_run(tmp_path / "run"))
    assert "hidden" in told and "over 120" in told and "kept" in told
    assert told.count("<svg") >= 2 + 4  # a recovery panel and a scale panel, and their legends
    assert "18 of 20" in told and "faucet-close, scale 0.5: 3 of 20" in told
    assert "\N{MINUS SIGN}0.03" in told and "&lt;head&gt;.blocks.0" in told and "<head>" not in told
    assert "after task 2 0.81 (plain 0.90), after task 3 0.61 (plain 0.70)" in told
    assert "accuracy 0.75" in told and "parameters of push acted most in 25% of decisions" in told


def test_a_run_that_was_not_probed_has_no_such_section(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "sequential", videos=False)
    assert section(run) == ""
    write_text(run / "probes" / "drift.json", '{"settings": {}, "ta')
    assert section(run) == "", "a file that cannot be read is no reason to have no report"


@pytest.mark.parametrize("name", sorted(FOUND))
def test_each_probe_is_shown_by_itself(name: str, tmp_path: Path) -> None:
    assert FIRST in section(probed_run(tmp_path / "run", **{name: FOUND[name]}))


def test_probes_become_a_picture(tmp_path: Path) -> None:
    image = imageio.imread(save_probe_figure(probed_run(tmp_path / "run"), tmp_path / "probes.png"))
    assert min(image.shape[:2]) > 300 and image.std() > 10
    with pytest.raises(ConfigurationError, match=r"no probe of .* found anything that can be drawn"):
        save_probe_figure(write_run(tmp_path / "other", "replay", videos=False), tmp_path / "none.png")
