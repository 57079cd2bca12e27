"""How fast rollouts are, side by side with stock Meta-World, and with robosuite's GymWrapper.

    python benchmarks/rollout.py                          # Meta-World
    python benchmarks/rollout.py --suite tabletop_goal    # a policy, against the same policy driving robosuite's own

The second is told in `tabletop_rollout.py`: episodes a minute of the compact policy with two cameras of 128 px. The
first is two comparisons with stepping stock Meta-World in the same number of processes, each of whole rollouts with
their resets, in control steps a second:

- without pixels: our rollouts under a policy that costs nothing (actions drawn beforehand, chunks of 8), against a loop
  that does nothing but step Meta-World's own environment with the same actions, and reset it at the horizon;
- with pixels: the same rollouts with one camera, drawn when the policy looks, against Meta-World's own environment with
  `render_mode="rgb_array"`, rendering every step at the same size and with the same GL.

Rounds of the two sides alternate, so that whatever else the machine does falls on both, and the ratio of a comparison
is the median over rounds. The last line of the output is JSON. Each takes about three minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from vla_cl.data import ObservationBatch
from vla_cl.envs import EnvironmentPool, ObservationOptions
from vla_cl.envs.rendering import available_backends
from vla_cl.evaluation import Controller, EvaluationOptions, rollout
from vla_cl.tasks import Task, find_task

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
CAMERA = "corner2"


@dataclass(frozen=True)
class Comparison:
    """Control steps a second of both sides in each round."""

    ours: list[float]
    stock: list[float]

    @property
    def ratio(self) -> float:
        """Median over rounds of our rate by theirs."""
        return statistics.median(ours / stock for ours, stock in zip(self.ours, self.stock, strict=True))


class FreePolicy(Controller):
    """A controller whose actions were drawn beforehand."""

    def __init__(self, execute: int) -> None:
        self.execute = execute
        self._actions = np.random.default_rng(0).uniform(-1, 1, (64, execute, 4)).astype(np.float32)

    def act(self, observation: ObservationBatch, seeds: Sequence[int]) -> NDArray[np.float32]:
        return self._actions[: len(seeds)]


def stock_worker(connection: Connection, task: str, horizon: int, image_size: int) -> None:
    """Step Meta-World's own environment as many steps as each message asks for, starting with a reset."""
    import metaworld

    benchmark = metaworld.MT1(task, seed=0)
    pixels: dict[str, Any] = {}
    if image_size:
        pixels = {"render_mode": "rgb_array", "camera_name": CAMERA, "width": image_size, "height": image_size}
    env = benchmark.train_classes[task](**pixels)
    env.set_task(benchmark.train_tasks[0])
    env.reset()
    if image_size:
        env.render()
    actions = np.random.default_rng(0).uniform(-1, 1, (horizon, 4)).astype(np.float32)
    connection.send("ready")
    while steps := connection.recv():
        for step in range(steps):
            if step % horizon == 0:
                env.reset()
            env.step(actions[step % horizon])
            if image_size:
                assert env.render().shape == (image_size, image_size, 3)
        connection.send("done")
    env.close()


