"""Training from cached features against training without them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.training.frozen_backbone import FrozenBackbone, FrozenOptions
from vla_cl.data import Episode, Header, Statistics, WindowDataset, write_demonstrations
from vla_cl.data.features import features_folder
from vla_cl.policies import Policy, PolicyConfig, PolicyFeatures, build_policy
from vla_cl.policies.base import HEADS
from vla_cl.policies.history import History
from vla_cl.strategies import build_strategy
from vla_cl.tasks import find_task
from vla_cl.training import (
    IntervalCheckpoints,
    TrainingOptions,
    TrainingRow,
    caches_features,
    fit,
    load_tree,
    save_tree,
    with_cached_features,
)

OPTIONS = TrainingOptions(steps=12, batch_size=8, warmup_steps=2, checkpoint_every=5, log_every=1)
WIDTH, SIZE = FrozenBackbone.width, 64
STATISTICS = Statistics.from_ranges({"action": ((-1.0,) * 4, (1.0,) * 4), "agent_pos": ((0.0,) * 4, (1.0,) * 4)})


def make_data(folder: Path, name: str = "task", seed: int = 0, **options: Any) -> WindowDataset:
    generator = np.random.default_rng(seed)

    def episode(attempt: int) -> Episode:
        actions = generator.uniform(-1, 1, (9, 4)).astype(np.float32)
        seen = {
            "agent_pos": generator.uniform(size=(10, 4)).astype(np.float32),
            "front_image": generator.integers(0, 256, (10, SIZE, SIZE, 3), dtype=np.uint8),
        }
        return Episode(
            seed=attempt,
            attempt=attempt,
            actions=actions,
            executed_actions=actions,
            states=generator.normal(size=(9, 5)),
            rewards=np.zeros(9, np.float32),
            observations=seen,
        )

    header = Header(
        task=name,
        instruction=f"do {name}",
        expert="random",
        env_name="none",
        environment={"backend": "meta_world", "arguments": {}, "horizon": 20},
        observation={"cameras": ["front"], "image_size": SIZE, "privileged": False},
        rendering={},
    )
    path = folder / f"{name}.hdf5"
    write_demonstrations(path, header, [episode(attempt) for attempt in range(4)])
    return WindowDataset(path, 4, **options)


def make_policy(head: str = "flow", frozen: bool = True, history: int = 1, **changes: Any) -> Policy:
    config = PolicyConfig(name="small", backbone="-", head=head, chunk=4, execute=4, history=history, **changes)
    features = PolicyFeatures(4, 4, cameras=("front",), image_size=SIZE, history=history)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = FrozenBackbone(FrozenOptions(frozen), features)
        kind = HEADS[head]
        policy = Policy(config, features, backbone, kind(kind.Options(), History(backbone.shape, history).shape, 4, 4))
    policy.set_statistics(STATISTICS)
    return policy


def losses(policy: Policy, data: WindowDataset, options: TrainingOptions, strategy: Any = None) -> list[float]:
    rows: list[TrainingRow] = []
    strategy = strategy or build_strategy("sequential", {}, 0)
    fit(policy, data, strategy, options, seed=0, stage=0, on_row=rows.append)
    return [row.imitation_loss for row in rows]


@pytest.mark.parametrize("history", [1, 2])
@pytest.mark.parametrize("head", ["flow", "regression"])
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("bfloat16", 2e-2)])
def test_training_from_the_cache_is_training_without_it(
    head: str, history: int, precision: str, tolerance: float, tmp_path: Path
) -> None:
    options = replace(OPTIONS, precision=precision)
    data = make_data(tmp_path, history=history)
    computed, read = make_policy(head, history=history), make_policy(head, history=history)
    expected = losses(computed, data, options)
    featured = with_cached_features(read, data, options)
    before = FrozenBackbone.perceived
    found = losses(read, featured, options)
    assert FrozenBackbone.perceived == before, "no step looks at pixels"
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)
    assert featured.features is not None
    (tensor,) = featured.features.layout
    assert (tensor.name, tensor.dtype, tensor.stored, tensor.shape) == ("maps", "float32", precision, (16, WIDTH))


FROZEN_VLM = {"freeze_vision": True, "freeze_connector": True, "freeze_text": True, "architecture": "tiny_smolvlm"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "options"),
    [
        ("pretrained_compact", {"input_size": 64, "instruction_encoder": "learned"}),
        ("hf_vlm", {**FROZEN_VLM, "proprioception": "context"}),
        ("hf_vlm", {**FROZEN_VLM, "proprioception": "prefix"}),
    ],
)
def test_the_frozen_backbones_learn_the_same_from_their_cache(
    backbone: str, options: dict[str, Any], tmp_path: Path
) -> None:
    data = make_data(tmp_path)
    config = PolicyConfig(name="real", backbone=backbone, backbone_options=options, chunk=4, execute=4)
    training = replace(OPTIONS, steps=3)
    found = []
    for cached in (True, False):
        policy = build_policy(config, PolicyFeatures(4, 4, cameras=("front",), image_size=SIZE), 0)
        policy.set_statistics(STATISTICS)
        featured = with_cached_features(policy, data, training) if cached else data
        assert bool(featured.batch([0]).observation.pixels) is not cached
        found.append(losses(policy, featured, training))
    np.testing.assert_allclose(*found, rtol=1e-5, atol=1e-5)


def test_mixed_precision_halves_what_is_kept(tmp_path: Path) -> None:
    policy, data = make_policy(), make_data(tmp_path)
    whole, half = (
        with_cached_features(policy, data, replace(OPTIONS, precision=precision)).features
        for precision in ("float32", "bfloat16")
    )
    assert whole is not None and half is not None
    assert (whole.row_bytes, half.row_bytes) == (16 * WIDTH * 4, 16 * WIDTH * 2)
    one, two = (each.read(np.arange(9))["maps"] for each in (whole, half))
    assert one.dtype == two.dtype == torch.float32, "a strategy may look at them outside of mixed precision"
    torch.testing.assert_close(one, two, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("why", ["the backbone is trained", "images are augmented", "it is off"])
def test_pixels_stay_where_nothing_can_be_computed_beforehand(why: str, tmp_path: Path) -> None:
    data = make_data(tmp_path)
    policy = make_policy(
        frozen=why != "the backbone is trained", random_shift=4 if why == "images are augmented" else 0
    )
    options = replace(OPTIONS, cache_features=why != "it is off")
    assert not caches_features(policy, options)
    assert with_cached_features(policy, data, options) is data
    assert not features_folder(data.path).exists()
    losses(policy, data, replace(options, steps=1))


def test_ewc_and_replay_work_on_cached_features(tmp_path: Path) -> None:
    task = find_task("window-close")
    for name, options in (("ewc", {"samples": 4}), ("replay", {}), ("joint", {})):
        policies = [make_policy("regression") for _ in range(2)]
        found: list[list[float]] = []
        for policy, cached in zip(policies, (True, False), strict=True):
            strategy = build_strategy(name, options, 0)
            found.append([])
            for stage, seed in enumerate((1, 2)):
                data = make_data(tmp_path, f"task-{seed}", seed)
                strategy.begin_task(task, policy, data)
                if cached:
                    data = with_cached_features(policy, data, OPTIONS)
                rows: list[TrainingRow] = []
                fit(policy, data, strategy, OPTIONS, seed=0, stage=stage, on_row=rows.append)
                strategy.end_task(task, policy, data)
                found[-1] += [row.loss for row in rows]
        np.testing.assert_allclose(*found, rtol=1e-5, atol=1e-5, err_msg=name)


def test_an_interrupted_stage_goes_on_exactly_with_replayed_features(tmp_path: Path) -> None:
    """The memory is restored from its description, the present task's features from the disk."""
    task = find_task("window-close")

    def learn(folder: Path | None, stop: int | None) -> Policy:
        policy, strategy = make_policy(), build_strategy("replay", {"fraction": 1.0}, 0)
        first = with_cached_features(policy, make_data(tmp_path, "first", 1), OPTIONS)
        strategy.begin_task(task, policy, first)
        strategy.end_task(task, policy, first)
        save_tree(strategy.state_dict(), tmp_path / "strategy", "strategy")
        strategy = build_strategy("replay", {"fraction": 1.0}, 0)
        strategy.load_state_dict(load_tree(tmp_path / "strategy", "strategy"))
        second = with_cached_features(policy, make_data(tmp_path, "second", 2), OPTIONS)
        strategy.begin_task(task, policy, second)

        def stop_at(step: int) -> None:
            if step == stop:
                raise KeyboardInterrupt

        checkpoints = None if folder is None else IntervalCheckpoints(folder)
        fit(policy, second, strategy, OPTIONS, seed=0, stage=1, checkpoints=checkpoints, on_step=stop_at)
        return policy

    whole = learn(None, None)
    with pytest.raises(KeyboardInterrupt):
        learn(tmp_path / "checkpoints", 7)
    resumed = learn(tmp_path / "checkpoints", None)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
