"""How the tests of this folder describe Meta-World environments."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

from vla_cl.envs import EnvironmentSpec, MetaWorldEnv, ObservationOptions, RenderingOptions, make_environment


def meta_world_spec(
    task: str = "window-close-v3",
    *,
    cameras: tuple[str, ...] | None = (),
    image_size: int = 64,
    privileged: bool = False,
    horizon: int = 200,
    init_state_seeds: tuple[int, ...] = (),
    rendering: RenderingOptions = RenderingOptions(),
    plugins: tuple[str, ...] = (),
) -> EnvironmentSpec:
    return EnvironmentSpec(
        "meta_world",
        {"task": task},
        horizon=horizon,
        init_state_seeds=init_state_seeds,
        observation=ObservationOptions(cameras, image_size, privileged),
        rendering=rendering,
        plugins=plugins,
    )


def meta_world(task: str = "window-close-v3", **options: object) -> MetaWorldEnv:
    env = make_environment(meta_world_spec(task, **options))  # type: ignore[arg-type]
    assert isinstance(env, MetaWorldEnv)
    return env


def random_actions(count: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).uniform(-1, 1, (count, 4)).astype(np.float32)


def expert_actions(env: MetaWorldEnv, count: int, noise: float = 0.1, seed: int = 0) -> NDArray[np.float32]:
    """Actions of Meta-World's scripted policy, noisy, as it acts in `env`, which is advanced by them."""
    from metaworld.policies import ENV_POLICY_MAP

    policy = ENV_POLICY_MAP[env.task]()
    generator = np.random.default_rng(seed)
    actions = []
    for _ in range(count):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Constant")  # the policy says itself that its actions get clipped
            action = policy.get_action(env.environment_state()) + generator.normal(0, noise, 4)
        actions.append(np.clip(action, -1, 1).astype(np.float32))
        env.advance(actions[-1])
    return np.stack(actions)
