"""Messages of a DECTRIS stream, version 2: those of the definition, a whole scan of them, and anything else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("lz4.block", reason="the extra 'live' is not installed")
cbor2 = pytest.importorskip("cbor2", reason="the extra 'live' is not installed")

from beamside.errors import FormatError  # noqa: E402
from beamside.formats.dectris_codec import encode_image  # noqa: E402
from beamside.simulate import stream  # noqa: E402
from beamside.sources import dectris  # noqa: E402
from beamside.sources.dectris import Image, SeriesEnd, SeriesStart, beam  # noqa: E402
from beamside.sources.dectris_cbor import is_cbor, parse  # noqa: E402
from tests.sources.test_live_scan import COUNT, _live, _scan, check, free_ports, received, sender  # noqa: E402, F401

PACKED = {"raw": "<", "lz4": "h5lz4<", "bslz4": "bs{}-lz4<"}
TYPED = {"uint8": 64, "uint16": 69, "uint32": 70}


def message(**values: Any) -> bytes:
    return bytes(cbor2.dumps(cbor2.CBORTag(55799, values)))


def array(pixels: np.ndarray, packing: str = "raw") -> Any:
    size = pixels.dtype.itemsize
    blob: Any = encode_image(pixels, PACKED[packing].format(8 * size))
    if packing != "raw":
        blob = cbor2.CBORTag(56500, [packing, size if packing == "bslz4" else 0, blob])
    return cbor2.CBORTag(40, [list(pixels.shape), cbor2.CBORTag(TYPED[pixels.dtype.name], blob)])


@pytest.mark.parametrize("packing", sorted(PACKED))
@pytest.mark.parametrize("kind", sorted(TYPED))
def test_an_image_has_its_rows_first_and_its_first_channel_is_read(kind: str, packing: str) -> None:
    pixels = np.random.default_rng(1).poisson(2, (30, 50)).astype(kind)
    data = {"threshold_2": array(pixels * 0), "threshold_1": array(pixels, packing)}
    found = parse(message(type="image", series_id=4, image_id=17, data=data, real_time=[1, 1000]))
    assert isinstance(found, Image)
    assert (found.series, found.frame, found.shape) == (4, 17, (30, 50))
    assert np.array_equal(found.pixels(), pixels) and found.pixels().dtype == kind


def test_a_start_says_what_the_instrument_is() -> None:
    mask = np.array([[0, 1], [0, 0], [0, 8]], np.uint32)
    found = parse(message(
        type="start", series_id=4, series_unique_id="u", incident_energy=9000.0, incident_wavelength=float("nan"),
        detector_translation=[0.0, 0.0, -2.0], pixel_size_x=75e-6, pixel_size_y=75e-6, beam_center_x=64.4,
        beam_center_y=60.0, number_of_images=30, saturation_value=50000, user_data={"scan_uid": "abc"},
        pixel_mask={"threshold_1": array(mask, "bslz4")}, flatfield={}, channels=["threshold_1"],
    ))  # fmt: skip
    assert isinstance(found, SeriesStart)
    assert np.array_equal(found.pixel_mask, mask)
    known = beam(found.config)
    assert known.wavelength_m == pytest.approx(1.3776e-10, rel=1e-4)
    assert (known.distance_m, known.detector_pixel_m, known.centre_px) == (2.0, 75e-6, (60, 64))
    assert (known.frames, known.cutoff, found.config["scan_uid"]) == (30, 50000, "abc")
    json.dumps(dict(found.config), allow_nan=False)
    assert parse(message(type="end", series_id=2)) == SeriesEnd(2)


@pytest.mark.parametrize(
    "changes",
    [{"type": "picture"}, {"series_id": -1}, {"image_id": "4"}, {"data": {}}, {"data": {"a": 4}}, {"data": [1]},
     {"data": {"a": cbor2.CBORTag(40, [[2, 3], b"123456"])}}, {"data": {"a": cbor2.CBORTag(40, [[2, 0], 7])}},
     {"data": {"a": cbor2.CBORTag(40, [[2, 3], cbor2.CBORTag(84, b"1" * 24)])}},
     {"data": {"a": cbor2.CBORTag(40, [[2, 3], cbor2.CBORTag(64, cbor2.CBORTag(56500, ["zip", 1, b""]))])}}],
)  # fmt: skip
def test_what_is_no_image_is_a_typed_error(changes: dict[str, Any]) -> None:
    whole = {"type": "image", "series_id": 1, "image_id": 2, "data": {"a": array(np.zeros((2, 3), np.uint8))}}
    assert isinstance(parse(message(**whole)), Image)
    with pytest.raises(FormatError):
        parse(message(**whole | changes))


@given(st.binary(max_size=60), st.integers(0, 80))
def test_damaged_messages_are_a_typed_error_or_a_message(noise: bytes, place: int) -> None:
    good = message(type="image", series_id=1, image_id=2, data={"a": array(np.zeros((2, 3), np.uint8))})
    for damaged in (noise, b"\xd9\xd9\xf7" + noise, good[:place] + noise + good[place:], good[:place]):
        try:
            found = parse(damaged)
            if isinstance(found, Image):
                found.pixels()
        except FormatError:
            continue


def test_the_two_versions_are_told_apart() -> None:
    plain = cbor2.dumps({"type": "end", "series_id": 2})
    assert is_cbor([message(type="end")]) and is_cbor([plain])
    assert not is_cbor([b'{"htype": "dseries_end-1.0"}']) and not is_cbor([plain, b""]) and not is_cbor([b""])


def translated(parts: list[bytes]) -> list[bytes]:
    """A message of version 1 as the same of version 2."""
    found = dectris.parse(parts)
    if isinstance(found, SeriesEnd):
        return [message(type="end", series_id=found.series)]
    if isinstance(found, Image):
        data = {"threshold_1": array(found.pixels(), "bslz4")}
        return [message(type="image", series_id=found.series, image_id=found.frame, data=data)]
    config = found.config
    return [message(
        type="start", series_id=found.series, incident_wavelength=config["wavelength"], pixel_size_x=75e-6,
        detector_translation=[0, 0, config["detector_distance"]], beam_center_x=config["beam_center_x"],
        beam_center_y=config["beam_center_y"], number_of_images=config["nimages"],
    )]  # fmt: skip


def test_a_scan_arrives_whole(scan: Any, live: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    messages = stream._messages
    monkeypatch.setattr(
        stream, "_messages",
        lambda *args: [(due, on, translated(p) if on else p) for due, on, p in messages(*args)],
    )  # fmt: skip
    ports = free_ports(2)
    source = live(*ports)
    records = received(source, sender(ports, scan, stream.StreamOptions()))
    assert len(records) == COUNT
    check(source, records, scan)
    assert source.findings() == []
    fields = source.header().fields
    assert (fields["count"], fields["wavelength_m"]) == (COUNT, pytest.approx(1.3e-10))


def test_without_the_package_the_remedy_is_said(live: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cbor2", None)
    source = live(*free_ports(2))
    source._take("frames", [b"\xd9\xd9\xf7\xa0"])
    (found,) = source.findings()
    assert found.guard == "stream.message" and "cbor2" in found.saw and "beamside[live]" in found.remedy
