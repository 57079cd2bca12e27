"""How fast a training step is fed: cached features of a frozen backbone, windows of a file, reading ahead, memory.

    python benchmarks/training.py --create-peer ~/robomimic       # makes an environment with robomimic 0.3.0 first
    python benchmarks/training.py --peer-python ~/robomimic/bin/python

Four comparisons, on made-up demonstrations of two cameras, 128 pixels, one thread a side:

- steps a second of training under a frozen backbone, from features that were cached beside the demonstrations, against
  the same training that computes them in every step;
- windows a second (an observation and a chunk of 16 actions, batches of 64, random access, one process), against
  robomimic's `SequenceDataset` on the same file. It has no such window: at a sequence length of 16 it also reads the
  images of all 16 steps. So both are compared at a chunk of 1 too, where they read the same. The file holds plain
  images, as robomimic's own scripts write them; beside it, the same as `vla-cl data convert` writes it, compressed;
- how long a step waits for its batch when batches are read ahead in a thread, and when they are read in the step;
- peak memory of a process that reads 2,000 random windows of a sparse file of 1 GB, and of one of 20 GB.

Rounds of two sides alternate, so that whatever else the machine does falls on both, and a ratio is the median over
rounds. The last line of the output is JSON. Takes about four minutes on two cores; without a peer its part is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any
from unittest import mock

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import h5py
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from vla_cl.data import WindowDataset, compute_statistics, convert, open_demonstrations, plan_conversion
from vla_cl.policies import Policy, PolicyConfig, PolicyFeatures, build_policy
from vla_cl.strategies import build_strategy
from vla_cl.training import TrainingOptions, TrainingRow, fit, with_cached_features
from vla_cl.training.prefetch import prefetched

CAMERAS = ("agentview", "robot0_eye_in_hand")
ACTIONS, AGENT_POS, SIZE, STEPS, CHUNK, BATCH = 7, 8, 128, 150, 16, 64
PEER_REQUIREMENTS = ("torch==2.13.0", "numpy<2", "h5py", "tqdm", "psutil", "termcolor", "imageio", "tensorboardX")
PEER = "robomimic==0.3.0"
PEER_SCRIPT = Path(__file__).resolve().parent / "peers" / "robomimic_windows.py"
CACHES = (None, "low_dim")
"""What the peer keeps in memory: nothing, or all that is not an image."""

FROZEN: dict[str, tuple[str, dict[str, Any], str]] = {
    "hf_vlm, flow": (
        "hf_vlm",
        {"architecture": "tiny_smolvlm", "proprioception": "context"},
        "flow",
    ),
    "hf_vlm with layers, flow": (
        "hf_vlm",
        {"architecture": "tiny_smolvlm", "proprioception": "prefix"},
        "flow",
    ),
    "pretrained_compact, flow": ("pretrained_compact", {}, "flow"),
}
"""Frozen backbones and their heads; the first is the one that the ratio is given of."""

ALL_FROZEN = {"freeze_vision": True, "freeze_connector": True, "freeze_text": True}


@dataclass(frozen=True)
class Comparison:
    """Rates of both sides in each round, in what is counted a second."""

    ours: list[float]
    other: list[float]

    @property
    def ratio(self) -> float:
        """Median over rounds."""
        return statistics.median(ours / other for ours, other in zip(self.ours, self.other, strict=True))

    def as_dict(self) -> dict[str, float]:
        """As JSON: medians and their ratio."""
        medians = {name: round(statistics.median(getattr(self, name)), 2) for name in ("ours", "other")}
        return {"ratio": round(self.ratio, 2), **medians}


def compare(rounds: int, ours: Callable[[], float], other: Callable[[], float]) -> Comparison:
    """Alternate the two sides, after each was called once."""
    ours(), other()
    rates = [(ours(), other()) for _ in range(rounds)]
    return Comparison([each[0] for each in rates], [each[1] for each in rates])


# --- demonstrations ----------------------------------------------------------------------------------------------


def write_plain(path: Path, episodes: int) -> None:
    """Demonstrations as robomimic's own scripts write them: images as they are, of coarse noise."""
    generator = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for index in range(episodes):
            group = _episode(file, index, generator)
            for camera in CAMERAS:
                coarse = generator.integers(0, 256, (STEPS, 16, 16, 3), dtype=np.uint8)
                group[f"obs/{camera}_image"] = coarse.repeat(8, axis=1).repeat(8, axis=2)


