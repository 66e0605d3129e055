from __future__ import annotations

from pathlib import Path

import gemmi
import numpy as np
import pytest
import starfile
from hypothesis import given, settings
from hypothesis import strategies as st

from beamside.errors import FormatError
from beamside.formats.star import StarTable, column, pairs, parse_star, read_star, write_star

PLAIN = st.text(
    st.characters(min_codepoint=33, max_codepoint=0x2FF, exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp"]),
    min_size=1,
    max_size=12,
)
VALUE = st.one_of(
    PLAIN,
    st.text(st.sampled_from("ab \t'\"#_;@.0"), max_size=8).filter(lambda v: not ("'" in v and '"' in v)),
    st.sampled_from(["data_x", "loop_", "", "_a", "#1", "data_1/mic.mrc", ";", "1.500000", "a b"]),
)
LABEL = st.text(st.sampled_from("rlnABCabc123"), min_size=1, max_size=10)


@st.composite
def tables(draw: st.DrawFn, value: st.SearchStrategy[str] = VALUE, least_columns: int = 1) -> dict[str, list[str]]:
    labels = draw(st.lists(LABEL, min_size=least_columns, max_size=5, unique=True))
    rows = draw(st.integers(1, 6))
    return {label: draw(st.lists(value, min_size=rows, max_size=rows)) for label in labels}


def written(path: Path, *blocks: StarTable) -> Path:
    write_star(path / "t.star", blocks)
    return path / "t.star"


@settings(max_examples=30)
@given(first=tables(), second=tables())
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, first: dict[str, list[str]], second: dict[str, list[str]]
) -> None:
    one_row = {label: values[0] for label, values in second.items()}
    path = written(
        tmp_path_factory.mktemp("t"), StarTable(first, name="optics"), pairs("general", one_row), StarTable(second)
    )
    found = read_star(path)
    assert list(found) == ["optics", "general", ""]
    assert found["optics"].columns == first and found["optics"].loop
    assert list(found["optics"].columns) == list(first)
    assert found[""].columns == second
    assert found["general"].columns == {k: [v] for k, v in one_row.items()} and not found["general"].loop
    rows = path.read_text().split("\n")
    for row, line in enumerate(found["optics"].lines):
        assert first[next(iter(first))][row] in rows[line - 1]


# What CIF leaves unquoted as well: no reserved word, none of its special signs in front.
SAFE_ASCII = st.text(st.sampled_from("abXYZ019@/.-+#'\"_;$[]"), max_size=12).map(lambda v: "0" + v)


@settings(max_examples=30)
@given(table=tables(SAFE_ASCII, least_columns=2))
def test_gemmi_reads_the_same(tmp_path_factory: pytest.TempPathFactory, table: dict[str, list[str]]) -> None:
    labels = {label.lower() for label in table}
    if len(labels) < len(table):
        return  # gemmi folds the case of labels
    path = written(tmp_path_factory.mktemp("t"), StarTable(table, name="particles"))
    block = gemmi.cif.read(str(path)).find_block("particles")
    for label, values in table.items():
        assert [gemmi.cif.as_string(v) for v in block.find_values("_" + label)] == values


@settings(max_examples=30)
@given(numbers=st.lists(st.tuples(st.floats(-1e6, 1e6), st.integers(-99, 99)), min_size=2, max_size=9))
def test_starfile_reads_the_same_and_the_other_way_round(
    tmp_path_factory: pytest.TempPathFactory, numbers: list[tuple[float, int]]
) -> None:
    folder = tmp_path_factory.mktemp("t")
    table = {
        "rlnImageName": [f"{i + 1:06d}@a/b.mrcs" for i in range(len(numbers))],
        "rlnX": column([x for x, _ in numbers]),
        "rlnN": column([n for _, n in numbers]),
    }
    frame = starfile.read(written(folder, StarTable(table, name="particles")))
    assert frame["rlnImageName"].tolist() == table["rlnImageName"]
    assert frame["rlnN"].tolist() == [n for _, n in numbers]
    np.testing.assert_allclose(frame["rlnX"], [x for x, _ in numbers], atol=1e-6)
    starfile.write({"particles": frame}, folder / "u.star")
    again = read_star(folder / "u.star")["particles"]
    assert again.columns["rlnImageName"] == table["rlnImageName"]
    np.testing.assert_allclose(again.floats("rlnX"), [x for x, _ in numbers], atol=1e-6)
    assert again.ints("rlnN").tolist() == [n for _, n in numbers]


STAR_31 = (
    "# version 30001\n\ndata_optics\n\nloop_\n_rlnOpticsGroup #1\n_rlnName #2 [a comment]\n1 'two words'\n\n\n"
    "data_particles\n\nloop_ \n_rlnImageName #1 \n_rlnX\t#2\n000001@a.mrcs  1.25 \n\n000002@a#b.mrcs\t-3e2 # remark\n"
    "data_1/x.mrcs \"7\"\n\ndata_general\n\n_rlnA   5\n_rlnB 'it's' # why\n"
)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_file_with_everything(end: str) -> None:
    found = parse_star(STAR_31.replace("\n", end).encode(), "t.star")
    assert found["optics"].columns == {"rlnOpticsGroup": ["1"], "rlnName": ["two words"]}
    assert found["particles"].columns["rlnImageName"] == ["000001@a.mrcs", "000002@a#b.mrcs", "data_1/x.mrcs"]
    assert found["particles"].floats("rlnX").tolist() == [1.25, -300.0, 7.0]
    assert list(found["particles"].lines) == [16, 18, 19]
    assert found["general"].columns == {"rlnA": ["5"], "rlnB": ["it's"]}


