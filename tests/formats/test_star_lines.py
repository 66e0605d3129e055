"""Windows of lines join to what the whole file says, wherever the cuts fall."""

from __future__ import annotations

import io
import os
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from beamside.errors import FormatError
from beamside.formats.star import StarTable, read_growing_star, read_star, stream_star, write_star
from beamside.formats.star_lines import Lines


@settings(max_examples=200)
@given(st.lists(st.text("ab \r\n", max_size=6), max_size=6).map("".join), st.integers(1, 7))
@example("a\r\nb\r\n", 2)
@example("a\r\rb\r", 2)
def test_lines_are_those_of_the_whole(text: str, window: int) -> None:
    lines = Lines(io.BytesIO(text.encode()), "t", growing=True, window_bytes=window)
    found = [line for lines_of in lines.windows() for line in lines_of]
    whole = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    assert found == whole[:-1]
    assert lines.unfinished == bool(whole[-1].strip())


@pytest.mark.parametrize("window", [1, 7, 64, 10_000])
def test_a_streamed_table_is_the_whole_table(tmp_path: Path, window: int) -> None:
    rows = {"rlnImageName": [f"{i:06d}@a b.mrcs" for i in range(300)], "rlnX": [str(i) for i in range(300)]}
    path = tmp_path / "a.star"
    pairs = StarTable({"rlnY": ["1"], "rlnZ": ["two words"]}, loop=False, name="general")
    write_star(path, [StarTable({"rlnOpticsGroup": ["1", "2"]}, name="optics"), pairs, StarTable(rows, name="p")])
    parts = list(stream_star(path, window_bytes=window))
    joined = [(part.name, label, value) for part in parts for label, v in part.columns.items() for value in v]
    whole = [(t.name, label, value) for t in read_star(path).values() for label, v in t.columns.items() for value in v]
    assert sorted(joined) == sorted(whole)
    numbered = [line for part in parts if part.name == "p" for line in part.lines]
    assert numbered == list(read_star(path)["p"].lines)


def test_an_error_late_in_a_stream_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.star"
    path.write_text("data_\nloop_\n_a\n_b\n" + "1 2\n" * 500 + "1\n")
    with pytest.raises(FormatError, match="line 505: a row"):
        list(stream_star(path, window_bytes=100))
    path.write_text("data_\nloop_\n_a\n_b\n" + "1 2\n" * 500 + "1 2")
    with pytest.raises(FormatError, match="line 505: the last line has no line end"):
        list(stream_star(path, window_bytes=100))
    tables, unfinished = read_growing_star(path)
    assert unfinished and len(tables[""]) == 500


def test_a_file_of_16_tb_without_lines_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.star"
    path.write_text("data_\n")
    os.truncate(path, 16 * 10**12)
    tracemalloc.start()
    with pytest.raises(FormatError, match="longer than 1,048,576 bytes"):
        read_star(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 * 2**20
