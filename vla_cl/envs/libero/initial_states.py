"""Reader of LIBERO's stored initial states: pickles that `torch.save` wrote, read without running anything in them.

A pickle is a program. This one may only say what saved arrays and tensors need: each name that it asks for is answered
by a recorder of this module, so that not even numpy or torch is called before what was said has been checked.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_cl.errors import DataFileError

LARGEST_FILE = 64 * 2**20
"""Bytes, packed or unpacked; the benchmark's largest file has 60,000."""

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
"""The first pickle of a file that `torch.save` wrote before it wrote ZIP archives, or still does when told to."""

_OPCODES = re.compile(
    "PROTO|FRAME|STOP|MARK|GLOBAL|STACK_GLOBAL|REDUCE|BUILD|BINPERSID"
    "|NONE|NEWTRUE|NEWFALSE|BININT|BININT1|BININT2|LONG1"
    "|BINUNICODE|SHORT_BINUNICODE|BINSTRING|SHORT_BINSTRING|BINBYTES|SHORT_BINBYTES"
    "|EMPTY_TUPLE|TUPLE|TUPLE1|TUPLE2|TUPLE3|EMPTY_LIST|APPEND|APPENDS|EMPTY_DICT|SETITEM|SETITEMS"
    "|BINPUT|LONG_BINPUT|MEMOIZE|BINGET|LONG_BINGET"
)
"""What a saved array is written with, out of all that a pickle can say."""

_MOST_OPERATIONS = 10_000
_MOST_CALLS = 16
_DOUBLES = "torch.DoubleStorage"


class _RefusedError(Exception):
    """Why a file is not read."""


class _Type:
    """Records what a pickle says of an array's element type."""

    def __init__(self, code: Any, *_: Any) -> None:
        self.code, self.order = code, "="

    def __setstate__(self, state: Any) -> None:
        self.order = state[1]


class _Array:
    """Records what a pickle says of an array: shape, element type, order of the axes, bytes."""

    content: tuple[Any, ...] = ()

    def __setstate__(self, state: Any) -> None:
        _, *self.content = state

    def read(self) -> NDArray[np.float64]:
        if len(self.content) != 4:
            raise _RefusedError("holds an array without content")
        shape, kind, is_fortran, raw = self.content
        if not isinstance(kind, _Type) or kind.code != "f8" or kind.order not in ("<", ">", "="):
            raise _RefusedError(f"holds an array of {getattr(kind, 'code', kind)!r}, not of float64")
        return _matrix(raw, shape, np.dtype(f"{kind.order}f8"), "F" if is_fortran is True else "C")


