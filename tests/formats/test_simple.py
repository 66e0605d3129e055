"""SIMPLE projects, written in the tests from the format's description."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beamside.errors import FormatError
from beamside.formats.simple import PARTICLE_FIELDS, read_simple
from tests.formats.simple_files import ORDER, particles, project_bytes, stacks, write_project


def test_the_fields_are_in_the_order_of_the_format() -> None:
    assert list(PARTICLE_FIELDS) == ORDER and len(ORDER) == 50


def test_segments_come_back(tmp_path: Path) -> None:
    segments = {1: [{"intg": "m1.mrc", "kv": "300"}], 2: stacks(2, 1), 3: particles(2, 1, e3=12.5), 11: [{"a": "b c"}]}
    project = read_simple(write_project(tmp_path / "p.simple", segments))
    assert {n: s.name for n, s in project.segments.items()} == {1: "mic", 2: "stk", 3: "ptcl2D", 11: "projinfo"}
    assert project.texts[1] == ({"intg": "m1.mrc", "kv": "300"},)
    assert project.texts[2][1]["stk"] == "s2.mrcs" and 11 not in project.texts
    assert project.field(3, "e3").tolist() == [12.5] * 3 and project.field(3, "stkind").tolist() == [1, 1, 2]
    assert np.allclose(project.field(3, "dfx"), 1.5)
    offset = project.segments[3].offset
    assert project.place(3, 1) == f"{tmp_path}/p.simple, record 2 of segment ptcl2D (byte {offset + 200:,})"


def test_truncations_at_every_byte(tmp_path: Path) -> None:
    whole, path = project_bytes({2: stacks(1), 3: particles(1)}), tmp_path / "p.simple"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(FormatError, match=r"p\.simple") as caught:
            read_simple(path)
        assert caught.value.remedy


def changed(number: int, **entry: int) -> bytes:
    """A sound project whose header entry of a segment is changed."""
    raw = bytearray(project_bytes({2: stacks(2), 3: particles(2)}))
    values = list(struct.unpack_from("<5q", raw, (number - 1) * 40))
    for name, value in entry.items():
        values[("first", "last", "width", "count", "byte").index(name)] = value
    struct.pack_into("<5q", raw, (number - 1) * 40, *values)
    return bytes(raw)


BAD = {
    "16 TB": (changed(3, last=2**36, count=2**36), "up to byte"),
    "negative count": (changed(3, count=-2), "impossible"),
    "count and range differ": (changed(3, count=1), "impossible"),
    "overflowing": (changed(3, last=2**62, count=2**62), "up to byte"),
    "record 0": (changed(3, first=0, last=1), "impossible"),
    "data inside the header": (changed(3, byte=1), "impossible"),
    "another width": (changed(3, width=172), "172 bytes"),
    "overlap": (changed(3, byte=802), "overlap"),
    "unknown segment": (changed(9, first=1, last=1, width=5, count=1, byte=801), "segment 9"),
    "no segment": (bytes(1000), "without segments"),
    "big-endian": (b"".join(struct.pack(">5q", 1, 1, 200, 1, 801) for _ in range(20)) + bytes(200), "impossible"),
    "zero bytes in text": (project_bytes({2: stacks(1)}).replace(b"smpd", b"s\0pd"), "zero bytes"),
    "no pair": (project_bytes({2: stacks(1)}).replace(b"smpd=", b"smpd_"), "no key=value pair"),
    "a key twice": (project_bytes({2: stacks(1)}).replace(b"kv=", b"cs="), "no key=value pair of its own"),
}


@pytest.mark.parametrize("case", BAD)
def test_one_clear_error_names_the_place(tmp_path: Path, case: str) -> None:
    raw, says = BAD[case]
    path = tmp_path / "p.simple"
    path.write_bytes(raw)
    with pytest.raises(FormatError, match=says) as caught:
        read_simple(path)
    assert str(path) in caught.value.where and "byte" in caught.value.where and caught.value.remedy


def test_an_absent_file(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="cannot be read"):
        read_simple(tmp_path / "p.simple")


@settings(max_examples=100, deadline=None)
@given(at=st.integers(0, 799), value=st.integers(0, 255))
def test_any_byte_of_the_header_may_be_wrong(tmp_path_factory: pytest.TempPathFactory, at: int, value: int) -> None:
    raw = bytearray(project_bytes({2: stacks(2), 3: particles(2)}))
    raw[at] = value
    path = tmp_path_factory.mktemp("simple") / "p.simple"
    path.write_bytes(bytes(raw))
    try:
        project = read_simple(path)
    except FormatError as error:
        assert error.where
    else:
        assert all(s.count >= 0 for s in project.segments.values())
