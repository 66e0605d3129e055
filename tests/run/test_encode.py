"""Arrays and values come back as they went."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from beamside.errors import RunDirectoryError
from beamside.run.encode import exact_json, pack, public_json, unpack

TYPES = ["bool", "int8", "uint16", "int64", "float16", "float32", "float64", "complex64", "complex128", ">f4", ">i2"]


@given(
    st.sampled_from(TYPES).flatmap(
        lambda name: hnp.arrays(np.dtype(name), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    ),
    st.booleans(),
)
def test_arrays_come_back(array, turned: bool) -> None:
    given_array = array.T if turned else array
    back = unpack(pack({"a": given_array}))["a"]
    assert back.flags.writeable, "an engine may go on in place"
    assert back.shape == given_array.shape
    assert back.dtype == given_array.dtype.newbyteorder("=")
    assert np.array_equal(back, given_array, equal_nan=array.dtype.kind in "fc")


def test_a_transposed_view_is_not_stored_by_its_memory() -> None:
    view = np.arange(12.0).reshape(3, 4)[::2, ::-1].T
    assert np.array_equal(unpack(pack({"a": view}))["a"], view)


def test_text_is_refused() -> None:
    with pytest.raises(RunDirectoryError, match="'names' has type <U1"):
        pack({"names": np.array(["a"])})


@settings(max_examples=50)
@given(st.recursive(st.floats() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_exact_json_keeps_every_bit(value) -> None:
    assert repr(json.loads(exact_json(value))) == repr(json.loads(json.dumps(value, sort_keys=True)))


def test_public_json_is_strict() -> None:
    values = {"a": np.array([1.5, np.nan]), "b": np.inf, "c": np.float32(0.5), "d": np.array(["x"]), "e": (True, None)}
    text = public_json(values).decode()
    assert json.loads(text, parse_constant=pytest.fail) == {
        "a": [1.5, None],
        "b": None,
        "c": 0.5,
        "d": ["x"],
        "e": [True, None],
    }
