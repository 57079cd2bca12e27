"""What the policy presets weigh and cost: parameters, milliseconds to act, and of a training step.

    python benchmarks/policies.py
    python benchmarks/policies.py --preset compact --preset lowdim

Made-up demonstrations of two cameras at the preset's own size, one thread, processor time, so that other programs on
the machine hardly matter. To act is one observation in, one chunk of actions out; a training step is forward, backward
and optimiser, here of 8 windows, whatever the recipe's batch is. Medians over repetitions. SmolVLA is built with random
weights, and not trained here: a step takes minutes. The presets on PaliGemma need its weights and are left out. The
last line of the output is JSON. Takes about six minutes of processor time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from vla_cl.config import ExperimentConfig, compose
from vla_cl.data import Episode, Header, WindowDataset, compute_statistics, write_demonstrations
from vla_cl.policies import Policy, PolicyFeatures, build_policy
from vla_cl.seeding import torch_generator

PRESETS: dict[str, list[str]] = {
    "compact": [],
    "lowdim": [],
    "lowdim_transformer": [],
    "tiny_vla": [],
    "smolvla": ["policy.backbone_options.path=''", "policy.backbone_options.architecture=smolvlm_500m"],
    "diffusion_policy": [],
    "act": [],
    "bc_transformer": [],
    "vqbet": [],
}
"""What is measured, and what is said beyond `policy=NAME` to build it without a download."""
LARGE = {"smolvla"}
"""What acts once here, and is not trained."""

ACTIONS, AGENT_POS, STATE, LENGTH, EPISODES, BATCH = 7, 8, 39, 120, 2, 8
CAMERAS = ("agentview", "wrist")


def demonstrations(folder: Path, config: ExperimentConfig) -> WindowDataset:
    """Episodes of random numbers, and windows of them as the policy sees them."""
    generator, policy = np.random.default_rng(0), config.policy
    cameras = CAMERAS if policy.pixels else ()
    episodes = []
    for attempt in range(EPISODES):
        seen: dict[str, Any] = {
            "agent_pos": generator.uniform(size=(LENGTH + 1, AGENT_POS)).astype(np.float32),
            "environment_state": generator.uniform(size=(LENGTH + 1, STATE)).astype(np.float32),
        }
        for camera in cameras:
            size = (LENGTH + 1, policy.image_size, policy.image_size, 3)
            seen[f"{camera}_image"] = generator.integers(0, 256, size, dtype=np.uint8)
        actions = generator.uniform(-1, 1, (LENGTH, ACTIONS)).astype(np.float32)
        states, rewards = np.zeros((LENGTH, 1)), np.zeros(LENGTH, np.float32)
        episodes.append(Episode(attempt, attempt, actions, actions, states, rewards, seen))
    shown = {"cameras": list(cameras), "image_size": policy.image_size, "privileged": True}
    environment = {"backend": "none", "arguments": {}, "horizon": LENGTH}
    header = Header("task", "put the red cube in the basket", "random", "none", environment, shown, {})
    path = folder / f"{policy.name}.hdf5"
    write_demonstrations(path, header, episodes)
    return WindowDataset(
        path, policy.chunk, privileged=policy.privileged, history=policy.history, lookback=policy.lookback
    )


def fresh_policy(config: ExperimentConfig, data: WindowDataset) -> Policy:
    """The preset at its initial weights."""
    features = PolicyFeatures(
        ACTIONS,
        AGENT_POS,
        cameras=data.cameras,
        image_size=config.policy.image_size,
        history=config.policy.history,
        environment_state_dim=STATE if config.policy.privileged else 0,
    )
    policy = build_policy(config.policy, features, seed=0)
    policy.set_statistics(compute_statistics(data))
    policy.prepare(data, seed=0)
    return policy.eval()


def milliseconds(work: Callable[[], object], repetitions: int) -> float:
    """Median processor time of some work, which is done once beforehand."""
    work()
    taken = []
    for _ in range(repetitions):
        started = time.process_time()
        work()
        taken.append(1000 * (time.process_time() - started))
    return statistics.median(taken)


def measure(name: str, repetitions: int, folder: Path) -> dict[str, float]:
    """One preset."""
    (config,) = compose(["suite=mw3", f"policy={name}", *PRESETS[name]])
    data = demonstrations(folder, config)
    policy = fresh_policy(config, data)
    observation, batch = data.batch([50]).observation, data.batch(list(range(BATCH)))
    trained = [each for each in policy.parameters() if each.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-6)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(policy.loss(batch, torch_generator(0)).mean())
        optimiser.step()

    row = {
        "parameters_millions": round(sum(each.numel() for each in policy.parameters()) / 1e6, 2),
        "trained_millions": round(sum(each.numel() for each in trained) / 1e6, 2),
        "checkpoint_megabytes": round(sum(each.nbytes for each in policy.state_dict().values()) / 1e6, 1),
        "act_milliseconds": round(milliseconds(lambda: policy.act(observation, [0]), repetitions), 1),
    }
    if name not in LARGE:
        row["step_milliseconds"] = round(milliseconds(step, max(2, repetitions // 5)), 1)
    return row


def main() -> None:
    """Measure, print the table, then the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", action="append", choices=list(PRESETS), help="one of them; all without")
    parser.add_argument("--repetitions", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.preset or PRESETS:
            rows[name] = measure(name, 1 if name in LARGE else options.repetitions, Path(folder))
    table = Table("preset", "parameters, M", "trained, M", "checkpoint, MB", "ms to act", f"ms a step of {BATCH}")
    for name, row in rows.items():
        table.add_row(name, *(f"{value:g}" for value in row.values()))
    Console().print(table)
    print(json.dumps({"cores": 1, "gpu": False, "batch": BATCH, "presets": rows}))


if __name__ == "__main__":
    main()
