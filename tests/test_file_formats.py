"""The files that runs leave are what docs/file_formats.md and its schemas say, key by key and file by file."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import jsonschema
import pytest
import torch

from tests.integration.conftest import TINY
from vla_cl.config import compose
from vla_cl.data import ObservationBatch, WindowDataset
from vla_cl.data.features import cached_features
from vla_cl.data.schema import HEADER_TREES
from vla_cl.evaluation.report import compare_runs, write_comparison
from vla_cl.experiment import run_experiment
from vla_cl.training import load_tree

ROOT = Path(__file__).parent.parent
SCHEMAS = ROOT / "docs" / "schemas"
PAGE = (ROOT / "docs" / "file_formats.md").read_text(encoding="utf-8")
RUN_SECTIONS = ("A run's folder", "Checkpoints")
SCHEMA_OF = {
    "config.json": "config",
    "environment.json": "environment",
    "sequence.json": "sequence",
    "ledger.json": "ledger",
    "metrics.json": "metrics",
    "episodes/*.jsonl": "episode",
    "training/*.jsonl": "training",
    "checkpoints/stage_*/config.json": "policy",
}
"""Files of a run by their schema."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A plain run with an adapter, and a federated one: two tasks, small, both with films."""
    folder = tmp_path_factory.mktemp("runs")
    shared = [
        *("suite=mw5", "length=2", "policy=lowdim_transformer", "policy.adapter.rank=2", "strategy=replay"),
        *(each for each in TINY if not each.startswith("evaluation.")),
        *("evaluation.episodes=1", "evaluation.horizon=10", "evaluation.videos=1", "evaluation.processes=1"),
        *(f"output={folder}", f"data={folder / 'demonstrations'}", "device=cpu"),
    ]
    made = {"plain": [], "federated": ["federation.clients=2", "federation.rounds=2"]}
    return {name: run_experiment(compose([*shared, f"name={name}", *more])[0]) for name, more in made.items()}


@pytest.fixture(scope="module")
def demonstrations(runs: dict[str, Path]) -> Path:
    return sorted((runs["plain"].parent / "demonstrations").rglob("*.hdf5"))[0]


def schema(name: str) -> dict[str, Any]:
    return json.loads((SCHEMAS / f"{name}.schema.json").read_text(encoding="utf-8"))


def check(content: Any, name: str) -> None:
    """Complain of the first thing that a schema forbids, or does not describe."""
    validator = jsonschema.Draft202012Validator(schema(name))
    for error in validator.iter_errors(content):
        raise AssertionError(f"docs/schemas/{name}.schema.json at {error.json_path}: {error.message}")


def contents(path: Path) -> list[Any]:
    """What a JSON file holds, or each line of a file of JSON lines."""
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else [json.loads(text)]


@pytest.mark.parametrize("kind", ["plain", "federated"])
def test_every_json_file_of_a_run_is_what_its_schema_says(runs: dict[str, Path], kind: str) -> None:
    for pattern, name in SCHEMA_OF.items():
        paths = sorted(runs[kind].glob(pattern))
        assert paths, pattern
        for path in paths:
            for content in contents(path):
                check(content, name)


def documented_patterns() -> list[str]:
    """The files that the page's tables about runs and checkpoints name, as regular expressions."""
    patterns = []
    for section in RUN_SECTIONS:
        text = PAGE.split(f"\n## {section}\n")[1].split("\n## ")[0]
        below = "checkpoints/stage_NN/" if section == "Checkpoints" else ""
        for line in text.split("\n### ")[0].splitlines():
            if line.startswith("| `"):
                named = line if "client_K" in line else line.split(" | ")[0]
                patterns += [below + name for name in re.findall(r"`([^`]+)`", named)]
    tokens = {"NNNNNNNN": r"\d{8}", "NN": r"\d\d", "<task>": r"[\w-]+", "<name>": r"[\w-]+", "K": r"\d+"}
    expressions = []
    for pattern in patterns:
        expression = re.sub(r"\.(?=\w)", r"\\.", pattern)
        for token, matches in tokens.items():
            expression = expression.replace(token, matches)
        is_folder = pattern.endswith("/") and pattern != "checkpoints/stage_NN/"
        expressions.append(expression + ".+" if is_folder else expression)
    return expressions


