"""From a recipe to the environment that it describes."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from vla_cl.envs.base import BACKENDS, EnvironmentSpec, ManipulationEnv
from vla_cl.envs.perturbations.episodes import PerturbedEnv, perturbed
from vla_cl.errors import ConfigurationError
from vla_cl.registry import load_plugins


def make_environment(spec: EnvironmentSpec, render_mode: str | None = None) -> ManipulationEnv:
    """Build the environment that `spec` describes.

    Raises:
        UnknownNameError: No such backend or perturbation, or the backend knows no such task or camera.
        ConfigurationError: The backend takes no such argument, or lacks one.
        RenderingError: At the first observation, if images were asked for and nothing here can draw them.
    """
    return find_backend(spec)(spec, render_mode=render_mode, **spec.arguments)


def find_backend(spec: EnvironmentSpec) -> Callable[..., ManipulationEnv]:
    """The class that simulates what `spec` describes, once it is known to take the arguments.

    Raises:
        UnknownNameError: No such backend.
        ConfigurationError: The backend takes no such argument, or lacks one.
    """
    load_plugins(spec.plugins)
    backend = BACKENDS[spec.backend]
    try:
        inspect.signature(backend).bind(spec, render_mode=None, **spec.arguments)
    except TypeError as error:
        raise ConfigurationError(f"the arguments of backend {spec.backend!r} do not fit: {error}") from error
    return perturbed(backend) if spec.perturbations else backend


def make_perturbable(spec: EnvironmentSpec) -> PerturbedEnv:
    """Build the environment that `spec` describes, with perturbations that can be exchanged (`perturb_by`).

    Raises:
        UnknownNameError, ConfigurationError, RenderingError: As of `make_environment`.
    """
    find_backend(spec)
    env: PerturbedEnv = perturbed(BACKENDS[spec.backend])(spec, **spec.arguments)
    return env
