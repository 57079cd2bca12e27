"""The reader of stored initial states: what it reads, and that nothing in a file is ever run."""

from __future__ import annotations

import io
import os
import pickle
import struct
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vla_cl.envs.libero.initial_states import read_initial_states
from vla_cl.errors import DataFileError

STATES = np.random.default_rng(0).normal(size=(5, 7))


def saved(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def archived(data: bytes, compression: int = zipfile.ZIP_STORED, **members: bytes) -> bytes:
    """A ZIP archive as `torch.save` writes it, of a pickle of one's own."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in {"data.pkl": data, "version": b"3\n", **members}.items():
            archive.writestr(f"archive/{name}", content)
    return buffer.getvalue()


def read(tmp_path: Path, content: bytes) -> np.ndarray:
    path = tmp_path / "states.pruned_init"
    path.write_bytes(content)
    return read_initial_states(path)


def refused(tmp_path: Path, content: bytes) -> str:
    with pytest.raises(DataFileError) as caught:
        read(tmp_path, content)
    message = str(caught.value)
    assert "states.pruned_init" in message and "\n" not in message
    return message


@pytest.mark.parametrize(
    "content",
    [
        saved(STATES),
        saved(STATES, pickle_protocol=4),
        saved(STATES, _use_new_zipfile_serialization=False),
        saved(np.asfortranarray(STATES)),
        saved(STATES.astype(">f8")),
        saved(torch.tensor(STATES)),
        pickle.dumps(STATES, protocol=2),
        pickle.dumps(STATES, protocol=4),
        pickle.dumps(STATES, protocol=2).replace(b"numpy.core.", b"numpy._core."),
    ],
    ids=["zip", "protocol 4", "legacy", "columns first", "big endian", "tensor", "pickle", "pickle 4", "numpy 2"],
)
def test_saved_states_come_back_bit_for_bit(tmp_path: Path, content: bytes):
    states = read(tmp_path, content)
    assert states.dtype == np.float64 and states.flags.writeable and states.flags.c_contiguous
    np.testing.assert_array_equal(states, STATES)


def test_the_benchmarks_own_files_are_read_as_torch_reads_them(libero_root: Path):
    paths = sorted((libero_root / "init_files").glob("*/*.pruned_init"))
    assert len(paths) == 130
    for path in paths:
        states = read_initial_states(path)
        assert states.shape[0] == 50
        np.testing.assert_array_equal(states, torch.load(path, weights_only=False))


# --- attacks ---------------------------------------------------------------------------------------------------


class Call:
    """Pickles as a call of `function(*arguments)`."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


def attacks(canary: Path) -> dict[str, tuple[Any, str]]:
    touch = f"touch {canary}"
    return {
        "os.system": (Call(os.system, touch), "asks for 'posix.system'"),
        "eval": (Call(eval, f"open({str(canary)!r}, 'w')"), "eval', which no array needs"),
        "getattr": (Call(getattr, "x", "upper"), "getattr', which no array needs"),
        "nested": ([STATES, {"a": (Call(os.system, touch),)}], "asks for 'posix.system'"),
        "numpy's own loader": (Call(np.load, str(canary)), "asks for 'numpy.load'"),
        "a file": (Call(np.fromfile, str(canary)), "asks for 'numpy."),
        "torch's own loader": (Call(torch.load, str(canary)), "asks for 'torch.serialization.load'"),
    }


@pytest.mark.parametrize("name", attacks(Path()))
@pytest.mark.parametrize(
    "wrap",
    [
        lambda value: archived(pickle.dumps(value, protocol=2)),
        lambda value: archived(pickle.dumps(value, protocol=4)),
        lambda value: pickle.dumps(value, protocol=4),
        lambda value: b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {}, value)),
    ],
    ids=["zip", "zip, protocol 4", "pickle", "legacy"],
)
def test_a_file_that_wants_to_run_something_is_refused_and_runs_nothing(
    tmp_path: Path, name: str, wrap: Callable[[Any], bytes]
):
    canary = tmp_path / "canary"
    value, message = attacks(canary)[name]
    assert message in refused(tmp_path, wrap(value))
    assert not canary.exists()


def test_the_attack_would_work_on_an_unpickler_that_runs_things(tmp_path: Path):
    """So that the test above means something."""
    canary = tmp_path / "canary"
    pickle.loads(pickle.dumps(attacks(canary)["os.system"][0]))
    assert canary.exists()


def test_a_name_inside_of_an_allowed_one_is_refused(tmp_path: Path):
    for module, name in (("numpy", "ndarray.tofile"), ("numpy.core.multiarray", "_reconstruct.__globals__")):
        text = b"\x80\x04" + b"".join(b"\x8c" + bytes([len(each)]) + each.encode() for each in (module, name))
        assert f"asks for '{module}.{name}'" in refused(tmp_path, text + b"\x93.")


