"""The spool keeps what was synced, whatever happens to its tail."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from beamside.errors import FormatError
from beamside.sources.spool import Spool


def filled(path: Path, count: int = 5) -> tuple[list[int], list[bytes]]:
    spool = Spool(path)
    blobs = [np.random.default_rng(n).bytes(100 + n) for n in range(count)]
    offsets = [spool.append({"n": n}, blob) for n, blob in enumerate(blobs)]
    spool.close()
    return offsets, blobs


def test_records_come_back_in_order_and_by_offset(tmp_path: Path) -> None:
    offsets, blobs = filled(tmp_path / "s")
    spool = Spool(tmp_path / "s")
    assert [(offset, about["n"], blob) for offset, about, blob in spool.records()] == [
        (offset, n, blob) for n, (offset, blob) in enumerate(zip(offsets, blobs, strict=True))
    ]
    assert spool.read(offsets[3]) == ({"n": 3}, blobs[3])
    assert spool.append({"n": 5}) > offsets[-1]
    spool.close()


def test_a_tail_cut_anywhere_loses_only_the_last_record(tmp_path: Path) -> None:
    offsets, _ = filled(tmp_path / "s")
    whole = (tmp_path / "s").read_bytes()
    for size in range(offsets[-1], len(whole), 7):
        (tmp_path / "cut").write_bytes(whole[:size])
        spool = Spool(tmp_path / "cut")
        assert [about["n"] for _, about, _ in spool.records()] == [0, 1, 2, 3]
        assert spool.append({"n": "new"}) == offsets[-1]
        assert [about["n"] for _, about, _ in spool.records()] == [0, 1, 2, 3, "new"]
        spool.close()


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    offsets, _ = filled(tmp_path / "s")
    spool = Spool(tmp_path / "s")
    with (tmp_path / "s").open("r+b") as file:
        file.seek(offsets[2] + 60)
        byte = file.read(1)[0]
        file.seek(offsets[2] + 60)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(FormatError, match="damaged"):
        spool.read(offsets[2])
    for offset in (-4, 3, 10**9):
        with pytest.raises(FormatError):
            spool.read(offset)
    spool.close()
