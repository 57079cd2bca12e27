"""Episodes made of noise, for what does not depend on a simulator, and one real collection for what does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from vla_cl.data import (
    CollectionOptions,
    Episode,
    Header,
    WindowDataset,
    collect_demonstrations,
    write_demonstrations,
)
from vla_cl.envs import ObservationOptions, RenderingOptions
from vla_cl.tasks import find_task

CAMERAS = ("front", "hand")
ACTIONS, AGENT, PRIVILEGED, STATE = 4, 5, 7, 11

MakeEpisode = Callable[..., Episode]
MakeFile = Callable[..., Path]


@pytest.fixture(scope="session")
def make_episode() -> MakeEpisode:
    def make(index: int, length: int, size: int = 64, cameras: Sequence[str] = CAMERAS) -> Episode:
        generator = np.random.default_rng((index, length, size))
        actions = generator.uniform(-1, 1, (length, ACTIONS)).astype(np.float32)
        vectors = {"agent_pos": AGENT, "environment_state": PRIVILEGED}
        observations = {
            key: generator.normal(index, 1, (length + 1, width)).astype(np.float32) for key, width in vectors.items()
        }
        for camera in cameras:
            observations[f"{camera}_image"] = generator.integers(0, 256, (length + 1, size, size, 3), dtype=np.uint8)
        return Episode(
            seed=1000 + index,
            attempt=index,
            actions=actions,
            executed_actions=np.clip(actions + 0.1, -1, 1),
            states=generator.normal(size=(length, STATE)),
            rewards=generator.normal(size=length).astype(np.float32),
            observations=observations,
            model_file="<mujoco/>",
        )

    return make


@pytest.fixture(scope="session")
def make_header() -> Callable[..., Header]:
    def make(size: int = 64, cameras: Sequence[str] = CAMERAS, task: str = "window-close") -> Header:
        return Header(
            task=task,
            instruction="close the window",
            expert="some_expert",
            env_name="vla_cl/mw5.window-close-v0",
            environment={"backend": "meta_world", "arguments": {"task": "window-close-v3"}, "horizon": 200},
            observation={"cameras": list(cameras), "image_size": size, "privileged": True},
            rendering={"backend": "auto", "reflections": False, "shadows": False, "multisampling": 0},
            collection={"episodes": 3, "seed": 0, "action_noise": 0.0},
            versions={"numpy": np.__version__},
        )

    return make


@pytest.fixture(scope="session")
def make_file(
    make_episode: MakeEpisode, make_header: Callable[..., Header], tmp_path_factory: pytest.TempPathFactory
) -> MakeFile:
    def make(
        lengths: Sequence[int] = (5, 9, 3),
        *,
        size: int = 64,
        cameras: Sequence[str] = CAMERAS,
        first: int = 0,
        task: str = "window-close",
        path: Path | None = None,
    ) -> Path:
        path = path or tmp_path_factory.mktemp("made") / "demonstrations.hdf5"
        episodes = (make_episode(first + index, length, size, cameras) for index, length in enumerate(lengths))
        write_demonstrations(path, make_header(size, cameras, task), episodes)
        return path

    return make


@pytest.fixture(scope="session")
def file(make_file: MakeFile) -> Path:
    """Three episodes of 5, 9 and 3 steps, two cameras. Not to be changed."""
    return make_file()


@pytest.fixture
def dataset(file: Path) -> WindowDataset:
    return WindowDataset(file, 4, privileged=True)


@pytest.fixture(scope="session")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two real demonstrations of window-close under action noise, with one camera and privileged state."""
    return collect_demonstrations(
        find_task("window-close"),
        tmp_path_factory.mktemp("collected") / "window-close.hdf5",
        CollectionOptions(episodes=2, seed=3, action_noise=0.2),
        ObservationOptions(cameras=("gripperPOV",), privileged=True),
        RenderingOptions(),
        processes=2,
    )
