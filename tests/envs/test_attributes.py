"""An object's numbers as a vector, and its attributes as they were."""

from __future__ import annotations

from types import SimpleNamespace

import mujoco
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from vla_cl.envs.attributes import NumericAttributes, PristineAttributes, is_foreign_memory
from vla_cl.errors import SimulationError

SCENE = "<mujoco><worldbody><body name='ball'><freejoint/><geom size='1'/></body></worldbody></mujoco>"
finite = st.floats(allow_nan=False, allow_infinity=False)
values = st.one_of(
    st.booleans(),
    st.integers(-(2**52), 2**52),
    finite,
    st.lists(finite, min_size=1, max_size=4),
    st_numpy.arrays(np.float64, st_numpy.array_shapes(max_dims=2, max_side=3), elements=finite),
    st_numpy.arrays(np.float32, (3,), elements=st.floats(allow_nan=False, allow_infinity=False, width=32)),
)


@given(st.dictionaries(st.sampled_from("abcdef"), values, min_size=1))
def test_numbers_come_back_with_their_types(attributes: dict[str, object]) -> None:
    target = SimpleNamespace(name="not a number", **attributes)
    numeric = NumericAttributes(target)
    numeric.observe()
    vector = numeric.get()
    assert numeric.names == tuple(sorted(attributes))
    assert vector.shape == (numeric.size,)
    for name in attributes:
        setattr(target, name, None)
    numeric.set(vector)
    for name, value in attributes.items():
        restored = getattr(target, name)
        np.testing.assert_array_equal(restored, value)
        assert type(restored) is type(value)
        assert getattr(restored, "dtype", None) == getattr(value, "dtype", None)


def test_what_is_none_now_and_was_a_number_before_is_none_again() -> None:
    target = SimpleNamespace(position=None, latched=False)
    numeric = NumericAttributes(target)
    numeric.observe()
    target.position = np.ones(3)
    numeric.observe()
    ones = numeric.get()
    target.position = None
    nothing = numeric.get()
    numeric.set(ones)
    np.testing.assert_array_equal(target.position, np.ones(3))
    numeric.set(nothing)
    assert target.position is None
    assert target.latched is False


def test_memory_of_the_simulator_is_left_out() -> None:
    model = mujoco.MjModel.from_xml_string(SCENE)
    data = mujoco.MjData(model)
    target = SimpleNamespace(view=data.body("ball").xpos, own=data.body("ball").xpos.copy(), part=np.ones(4)[1:])
    assert is_foreign_memory(target.view)
    assert not is_foreign_memory(target.own)
    assert not is_foreign_memory(target.part)
    numeric = NumericAttributes(target)
    numeric.observe()
    assert numeric.names == ("own", "part")


def test_a_size_that_changes_is_an_error() -> None:
    target = SimpleNamespace(position=np.ones(3))
    numeric = NumericAttributes(target)
    numeric.observe()
    target.position = np.ones(4)
    with pytest.raises(SimulationError, match="'position' has 4 numbers, expected 3"):
        numeric.get()


def test_ignored_names_are_left_out() -> None:
    numeric = NumericAttributes(SimpleNamespace(a=1, b=2), ignore={"a"})
    numeric.observe()
    assert numeric.names == ("b",)


def test_pristine_attributes_undo_every_change() -> None:
    shared = object()
    target = SimpleNamespace(array=np.zeros(2), settings={"start": np.zeros(2)}, other=shared, removed=1)
    pristine = PristineAttributes(target)
    for _ in range(2):
        target.array += 1
        target.settings["start"][0] = 5
        target.new = 3
        del target.removed
        pristine.restore()
        np.testing.assert_array_equal(target.array, 0)
        np.testing.assert_array_equal(target.settings["start"], 0)
        assert target.other is shared
        assert target.removed == 1
        assert not hasattr(target, "new")