def write_sparse(path: Path, size: int) -> None:
    """The same with at least `size` bytes of images that are nowhere but in the file's length: all black."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    space = h5py.h5s.create_simple((STEPS, SIZE, SIZE, 3))
    generator = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for index in range(-(-size // (len(CAMERAS) * STEPS * SIZE * SIZE * 3))):
            group = _episode(file, index, generator)
            for camera in CAMERAS:
                h5py.h5d.create(group["obs"].id, f"{camera}_image".encode(), h5py.h5t.NATIVE_UINT8, space, properties)


def _episode(file: h5py.File, index: int, generator: np.random.Generator) -> h5py.Group:
    data = file.require_group("data")
    data.attrs["env_args"] = json.dumps({"env_name": "PutTheBowlOnThePlate", "type": 1, "env_kwargs": {}})
    group = data.create_group(f"demo_{index}")
    group.attrs["num_samples"] = STEPS
    group["actions"] = generator.uniform(-1, 1, (STEPS, ACTIONS)).astype(np.float32)
    group["rewards"], group["dones"] = np.zeros(STEPS, np.float32), np.zeros(STEPS, np.uint8)
    group["obs/agent_pos"] = generator.uniform(size=(STEPS, AGENT_POS)).astype(np.float32)
    return group


# --- training ----------------------------------------------------------------------------------------------------


def policy_for(data: WindowDataset, backbone: str, options: dict[str, Any], head: str) -> Policy:
    """An untrained policy that sees what the demonstrations hold."""
    config = PolicyConfig(
        name="benchmark",
        backbone=backbone,
        backbone_options=options,
        head=head,
        chunk=CHUNK,
        execute=8,
        image_size=SIZE,
    )
    policy = build_policy(config, PolicyFeatures(ACTIONS, AGENT_POS, cameras=data.cameras, image_size=SIZE), 0)
    policy.set_statistics(compute_statistics(data))
    return policy


def steps_a_second(policy: Policy, data: WindowDataset, options: TrainingOptions) -> float:
    """Median over the steps of one training, the first left out."""
    rows: list[TrainingRow] = []
    fit(policy, data, build_strategy("sequential", {}, 0), options, seed=0, stage=0, on_row=rows.append)
    seconds: list[float] = np.diff([row.seconds for row in rows]).tolist()
    return 1 / statistics.median(seconds)


def frozen_steps(data: WindowDataset, rounds: int, name: str) -> dict[str, float]:
    """Cached features against computing them, under one frozen backbone."""
    backbone, options, head = FROZEN[name]
    frozen = ALL_FROZEN if backbone == "hf_vlm" else {}
    policy = policy_for(data, backbone, {**options, **frozen}, head)
    training = TrainingOptions(steps=12, batch_size=32, log_every=1, checkpoint_every=0, precision="bfloat16")
    started = perf_counter()
    featured = with_cached_features(policy, data, training)
    seconds = perf_counter() - started
    assert featured.features is not None, "nothing is cached"
    compared = compare(
        rounds,
        lambda: steps_a_second(policy, featured, training),
        lambda: steps_a_second(policy, data, replace(training, steps=5)),
    )
    weights = {"row_bytes": featured.features.row_bytes, "caching_seconds_a_step": round(seconds / len(data), 4)}
    return compared.as_dict() | weights


class Waiting:
    """Stands around `prefetched` in the training loop and notes how long each step waits for its batch.

    Args:
        ahead: Whether batches are read ahead, or when they are asked for.
    """

    def __init__(self, ahead: bool) -> None:
        self.ahead = ahead
        self.seconds: list[float] = []

    @contextmanager
    def __call__(self, read: Callable[[int], Any], steps: Iterable[int]) -> Iterator[Iterator[Any]]:
        if not self.ahead:
            yield self._timed(read(step) for step in steps)
            return
        with prefetched(read, steps) as batches:
            yield self._timed(batches)

    def _timed(self, batches: Iterator[Any]) -> Iterator[Any]:
        while True:
            started = perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            self.seconds.append(perf_counter() - started)
            yield batch


def reading_ahead(data: WindowDataset, policy: Policy) -> dict[str, float]:
    """Milliseconds that a step takes, and of which it waits for its batch; median over one training each."""
    training = TrainingOptions(steps=16, batch_size=32, log_every=1, checkpoint_every=0, precision="bfloat16")
    result = {}
    for name, ahead in (("ahead", True), ("in_the_step", False)):
        waiting = Waiting(ahead)
        with mock.patch("vla_cl.training.loop.prefetched", waiting):
            result[f"step_ms_{name}"] = round(1e3 / steps_a_second(policy, data, training), 1)
        result[f"waiting_ms_{name}"] = round(1e3 * statistics.median(waiting.seconds[1:]), 2)
    return result


def waits(data: WindowDataset, few: WindowDataset) -> dict[str, dict[str, float]]:
    """The same from compressed images, and from cached features that weigh more than images."""
    pixels = policy_for(data, "compact", {"instruction_encoder": "learned"}, "flow")
    backbone, options, head = FROZEN["hf_vlm with layers, flow"]
    frozen = policy_for(few, backbone, {**options, **ALL_FROZEN}, head)
    featured = with_cached_features(frozen, few, TrainingOptions(precision="bfloat16"))
    return {"compressed images": reading_ahead(data, pixels), "cached layers": reading_ahead(featured, frozen)}


# --- windows -----------------------------------------------------------------------------------------------------


class Peer:
    """robomimic's reader of one file, run by a Python that has it."""

    def __init__(self, python: Path, path: Path, cameras: Iterable[str]) -> None:
        command = [str(python), str(PEER_SCRIPT), str(path), *cameras]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.windows = int(self._answer()["windows"])

    def rate(self, chunk: int, cache: str | None, batches: list[list[int]]) -> float:
        """Windows a second."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"seq_length": chunk, "cache": cache, "batches": batches}) + "\n")
        self._process.stdin.flush()
        return sum(map(len, batches)) / float(self._answer()["seconds"])

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("robomimic's process ended; its standard error, above, says why")
        return json.loads(line)

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def our_rate(data: WindowDataset, batches: list[list[int]]) -> float:
    """Windows a second."""
    data.batch(batches[0])
    started = perf_counter()
    for batch in batches:
        data.batch(batch)
    return sum(map(len, batches)) / (perf_counter() - started)


def windows(python: Path, path: Path, rounds: int) -> dict[str, dict[str, float]]:
    """Our reader against theirs on one file, by chunk and by what they keep in memory."""
    keys = [f"{camera}_image" for camera in CAMERAS]
    peer = Peer(python, path, keys)
    results: dict[str, dict[str, float]] = {}
    generator = np.random.default_rng(0)
    for chunk in (CHUNK, 1):
        data = WindowDataset(path, chunk)
        assert len(data) == peer.windows, "the two sides do not see the same windows"
        assert len(data.cameras) == len(keys)
        for cache in CACHES:
            ours = generator.integers(0, len(data), (20, BATCH)).tolist()
            theirs = ours[: 4 if chunk > 1 else 20]
            results[f"chunk {chunk}, cache {cache or 'none'}"] = compare(
                rounds,
                partial(our_rate, data, ours),
                partial(peer.rate, chunk, cache, theirs),
            ).as_dict()
    peer.close()
    return results


# --- memory ------------------------------------------------------------------------------------------------------

READ = """
import re, sys
from pathlib import Path
import numpy as np
from vla_cl.data import WindowDataset

