"""A grid of runs on the cores of this machine, against one process, and against itself after a kill.

    python benchmarks/grid.py
    python benchmarks/grid.py --steps 30 --episodes 1 --strategies sequential   # does it work here?

Three strategies in two orders from two seeds learn `mw5` with the policy `lowdim`: twelve runs. Demonstrations are
collected first, and are not timed. Then the same runs are done three times, each by one command:

- one process: `vla-cl run`, one run after another, simulators included in one core (`evaluation.processes=1`);
- a grid: `vla-cl grid`. The ratio of the two times, start and end of the commands included, is to be at least 1.7 on
  two cores;
- a grid whose driver is killed (SIGKILL) when half of its runs are done and others are in the middle of a task, and
  which the same command then ends.

All three must end in the same table: every metric, interval and cost that does not depend on the clock. The last line
of the output is JSON; the exit status is 1 where tables differ. Takes twenty minutes on two idle cores.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

from rich.console import Console
from rich.table import Table

from vla_cl.config import compose
from vla_cl.data import demonstrations_for
from vla_cl.evaluation.report.comparison import compare_runs
from vla_cl.evaluation.report.formats import as_json
from vla_cl.tasks import get_suite

SUITE = "mw5"
LIMIT = 1.7
LOOK_SECONDS = 0.2


def overrides(options: argparse.Namespace, data: Path) -> list[str]:
    """What is run, the same on all sides."""
    return [
        f"suite={SUITE}",
        "policy=lowdim",
        f"strategy={','.join(options.strategies)}",
        f"order={','.join(options.orders)}",
        f"seed={','.join(map(str, range(options.seeds)))}",
        f"training.steps={options.steps}",
        f"training.checkpoint_every={max(1, options.steps // 3)}",
        "collection.episodes=10",
        f"evaluation.episodes={options.episodes}",
        f"evaluation.slots={options.episodes}",
        "evaluation.processes=1",
        "evaluation.videos=0",
        f"data={data}",
    ]


def start(verb: str, words: list[str], output: Path, *more: str) -> subprocess.Popen[bytes]:
    """A command whose words go into a file beside its output."""
    output.mkdir(parents=True, exist_ok=True)
    with open(output / "command.log", "ab") as log:
        arguments = [sys.executable, "-m", "vla_cl.cli.main", verb, *words, f"output={output}", *more]
        return subprocess.Popen(arguments, stdout=log, stderr=log)


def finish(process: subprocess.Popen[bytes], output: Path) -> None:
    """Wait for a command, and stop if it failed."""
    if process.wait() != 0:
        sys.exit(f"a command failed; its last words:\n{(output / 'command.log').read_text()[-2000:]}")


def timed(verb: str, words: list[str], output: Path, *more: str) -> float:
    """Seconds that a command takes."""
    started = time.perf_counter()
    finish(start(verb, words, output, *more), output)
    return time.perf_counter() - started


def killed(words: list[str], output: Path, runs: int, *more: str) -> float:
    """Seconds until half of a grid's runs are done, another is in the middle of a task, and the driver is killed."""
    started = time.perf_counter()
    process = start("grid", words, output, *more)
    under_way = "*/checkpoints/training/*/step_*"
    while len(list(output.glob("*/metrics.json"))) < runs // 2 or not any(output.glob(under_way)):
        if process.poll() is not None:
            sys.exit(f"the grid ended before it could be killed:\n{(output / 'command.log').read_text()[-2000:]}")
        time.sleep(LOOK_SECONDS)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return time.perf_counter() - started


def table_of(output: Path, folders: list[str]) -> dict[str, Any]:
    """The table of some runs, without what depends on the clock."""
    table: dict[str, Any] = json.loads(json.dumps(as_json(compare_runs([output / name for name in folders]))))
    for row in table["rows"]:
        row["costs"] = {key: value for key, value in row["costs"].items() if "seconds" not in key}
    return table


def main() -> None:
    """Measure, print the table, then the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--strategies", nargs="+", default=["sequential", "replay", "ewc"])
    parser.add_argument("--orders", nargs="+", default=["default", "reversed"])
    parser.add_argument("--seeds", type=int, default=2, help="how many, from 0")
    parser.add_argument("--steps", type=int, default=100, help="of training, a task")
    parser.add_argument("--episodes", type=int, default=1, help="of evaluation, a task and stage")
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)), help="of a grid")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vla-cl-grid-") as place:
        folder = Path(place)
        words = overrides(options, folder / "demonstrations")
        configs = compose(words)
        for task in get_suite(SUITE).sequence():
            first = configs[0]
            demonstrations_for(task, Path(first.data), first.collection, first.observation, first.rendering)
        names = [config.folder.name for config in configs]
        sides = {name: folder / name for name in ("one process", "grid", "killed grid")}
        cores = ("--cores", str(options.cores))
        seconds = {
            "one_process": timed("run", words, sides["one process"]),
            "grid": timed("grid", words, sides["grid"], *cores),
            "until_killed": killed(words, sides["killed grid"], len(configs), *cores),
            "resumed": timed("grid", words, sides["killed grid"], *cores),
        }
        tables = [table_of(output, names) for output in sides.values()]
    ratio = seconds["one_process"] / seconds["grid"]
    same = all(table == tables[0] for table in tables)
    drawn = Table("", "seconds")
    for name, value in seconds.items():
        drawn.add_row(name.replace("_", " "), f"{value:.1f}")
    console = Console()
    console.print(drawn)
    console.print(f"a grid on {options.cores} cores is {ratio:.2f} times as fast as one process (limit {LIMIT})")
    console.print("all tables are the same" if same else "[red]the tables differ[/red]")
    result = {
        "runs": len(names),
        "cores": options.cores,
        "steps": options.steps,
        "episodes": options.episodes,
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "ratio": round(ratio, 2),
        "limit": LIMIT,
        "same_table": same,
    }
    print(json.dumps(result))
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
