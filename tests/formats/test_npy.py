"""Our .npy reader against numpy's own writer; nothing is unpickled, nothing is allocated on a header's word."""

from __future__ import annotations

import io
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from beamside.errors import FormatError
from beamside.formats.npy import read_npy, read_npy_info

RECORD = [("a", "<f4"), ("b/c", "S9"), ("d", "<u4", (2,))]
TYPES = ["bool", "int8", ">u2", "<i8", ">f4", "<f8", "complex64", "S5", "U3", RECORD]


def npy(array: np.ndarray[Any, Any], version: tuple[int, int] | None = None) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, version=version, allow_pickle=True)
    return stream.getvalue()


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(TYPES).flatmap(
        lambda name: hnp.arrays(np.dtype(name), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    ),
    st.sampled_from([(1, 0), (2, 0), (3, 0)]),
    st.booleans(),
)
def test_what_numpy_writes_comes_back(
    tmp_path_factory: pytest.TempPathFactory, array: np.ndarray[Any, Any], version: tuple[int, int], turned: bool
) -> None:
    path = tmp_path_factory.mktemp("npy") / "a.npy"
    given_array = np.asarray(array, order="F") if turned else array
    path.write_bytes(npy(given_array, version))
    back = read_npy(path)
    assert back.dtype == array.dtype and back.shape == array.shape
    assert back.tobytes() == np.load(path, allow_pickle=False).tobytes()


def test_truncations_at_every_byte(tmp_path: Path) -> None:
    whole = npy(np.arange(6, dtype=np.float32))
    path = tmp_path / "a.npy"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(FormatError, match=str(path)) as caught:
            read_npy(path)
        assert caught.value.remedy


class Trap:
    """Unpickling this would write a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.mark, "executed")


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    path, mark = tmp_path / "a.npy", tmp_path / "mark"
    path.write_bytes(npy(np.array([Trap(mark)], dtype=object)))
    with pytest.raises(FormatError, match="Python objects"):
        read_npy(path)
    assert not mark.exists()


def test_a_header_that_promises_16_tb_allocates_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    text = b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2000000000000), }\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(64))
    tracemalloc.start()
    with pytest.raises(FormatError, match="16,000,000,000,"):
        read_npy_info(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20


BAD_HEADERS = {
    "code": "{'descr': __import__('os').system('true'), 'fortran_order': False, 'shape': (1,)}",
    "negative": "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}",
    "boolean size": "{'descr': '<f4', 'fortran_order': False, 'shape': (True,)}",
    "no shape": "{'descr': '<f4', 'fortran_order': False}",
    "unknown type": "{'descr': '<q9', 'fortran_order': False, 'shape': (1,)}",
    "nested": "(" * 5000,
    "a list": "[1, 2]",
    "empty type": "{'descr': '|S0', 'fortran_order': False, 'shape': (5,)}",
    "odd order": "{'descr': '<f4', 'fortran_order': 1, 'shape': (1,)}",
    "too many axes": "{'descr': '<f4', 'fortran_order': False, 'shape': " + repr((1,) * 40) + "}",
}


@pytest.mark.parametrize("case", BAD_HEADERS)
def test_headers_that_make_no_sense(tmp_path: Path, case: str) -> None:
    text = BAD_HEADERS[case].encode()
    path = tmp_path / "a.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(4))
    with pytest.raises(FormatError, match="header"):
        read_npy(path)
