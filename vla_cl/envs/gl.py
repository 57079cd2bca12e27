"""An OpenGL context without a display: EGL or OSMesa, whichever this machine has.

A process draws through one context, made when it draws first. A forked child makes its own.
"""

from __future__ import annotations

import atexit
import functools
import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from vla_cl.envs.mujoco_import import INSTALL, import_mujoco
from vla_cl.errors import ConfigurationError, RenderingError

BACKENDS = ("egl", "osmesa")
"""In the order in which "auto" tries them."""

_PLATFORM = "PYOPENGL_PLATFORM"
_PROBE_SECONDS = 60


def ensure_current(backend: str = "auto") -> str:
    """Make this process's GL context the current one, creating it first if need be.

    Args:
        backend: "egl", "osmesa", or "auto": what `MUJOCO_GL` names if it is one of these, else the first that works.

    Returns:
        The backend in use.

    Raises:
        ConfigurationError: No such backend.
        RenderingError: It does not work here, or this process already draws with another.
    """
    global _context
    if backend not in ("auto", *BACKENDS):
        raise ConfigurationError(f"rendering backend {backend!r} is unknown; use auto, egl or osmesa")
    if _context is None:
        _context = _create(_candidates(backend))
    if backend not in ("auto", _context.backend):
        raise RenderingError(
            f"this process already draws with {_context.backend} and cannot also draw with {backend}; use one of them"
        )
    _context.ensure_current()
    return _context.backend


def at_release(release: Callable[[], None]) -> None:
    """Have `release` called, with the context current, before a context is freed at the end of the process."""
    _releases.append(release)


@functools.cache
def available_backends() -> tuple[str, ...]:
    """The backends that can draw on this machine. Tried in child processes, which a faulty driver may crash."""
    return tuple(backend for backend in BACKENDS if _works_in_child(backend))


class _Context:
    """One of MuJoCo's GL contexts, freed once and at the right time."""

    def __init__(self, backend: str) -> None:
        os.environ[_PLATFORM] = backend
        self.backend = backend
        self._current_address: Callable[[], Any]
        module: Any = importlib.import_module(f"mujoco.{backend}")
        # MuJoCo's own class frees itself when collected, which at the interpreter's exit is too late and complains.
        context_class: Any = type("GLContext", (module.GLContext,), {"__del__": lambda self: None})
        self._context = context_class(64, 64)  # the size of a window that nobody sees; images are drawn off-screen
        self._context.make_current()
        if backend == "egl":
            get_current = module.EGL.eglGetCurrentContext
            self._current_address = lambda: getattr(get_current(), "address", None)
        else:
            self._current_address = module.osmesa.OSMesaGetCurrentContext
        self._address = self._current_address()

    def ensure_current(self) -> None:
        """Another renderer in this process may have made its own context the current one."""
        if self._current_address() != self._address:
            self._context.make_current()

    def free(self) -> None:
        self._context.free()


_context: _Context | None = None
_releases: list[Callable[[], None]] = []
_left_to_the_parent: list[_Context | None] = []


def _candidates(backend: str) -> tuple[str, ...]:
    if backend != "auto":
        return (backend,)
    wanted = os.environ.get("MUJOCO_GL", "").lower()
    return (wanted,) if wanted in BACKENDS else BACKENDS


def _create(candidates: tuple[str, ...]) -> _Context:
    import_mujoco()
    platform = os.environ.get(_PLATFORM)
    reasons = []
    for backend in candidates:
        if not _may_use_platform(backend):
            reasons.append(f"{backend}: PyOpenGL already uses {os.environ[_PLATFORM]}")
            continue
        try:
            context = _Context(backend)
        except Exception as error:  # noqa: BLE001 - GL libraries fail with anything from AttributeError to GLError
            reasons.append(f"{backend}: {error}")
            _forget_opengl(platform)
        else:
            atexit.register(_release)
            return context
    remedies = " or ".join(f"`{INSTALL[backend]}`" for backend in candidates)
    raise RenderingError(f"cannot draw images here ({'; '.join(reasons)}); run {remedies}")


def _may_use_platform(backend: str) -> bool:
    """PyOpenGL binds to one platform when it is first imported."""
    return "OpenGL" not in sys.modules or os.environ.get(_PLATFORM, backend) == backend


def _forget_opengl(platform: str | None) -> None:
    """Undo a failed import, so that PyOpenGL can be imported again for another platform."""
    for name in list(sys.modules):
        if name == "OpenGL" or name.startswith(("OpenGL.", "mujoco.egl", "mujoco.osmesa")):
            del sys.modules[name]
    if platform is None:
        os.environ.pop(_PLATFORM, None)
    else:
        os.environ[_PLATFORM] = platform


def _release() -> None:
    """Free what was uploaded, then the context, while Python is still whole."""
    global _context
    if _context is None:
        return
    _context.ensure_current()
    for release in _releases:
        release()
    _context.free()
    _context = None


def _forget_parents_context() -> None:
    """In a forked child: the parent's context is neither ours to use nor ours to free."""
    global _context
    _left_to_the_parent.append(_context)
    _context = None


os.register_at_fork(after_in_child=_forget_parents_context)


def _works_in_child(backend: str) -> bool:
    code = f"from vla_cl.envs.gl import ensure_current; ensure_current({backend!r})"
    environment = {name: value for name, value in os.environ.items() if name not in ("MUJOCO_GL", _PLATFORM)}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    try:
        child = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, timeout=_PROBE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return False
    return child.returncode == 0