def test_the_allowed_names_cannot_be_called_with_anything_else(tmp_path: Path):
    """numpy's dtype would parse a string, its ndarray allocate a shape; here both only take notes."""
    dtype = b"\x80\x02cnumpy\ndtype\nX\x02\x00\x00\x00i8\x85R."
    array = b"\x80\x02cnumpy\nndarray\nJ\xff\xff\xff\x7f\x85R."
    assert "holds no array" in refused(tmp_path, dtype)
    assert "no pickle of an array" in refused(tmp_path, array)


# --- size ------------------------------------------------------------------------------------------------------


def test_a_huge_shape_is_refused_without_allocating_it(tmp_path: Path):
    content = pickle.dumps(STATES, protocol=2)
    shape = pickle.dumps((5, 7), protocol=2)[2:-3]
    assert content.count(shape) == 1
    huge = content.replace(shape, b"\x8a\x06" + (10**12).to_bytes(6, "little") + b"K\x07\x86")
    tracemalloc.start()
    assert "does not fit its bytes" in refused(tmp_path, huge)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path):
    bomb = archived(b"\x80\x02" + b"N" * 2**27, zipfile.ZIP_DEFLATED)
    assert len(bomb) < 2**19
    assert "unpacks to more than" in refused(tmp_path, bomb)


def test_small_pickles_that_do_much_are_cut_short(tmp_path: Path):
    word = b"X" + struct.pack("<I", 2**20) + b"a" * 2**20
    again = b"h\x00h\x01X\x06\x00\x00\x00latin1\x86R"  # encode a megabyte
    encoding = b"\x80\x02c_codecs\nencode\nq\x00" + word + b"q\x01" + again * 1000 + b"N."
    remembering = b"\x80\x02Nr\xff\xff\xff\x7f."  # makes a table of 2**32 entries
    busy = b"\x80\x02" + b"N" * 10**6 + b"."
    started = time.perf_counter()
    for content in (encoding, remembering, busy):
        assert "does more than to hold an array" in refused(tmp_path, content)
    assert time.perf_counter() - started < 5.0


# --- damage ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (STATES.astype(np.float32), "an array of 'f4', not of float64"),
        (STATES.astype(np.int64), "an array of 'i8'"),
        (np.array([[1, None]], dtype=object), "an array of 'O8'"),
        (STATES[0], "an array of shape (7,), not states in rows"),
        (STATES[None], "an array of shape (1, 5, 7)"),
        (STATES[:0], "an array of shape (0, 7)"),
        (STATES * np.nan, "not finite"),
        (STATES + np.inf, "not finite"),
        (torch.tensor(STATES).T, "rows do not follow one another"),
        (torch.tensor(STATES, dtype=torch.float32), "asks for 'torch.FloatStorage'"),
        ({"states": [1]}, "holds no array"),
        ([0.5], "uses the pickle operation BINFLOAT"),
    ],
)
def test_what_is_no_matrix_of_finite_doubles_is_refused(tmp_path: Path, value: Any, message: str):
    assert message in refused(tmp_path, saved(value, pickle_protocol=4))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no pickle"),
        (b"hello", "which no array needs"),
        (b"PK\x03\x04 not really", "damaged archive"),
        (archived(b""), "no pickle"),
        (archived(pickle.dumps(STATES)[:-40]), "no pickle of an array, or a damaged one"),
        (saved(STATES)[:-60], "damaged archive"),
    ],
)
def test_what_is_no_such_file_is_refused(tmp_path: Path, content: bytes, message: str):
    assert message in refused(tmp_path, content)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(DataFileError, match=r"none\.pruned_init: No such file"):
        read_initial_states(tmp_path / "none.pruned_init")


@given(st.one_of(st.binary(), st.binary().map(lambda noise: b"\x80\x02" + noise)))
def test_any_bytes_are_refused_in_one_line(tmp_path_factory: pytest.TempPathFactory, content: bytes):
    refused(tmp_path_factory.mktemp("noise"), content)


LEGACY, ARCHIVE = saved(STATES, _use_new_zipfile_serialization=False), saved(STATES)


@given(st.sampled_from([LEGACY, ARCHIVE]), st.data())
def test_a_file_with_a_byte_changed_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, data: st.DataObject
):
    place = data.draw(st.integers(0, len(content) - 1))
    damaged = content[:place] + bytes([data.draw(st.integers(0, 255))]) + content[place + 1 :]
    try:
        assert read(tmp_path_factory.mktemp("damage"), damaged).ndim == 2
    except DataFileError as error:
        assert "\n" not in str(error)
