"""STAR files as RELION writes them: blocks of one loop or of key-value pairs, read and written as text.

Covers STAR 3.0 (one unnamed block) and 3.1 (`data_optics`, `data_particles`), quoted values, comments, tabs and CRLF.
Stricter than usual on purpose: a row is one line and has a value for every label, and the last line has a line end, so
that a file cut anywhere inside a row is an error and never a particle.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from beamside.errors import FormatError
from beamside.formats.atomic import replacing
from beamside.formats.opening import opened
from beamside.formats.star_lines import WINDOW_BYTES, Lines, short

Columns = dict[str, list[str]]
_TOKEN = re.compile(r"""\s*(?:(\#.*)|"(.*?)"(?=\s|$)|'(.*?)'(?=\s|$)|([^\s"'\#]\S*))""")
_NEEDS_QUOTES = re.compile(r"""(?m)^$|[^\S\n]|^["'#_;]""")
_RESERVED = re.compile(r"(?mi)^(?:data_|loop_)")


@dataclass
class StarTable:
    """One block: label (without the underscore) -> values as the file spells them.

    columns: in the order of the file, all of one length; of length 1 where `loop` is False.
    lines: the file's line number of each row, or of each label where `loop` is False; empty for a table made in memory.
    """

    columns: Columns
    loop: bool = True
    name: str = ""
    path: str = ""
    lines: Sequence[int] = field(default_factory=tuple)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def place(self, row: int) -> str:
        """Where row `row` (from 0) stands, for a person."""
        if not self.loop:
            return f"{self.path}, block data_{self.name}"
        line = f" (line {self.lines[row]})" if row < len(self.lines) else ""
        return f"{self.path}, block data_{self.name}, row {row + 1}{line}"

    def text(self, label: str) -> list[str]:
        """The values of `label`; FormatError names the file and the label where it is absent."""
        if label not in self.columns:
            raise FormatError(
                f"has no column {label} in its block data_{self.name}.",
                where=self.path,
                remedy=f"It has {', '.join(self.columns) or 'none'}; add the column.",
            )
        return self.columns[label]

    def floats(self, label: str) -> NDArray[np.float64]:
        """The values of `label` as finite float64; FormatError names the row of the first that is none."""
        return finite_floats(self.text(label), label, self.place)

    def ints(self, label: str) -> NDArray[np.int64]:
        """The values of `label` as int64; FormatError names the row of the first that is no whole number."""
        values = self.floats(label)
        rounded = np.rint(values)
        wrong = np.flatnonzero(rounded != values)
        if wrong.size:
            row = int(wrong[0])
            raise FormatError(
                f"{label} is {self.columns[label][row]!r}, not a whole number.",
                where=self.place(row),
                remedy="Correct the value.",
            )
        return rounded.astype(np.int64)


def finite_floats(values: Sequence[str], label: str, place: object) -> NDArray[np.float64]:
    """Text as finite float64 (n,). `place`, called with a row from 0, names it in the FormatError."""
    try:
        numbers = np.array(values, dtype=np.float64)
    except ValueError:
        numbers = np.array([_float_or_nan(v) for v in values], dtype=np.float64)
    wrong = np.flatnonzero(~np.isfinite(numbers))
    if wrong.size:
        row = int(wrong[0])
        where = place(row) if callable(place) else str(place)
        raise FormatError(
            f"{label} is {values[row]!r}, not a finite number.", where=where, remedy="Correct or remove the row."
        )
    return numbers


def _float_or_nan(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def read_star(path: str | os.PathLike[str]) -> dict[str, StarTable]:
    """All blocks of a STAR file by name (`""` for the unnamed block of STAR 3.0), in the order of the file.

    Raises FormatError, naming file and line, for an unfinished last line, a row with too few or too many values,
    a label or block that comes twice, an unclosed quote, a multi-line value, a second loop in a block, or no block.
    """
    return read_growing_star(path, growing=False)[0]


def read_growing_star(path: str | os.PathLike[str], *, growing: bool = True) -> tuple[dict[str, StarTable], bool]:
    """As `read_star` for a file that may still be appended to, and whether its last line is unfinished.

    An unfinished last line is left out instead of being an error.
    """
    with opened(path) as file:
        lines = Lines(file, str(path), growing=growing)
        return _joined(_Parser(str(path), lines.windows()).parts()), lines.unfinished


def parse_star(raw: bytes, path: str, *, growing: bool = False) -> dict[str, StarTable]:
    """As `read_star`, from the file's bytes; `path` is only named in errors."""
    lines = Lines(io.BytesIO(raw), path, growing=growing)
    return _joined(_Parser(path, lines.windows()).parts())


def stream_star(path: str | os.PathLike[str], *, window_bytes: int = WINDOW_BYTES) -> Iterator[StarTable]:
    """The blocks of a STAR file in order, a loop in as many tables of its name as it fills windows.

    So a table larger than memory can be read; errors as `read_star`, when their line is reached.
    """
    with opened(path) as file:
        lines = Lines(file, str(path), growing=False, window_bytes=window_bytes)
        yield from _Parser(str(path), lines.windows()).parts()


def _joined(parts: Iterable[StarTable]) -> dict[str, StarTable]:
    """Whole blocks from their parts."""
    found: dict[str, StarTable] = {}
    for part in parts:
        begun = found.setdefault(part.name, part)
        if begun is not part:
            begun.lines = [*begun.lines, *part.lines]
            for label, values in part.columns.items():
                begun.columns[label].extend(values)
    return found


class _Parser:
    """One pass over windows of lines; `at` is the present line in the present window, `before` all lines before it."""

    def __init__(self, path: str, windows: Iterator[list[str]]) -> None:
        self.path, self.windows = path, windows
        self.lines: list[str] = []
        self.at = self.before = 0
        self.names: set[str] = set()

    def fail(self, what: str, remedy: str = "Correct the line.", line: int | None = None) -> FormatError:
        number = self.before + self.at + 1 if line is None else line
        return FormatError(what, where=f"{self.path}, line {number}", remedy=remedy)

    def more(self) -> bool:
        """Whether there is a present line; the next window comes when one is used up."""
        while self.at >= len(self.lines):
            window = next(self.windows, None)
            if window is None:
                return False
            self.before += len(self.lines)
            self.lines, self.at = window, 0
        return True

    def parts(self) -> Iterator[StarTable]:
        """Blocks in order; a loop in one table a window."""
        table: StarTable | None = None
        while self.more():
            tokens = self.tokens(self.lines[self.at])
            keyword = self.keyword(tokens)
            if not tokens:
                self.at += 1
            elif keyword.startswith("data_"):
                if table is not None and not table.loop:
                    yield table
                table = self.start_block(tokens)
            elif table is None:
                raise self.fail(f"a STAR file begins with data_, not with {short(tokens[0])!r}.", "It is no STAR file.")
            elif keyword == "loop_":
                yield from self.read_loop(table)
            elif keyword.startswith("_"):
                self.read_pair(table, tokens)
            else:
                raise self.fail(f"{short(self.lines[self.at])!r} is neither label, pair, loop_ nor data_.")
        if table is None:
            raise self.fail("holds no data_ block.", "It is no STAR file, or it is cut.", line=self.before + self.at)
        if not table.loop:
            yield table

    def start_block(self, tokens: list[str]) -> StarTable:
        name = tokens[0][5:]
        if len(tokens) > 1:
            raise self.fail(f"{tokens[1]!r} follows the block name data_{name}.")
        if name in self.names:
            raise self.fail(f"the block data_{name} comes twice.")
        self.names.add(name)
        self.at += 1
        return StarTable({}, loop=False, name=name, path=self.path, lines=[])

    def read_pair(self, table: StarTable, tokens: list[str]) -> None:
        if table.loop:
            raise self.fail(f"the pair {tokens[0]} follows a loop in the block data_{table.name}.")
        if len(tokens) != 2:
            raise self.fail(f"{tokens[0]} has {len(tokens) - 1} values instead of one.")
        self.add_label(table, tokens[0]).append(tokens[1])
        table.lines = [*table.lines, self.before + self.at + 1]
        self.at += 1

    def add_label(self, table: StarTable, token: str) -> list[str]:
        label = token[1:]
        if label in table.columns:
            raise self.fail(f"the label _{label} comes twice in the block data_{table.name}.")
        table.columns[label] = []
        return table.columns[label]

    def read_loop(self, table: StarTable) -> Iterator[StarTable]:
        if table.columns:
            raise self.fail(f"a loop_ in the block data_{table.name}, which has a loop or pairs already.")
        table.loop = True
        self.at += 1
        while self.more():
            tokens = self.tokens(self.lines[self.at])
            if tokens and not self.keyword(tokens).startswith("_"):
                break
            if len(tokens) > 1:
                raise self.fail(f"{tokens[1]!r} follows the label {tokens[0]} of a loop.")
            if tokens:
                self.add_label(table, tokens[0])
            self.at += 1
        if not table.columns:
            raise self.fail(f"the loop of the block data_{table.name} has no labels.")
        given = ended = False
        while not ended and self.more():
            part, ended = self.read_rows(table)
            if len(part):
                given = True
                yield part
        if not given:
            yield table

    def read_rows(self, table: StarTable) -> tuple[StarTable, bool]:
        """The rows of this window, and whether the loop ends in it.

        One line a row. The common line, plain and complete, takes the shortest way through the loop.
        """
        width, before, ended = len(table.columns), self.before + 1, False
        flat: list[str] = []
        numbers: list[int] = []
        extend, note = flat.extend, numbers.append
        for at in range(self.at, len(self.lines)):
            line = self.lines[at]
            if '"' in line or "'" in line or "#" in line or ";" in line or "\0" in line:
                self.at = at
                values = self.tokens(line)
            else:
                values = line.split()
            if len(values) != width or values[0][0:1] in "_dDlL":
                self.at = at
                if not values:
                    continue
                if self.ends_loop(values, width):
                    ended = True
                    break
                if len(values) != width:
                    raise self.wrong_width(table, values, width)
            extend(values)
            note(at + before)
        else:
            self.at = len(self.lines)
        columns = {label: flat[position::width] for position, label in enumerate(table.columns)}
        return StarTable(columns, name=table.name, path=self.path, lines=numbers), ended

    def ends_loop(self, values: list[str], width: int) -> bool:
        """True for a line that opens something else. A file name such as `data_1/a.mrc` in a full row does not."""
        keyword = self.keyword(values)
        opens = keyword.startswith("data_") or keyword == "loop_"
        return (opens and len(values) == 1) or (keyword.startswith("_") and len(values) <= 2)

    def keyword(self, tokens: list[str]) -> str:
        """The first token of the present line in small letters; empty where it stands in quotes and so is a value."""
        quoted = self.lines[self.at].lstrip()[:1] in ("'", '"')
        return tokens[0].lower() if tokens and not quoted else ""

    def wrong_width(self, table: StarTable, values: list[str], width: int) -> FormatError:
        return self.fail(
            f"a row of the block data_{table.name} has {len(values)} values for {width} labels: "
            f"{short(self.lines[self.at])!r}.",
            "The row is cut or damaged; correct or remove it.",
        )

    def tokens(self, line: str) -> list[str]:
        """The values of one line, quotes and comment taken off."""
        if "\0" in line:
            raise self.fail("holds zero bytes.", "It is damaged, compressed or still being written; copy or unpack it.")
        if line.startswith(";"):
            raise self.fail("a value over several lines is not supported.", "Write it on one line.")
        if '"' not in line and "'" not in line and "#" not in line:
            return line.split()
        found: list[str] = []
        at, end = 0, len(line.rstrip())
        while at < end:
            match = _TOKEN.match(line, at)
            if match is None:
                raise self.fail(f"a quote is not closed: {short(line[at:])!r}.")
            comment, double, single, plain = match.groups()
            if comment is not None:
                break
            found.append(next(v for v in (double, single, plain) if v is not None))
            at = match.end()
        return found


def write_star(path: str | os.PathLike[str], tables: Iterable[StarTable]) -> None:
    """Write blocks as RELION does, beside `path` first and then renamed into place.

    Values are written as they are, in quotes only where they must be. Raises FormatError for columns of unequal
    length, a table without columns, and for a value that STAR cannot hold.
    """
    with replacing(path) as file:
        for table in tables:
            file.write(_block(str(path), table).encode("utf-8", errors="surrogateescape"))


def _block(path: str, table: StarTable) -> str:
    lengths = {label: len(values) for label, values in table.columns.items()}
    if not lengths or len(set(lengths.values())) != 1 or (not table.loop and len(table) != 1):
        raise FormatError(
            f"the table data_{table.name} cannot be written: its columns have {lengths} values.", where=path
        )
    alone = len(lengths) == 1
    columns = {label: _spelled(path, label, values, alone) for label, values in table.columns.items()}
    if not table.loop:
        width = max(map(len, columns)) + 1
        return _head(table.name) + "".join(f"_{k:<{width}} {v[0]}\n" for k, v in columns.items()) + "\n"
    return f"{loop_head(table.name, columns)}{_lines(columns)}\n"


def _head(name: str) -> str:
    return f"\n# version 30001\n\ndata_{name}\n\n"


def loop_head(name: str, labels: Iterable[str]) -> str:
    """What stands before the rows of a loop."""
    return f"{_head(name)}loop_\n" + "".join(f"_{label} #{number}\n" for number, label in enumerate(labels, 1))


def loop_rows(path: str, columns: Columns) -> str:
    """The rows of a loop, each with its line end; a table too large for memory is written in such pieces."""
    return _lines({label: _spelled(path, label, values, len(columns) == 1) for label, values in columns.items()})


def _lines(columns: Columns) -> str:
    rows = "\n".join(map(" ".join, zip(*columns.values(), strict=True)))
    return f"{rows}\n" if rows else "\n"


def _spelled(path: str, label: str, values: list[str], alone: bool) -> list[str]:
    joined = "\n".join(values)
    if not values:
        return values
    if joined.count("\n") != len(values) - 1 or "\0" in joined or "\r" in joined:
        raise FormatError(f"a value of {label} holds a line end or a zero byte.", where=path)
    if not _NEEDS_QUOTES.search(joined) and not (alone and _RESERVED.search(joined)):
        return values
    return [_quoted(path, label, value, alone) for value in values]


def _quoted(path: str, label: str, value: str, alone: bool) -> str:
    if value and not _NEEDS_QUOTES.search(value) and not (alone and _RESERVED.search(value)):
        return value
    for quote in "\"'":
        if not re.search(quote + r"(?=\s|$)", value):
            return f"{quote}{value}{quote}"
    raise FormatError(f"the value {value!r} of {label} holds both kinds of quotes and cannot be written.", where=path)


def column(values: NDArray[np.generic] | Sequence[float] | Sequence[str], decimals: int = 6) -> list[str]:
    """Numbers as STAR text: whole numbers as they are, others with `decimals` places; text unchanged."""
    array = np.asarray(values)
    if array.dtype.kind == "f":
        return [f"{v:.{decimals}f}" for v in array.tolist()]
    if array.dtype.kind == "b":
        return ["1" if v else "0" for v in array.tolist()]
    return [str(v) for v in array.tolist()]


def pairs(name: str, values: Mapping[str, str]) -> StarTable:
    """A block of key-value pairs."""
    return StarTable({key: [value] for key, value in values.items()}, loop=False, name=name)
