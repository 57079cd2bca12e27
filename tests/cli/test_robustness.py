"""`vla-cl evaluate --perturb`, `perturbations` and `watch`, on a run that was hardly trained."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.conftest import CommandLine
from vla_cl.cli.main import main

FOG = str(Path(__file__).parents[2] / "docs" / "examples" / "fog.py")
RUN = (
    *("run", "suite=mw3", "length=2", "policy=compact", "strategy=sequential", "name=run", "rendering=raycast"),
    *("collection.episodes=1", "training.steps=1", "training.batch_size=2", "training.warmup_steps=1"),
    *("evaluation.episodes=1", "evaluation.slots=1", "evaluation.videos=0", "evaluation.zero_shot=false"),
    *("evaluation.horizon=8", "policy.image_size=64", "evaluation.perturbations=[action_delay:1,light:small]"),
)
FEW = ("--episodes", "2", "--horizon", "8", "--processes", "1")
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def run(vla_cl_in: CommandLine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run from pixels whose own evaluations were perturbed."""
    folder = tmp_path_factory.mktemp("perturbed")
    vla_cl_in(folder, *RUN).check_returncode()
    return folder / "runs" / "run"


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Call]:
    """Runs `vla-cl WORD...` in this process: its status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    handlers = list(logging.getLogger().handlers)

    def called(*words: str) -> tuple[int, str, str]:
        status = main(words)
        return status, *capfd.readouterr()

    yield called
    logging.getLogger().handlers[:] = handlers


def test_a_run_may_be_evaluated_under_perturbations(run: Path) -> None:
    rows = [json.loads(line) for line in (run / "episodes" / "stage_01.jsonl").read_text().splitlines()]
    assert {row["perturbation"] for row in rows} == {"action_delay=1+light:small"}


def test_what_perturbations_cost_is_one_command(run: Path, call: Call) -> None:
    words = ("--perturb", "fog,camera:large+action_delay=2", "--perturb", "instruction:swapped", "--plugin", FOG)
    files = ("--output", "rows.jsonl", "--picture", "seen.png")
    status, out, complaint = call("evaluate", str(run), *words, *FEW, *files, "--json")
    assert status == 0, complaint
    costs = json.loads(out)
    names = ["unperturbed", "fog:medium", "camera:large+action_delay=2", "instruction:swapped"]
    assert [cost["condition"] for cost in costs] == names
    assert all(len(cost["tasks"]) == 2 and cost["episodes"] == 4 for cost in costs)
    assert costs[1]["drop_interval"][0] < 0 < costs[1]["drop_interval"][1]
    rows = [json.loads(line) for line in Path("rows.jsonl").read_text().splitlines()]
    assert [row["perturbation"] for row in rows[::4]] == ["", *names[1:]]
    assert [row["seed"] for row in rows[:4]] == [row["seed"] for row in rows[4:8]]
    with Image.open("seen.png") as picture:
        assert picture.size[0] >= 3 * 64 and len(picture.getcolors(10**6) or ()) > 100


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--perturb", "camra"), "did you mean 'camera'"),
        (("--perturb", "light", "--language"), "give one of the two"),
        (("--perturb", "light", "--videos", "films"), "leave out --videos"),
        (("--picture", "seen.png"), "say which perturbations"),
        (("--perturb", "distractors:medium+distractors=3"), "named twice"),
    ],
)
def test_mistakes_end_in_one_line(run: Path, call: Call, words: tuple[str, ...], complaint: str) -> None:
    status, _, told = call("evaluate", str(run), *words)
    assert status == 2 and complaint in told and told.count("\n") == 1


def test_language_leaves_out_only_what_a_task_has_none_of_and_says_so(run: Path, call: Call) -> None:
    one = ("--task", "window-close", *FEW)
    status, out, told = call("evaluate", str(run), "--language", *one)
    assert status == 0 and "swapped" not in out and "held out" in out
    assert "left out: swapped: window-close has none" in " ".join(told.split())
    status, _, told = call("evaluate", str(run), "--language", "--argument", "wheels=4", *FEW)
    assert status == 2 and "arguments of backend 'meta_world' do not fit" in told


def test_perturbations_are_listed_and_drawn(call: Call) -> None:
    status, out, _ = call("perturbations", "--json", "--plugin", FOG)
    listed = {each["name"]: each for each in json.loads(out)}
    assert status == 0 and listed["camera"]["levels"] == {"small": 5.0, "medium": 15.0, "large": 30.0}
    assert listed["fog"]["what"].startswith("Every picture fades")
    status, out, _ = call("perturbations")
    assert status == 0 and "instruction" in out and "0.25" in out
    words = ("--picture", "push.png", "--image-size", "64", "--cameras", "corner2")
    status, _, told = call("perturbations", "mw5/push", *words)
    assert status == 0 and "action_delay is left out" in told
    with Image.open("push.png") as picture:
        assert picture.size[1] > 200
    assert call("perturbations", "mw5/push")[0] == 2


def test_a_policy_and_an_expert_are_filmed_where_there_is_no_display(run: Path, call: Call) -> None:
    import imageio.v3 as iio

    words = ("--policy", str(run), "--episode", "1", "--horizon", "8", "--size", "64", "--rendering", "raycast")
    status, out, told = call("watch", "mw3/window-close", *words, "--perturb", "camera:large", "--json")
    row = json.loads(out)
    assert status == 0 and "there is no display here" in told
    assert row["video"] == "window-close.mp4" and row["perturbation"] == "camera:large" and row["stage"] == 1
    assert len(iio.imread("window-close.mp4", plugin="FFMPEG")) == 3  # of 9 states, 80 a second, at 20 frames
    film = (
        "--video",
        "films/expert.mp4",
        "--camera",
        "corner3",
        "--speed",
        "4",
        "--size",
        "64",
        "--perturb",
        "distractors",
    )
    status, out, _ = call("watch", "mw3/window-close", *film, "--rendering", "raycast")
    assert status == 0 and "window-close, episode 0: success after" in out
    assert len(iio.imread("films/expert.mp4", plugin="FFMPEG")) > 2


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("windw-close",), "did you mean"),
        (("mw3/window-close", "--policy", "nowhere"), "holds no checkpoint"),
        (("mw3/window-close", "--instruction", "open it"), "is for a policy"),
        (("mw3/window-close", "--perturb", "camera", "--camera", "gripperPOV"), "is one that stands still"),
        (("mw3/window-close", "--camera", "corner9", "--rendering", "raycast"), "did you mean"),
    ],
)
def test_what_cannot_be_watched_is_told_in_one_line(call: Call, words: tuple[str, ...], complaint: str) -> None:
    status, _, told = call("watch", *words)
    assert status == 2 and complaint in told.splitlines()[-1]
