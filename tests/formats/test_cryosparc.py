"""CryoSPARC tables: a real one, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from beamside.errors import FormatError
from beamside.formats.cryosparc import column_of, read_cs

FIELDS = [("uid", "<u8"), ("blob/path", "S20"), ("blob/idx", "<u4"), ("blob/shape", "<u4", (2,)), ("ctf/df1_A", "<f4")]


def save(path: Path, records: np.ndarray) -> Path:
    with path.open("wb") as file:
        np.save(file, records)
    return path


def test_a_real_table(shared: Path) -> None:
    path = shared / "data" / "classify" / "cryosparc_P12_J24_001_particles.cs"
    table, oracle = read_cs(path), np.load(path, allow_pickle=False)
    assert len(table) == 2019 and table.records.tobytes() == oracle.tobytes()
    paths = table.texts("blob/path")
    assert paths is not None and paths[0].startswith("J19/extract/") and paths[0].endswith(".mrc")
    defocus = column_of(table, "ctf/df1_A")
    assert defocus is not None and np.array_equal(defocus, oracle["ctf/df1_A"].astype(float))
    width = column_of(table, "blob/shape", 1)
    assert width is not None and set(width) == {180.0}
    assert column_of(table, "alignments2D/class") is None and column_of(table, "blob/shape") is None
    assert column_of(table, "blob/shape", 2) is None
    assert table.place(0) == f"{path}, record 1"


def test_a_field_of_another_kind_is_refused(tmp_path: Path) -> None:
    table = read_cs(save(tmp_path / "a.cs", np.zeros(2, dtype=FIELDS)))
    with pytest.raises(FormatError, match=r"uid holds uint64, not text"):
        table.texts("uid")
    with pytest.raises(FormatError, match=r"blob/path holds \|S20, not numbers"):
        table.numbers("blob/path")
    assert table.texts("absent") is None and table.numbers("absent") is None


@pytest.mark.parametrize("array", [np.zeros(3), np.zeros((2, 2), dtype=FIELDS), np.zeros((), dtype=FIELDS)])
def test_another_array_is_no_table(tmp_path: Path, array: np.ndarray) -> None:
    with pytest.raises(FormatError, match="not a table of records"):
        read_cs(save(tmp_path / "a.cs", array))


def test_a_cut_table_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.cs", np.zeros(3, dtype=FIELDS))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(FormatError, match=r"3 values of 44 bytes"):
        read_cs(path)
