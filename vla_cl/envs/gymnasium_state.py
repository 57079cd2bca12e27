"""Saving and restoring environments that know nothing of it: from MuJoCo's numbers, or by playing actions again."""

from __future__ import annotations

import copy
from typing import Any, Protocol

import gymnasium
import numpy as np
from numpy.typing import NDArray

from vla_cl.envs.simulation_state import SimulationState
from vla_cl.errors import SimulationError

Step = tuple[Any, Any, bool, bool, dict[str, Any]]
"""What `gymnasium.Env.step` returns."""

_PROBE_SEEDS = (0, 1, 2)
_GENERATOR_WORDS = 10


class WrappedState(Protocol):
    """Drives an environment, so that its state can be told and restored at any step."""

    def reset(self, seed: int) -> Any:
        """Start an episode; the first observation."""

    def step(self, command: NDArray[Any]) -> Step:
        """One step."""

    def get(self, observed: Any) -> NDArray[np.float64]:
        """The state (N,), given what the environment showed in it."""

    def set(self, state: NDArray[np.float64]) -> Any:
        """Restore a state; the observation that belongs to it."""

    def is_unstable(self) -> bool:
        """Whether the simulator has met numbers that it cannot go on from."""

    def before_drawing(self) -> None:
        """Put whatever is only shown, such as the mark of a goal, where it belongs."""

    def after_drawing(self) -> None:
        """Undo what drawing did to the simulation."""


class ReplayedState:
    """A state is the seed and the actions since, played again when it is restored.

    States that are restored in the order in which they were reached, as when demonstrations are drawn, cost one step
    each, since an episode that leads on from the present is continued.

    Args:
        env: The environment.
        command: An action of it, for its size.
        horizon: The most actions that are ever kept.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], command: NDArray[Any], horizon: int) -> None:
        self._env, self._type = env, command.dtype
        self._history = np.full((horizon, len(command)), np.nan)
        self._seed, self._steps = 0, 0

    def reset(self, seed: int) -> Any:
        self._seed, self._steps = seed, 0
        self._history[:] = np.nan
        self._observed = self._env.reset(seed=seed)[0]
        return self._observed

    def step(self, command: NDArray[Any]) -> Step:
        if self._steps == len(self._history):
            raise SimulationError(f"an episode has {self._steps} steps, and all are made; reset the environment")
        self._history[self._steps] = command
        self._steps += 1
        result: Any = self._env.step(command)
        self._observed = result[0]
        return result  # type: ignore[no-any-return]

    def get(self, observed: Any) -> NDArray[np.float64]:
        return np.concatenate([[self._seed], self._history.ravel()])

    def set(self, state: NDArray[np.float64]) -> Any:
        if state.shape != (1 + self._history.size,):
            raise SimulationError(f"a state of this task has {2 + self._history.size} numbers, got {state.size + 1}")
        seed, history = int(state[0]), state[1:].reshape(self._history.shape)
        steps = int(np.isfinite(history).all(axis=1).sum())
        done = self._steps
        if seed != self._seed or done > steps or not np.array_equal(history[:done], self._history[:done]):
            self.reset(seed)
        for command in history[self._steps : steps]:
            self.step(command.astype(self._type))
        return copy.deepcopy(self._observed)

    def is_unstable(self) -> bool:
        """Nothing is known of the simulator."""
        return False

    def before_drawing(self) -> None:
        """Drawing is the environment's own affair."""

    def after_drawing(self) -> None:
        """Drawing is the environment's own affair."""


class MujocoWrappedState:
    """A state is MuJoCo's integration state, what resets write into the model, numeric attributes, and the generator.

    Quantities that MuJoCo derives from positions are brought up to date after each step, as restoring leaves them: an
    environment that would read them one physics step late sees them on time.

    Args:
        env: The environment; `env.unwrapped` has `model` and `data`.
        command: An action of it, to try what a step changes.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], command: NDArray[Any]) -> None:
        self._env = env
        inner: Any = env.unwrapped
        self._inner = inner
        layers: list[Any] = [env]
        while isinstance(layers[-1], gymnasium.Wrapper):
            layers.append(layers[-1].env)
        self._simulation = SimulationState(inner.model, inner.data, [(layer, ("_np_random_seed",)) for layer in layers])
        for seed in _PROBE_SEEDS:
            observed = env.reset(seed=seed)[0]
            self._simulation.observe()
            env.step(command)
            self._simulation.observe()
        self._observed_size = len(self._flat(observed))
        self._drawn_from: NDArray[np.float64] | None = None

    def reset(self, seed: int) -> Any:
        self._simulation.restore_model()
        observed = self._env.reset(seed=seed)[0]
        self._simulation.forget_instability()  # not every environment resets MuJoCo's data
        self._simulation.update_derived_quantities()
        return observed

    def step(self, command: NDArray[Any]) -> Step:
        result: Any = self._env.step(command)
        self._simulation.update_derived_quantities()
        return result  # type: ignore[no-any-return]

    def get(self, observed: Any) -> NDArray[np.float64]:
        return np.concatenate([_generator_words(self._inner.np_random), self._flat(observed), self._simulation.get()])

    def _flat(self, observed: Any) -> NDArray[np.float64]:
        return np.asarray(gymnasium.spaces.flatten(self._env.observation_space, observed), np.float64)

    def set(self, state: NDArray[np.float64]) -> Any:
        size = _GENERATOR_WORDS + self._observed_size + self._simulation.size
        if state.shape != (size,):
            raise SimulationError(f"a state of this task has {size + 1} numbers, got {state.size + 1}")
        words, seen, simulation = np.split(state, [_GENERATOR_WORDS, _GENERATOR_WORDS + self._observed_size])
        self._simulation.set(simulation)
        _set_generator(self._inner.np_random, words)
        return gymnasium.spaces.unflatten(self._env.observation_space, seen)

    def is_unstable(self) -> bool:
        return self._simulation.is_unstable()

    def before_drawing(self) -> None:
        self._drawn_from = self._simulation.get()
        place_marks = getattr(self._inner, "_render_callback", None)  # Gymnasium-Robotics shows goals this way
        if place_marks is not None:
            place_marks()

    def after_drawing(self) -> None:
        if self._drawn_from is not None:
            self._simulation.set(self._drawn_from)


def _generator_words(generator: np.random.Generator) -> NDArray[np.float64]:
    """The state of numpy's PCG64 as 32-bit words, which float64 holds exactly."""
    state: Any = generator.bit_generator.state
    numbers = (state["state"]["state"], state["state"]["inc"])
    words = [(number >> shift) & 0xFFFFFFFF for number in numbers for shift in (0, 32, 64, 96)]
    return np.array([*words, state["has_uint32"], state["uinteger"]], np.float64)


def _set_generator(generator: np.random.Generator, words: NDArray[np.float64]) -> None:
    numbers = [sum(int(word) << 32 * place for place, word in enumerate(part)) for part in (words[:4], words[4:8])]
    generator.bit_generator.state = {
        "bit_generator": type(generator.bit_generator).__name__,
        "state": {"state": numbers[0], "inc": numbers[1]},
        "has_uint32": int(words[8]),
        "uinteger": int(words[9]),
    }
