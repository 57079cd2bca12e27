"""`vla-cl assets`, and the roots and protocols that other commands take."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vla_cl.cli.main import main


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLA_CL_LIBERO_ROOT", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LIBERO_CONFIG_PATH", str(tmp_path))


def test_what_is_not_there_is_listed_with_the_ways_out(vla_cl):
    result = vla_cl("assets", "list")
    assert result.returncode == 0 and "vla-cl assets fetch libero" in result.stdout
    (libero,) = json.loads(vla_cl("assets", "list", "--json").stdout)
    assert libero["variable"] == "VLA_CL_LIBERO_ROOT" and "not found" in libero["error"]


def test_what_is_there_is_counted(vla_cl, libero_root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("VLA_CL_LIBERO_ROOT", str(libero_root))
    (libero,) = json.loads(vla_cl("assets", "list", "--json").stdout)
    assert libero["folder"] == str(libero_root.resolve()) and libero["present"]["task files"] == 130
    table = vla_cl("assets", "list").stdout
    assert "by VLA_CL_LIBERO_ROOT" in table and "task files      130" in table


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("assets", "fetch", "librero"), "set of assets 'librero' is not registered; did you mean 'libero'?"),
        (("run", "suite=mw3", "assets.librero=/tmp"), "did you mean 'libero'?"),
        (("run", "suite=mw3", "assets.libero=none"), "none is not a folder"),
        (("run", "suite=mw3", "protocol=libero_paper"), "the arguments of backend 'meta_world' do not fit"),
        (("run", "suite=libero_goal", "evaluation.episodes=51"), "has 50 initial states for test"),
        (("run", "suite=libero_goal", "training.instructions=declared"), "LIBERO's files were not found"),
        (("evaluate", "nowhere", "--protocol", "vla_papr"), "did you mean 'vla_paper'?"),
        (("evaluate", "nowhere", "--argument", "settle_steps"), "--argument must read like settle_steps=5"),
        (("evaluate", "nowhere", "--protocol", "libero_paper"), "nowhere"),
    ],
)
def test_mistakes_are_one_line(capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str):
    assert main(words) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