class _Tensor:
    """Records what a pickle says of a tensor: key of its storage, offset, shape, strides."""

    def __init__(self, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> None:
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides

    def read(self, read_member: Callable[[str], bytes]) -> NDArray[np.float64]:
        match self.storage:
            case ("storage", str(kind), str(key), *_) if kind == _DOUBLES:
                raw = read_member(f"data/{key}")
            case _:
                raise _RefusedError("holds a tensor that is not of float64")
        columns = self.shape[1] if isinstance(self.shape, tuple) and len(self.shape) == 2 else None
        if self.offset != 0 or self.strides != (columns, 1):
            raise _RefusedError("holds a tensor whose rows do not follow one another; save a contiguous one")
        return _matrix(raw, self.shape, np.dtype("<f8"), "C")


def read_initial_states(path: Path | str) -> NDArray[np.float64]:
    """The stored initial states of a task.

    Args:
        path: A `.pruned_init` or `.init` file: a numpy array or a tensor, float64 (N, S), written by `torch.save` in
            its present format or its legacy one, or a pickled array.

    Returns:
        States (N, S), N >= 1: time in seconds, positions, velocities, as MuJoCo flattens them.

    Raises:
        DataFileError: The file cannot be read, is damaged, asks for anything but an array, or holds something else
            than finite numbers of that type and shape. Nothing in it is run.
    """
    path = Path(path)
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise _RefusedError(f"is larger than {LARGEST_FILE} bytes")
        content = path.read_bytes()
        return _read_archive(content) if content.startswith(b"PK") else _read_stream(content)
    except _RefusedError as error:
        raise DataFileError(f"initial states {path}: the file {error}") from None
    except OSError as error:
        raise DataFileError(f"cannot read initial states {path}: {error.strerror or error}") from error


def _read_archive(content: bytes) -> NDArray[np.float64]:
    """The present format: a ZIP archive of one pickle and, for tensors, of their storages."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise _RefusedError("is an archive without the one pickle that torch.save writes")
            folder = pickles[0].removesuffix("data.pkl")

            def read_member(name: str) -> bytes:
                with archive.open(folder + name) as member:
                    raw = member.read(LARGEST_FILE + 1)
                if len(raw) > LARGEST_FILE:
                    raise _RefusedError(f"unpacks to more than {LARGEST_FILE} bytes")
                return raw

            saved = _load(io.BytesIO(read_member("data.pkl")))
            return saved.read(read_member) if isinstance(saved, _Tensor) else _array(saved)
    except (_RefusedError, OSError):
        raise
    except Exception as error:  # a damaged archive fails in any way
        raise _RefusedError(f"is a damaged archive ({error})") from error


def _read_stream(content: bytes) -> NDArray[np.float64]:
    """The legacy format, pickles in a row: magic number, version, machine, what was saved; or just an array."""
    stream = io.BytesIO(content)
    saved = _load(stream)
    if type(saved) is int and saved == _LEGACY_MAGIC:
        _, _, saved = (_load(stream) for _ in range(3))
    return _array(saved)


def _array(saved: Any) -> NDArray[np.float64]:
    if isinstance(saved, _Tensor):
        raise _RefusedError("holds a tensor in the legacy format; save its numpy() instead")
    if not isinstance(saved, _Array):
        raise _RefusedError("holds no array")
    return saved.read()


def _matrix(raw: Any, shape: Any, kind: np.dtype[np.float64], order: str) -> NDArray[np.float64]:
    """The numbers, once everything that was said of them fits together."""
    if not isinstance(shape, tuple) or not all(type(size) is int and size >= 0 for size in shape):
        raise _RefusedError("holds an array without a shape")
    if len(shape) != 2 or not all(shape):
        raise _RefusedError(f"holds an array of shape {shape}, not states in rows (N, S)")
    if not isinstance(raw, bytes) or math.prod(shape) * kind.itemsize != len(raw):
        raise _RefusedError(f"holds an array whose shape {shape} does not fit its bytes")
    states = np.frombuffer(raw, kind).reshape(shape, order="F" if order == "F" else "C").astype(np.float64, order="C")
    if not np.isfinite(states).all():
        raise _RefusedError("holds numbers that are not finite")
    return states


class _Recorder(pickle.Unpickler):
    """An unpickler that answers the few names of a saved array with recorders, and refuses all others."""

    calls = 0

    def find_class(self, module: str, name: str) -> Any:
        answer = _ANSWERS.get(f"{module}.{name}")
        if answer is None:
            raise _RefusedError(f"asks for {f'{module}.{name}'!r}, which no array needs; nothing in it was run")
        return self._counted(answer) if callable(answer) else answer

    def persistent_load(self, pid: Any) -> Any:
        return pid

    def _counted(self, answer: Callable[..., Any]) -> Callable[..., Any]:
        """A few bytes of a pickle can call something again: without a limit, small files could fill the memory."""

        def call(*arguments: Any) -> Any:
            self.calls += 1
            if self.calls > _MOST_CALLS:
                raise _RefusedError("does more than to hold an array")
            return answer(*arguments)

        return call


def _load(stream: io.BytesIO) -> Any:
    """The next pickle of a stream, once it is known to use nothing but `_OPCODES`."""
    start, operations = stream.tell(), 0
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            if not _OPCODES.fullmatch(opcode.name):
                raise _RefusedError(f"uses the pickle operation {opcode.name}, which no array needs")
            operations += 1
            if operations > _MOST_OPERATIONS or (opcode.name == "LONG_BINPUT" and (argument or 0) > _MOST_OPERATIONS):
                raise _RefusedError("does more than to hold an array")
        return _Recorder(io.BytesIO(stream.getbuffer()[start : stream.tell()])).load()
    except _RefusedError:
        raise
    except Exception as error:  # what is no pickle fails in any way
        raise _RefusedError(f"is no pickle of an array, or a damaged one ({' '.join(str(error).split())})") from error


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _encode(text: Any, encoding: Any) -> bytes:
    """Bytes, which the second version of pickles has no other way to write."""
    if not isinstance(text, str) or encoding != "latin1":
        raise _RefusedError(f"encodes text in {encoding!r}")
    return text.encode("latin1")


def _no_hooks(*arguments: Any) -> tuple[()]:
    """The backward hooks of a tensor: an empty dictionary, which says nothing."""
    if arguments:
        raise _RefusedError("holds a tensor with hooks")
    return ()


_ANSWERS: Mapping[str, Any] = {
    "numpy.core.multiarray._reconstruct": _reconstruct,
    "numpy._core.multiarray._reconstruct": _reconstruct,
    "numpy.ndarray": "numpy.ndarray",
    "numpy.dtype": _Type,
    "_codecs.encode": _encode,
    "torch._utils._rebuild_tensor_v2": _Tensor,
    "torch.DoubleStorage": _DOUBLES,
    "collections.OrderedDict": _no_hooks,
}
"""What each name that a saved array or tensor asks for is answered with."""
