"""How fast a LIBERO task is here, side by side with hf-libero 0.1.4, which runs it on robosuite 1.4.

    python benchmarks/libero.py --create-peer ~/hf-libero            # makes that environment first
    python benchmarks/libero.py --peer-python ~/hf-libero/bin/python

LIBERO's files are where `VLA_CL_LIBERO_ROOT` says; what is missing of them is stood in for alike on both sides. One
process a side, the same stored initial state, the same random actions, two cameras. Control steps a second, without the
resets:

- rendering both cameras at every step;
- stepping chunks of 8 and rendering once a chunk, which is what a policy looks at, against the same peer;
- ours without pixels.

Beside them, how long either side takes to build the scene, and to reset to a stored initial state and look at it.

Rounds of the sides alternate, so that whatever else the machine does falls on all, and a ratio is the median over
rounds. The last line of the output is JSON. Takes about four minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from rich.console import Console
from rich.table import Table

from vla_cl.envs import ObservationOptions
from vla_cl.envs.chunk import advance_chunk
from vla_cl.envs.rendering import available_backends

CAMERAS = ("agentview", "wrist")
SIZE, CHUNK = 128, 8
PEER_REQUIREMENTS = ("hf-libero==0.1.4", "robosuite==1.4.0", "mujoco==3.3.0")
PEER_SCRIPT = Path(__file__).resolve().parent / "peers" / "hf_libero.py"
PEER = "peer, two cameras"
ENVIRONMENT = {"MUJOCO_GL": "egl", "PYOPENGL_PLATFORM": "egl", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

OURS: dict[str, tuple[tuple[str, ...], int]] = {
    "ours, two cameras": (CAMERAS, 1),
    "ours, two cameras, chunks of 8": (CAMERAS, CHUNK),
    "ours, no pixels": ((), CHUNK),
}
"""Cameras, and how many steps are taken before one look at them."""

STEPS = {PEER: 40, "ours, two cameras": 160, "ours, two cameras, chunks of 8": 480, "ours, no pixels": 480}
"""Steps in a round, from one reset; they stay below the task's horizon times the number of resets."""

RATIOS = {
    "pixels_every_step": ("ours, two cameras", PEER),
    "pixels_chunk_8": ("ours, two cameras, chunks of 8", PEER),
}


class Side(Protocol):
    """One of the compared, in a process of its own."""

    build_seconds: float

    def ask(self, request: str) -> float:
        """Seconds that `"N"` steps took from the first initial state, or `"reset K"`."""
        ...


class Peer:
    """hf-libero, run by a Python that has it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        first = self._answer()
        self.build_seconds: float = first["build_seconds"]
        self.stood_in: list[str] = first["stood_in"]

    def ask(self, request: str) -> float:
        """As `Side.ask`."""
        assert self._process.stdin is not None
        self._process.stdin.write(request + "\n")
        self._process.stdin.flush()
        return float(self._answer())

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("hf-libero's process ended; its standard error, above, says why")
        return json.loads(line)


class Ours:
    """This package, at the other end of a pipe."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.build_seconds: float = connection.recv()

    def ask(self, request: str) -> float:
        """As `Side.ask`."""
        self._connection.send(request)
        return float(self._connection.recv())


def serve(connection: Connection, task: str, cameras: tuple[str, ...], chunk: int) -> None:
    """What `Ours` talks to. A process of its own, so that GL contexts do not meet."""
    from vla_cl.tasks import find_task

    found = find_task(task)
    started = time.perf_counter()
    env = found.environment(ObservationOptions(cameras=cameras, image_size=SIZE))
    built = time.perf_counter() - started
    actions = np.random.RandomState(0).uniform(-1, 1, (1000, 7)).astype(np.float32)
    env.reset(seed=0)
    env.step(actions[0])
    connection.send(built)
    while request := connection.recv():
        verb, _, argument = request.rpartition(" ")
        started = time.perf_counter()
        if verb == "reset":
            env.reset(options={"init_state": int(argument)})
            connection.send(time.perf_counter() - started)
            continue
        env.reset(options={"init_state": 0})
        taken, started = 0, time.perf_counter()
        while taken < int(argument):
            _, steps = advance_chunk(env, actions[taken : taken + chunk])
            env.observe()
            taken += steps
            if steps < chunk or env.elapsed_steps >= env.horizon:
                break
        connection.send((time.perf_counter() - started) * int(argument) / taken)