class StockProcesses:
    """Processes that step Meta-World's own environment; used as a context manager."""

    def __init__(self, processes: int, task: Task, image_size: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._connections = []
        self._processes = []
        for _ in range(processes):
            near, far = context.Pipe()
            arguments = (far, task.arguments["task"], task.horizon, image_size)
            self._processes.append(context.Process(target=stock_worker, args=arguments, daemon=True))
            self._connections.append(near)

    def __enter__(self) -> StockProcesses:
        for process in self._processes:
            process.start()
        for connection in self._connections:
            connection.recv()
        return self

    def __exit__(self, *_: object) -> None:
        for connection, process in zip(self._connections, self._processes, strict=True):
            connection.send(0)
            process.join()

    def rate(self, steps: int) -> float:
        """Steps a second of all processes together, each making `steps`."""
        started = time.perf_counter()
        for connection in self._connections:
            connection.send(steps)
        for connection in self._connections:
            connection.recv()
        return steps * len(self._connections) / (time.perf_counter() - started)


def our_rate(pool: EnvironmentPool, task: Task, options: EvaluationOptions, image_size: int, chunk: int) -> float:
    """Steps a second of a whole rollout."""
    observation = ObservationOptions(cameras=(CAMERA,), image_size=image_size) if image_size else ObservationOptions(())
    started = time.perf_counter()
    rows = rollout(FreePolicy(chunk), task, stage=0, options=options, observation=observation, pool=pool, seed=0)
    return sum(row.steps for row in rows) / (time.perf_counter() - started)


def compare(rounds: int, ours: Callable[[], float], stock: Callable[[], float]) -> Comparison:
    """Alternate the two sides. Each is called once beforehand, so that neither pays for building its environments."""
    ours(), stock()
    rates = [(ours(), stock()) for _ in range(rounds)]
    return Comparison([each[0] for each in rates], [each[1] for each in rates])


def main() -> None:
    """Measure, and print a table and a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", help="a tabletop suite, to compare with robosuite's GymWrapper; without, Meta-World")
    parser.add_argument("--task", default="mw5/window-close", help="any Meta-World task")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)), help="on both sides")
    parser.add_argument("--chunk", type=int, default=8, help="actions executed before the policy looks again")
    parser.add_argument("--sizes", type=int, nargs="*", default=[64, 128], help="image sizes in pixels")
    parser.add_argument("--episodes", type=int, default=20, help="episodes of one of our rollouts")
    parser.add_argument("--slots", type=int, default=EvaluationOptions.slots, help="episodes at a time in our rollouts")
    parser.add_argument("--rounds", type=int, default=3, help="times that both sides are measured")
    parser.add_argument("--stock-frames", type=int, default=100, help="steps of each stock process that renders")
    parser.add_argument("--policy", default="compact", help="with --suite: a preset, at its initial weights")
    parser.add_argument("--image-size", type=int, default=128, help="with --suite: of its two cameras, in pixels")
    parser.add_argument("--horizon", type=int, help="with --suite: steps of an episode; the task's own without")
    arguments = parser.parse_args()

    os.environ.update(ONE_THREAD)
    if arguments.sizes or arguments.suite:
        backend = available_backends()[0]
        os.environ.update(MUJOCO_GL=backend, PYOPENGL_PLATFORM=backend)  # on both sides
    if arguments.suite:
        import tabletop_rollout  # beside this file

        print(json.dumps(tabletop_rollout.measure(arguments)))
        return
    task = find_task(arguments.task)
    options = EvaluationOptions(episodes=arguments.episodes, slots=arguments.slots)
    comparisons: dict[str, Comparison] = {}
    with EnvironmentPool(arguments.processes) as pool:
        for size in (0, *arguments.sizes):
            steps = arguments.stock_frames if size else task.horizon * arguments.episodes // arguments.processes
            with StockProcesses(arguments.processes, task, size) as stock:
                comparisons[f"{size}px" if size else "without_pixels"] = compare(
                    arguments.rounds,
                    partial(our_rate, pool, task, options, size, arguments.chunk),
                    partial(stock.rate, steps),
                )
    report(task, arguments, comparisons)


def report(task: Task, arguments: argparse.Namespace, comparisons: dict[str, Comparison]) -> None:
    """A table, and the same as one line of JSON."""
    title = f"{task.name}, {arguments.processes} processes, chunks of {arguments.chunk}: control steps a second"
    table = Table("", "ours", "stock Meta-World", "ratio", title=title)
    for name, each in comparisons.items():
        rates = (f"{statistics.median(side):,.0f}" for side in (each.ours, each.stock))
        table.add_row(name.replace("_", " "), *rates, f"{each.ratio:.2f}")
    Console().print(table)
    pixels = [each.ratio for name, each in comparisons.items() if name != "without_pixels"]
    result = {
        "task": task.name,
        "processes": arguments.processes,
        "chunk": arguments.chunk,
        "ratio_without_pixels": round(comparisons["without_pixels"].ratio, 3),
        "ratio_with_pixels": round(min(pixels), 3) if pixels else None,
        "steps_per_second": {name: asdict(each) for name, each in comparisons.items()},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
