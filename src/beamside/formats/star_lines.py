"""The lines of a text file, a window at a time, so that a file larger than memory can be read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from beamside.errors import FormatError

WINDOW_BYTES = 1 << 23
LONGEST_LINE_BYTES = 1 << 20
"""RELION's longest lines have some thousand characters; what is longer is no table."""


class Lines:
    """Windows of whole lines, decoded as UTF-8 (other bytes survive as surrogates), any of the three line ends.

    growing: an unfinished last line is left out and noted in `unfinished`, instead of being an error.
    """

    def __init__(self, file: BinaryIO, path: str, *, growing: bool, window_bytes: int = WINDOW_BYTES) -> None:
        self.file, self.path, self.growing, self.window_bytes = file, path, growing, window_bytes
        self.unfinished = False

    def windows(self) -> Iterator[list[str]]:
        """The lines without their ends; FormatError for an unfinished last line, and for one without any end."""
        rest, passed, first = b"", 0, True
        while True:
            chunk = self.file.read(self.window_bytes)
            text = (rest + chunk).replace(b"\r\n", b"\n")
            # A carriage return at the very end may be half of a line end.
            held = b"\r" if chunk and text.endswith(b"\r") else b""
            text = text[: len(text) - len(held)].replace(b"\r", b"\n")
            whole, _, tail = text.rpartition(b"\n") if b"\n" in text else (b"", b"", text)
            if first and whole[:3] == b"\xef\xbb\xbf":
                whole = whole[3:]
            lines = whole.decode("utf-8", errors="surrogateescape").split("\n") if b"\n" in text else []
            self._check(tail, passed + len(lines) + 1, last=not chunk)
            if lines:
                first = False
                passed += len(lines)
                yield lines
            if not chunk:
                return
            rest = tail + held

    def _check(self, tail: bytes, line: int, *, last: bool) -> None:
        if len(tail) > LONGEST_LINE_BYTES:
            raise FormatError(
                f"a line is longer than {LONGEST_LINE_BYTES:,} bytes.",
                where=f"{self.path}, line {line}",
                remedy="It is no STAR file, or it is damaged; copy it again.",
            )
        if last and tail.strip():
            self.unfinished = True
            if not self.growing:
                shown = tail.decode("utf-8", errors="surrogateescape")
                raise FormatError(
                    f"the last line has no line end: {short(shown)!r}.",
                    where=f"{self.path}, line {line}",
                    remedy="The file is cut or still being written; if it is complete, end its last line.",
                )


def short(line: str) -> str:
    """A line for a person, not longer than 60 characters."""
    return line if len(line) <= 60 else line[:57] + "..."
