"""Messages of a DECTRIS stream: those of the standard, and anything else."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamside.errors import FormatError
from beamside.sources.dectris import Image, SeriesEnd, SeriesStart, beam, parse

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = ["htype", "series", "frame", "shape", "type", "encoding", "size"]
KINDS = st.sampled_from(
    ["dheader-1.0", "dimage-1.0", "dimage_d-1.0", "dseries_end-1.0", "dflatfield-1.0", "dpixelmask-1.0"]
)
PART = st.builds(
    lambda kind, rest: json.dumps({**rest, "htype": kind}).encode(),
    KINDS,
    st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=5),
) | st.binary(max_size=20)


def js(**values: Any) -> bytes:
    return json.dumps(values).encode()


def image_parts(**changes: Any) -> list[bytes]:
    about = {"htype": "dimage_d-1.0", "shape": [3, 2], "type": "uint16", "encoding": "<", "size": 12} | changes
    return [
        js(htype="dimage-1.0", series=4, frame=17, hash="x"),
        js(**about),
        np.arange(6, dtype="<u2").tobytes(),
        b"{}",
    ]


def test_an_image_has_its_columns_first_on_the_wire() -> None:
    message = parse(image_parts())
    assert isinstance(message, Image)
    assert (message.series, message.frame, message.shape) == (4, 17, (2, 3))
    assert message.pixels().tolist() == [[0, 1, 2], [3, 4, 5]]


def test_a_header_with_maps_and_appendix() -> None:
    mask = np.array([[0, 1], [0, 0], [0, 8]], "<u4")
    flat = np.full((3, 2), 1.5, "<f4")
    message = parse([
        js(htype="dheader-1.0", series=4, header_detail="all"),
        js(photon_energy=9000.0, detector_distance=2.0, x_pixel_size=75e-6, beam_center_x=64.4, beam_center_y=60.0,
           nimages=10, ntrigger=3, countrate_correction_count_cutoff=50000),
        js(htype="dflatfield-1.0", shape=[2, 3], type="float32"), flat.tobytes(),
        js(htype="dpixelmask-1.0", shape=[2, 3], type="uint32"), mask.tobytes(),
        js(htype="dcountrate_table-1.0", shape=[2, 1], type="float32"), bytes(8),
        b"appendix",
    ])  # fmt: skip
    assert isinstance(message, SeriesStart)
    assert np.array_equal(message.pixel_mask, mask)
    known = beam(message.config)
    assert known.wavelength_m == pytest.approx(1.3776e-10, rel=1e-4)
    assert (known.distance_m, known.detector_pixel_m, known.centre_px) == (2.0, 75e-6, (60, 64))
    assert (known.frames, known.cutoff) == (30, 50000)
    assert beam({"wavelength": 1.0}).wavelength_m == pytest.approx(1e-10)
    assert (
        beam({"wavelength": -1, "detector_distance": "far", "x_pixel_size": True, "nimages": float("nan")}).frames
        is None
    )


def test_the_end() -> None:
    assert parse([js(htype="dseries_end-1.0", series=2)]) == SeriesEnd(2)


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [b""],
        [b"[1]"],
        [b'{"htype": "dsomething-1.0"}'],
        [b'{"htype": "dseries_end-1.0", "series": -1}'],
        [b'{"htype": "dseries_end-1.0", "series": true}'],
        image_parts()[:2],
        [image_parts()[0], b"{}", b""],
        image_parts(shape=[3]),
        image_parts(shape=[0, 3]),
        image_parts(shape=[3, 1 << 30]),
        [b"[" * 100_000],
    ],
)
def test_messages_of_no_known_form_are_typed_errors(parts: list[bytes]) -> None:
    with pytest.raises(FormatError):
        parse(parts)


@pytest.mark.parametrize(
    "changes", [{"type": "float64"}, {"encoding": "gzip"}, {"shape": [4, 2]}, {"encoding": "bs16-lz4<"}]
)
def test_a_blob_that_is_not_what_is_said_is_a_typed_error(changes: dict[str, Any]) -> None:
    message = parse(image_parts(**changes))
    assert isinstance(message, Image)
    with pytest.raises(FormatError):
        message.pixels()


@given(st.lists(PART, max_size=6))
def test_no_message_is_a_crash(parts: list[bytes]) -> None:
    try:
        message = parse(parts)
        if isinstance(message, SeriesStart):
            beam(message.config)
        elif isinstance(message, Image):
            message.pixels()
    except FormatError:
        pass
