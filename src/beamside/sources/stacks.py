"""Finding the stacks that a particle table names, and checking the rows against them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from beamside.errors import FormatError, InputError
from beamside.formats.mrc import MrcInfo, read_info


class NotYetError(InputError):
    """A table whose stacks are not all there: an error in a finished file, a reason to wait in a running session."""


@dataclass(frozen=True)
class Places:
    """Where a path in a table is looked up: the table's folder, the data root, then the table's parent folders.

    The last is how RELION writes paths: relative to the project's folder. trusted: folders in which stacks may lie
    beside these.
    """

    table: Path
    root: Path
    trusted: tuple[Path, ...] = ()

    def find(self, text: str) -> Path | None:
        """The first plain file that `text` names, or None."""
        start = Path(os.path.abspath(self.table)).parent
        for base in (start, Path(os.path.abspath(self.root)), *start.parents):
            candidate = Path(os.path.normpath(base / text))
            with suppress(OSError):  # a name too long for the file system
                if candidate.is_file():
                    return candidate
        return None

    def holds(self, text: str, stack: Path) -> bool:
        """Whether `stack`, which `text` names, is still in the data folder when all links are followed.

        That is the data root, the table's folder, or the folder above it from which `text` leads down to the stack;
        beside these, a trusted one.
        """
        start, down = Path(os.path.abspath(self.table)).parent, os.path.normpath(text)
        folders = [start, self.root, *self.trusted]
        if not os.path.isabs(down) and not down.startswith(os.pardir):
            project = str(stack).removesuffix(os.sep + down)
            folders += [Path(project)] if project else []  # a project is never the whole file system
        return any(lies_under(folder, stack) for folder in folders)

    def words(self) -> str:
        """Where it looks, for people."""
        start, root = Path(os.path.abspath(self.table)).parent, Path(os.path.abspath(self.root))
        return f"{start}{'' if root == start or root in start.parents else f', {root}'} and the folders above"

    def name(self, stack: Path) -> str:
        """`stack` relative to the data root, or as an absolute path where it lies outside."""
        return name_under(self.root, stack)


def name_under(root: Path, file: Path) -> str:
    """A POSIX path relative to `root`, or absolute where `file` lies outside of it."""
    for base, path in ((os.path.abspath(root), str(file)), (os.path.realpath(root), os.path.realpath(file))):
        if path.startswith(base.rstrip(os.sep) + os.sep):
            return Path(path).relative_to(base).as_posix()
    return file.as_posix()


def lies_under(root: Path, file: Path) -> bool:
    """Whether `file` is under `root` when all links are followed."""
    return os.path.realpath(file).startswith(os.path.realpath(root).rstrip(os.sep) + os.sep)


@dataclass(frozen=True)
class Images:
    """The images that the rows of a table name.

    stacks: the distinct files, with their names under the data root; stack, index: for each row, which of `stacks`
    and which image in it, counted from 1.
    """

    stacks: tuple[MrcInfo, ...]
    names: tuple[str, ...]
    stack: NDArray[np.int64]
    index: NDArray[np.int64]
    box_px: int

    def key(self, row: int) -> str:
        """The identity of the particle in `row`: `000017@stack.mrcs`."""
        return f"{self.index[row]:06d}@{self.names[self.stack[row]]}"


def find_images(image_names: Sequence[str], places: Places, place: Callable[[int], str]) -> Images:
    """Resolve `000017@stack.mrcs` for every row; `place` names a row for a person.

    Raises NotYetError for a stack that is absent or cut and for an image beyond the end of its stack, InputError for
    a name that is no image name, for a stack outside of the data folder, and for boxes that are not square or not all
    the same.
    """
    index, texts = split_names(image_names, place)
    found: dict[str, int] = {}
    infos: dict[str, int] = {}
    stacks: list[MrcInfo] = []
    names: list[str] = []
    stack = np.empty(len(texts), dtype=np.int64)
    for row, text in enumerate(texts):
        if text not in found:
            name, path = locate(text, places, place, row)
            _require_inside(text, path, places, place, row)
            if name not in infos:
                infos[name] = len(stacks)
                stacks.append(stack_info(path, stacks[0] if stacks else None, place, row))
                names.append(name)
            found[text] = infos[name]
        stack[row] = found[text]
    held = np.array([info.images for info in stacks], dtype=np.int64)[stack]
    beyond = np.flatnonzero((index < 1) | (index > held))
    if beyond.size:
        row = int(beyond[0])
        raise NotYetError(
            f"table.ranges: names image {index[row]} of {names[stack[row]]}, which holds {held[row]}"
            + (f" ({beyond.size} such rows)." if beyond.size > 1 else "."),
            where=place(row),
            remedy="The table and the stack do not belong together; write them again.",
        )
    return Images(tuple(stacks), tuple(names), stack, index, stacks[0].shape[-1])


def split_names(image_names: Sequence[str], place: Callable[[int], str]) -> tuple[NDArray[np.int64], list[str]]:
    """Image numbers (n,) and stacks of `000017@stack.mrcs`; InputError names the row of one that is no image name."""
    index = np.ones(len(image_names), dtype=np.int64)
    texts: list[str] = []
    for row, text in enumerate(image_names):
        number, at, stack = text.partition("@")
        if not at:
            number, stack = "1", text
        if not (number.isascii() and number.isdigit() and len(number) < 18 and stack):
            raise InputError(f"{text!r} is no image name.", where=place(row), remedy="Write it like 000017@stack.mrcs.")
        index[row] = int(number)
        texts.append(stack)
    return index, texts


def locate(text: str, places: Places, place: Callable[[int], str], row: int) -> tuple[str, Path]:
    """The name of a stack under the data root, and its path; NotYetError where it is absent."""
    path = places.find(text)
    if path is None:
        raise NotYetError(
            f"the stack {text} is not there; it was looked for under {places.words()}.",
            where=place(row),
            remedy="Bring the stack, or correct its path.",
        )
    name = places.name(path)
    try:
        name.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"the stack's path {name!r} is not UTF-8.", where=place(row), remedy="Rename the file."
        ) from error
    return name, path


def _require_inside(text: str, path: Path, places: Places, place: Callable[[int], str], row: int) -> None:
    if places.holds(text, path):
        return
    real = os.path.realpath(path)
    link = "" if real == os.path.abspath(path) else f" (by a link to {real})"
    raise InputError(
        f"input.outside: the stack {text} leaves the data folder{link}.",
        where=place(row),
        remedy=f"If it belongs to these particles, give --trust {os.path.dirname(real)}.",
    )


def trust_needed(table: Path, stacks: Iterable[Path]) -> Path | None:
    """The folder that a run has to trust for a table to name these stacks by location; None for none."""
    away = [
        os.path.dirname(os.path.realpath(p)) for p in stacks if not lies_under(Path(os.path.abspath(table)).parent, p)
    ]
    return Path(os.path.commonpath(away)) if away else None


def stack_info(path: Path, first: MrcInfo | None, place: Callable[[int], str], row: int) -> MrcInfo:
    """The header of a stack of square boxes, as large as those of `first`."""
    try:
        info = read_info(path)
    except FormatError as error:
        raise NotYetError(error.what, where=f"{error.where} (named by {place(row)})", remedy=error.remedy) from error
    ny, nx = info.shape[-2:]
    expected = first.shape[-1] if first else nx
    if nx != ny or nx != expected:
        raise InputError(
            f"{path} has images of {nx} x {ny} px"
            + (f", {first.path} of {expected} px." if first and nx == ny else ", which are not square."),
            where=place(row),
            remedy="Extract all particles with one square box.",
        )
    return info
