"""A run on cached features: they lie beside the demonstrations, and a killed run that lost them computes them again."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from tests.integration.conftest import TINY, VlaCl

BACKBONE = Path(__file__).parent.parent / "training" / "frozen_backbone.py"
SMALLER = ("collection.episodes=2", "training.steps=20", "evaluation.episodes=1", "evaluation.zero_shot=false")
REGISTRATION = """
from vla_cl.policies.base import BACKBONES

BACKBONES.decorator("frozen")(FrozenBackbone)
"""


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plugin") / "frozen_plugin.py"
    path.write_text(BACKBONE.read_text() + REGISTRATION)
    return path


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that no other tests leave features in."""
    return tmp_path_factory.mktemp("demonstrations")


def line(output: Path, data: Path, plugin: Path, *more: str) -> list[str]:
    policy = ("policy=compact", "policy.backbone=frozen", "policy.cameras=[corner2]")
    places = (f"output={output}", f"data={data}", f"plugins=[{plugin}]", "name=run")
    return [
        "run",
        "suite=mw5",
        "length=2",
        "strategy=replay",
        "evaluation.zero_shot=false",
        *policy,
        *places,
        *TINY,
        *more,
    ]


def weights(run: Path) -> dict[str, str]:
    paths = sorted(run.glob("checkpoints/stage_*/*.safetensors"))
    return {str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


@pytest.mark.slow
def test_a_killed_run_that_lost_its_features_ends_as_it_would_have(
    tmp_path: Path, demonstrations: Path, plugin: Path, vla_cl: VlaCl
) -> None:
    first = vla_cl(*line(tmp_path / "whole", demonstrations, plugin))
    assert first.returncode == 0, first.stderr
    caches = [path for path in demonstrations.rglob("*.features/*") if (path / "features.json").is_file()]
    assert len(caches) == 2
    expected = weights(tmp_path / "whole" / "run")
    assert {"checkpoints/stage_01/model.safetensors"} <= expected.keys()

    again = tmp_path / "again"
    shutil.copytree(tmp_path / "whole" / "run", again / "run")
    for gone in ("checkpoints/stage_01", "episodes/stage_01.jsonl", "training/stage_01.jsonl"):
        path = again / "run" / gone
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for cache in caches:
        shutil.rmtree(cache)
    resumed = vla_cl(*line(again, demonstrations, plugin))
    assert resumed.returncode == 0, resumed.stderr
    assert weights(again / "run") == expected
    assert all((cache / "features.json").is_file() for cache in caches), "also those that are replayed from"


@pytest.mark.slow
def test_without_caching_nothing_lies_beside_the_demonstrations(
    tmp_path: Path, demonstrations: Path, plugin: Path, vla_cl: VlaCl
) -> None:
    for leftover in demonstrations.rglob("*.features"):
        shutil.rmtree(leftover)
    done = vla_cl(*line(tmp_path, demonstrations, plugin, "training.cache_features=false", "length=1"))
    assert done.returncode == 0, done.stderr
    assert not list(demonstrations.rglob("*.features"))