def peak():  # getrusage would also count the process that started this one
    return re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]

data = WindowDataset(sys.argv[1], 16)
data.batch([0])
before = peak()
generator = np.random.default_rng(0)
for _ in range(40):
    batch = data.batch(generator.integers(0, len(data), 50))
    assert batch.observation.pixels["agentview"].shape == (50, 128, 128, 3)
print(len(data), before, peak())
"""


def memory(folder: Path, gigabytes: int) -> dict[str, float]:
    """Peak resident memory, in MB, of a process that reads 2,000 random windows of a file of that size."""
    path = folder / f"sparse_{gigabytes}.hdf5"
    write_sparse(path, gigabytes * 10**9)
    try:
        told = subprocess.run([sys.executable, "-c", READ, str(path)], capture_output=True, text=True, check=True)
        steps, opened, peak = map(int, told.stdout.split())
        return {
            "file_gb": round(path.stat().st_size / 1e9, 2),
            "windows": steps,
            "opened_mb": round(opened / 1024, 1),
            "peak_mb": round(peak / 1024, 1),
        }
    finally:
        path.unlink()


# --- all of it ---------------------------------------------------------------------------------------------------


def create_peer(folder: Path, console: Console) -> Path:
    """A virtual environment with robomimic in it, without its simulators; its Python."""
    python = folder / "bin" / "python"
    if not python.exists():
        console.print(f"installing {PEER} in {folder}")
        pip = [str(python), "-m", "pip", "install", "--quiet"]
        subprocess.run(["python3", "-m", "venv", str(folder)], check=True)
        subprocess.run([*pip, *PEER_REQUIREMENTS], check=True)
        subprocess.run([*pip, "--no-deps", PEER], check=True)
    return python


def main() -> None:
    """Measure, and print a table and a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", type=Path, help="a Python that has robomimic 0.3.0")
    parser.add_argument("--create-peer", type=Path, metavar="FOLDER", help="make an environment for it in FOLDER")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--episodes", type=int, default=10, help=f"demonstrations of {STEPS} steps")
    parser.add_argument("--sizes", type=int, nargs=2, default=(1, 20), help="of the sparse files, in GB")
    options = parser.parse_args()
    console = Console()
    torch.set_num_threads(1)
    python = options.peer_python
    if options.create_peer:
        python = create_peer(options.create_peer.expanduser(), console)

    result: dict[str, Any] = {"cores": len(os.sched_getaffinity(0)), "gpu": torch.cuda.is_available()}
    with tempfile.TemporaryDirectory(prefix="training-") as temporary:
        folder = Path(temporary)
        plain, packed = folder / "plain.hdf5", folder / "packed.hdf5"
        write_plain(plain, options.episodes)
        convert(plan_conversion([plain], "robomimic", packed))
        with open_demonstrations(packed) as file:
            assert file.layout == "robomimic"
        few = WindowDataset(plain, CHUNK, episodes=[0, 1])
        result["frozen"] = {name: frozen_steps(few, options.rounds, name) for name in FROZEN}
        result["reading_ahead"] = waits(WindowDataset(packed, CHUNK), few)
        files = {"plain images": plain, "compressed images": packed}
        if python:
            result["windows"] = {name: windows(python, path, options.rounds) for name, path in files.items()}
        sizes = {f"{size} GB": memory(folder, size) for size in options.sizes}
        result["memory"] = sizes
        peaks = [each["peak_mb"] for each in sizes.values()]
        result["memory_growth"] = round(peaks[-1] / peaks[0], 3)
    report(console, result)