@contextmanager
def peer_side(python: Path, root: Path, work: Path, task: str) -> Iterator[Peer]:
    """hf-libero with the files of `root`, completed in `work`."""
    command = [str(python), str(PEER_SCRIPT), str(root), str(work), *task.split("/"), str(SIZE)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **ENVIRONMENT}
    )
    try:
        yield Peer(process)
    finally:
        if process.stdin is not None:
            process.stdin.close()
        process.wait()


@contextmanager
def our_side(task: str, cameras: tuple[str, ...], chunk: int) -> Iterator[Ours]:
    """This package, rendering with `cameras` once every `chunk` steps."""
    near, far = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(far, task, cameras, chunk), daemon=True)
    process.start()
    far.close()
    try:
        yield Ours(near)
    finally:
        near.send("")
        process.join()


def create_peer(folder: Path, console: Console) -> Path:
    """A virtual environment with hf-libero in it; its Python."""
    python = folder / "bin" / "python"
    if not python.exists():
        console.print(f"installing {', '.join(PEER_REQUIREMENTS)} in {folder}")
        subprocess.run(["python3", "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PEER_REQUIREMENTS], check=True)
    return python


def measure(sides: dict[str, Side], rounds: int) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Steps a second of every side in each round, one of them at work at a time; median seconds of a reset."""
    rates: dict[str, list[float]] = {side: [] for side in sides}
    resets: dict[str, list[float]] = {side: [] for side in sides}
    for index in range(rounds):
        for name, side in sides.items():
            rates[name].append(STEPS[name] / side.ask(str(STEPS[name])))
            resets[name].append(side.ask(f"reset {index + 1}"))
    return rates, {name: statistics.median(values) for name, values in resets.items()}


def main() -> None:
    """Measure, and print a table and a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", type=Path, help="a Python that has hf-libero 0.1.4")
    parser.add_argument("--create-peer", type=Path, metavar="FOLDER", help="make an environment for it in FOLDER")
    parser.add_argument("--root", type=Path, help="LIBERO's files; default: VLA_CL_LIBERO_ROOT")
    parser.add_argument("--task", default="libero_goal/turn_on_the_stove")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    console = Console()
    root = options.root or os.environ.get("VLA_CL_LIBERO_ROOT")
    if not root:
        parser.error("say where LIBERO's files are: --root, or VLA_CL_LIBERO_ROOT")
    if not options.peer_python and not options.create_peer:
        parser.error("hf-libero needs an environment of its own: --peer-python, or --create-peer to have one made")
    python = options.peer_python or create_peer(options.create_peer.expanduser(), console)

    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="libero-")))
        peer = stack.enter_context(peer_side(python, Path(root), work, options.task))
        os.environ.update(ENVIRONMENT, VLA_CL_LIBERO_ROOT=str(work))
        sides: dict[str, Side] = {PEER: peer}
        for name, (cameras, chunk) in OURS.items():
            sides[name] = stack.enter_context(our_side(options.task, cameras, chunk))
        rates, resets = measure(sides, options.rounds)

    median = {side: statistics.median(values) for side, values in rates.items()}
    table = Table("side", "steps a second (median)", "lowest", "highest", "reset, ms", "build, s")
    for side, values in rates.items():
        numbers = (median[side], min(values), max(values), 1e3 * resets[side])
        table.add_row(side, *(f"{number:.1f}" for number in numbers), f"{sides[side].build_seconds:.2f}")
    console.print(table)
    ratios = {
        name: statistics.median(a / b for a, b in zip(rates[first], rates[second], strict=True))
        for name, (first, second) in RATIOS.items()
    }
    for name, ratio in ratios.items():
        console.print(f"{name}: {ratio:.2f} ({' / '.join(RATIOS[name])})")
    result = {
        "task": options.task,
        "image_size": SIZE,
        "gl": list(available_backends()),
        "ratios": {name: round(ratio, 2) for name, ratio in ratios.items()},
        "steps_per_second": {side: round(value, 1) for side, value in median.items()},
        "reset_ms": {side: round(1e3 * value, 1) for side, value in resets.items()},
        "build_seconds": {name: round(side.build_seconds, 2) for name, side in sides.items()},
        "stood_in_for": len(peer.stood_in),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
