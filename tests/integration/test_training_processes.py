"""One run on several processes, as torchrun (which `accelerate launch` calls) and as the run itself starts them."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.integration.conftest import TINY, command, environment

WORDS = (
    "run",
    "suite=mw5",
    "length=1",
    "policy=lowdim",
    "strategy=replay",
    *TINY,
    "evaluation.zero_shot=false",
    "evaluation.episodes=1",
    "training.processes=2",
    "device=cpu",
)


def content(output: Path) -> dict[str, str]:
    """Weights, rows and losses of the only run in a folder, without what depends on the clock."""
    (run,) = (path.parent for path in output.glob("*/metrics.json"))
    losses = [json.loads(line) for line in (run / "training/stage_00.jsonl").read_text().splitlines()]
    return {
        "weights": hashlib.sha256((run / "checkpoints/stage_00/model.safetensors").read_bytes()).hexdigest(),
        "rows": (run / "episodes/stage_00.jsonl").read_text(),
        "losses": json.dumps([{key: row[key] for key in row if key != "seconds"} for row in losses]),
    }


def test_a_launcher_and_the_run_itself_start_the_same_training_which_a_kill_does_not_change(
    tmp_path: Path, demonstrations: Path
) -> None:
    def words(output: Path) -> list[str]:
        return [*WORDS, f"output={output}", f"data={demonstrations}"]

    itself = tmp_path / "itself"
    process = subprocess.Popen(
        command(*words(itself)), env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    while not any(itself.glob("*/checkpoints/training/stage_00/step_*")):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    resumed = subprocess.run(command(*words(itself)), env=environment(), capture_output=True, text=True, timeout=900)
    assert resumed.returncode == 0, resumed.stderr

    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    launched = tmp_path / "launched"
    done = subprocess.run(
        [*launcher, "--module", "vla_cl.cli.main", *words(launched)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("report: ") == 1, "the first process alone speaks"
    assert content(launched) == content(itself)