ROWS = "data_particles\n\nloop_\n_rlnImageName #1\n_rlnX #2\n000001@a.mrcs 1.25\n000002@a.mrcs 12.5\n"


@given(cut=st.integers(1, len("000002@a.mrcs 12.5\n") - 1))
def test_a_last_row_cut_anywhere_is_an_error_and_never_a_particle(cut: int) -> None:
    torn = ROWS[: len(ROWS) - len("000002@a.mrcs 12.5\n") + cut]
    with pytest.raises(FormatError, match=r"t\.star, line 7"):
        parse_star(torn.encode(), "t.star")
    growing = parse_star(torn.encode(), "t.star", growing=True)["particles"]
    assert growing.columns == {"rlnImageName": ["000001@a.mrcs"], "rlnX": ["1.25"]}


def test_a_cut_row_with_a_line_end_is_an_error_in_both_ways() -> None:
    for growing in (False, True):
        with pytest.raises(FormatError, match=r"line 8: a row .* has 1 values for 2 labels"):
            parse_star((ROWS + "000003@a.mrcs\n").encode(), "t.star", growing=growing)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "holds no data_ block"),
        ("# nothing\n", "holds no data_ block"),
        ("hello\n", "begins with data_"),
        ("data_\nloop_\n_a\n_a\n1 2\n", "line 4: the label _a comes twice"),
        ("data_x\n_a 1\ndata_x\n_a 1\n", "line 3: the block data_x comes twice"),
        ("data_x\n_a 1\n_a 2\n", "line 3: the label _a comes twice"),
        ("data_x\n_a 1 2\n", "line 2: _a has 2 values"),
        ("data_x\n_a\n", "line 2: _a has 0 values"),
        ("data_x\nloop_\n1 2\n", "has no labels"),
        ("data_x\nloop_\n_a\n_b\n1 2 3\n", "line 5: a row of the block data_x has 3 values for 2"),
        ("data_x\nloop_\n_a\n1\nloop_\n_b\n1\n", "line 5: a loop_ in the block"),
        ("data_x\nloop_\n_a 1\n1\n", "line 3: '1' follows the label"),
        ("data_x\nloop_\n_a\n_b\n1 'x\n", "line 5: a quote is not closed"),
        ("data_x\n_a\n;text\n;\n", "line 2"),
        ("data_x\nloop_\n_a\n;text\n;\n", "line 4: a value over several lines"),
        ("data_x\nloop_\n_a\n_b\n1 2\n\0\0\0\n", "line 6: holds zero bytes"),
        ("data_x y\n", "line 1: 'y' follows the block name"),
        ("data_x\nword\n", "line 2: 'word' is neither"),
        ("data_x\nloop_\n_a\n1\n_b 2\n", "line 5: the pair _b follows a loop"),
    ],
)
def test_damaged_files_name_file_and_line(text: str, says: str) -> None:
    with pytest.raises(FormatError, match=says) as caught:
        parse_star(text.encode(), "t.star")
    assert caught.value.where.startswith("t.star")


def test_numbers_name_the_row_that_is_none() -> None:
    table = parse_star(ROWS.replace("12.5", "nan").encode(), "t.star")["particles"]
    with pytest.raises(FormatError, match=r"t\.star, block data_particles, row 2 \(line 7\): rlnX is 'nan'"):
        table.floats("rlnX")
    with pytest.raises(FormatError, match=r"row 1 .* is '000001@a\.mrcs', not a finite number"):
        table.floats("rlnImageName")
    with pytest.raises(FormatError, match=r"'1\.25', not a whole number"):
        parse_star(ROWS.encode(), "t.star")["particles"].ints("rlnX")
    with pytest.raises(FormatError, match="no column rlnY"):
        table.text("rlnY")


def test_tables_that_cannot_be_written_leave_no_file(tmp_path: Path) -> None:
    for columns in ({"a": ["1"], "b": []}, {}, {"a": ["x\ny"]}, {"a": ["' \""]}):
        with pytest.raises(FormatError):
            write_star(tmp_path / "t.star", [StarTable(columns)])
    assert list(tmp_path.iterdir()) == []


def test_names_that_are_not_utf8_survive(tmp_path: Path) -> None:
    found = parse_star(b"data_x\n_a caf\xe9.mrc\n", "t.star")["x"]
    assert written(tmp_path, StarTable(found.columns, loop=False, name="x")).read_bytes().find(b"caf\xe9.mrc") > 0


def test_real_files_keep_every_value(shared: Path) -> None:
    for path in (shared / "data").rglob("*.star"):
        for table, block in zip(read_star(path).values(), gemmi.cif.read(str(path)), strict=True):
            for label, values in table.columns.items():
                assert [gemmi.cif.as_string(v) for v in block.find_values("_" + label)] == values


def test_columns_as_text() -> None:
    assert column(np.array([1.5, -2])) == ["1.500000", "-2.000000"]
    assert column(np.array([3, 4])) == ["3", "4"] and column(["a"]) == ["a"] and column([True]) == ["1"]
    assert column(np.array([0.1], dtype=np.float32)) == ["0.100000"]
