"""What a live run has received comes back from its spool, to the bit, while the spool stays as it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from beamside.errors import InputError
from beamside.simulate.stream import Replay, StreamOptions
from beamside.sources.live_scan import SPOOL_NAME, LiveScan
from beamside.sources.scan_options import ScanOptions
from beamside.sources.spooled_scan import SpooledScan
from tests.sources.test_live_scan import CONFIG, COUNT, SIZE, free_ports, received, sender


def test_frames_and_positions_come_back_and_nothing_is_changed(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    counts = rng.poisson(3, (COUNT, SIZE, SIZE)).astype(np.uint16)
    scan = Replay(np.arange(COUNT), rng.uniform(0, 3e-6, (COUNT, 2)), lambda rows: counts[rows], CONFIG)
    ports = free_ports(2)
    live = LiveScan(*ports, tmp_path / "spool", ScanOptions(orientation=3), patience_s=0.6)
    try:
        records = received(live, sender(ports, scan, StreamOptions()))
        given, header = live.batch(records), live.header()
        pixels = given.load(np.arange(COUNT))
    finally:
        live.close()
    path = tmp_path / "spool" / SPOOL_NAME
    path.write_bytes(path.read_bytes() + b"BSP1 and half a record")
    before = path.read_bytes()
    again = SpooledScan(tmp_path / "spool", ScanOptions(orientation=3), header)
    try:
        batch = again.batch(records)
        assert batch.keys == given.keys and np.array_equal(batch.columns["position_m"], given.columns["position_m"])
        assert np.array_equal(batch.load(np.arange(COUNT)), pixels)
        assert np.array_equal(batch.load(np.array([7, 3])), pixels[[7, 3]]) and batch.load(np.arange(0)).shape[0] == 0
        assert again.exhausted() and not again.poll() and not again.findings() and again.header() == header
    finally:
        again.close()
    assert path.read_bytes() == before


def test_an_absent_or_empty_spool_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        SpooledScan(tmp_path, ScanOptions(), None)
    (tmp_path / SPOOL_NAME).write_bytes(b"")
    with pytest.raises(InputError, match="holds no frame"):
        SpooledScan(tmp_path, ScanOptions(), None)
