"""Run directories to report on, and a real headless Chromium to look at reports with."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import numpy as np
import pytest

from vla_cl.evaluation.rows import EpisodeRow, write_rows
from vla_cl.files import write_json, write_text

TASKS = ("window-close", "push", "faucet-close")
INSTRUCTIONS = ("close the window", "push the puck to the goal", "turn the faucet clockwise")
EPISODES = 20
HORIZON = 200
SUCCESSES: dict[str, list[list[int | None]]] = {
    "sequential": [[1, 0, 2], [19, None, None], [6, 17, None], [1, 4, 20]],
    "replay": [[1, 0, 2], [20, None, None], [18, 16, None], [17, 18, 19]],
}
"""Successes in 20 episodes: stage (zero-shot first) x task."""


def make_video(path: Path, seed: int, size: int = 64, frames: int = 20) -> None:
    """A short clip of a disc that moves over a table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows, columns = np.mgrid[:size, :size]
    generator = np.random.default_rng(seed)
    start, goal = generator.uniform(0.2, 0.8, (2, 2)) * size
    clip = np.empty((frames, size, size, 3), np.uint8)
    for frame in range(frames):
        clip[frame] = (126, 96, 72) if seed % 2 else (108, 88, 76)
        clip[frame, : size // 4] = (198, 206, 214)
        at = start + (goal - start) * frame / (frames - 1)
        clip[frame][(rows - goal[1]) ** 2 + (columns - goal[0]) ** 2 < (size / 14) ** 2] = (70, 160, 90)
        clip[frame][(rows - at[1]) ** 2 + (columns - at[0]) ** 2 < (size / 9) ** 2] = (200, 60, 50)
    imageio.imwrite(path, clip, fps=10, codec="libx264", macro_block_size=1)


def write_run(
    folder: Path,
    strategy: str,
    *,
    successes: Sequence[Sequence[int | None]] | None = None,
    tasks: Sequence[str] = TASKS,
    instructions: Sequence[str] = INSTRUCTIONS,
    stages: int | None = None,
    config: Mapping[str, Any] | None = None,
    videos: bool = True,
) -> Path:
    """Write a run directory as an experiment leaves it, from counts of successes.

    Args:
        stages: Only so many tasks were learned before the run was interrupted.
        config: Entries that replace those of the configuration.
        videos: Whether to record the first episode of each task after the last stage.
    """
    table = SUCCESSES[strategy] if successes is None else successes
    done = len(tasks) if stages is None else stages
    settings = {
        "suite": "mw3",
        "order": "default",
        "seed": 0,
        "policy": {"name": "compact", "backbone": "compact", "head": "flow", "chunk": 8, "execute": 8},
        "strategy": {"name": strategy} | ({"fraction": 0.2} if strategy == "replay" else {}),
        "training": {"steps": 600, "batch_size": 64, "learning_rate": 0.0005},
        "evaluation": {"episodes": EPISODES, "split": "test"},
    }
    write_json(folder / "config.json", settings | dict(config or {}))
    joules = 1_250.0 if strategy == "replay" else None
    energy_of = [] if joules is None else ["package-0", "dram"]
    environment = {"date": "2025-03-14T09:26:53", "python": "3.11.2", "torch": "2.13.0", "energy_of": energy_of}
    write_json(folder / "environment.json", environment)
    sequence = zip(tasks, instructions, strict=True)
    write_json(folder / "sequence.json", [{"name": n, "instruction": i, "horizon": HORIZON} for n, i in sequence])
    write_json(folder / "metrics.json", {"strategy_needs": {"raw_data": strategy == "replay", "teacher": False}})
    for stage in range(-1, done):
        rows = [
            EpisodeRow(
                stage=stage,
                task=task,
                split="test",
                episode=episode,
                seed=2_000_000 + episode,
                instruction=instruction,
                success=episode < count,
                steps=60 + episode if episode < count else HORIZON,
                failure="" if episode < count else "horizon",
            )
            for task, instruction, count in zip(tasks, instructions, table[stage + 1], strict=True)
            if count is not None
            for episode in range(EPISODES)
        ]
        write_rows(folder / ("episodes/zero_shot.jsonl" if stage < 0 else f"episodes/stage_{stage:02d}.jsonl"), rows)
    generator = np.random.default_rng(len(strategy))
    for stage in range(done):
        steps = np.arange(10, 601, 10)
        losses = 0.04 + 1.1 * np.exp(-steps / 90) + generator.exponential(0.02, steps.shape)
        log = [
            {"step": int(s), "loss": float(v), "learning_rate": 5e-4, "seconds": s / 50}
            for s, v in zip(steps, losses, strict=True)
        ]
        write_text(folder / f"training/stage_{stage:02d}.jsonl", "".join(json.dumps(entry) + "\n" for entry in log))
    stored = 4_200_000 if strategy == "replay" else 0
    ledger = [
        {
            "stage": stage, "task": tasks[stage], "train_seconds": 41.5, "evaluate_seconds": 12.25 + stage,
            "collect_seconds": 20.0, "policy_bytes": 5_812_736, "strategy_bytes": stored * (stage + 1),
            "trainable_parameters": 1_453_184, "extra_parameters": 24_576 * stage, "extra_passes": 1.0,
            "acting_passes": 0.5, "acting_milliseconds": 1.25 + stage, "acting_seconds": 2.5,
            "collect_steps": 4_100, "evaluate_steps": 1_000 * (stage + 1),
            "collect_joules": joules, "train_joules": joules and 2 * joules, "evaluate_joules": joules and 0.0,
        }
        for stage in range(done)
    ]  # fmt: skip
    write_json(folder / "ledger.json", ledger)
    for index, task in enumerate(tasks if videos and done else ()):
        if table[done][index] is not None:
            make_video(folder / f"videos/stage_{done - 1:02d}/{task}.mp4", seed=index)
    return folder


@pytest.fixture(scope="session")
def make_run() -> Callable[..., Path]:
    """`write_run`."""
    return write_run


@pytest.fixture(scope="session")
def make_film() -> Callable[..., None]:
    """`make_video`."""
    return make_video


@pytest.fixture(scope="session")
def two_runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A sequential and a replay run over three tasks."""
    root = tmp_path_factory.mktemp("runs")
    return [write_run(root / strategy, strategy) for strategy in SUCCESSES]


class Browser:
    """A headless Chromium on one page, driven through the DevTools protocol over a pipe.

    `events` collects what the browser reports: requests, console messages, exceptions, log entries.
    """

    def __init__(self, profile: Path) -> None:
        read_commands, self._commands = os.pipe()
        self._answers, write_answers = os.pipe()
        # The browser reads file descriptor 3 and writes 4. Copies out of their way, moved there by a process in
        # between, keep them apart from what this process has open under those numbers.
        sources = tuple(fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (read_commands, write_answers))
        move = (
            f"import os, sys; os.dup2({sources[0]}, 3); os.dup2({sources[1]}, 4); os.execvp(sys.argv[1], sys.argv[1:])"
        )
        flags = (
            "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
            "--disable-component-update --disable-sync --hide-scrollbars --disable-dev-shm-usage "
            "--remote-debugging-pipe"
        )
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-c", move, "chromium", *flags.split(), f"--user-data-dir={profile}", "about:blank"],
            pass_fds=sources,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in (read_commands, write_answers, *sources):
            os.close(end)
        self._buffer = b""
        self._next = 0
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its result."""
        self._next += 1
        message: dict[str, Any] = {"id": self._next, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive(60)
            if answer.get("id") == self._next:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return dict(answer["result"])

    def open(self, page: Path, width: int = 1280, height: int = 900, scheme: str = "light", media: str = "") -> None:
        """Load a file at a window size, in light or dark, for the screen or for print."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", media=media, features=features)
        self.events.clear()
        self.call("Page.navigate", url=page.resolve().as_uri())
        deadline = time.monotonic() + 60
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self._receive(deadline - time.monotonic())

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page; promises are awaited."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key: str, code: int, modifiers: int = 0) -> None:
        """Press and release a key, such as Tab (9) or ArrowRight (39); modifiers 8 is Shift."""
        for kind in ("rawKeyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, modifiers=modifiers
            )

    def screenshot(self, path: Path) -> Path:
        """Write a picture of the whole page."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        picture = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(picture["data"]))
        return path

    def close(self) -> None:
        """End the browser and everything that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._commands)
        os.close(self._answers)

    def _receive(self, seconds: float) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._answers], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, "the browser did not answer in time"
            received = os.read(self._answers, 1 << 20)
            assert received, "the browser ended"
            self._buffer += received
        line, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        if "method" in message:
            self.events.append(message)
        return message

    def complaints(self) -> list[Any]:
        """What the page has written to its console or thrown, once it is drawn."""
        self.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        kinds = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [event["params"] for event in self.events if event["method"] in kinds]


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Chromium, or a skip that says how to get it."""
    if shutil.which("chromium") is None:
        pytest.skip("no chromium on this machine (apt-get install chromium)")
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()