def test_every_file_of_a_run_is_on_the_page(runs: dict[str, Path]) -> None:
    patterns = documented_patterns()
    for run in runs.values():
        names = [str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()]
        assert len(names) > 12
        assert not [name for name in names if not any(re.fullmatch(pattern, name) for pattern in patterns)]


def test_a_file_that_the_page_does_not_name_would_be_noticed() -> None:
    patterns = documented_patterns()
    for name in (
        "notes.txt",
        "checkpoints/stage_00/optimiser.pt",
        "episodes/stage_1.jsonl",
        "checkpoints/stage_00/x/y",
    ):
        assert not any(re.fullmatch(pattern, name) for pattern in patterns), name


def test_a_state_is_put_together_from_its_two_files(runs: dict[str, Path]) -> None:
    folder = runs["federated"] / "checkpoints" / "stage_01"
    for name in ("strategy", "client_0", "client_1"):
        assert load_tree(folder, name)["stage"] == 0
        assert (folder / f"{name}.safetensors").is_file()


def test_a_demonstration_file_is_what_its_schema_says(demonstrations: Path) -> None:
    with h5py.File(demonstrations) as file:
        check(tree(file), "demonstrations")


def test_a_demonstration_file_with_images_is_what_its_schema_says(tmp_path: Path) -> None:
    from vla_cl.data import CollectionOptions, demonstrations_for
    from vla_cl.envs import ObservationOptions
    from vla_cl.tasks import find_task

    task, options = find_task("mw5/window-close"), CollectionOptions(episodes=1)
    path = demonstrations_for(task, tmp_path, options, ObservationOptions(("corner2",)), processes=1)
    with h5py.File(path) as file:
        content = tree(file)
    check(content, "demonstrations")
    assert content["data"]["demo_0"]["last_obs"]["corner2_image"]["shape"] == [1, 64, 64, 3]


def tree(item: h5py.Group | h5py.Dataset) -> dict[str, Any]:
    """Groups as objects, datasets as shape and type, attributes read, those of JSON, too."""
    if isinstance(item, h5py.Dataset):
        return {"shape": list(item.shape), "dtype": str(item.dtype)}
    content: dict[str, Any] = {name: tree(each) for name, each in item.items()}
    if item.attrs:
        content["attributes"] = {key: attribute(key, value) for key, value in item.attrs.items()}
    return content


def attribute(key: str, value: Any) -> Any:
    if key in ("env_args", *HEADER_TREES):
        return json.loads(value)
    return value if isinstance(value, str) else value.item()


def test_cached_features_are_what_their_schema_says(demonstrations: Path) -> None:
    def perceive(observation: ObservationBatch) -> Mapping[str, torch.Tensor]:
        return {"positions": observation.agent_pos}

    cache = cached_features(WindowDataset(demonstrations, 4), perceive, {"fingerprint": "agent_pos"})
    check(json.loads((cache.folder / "features.json").read_text()), "features")
    assert sorted(path.name for path in cache.folder.iterdir()) == ["0.bin", "features.json"]


def test_a_grids_table_is_what_its_schema_says(runs: dict[str, Path], tmp_path: Path) -> None:
    rows = compare_runs([runs["plain"]], replicates=20)
    write_comparison(
        rows, tmp_path / "grid", failed=[{"run": "mw5-lowdim-ewc-seed0-1a2b3c4d", "reason": "disk is full"}]
    )
    check(json.loads((tmp_path / "grid.json").read_text()), "grid")


def test_a_wrong_file_is_refused_by_the_schema(runs: dict[str, Path]) -> None:
    (row, *_) = contents(sorted(runs["plain"].glob("episodes/*.jsonl"))[0])
    for wrong in ({**row, "success": 1}, {**row, "extra": 0}, {key: row[key] for key in row if key != "seed"}):
        with pytest.raises(AssertionError, match=r"episode\.schema\.json"):
            check(wrong, "episode")


@pytest.mark.parametrize("path", sorted(SCHEMAS.glob("*.json")), ids=lambda path: path.name)
def test_every_schema_is_one_and_is_on_the_page(path: Path) -> None:
    jsonschema.Draft202012Validator.check_schema(json.loads(path.read_text(encoding="utf-8")))
    assert f"<!-- schema: {path.name.removesuffix('.schema.json')} -->" in PAGE
