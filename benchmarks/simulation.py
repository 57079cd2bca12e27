"""How fast robosuite's Lift is here, side by side with robosuite's own GymWrapper, and with what physics and GL allow.

    python benchmarks/simulation.py

One process a side, random actions, resets at the horizon, control steps a second:

- rendering two cameras at every step;
- stepping chunks of 8 and rendering once a chunk, which is what a policy looks at, against the same peer;
- without pixels.

Beside them the limits: `mj_step` alone, as many physics steps as a control step has; and drawing alone, of our scene.
And the time that one camera of a tabletop scene takes to be drawn.

Rounds of the sides alternate, so that whatever else the machine does falls on all, and a ratio is the median over
rounds. The last line of the output is JSON. Takes about three minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from vla_cl.envs import EnvironmentSpec, ObservationOptions, make_environment
from vla_cl.envs.chunk import advance_chunk
from vla_cl.envs.rendering import available_backends

TASK, ROBOT = "Lift", "Panda"
CAMERAS = ("agentview", "wrist")
SIZE, HORIZON, CHUNK = 128, 200, 8
Step = Callable[[int], None]


def peer(pixels: bool) -> Step:
    """robosuite's GymWrapper, as its documentation makes it."""
    from vla_cl.envs.robosuite_import import import_robosuite

    robosuite = import_robosuite()
    from robosuite.wrappers import GymWrapper

    names = ["agentview", "robot0_eye_in_hand"]
    cameras: dict[str, Any] = {"camera_names": names, "camera_heights": SIZE, "camera_widths": SIZE} if pixels else {}
    keys = [f"{name}_image" for name in names] if pixels else None
    raw = robosuite.make(
        TASK,
        robots=ROBOT,
        has_renderer=False,
        has_offscreen_renderer=pixels,
        use_camera_obs=pixels,
        use_object_obs=not pixels,
        hard_reset=False,
        horizon=HORIZON,
        ignore_done=True,
        **cameras,
    )
    env = GymWrapper(raw, keys=keys)
    actions = np.random.default_rng(0).uniform(-1, 1, (HORIZON, 7))

    def step(count: int) -> None:
        for index in range(count):
            if index % HORIZON == 0:
                env.reset()
            env.step(actions[index % HORIZON])

    return step


def ours(cameras: tuple[str, ...], chunk: int) -> Step:
    """The same task through the environment contract."""
    env = make_environment(
        EnvironmentSpec(
            "robosuite",
            {"environment": TASK, "robot": ROBOT},
            horizon=10**9,
            observation=ObservationOptions(cameras=cameras, image_size=SIZE),
        )
    )
    actions = np.random.default_rng(0).uniform(-1, 1, (HORIZON, 7)).astype(np.float32)

    def step(count: int) -> None:
        for index in range(0, count, chunk):
            start = index % HORIZON
            if start == 0:
                env.reset(seed=index)
            advance_chunk(env, actions[start : start + chunk])
            env.observe()

    return step


def physics() -> Step:
    """`mj_step` alone on the same model, the arm held by its bias forces."""
    import mujoco

    env = make_environment(
        EnvironmentSpec("robosuite", {"environment": TASK}, observation=ObservationOptions(cameras=()))
    )
    env.reset(seed=0)

    def step(count: int) -> None:
        for index in range(count):
            if index % HORIZON == 0:
                env.restart(seed=0)
            env.data.ctrl[:7] = env.data.qfrc_bias[:7]
            mujoco.mj_step(env.model, env.data, nstep=25)

    return step


def drawing() -> Step:
    """Both cameras of our scene drawn, and nothing else."""
    spec = EnvironmentSpec("robosuite", {"environment": TASK}, observation=ObservationOptions(CAMERAS, SIZE))
    env = make_environment(spec)
    env.reset(seed=0)

    def step(count: int) -> None:
        for _ in range(count):
            for camera in CAMERAS:
                env.render_camera(camera, SIZE, SIZE)

    return step


def tabletop_frame() -> Step:
    """One camera of a tabletop scene drawn."""
    from vla_cl.tasks import get_suite

    env = get_suite("tabletop_goal").tasks[0].environment(ObservationOptions(("agentview",), SIZE))
    env.reset(seed=0)

    def step(count: int) -> None:
        for _ in range(count):
            env.render_camera("agentview", SIZE, SIZE)

    return step


SIDES: dict[str, tuple[Callable[[], Step], int]] = {
    "peer, two cameras": (lambda: peer(True), 40),
    "ours, two cameras": (lambda: ours(CAMERAS, 1), 200),
    "ours, two cameras, chunks of 8": (lambda: ours(CAMERAS, CHUNK), 800),
    "peer, no pixels": (lambda: peer(False), 200),
    "ours, no pixels": (lambda: ours((), 1), 800),
    "limit: mj_step": (physics, 800),
    "limit: drawing": (drawing, 100),
    "tabletop frame": (tabletop_frame, 200),
}
"""What is measured: how it is made, and how many steps make a round."""

RATIOS = {
    "pixels_every_step": ("ours, two cameras", "peer, two cameras"),
    "pixels_chunk_8": ("ours, two cameras, chunks of 8", "peer, two cameras"),
    "no_pixels": ("ours, no pixels", "peer, no pixels"),
    "no_pixels_of_mj_step": ("ours, no pixels", "limit: mj_step"),
    "pixels_every_step_of_drawing": ("ours, two cameras", "limit: drawing"),
}


def serve(connection: Connection, side: str) -> None:
    """Step one side as often as each message asks for. A process of its own, so that GL contexts do not meet."""
    step = SIDES[side][0]()
    step(16)
    connection.send("ready")
    while count := connection.recv():
        started = time.perf_counter()
        step(count)
        connection.send(count / (time.perf_counter() - started))


def measure(rounds: int) -> dict[str, list[float]]:
    """Steps a second of every side in each round, only one of them at work at a time."""
    context = multiprocessing.get_context("spawn")
    connections, processes = {}, []
    for side in SIDES:
        near, far = context.Pipe()
        process = context.Process(target=serve, args=(far, side), daemon=True)
        process.start()
        near.recv()
        connections[side] = near
        processes.append(process)
    rates: dict[str, list[float]] = {side: [] for side in SIDES}
    for _ in range(rounds):
        for side, connection in connections.items():
            connection.send(SIDES[side][1])
            rates[side].append(connection.recv())
    for connection, process in zip(connections.values(), processes, strict=True):
        connection.send(0)
        process.join()
    return rates


def main() -> None:
    """Measure, and print a table and a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rates = measure(parser.parse_args().rounds)

    median = {side: statistics.median(values) for side, values in rates.items()}
    table = Table("side", "steps a second (median)", "lowest", "highest")
    for side, values in rates.items():
        table.add_row(side, f"{median[side]:.1f}", f"{min(values):.1f}", f"{max(values):.1f}")
    console = Console()
    console.print(table)
    ratios = {
        name: statistics.median(a / b for a, b in zip(rates[first], rates[second], strict=True))
        for name, (first, second) in RATIOS.items()
    }
    for name, ratio in ratios.items():
        console.print(f"{name}: {ratio:.2f} ({' / '.join(RATIOS[name])})")
    result = {
        "task": TASK,
        "image_size": SIZE,
        "gl": list(available_backends()),
        "ratios": {name: round(ratio, 2) for name, ratio in ratios.items()},
        "steps_per_second": {side: round(value, 1) for side, value in median.items()},
        "tabletop_frame_ms": round(1e3 / median["tabletop frame"], 2),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