def report(console: Console, result: dict[str, Any]) -> None:
    """A table, and the same as one line of JSON."""
    table = Table("comparison", "ours", "other", "ratio")
    rows = {f"steps/s, {name}: cached, computed": each for name, each in result["frozen"].items()}
    for file, each in result.get("windows", {}).items():
        rows |= {f"windows/s, {file}, {kind}: ours, robomimic": rates for kind, rates in each.items()}
    for name, each in rows.items():
        table.add_row(name, f"{each['ours']:.1f}", f"{each['other']:.1f}", f"{each['ratio']:.2f}")
    for name, each in result["reading_ahead"].items():
        ours, other = each["waiting_ms_ahead"], each["waiting_ms_in_the_step"]
        table.add_row(f"ms a step waits for {name}: read ahead, in the step", f"{ours:.2f}", f"{other:.2f}", "")
    for name, each in result["memory"].items():
        table.add_row(f"peak MB, {each['windows']} windows in {name}", f"{each['peak_mb']:.0f}", "", "")
    console.print(table)
    ratios = {"cached_features": result["frozen"][next(iter(FROZEN))]["ratio"]}
    if "windows" in result:
        kinds = [f"chunk 1, cache {cache or 'none'}" for cache in CACHES]  # where both read the same
        for name, file in (("windows", "plain images"), ("windows_compressed", "compressed images")):
            ratios[name] = min(result["windows"][file][kind]["ratio"] for kind in kinds)
    ratios["memory_growth"] = result.pop("memory_growth")
    print(json.dumps({"ratios": ratios, **result}))


if __name__ == "__main__":
    main()
