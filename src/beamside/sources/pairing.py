"""Which files are the two halves of one micrograph: by their names, by a list, or as frames of one movie.

Names: MotionCor and RELION write `NAME_EVN.mrc` and `NAME_ODD.mrc`; `NAME_even.mrc` and `NAME_odd.mrc` are common too.
A list is a STAR table with rlnMicrographNameEven and rlnMicrographNameOdd, or a CSV file with two columns of paths
under a head line. Patch files are told by `_input.bin` and `_target.bin`, or by a single `.bin`.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from beamside.errors import FormatError, InputError
from beamside.formats.star import read_star

HALVES, FRAMES, SINGLE, PATCHES = "halves", "frames", "single", "patches"
KINDS = (HALVES, FRAMES, SINGLE, PATCHES)
"""How the two images of an item come about; `single` gives one image twice."""

IMAGE_SUFFIXES = (".mrc", ".mrcs", ".tif", ".tiff")
SUFFIXES = (*IMAGE_SUFFIXES, ".eer", ".bin")
_HALF = re.compile(r"(?P<name>.+)[_.-](?P<half>EVN|EVEN|Evn|Even|evn|even|ODD|Odd|odd)(?P<rest>(_DW|_dw)?)")
_BIN = re.compile(r"(?P<name>.+)_(?P<half>input|target)")
_EVEN_LABEL, _ODD_LABEL = "rlnMicrographNameEven", "rlnMicrographNameOdd"


@dataclass(frozen=True)
class Candidate:
    """Files that belong to one item. second is None for a movie, a sum and an interleaved patch file.

    missing: the partner that is not there (yet).
    """

    kind: str
    first: Path
    second: Path | None = None
    missing: str = ""

    @property
    def files(self) -> tuple[Path, ...]:
        """All that must have settled."""
        return (self.first,) if self.second is None else (self.first, self.second)


def half_of(path: Path) -> tuple[str, str] | None:
    """(name without the half, "even" or "odd") of a file that is named as a half; else None."""
    found = _HALF.fullmatch(path.stem)
    if found is None:
        return None
    half = "even" if found["half"].lower().startswith("ev") else "odd"
    return f"{path.parent}/{found['name']}{found['rest']}{path.suffix}", half


def pair_up(paths: Iterable[Path]) -> list[Candidate]:
    """Image and patch files as candidates, halves by their names, in the order of the first file of each.

    An image that is no half is a candidate of kind `single`; whether it is a movie only its header can tell.
    """
    groups: dict[str, dict[str, Path]] = {}
    rest: list[Candidate] = []
    for path in paths:
        named = _patch_half_of(path) if path.suffix == ".bin" else half_of(path)
        if named is not None:
            groups.setdefault(named[0], {})[named[1]] = path
        elif path.suffix == ".bin":
            rest.append(Candidate(PATCHES, path))
        else:
            rest.append(Candidate(SINGLE, path))
    found = [_candidate(name, halves) for name, halves in groups.items()]
    return sorted(found + rest, key=lambda candidate: str(candidate.first))


def _patch_half_of(path: Path) -> tuple[str, str] | None:
    found = _BIN.fullmatch(path.stem)
    return None if found is None else (f"{path.parent}/{found['name']}.bin", found["half"])


def _candidate(name: str, halves: dict[str, Path]) -> Candidate:
    kind, order = (PATCHES, ("input", "target")) if name.endswith(".bin") else (HALVES, ("even", "odd"))
    first, second = (halves.get(half) for half in order)
    if first is not None and second is not None:
        return Candidate(kind, first, second)
    there = first or second
    assert there is not None
    return Candidate(kind, there, missing=f"the {order[0] if first is None else order[1]} half of {there.name}")


def read_list(path: Path) -> list[Candidate]:
    """The pairs that a STAR or CSV file lists; paths are relative to the file's folder or to the working directory.

    Raises:
        FormatError: the file has no two columns of paths, or a row lacks one.
        InputError: a listed file is absent.
    """
    rows = _rows_of_star(path) if path.suffix == ".star" else _rows_of_csv(path)
    if not rows:
        raise FormatError("lists no pair.", where=str(path), remedy="Give one line per micrograph.")
    return [
        Candidate(HALVES, _resolve(path, first, number), _resolve(path, second, number))
        for number, (first, second) in enumerate(rows, 1)
    ]


def _rows_of_star(path: Path) -> list[tuple[str, str]]:
    for table in read_star(path).values():
        if _EVEN_LABEL in table.columns and _ODD_LABEL in table.columns:
            return list(zip(table.columns[_EVEN_LABEL], table.columns[_ODD_LABEL], strict=True))
    raise FormatError(
        f"has no table with {_EVEN_LABEL} and {_ODD_LABEL}.", where=str(path), remedy="Add these two columns."
    )


def _rows_of_csv(path: Path) -> list[tuple[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        lines = [line for line in csv.reader(file) if line]
    for number, line in enumerate(lines[1:], 2):
        if len(line) < 2 or not line[0].strip() or not line[1].strip():
            raise FormatError(
                "does not name two files.", where=f"{path}, line {number}", remedy="Write 'first,second' per line."
            )
    return [(line[0].strip(), line[1].strip()) for line in lines[1:]]


def _resolve(listing: Path, name: str, number: int) -> Path:
    for base in (listing.parent, Path()):
        if (base / name).is_file():
            return base / name
    raise InputError(f"there is no file {name}.", where=f"{listing}, row {number}", remedy="Correct the list.")
