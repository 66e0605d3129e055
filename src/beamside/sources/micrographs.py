"""Micrographs as pairs with independent noise: from files, lists, movies and patch files, or a folder that grows.

An item is one micrograph (of patch files: a run of patches). Its pixels are (1, 2, H, W) float32: even and odd half,
or first and second image of a pair, or twice the same where only a sum exists.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beamside.errors import BeamsideError, InputError
from beamside.run.engine import Batch, Header
from beamside.run.guard import Finding, Severity
from beamside.run.source import Record
from beamside.sources import movies, pairing
from beamside.sources.pairing import FRAMES, HALVES, PATCHES, SINGLE, Candidate
from beamside.sources.patch_files import PatchFiles, open_interleaved, open_split, read_patches
from beamside.sources.settling import Settling, walk

AUTO = "auto"
CHOICES = (AUTO, HALVES, FRAMES, SINGLE)
_LISTS = (".star", ".csv")
_RUN_FILES = {"run.json", "ledger.sqlite"}
_PATCH_PIXELS = 1 << 20
"""Pixels of an item made of patches."""
_PIXEL_TOLERANCE = 0.01


@dataclass(frozen=True)
class Item:
    """What the ledger keeps of a micrograph, so that its pixels can be read again."""

    kind: str
    first: str
    second: str | None
    height_px: int
    width_px: int
    pixel_size_A: float
    tile_px: int = 0
    """Side of the patches that make up the image; crops must not cross their borders. 0: an image of one piece."""
    start: int = 0
    count: int = 0


class MicrographSource:
    """Pairs from files and folders; fulfils `run.source.Source`.

    pairs: `auto` takes halves if there are any, else movies, else patch files, else (unless `watch`) sums.
    watch: folders go on growing. A file counts once unchanged for `settle_s`; a half whose partner is missing for
    `patience_s` is reported.
    gain: the gain reference of movies. patch_px: side of headerless patches. header: what a resumed run agreed on.

    Raises:
        InputError: an input is absent, or (by `poll`, unless watching) cannot be used; pairs.match for halves that
        differ in size or number.
    """

    def __init__(
        self,
        inputs: Sequence[Path],
        *,
        pairs: str = AUTO,
        watch: bool = False,
        gain: Path | None = None,
        patch_px: int = 64,
        settle_s: float = 5.0,
        patience_s: float = 60.0,
        header: Header | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.inputs = [Path(os.path.abspath(path)) for path in inputs]
        for path in self.inputs:
            if not path.exists():
                raise InputError("there is no such file or folder.", where=str(path), remedy="Check the spelling.")
        folders = [str(path if path.is_dir() else path.parent) for path in self.inputs]
        self.root = Path(os.path.commonpath(folders))
        self.pairs, self.watch, self.gain, self.patch_px = pairs, watch, gain, patch_px
        self.patience_s, self.clock = patience_s, clock
        self._settling = Settling(settle_s if watch else 0.0, clock)
        self._agreed = header
        self._kind = None if header is None else str(header.fields["pairs"])
        self._done: set[Path] = set()
        self._movies: dict[Path, bool] = {}
        self._said: set[str] = set()
        self._missing: dict[Path, float] = {}
        self._findings: list[Finding] = []
        self._given = False

    # the contract

    def header(self) -> Header | None:
        """Kind of the pairs and pixel size (0: unknown), as the first micrograph has them."""
        return self._agreed

    def exhausted(self) -> bool:
        """True once everything was given out, unless watching."""
        return self._given and not self.watch

    def findings(self) -> Sequence[Finding]:
        """What was set aside or is still missing, since the last call."""
        found, self._findings = self._findings, []
        return found

    def poll(self) -> Sequence[Record]:
        """Micrographs that have settled since the last call, in the order of their paths."""
        if self.exhausted():
            return []
        records = [record for candidate in self._candidates() for record in self._take(candidate)]
        self._given = True
        if not self.watch and not records and self._agreed is None:
            raise InputError(
                "holds no micrographs of the kind asked for.",
                where=", ".join(map(str, self.inputs)),
                remedy="Give halves (NAME_EVN.mrc, NAME_ODD.mrc), movies, or sums; see --pairs.",
            )
        return records

    def batch(self, records: Sequence[Record]) -> Batch:
        """Records as a batch with columns height_px, width_px, pixel_size_A, tile_px, load_bytes.

        load_bytes: the most memory that loading the item takes, its pixels included.
        """
        items = [Item(**json.loads(record.payload)) for record in records]
        columns = {
            name: np.array([getattr(item, name) for item in items], dtype=kind)
            for name, kind in (("height_px", "i8"), ("width_px", "i8"), ("tile_px", "i8"), ("pixel_size_A", "f8"))
        }
        columns["load_bytes"] = np.array([_load_bytes(item, self.gain) for item in items], dtype=np.int64)
        return Batch(tuple(record.key for record in records), columns, _Pixels(items, self.gain))

    # what is there

    def _candidates(self) -> list[Candidate]:
        """Everything not yet given out, of the kind this run takes."""
        listed = [c for path in self.inputs if path.suffix in _LISTS for c in pairing.read_list(path)]
        found = pairing.pair_up(sorted(set(self._files())))
        fresh = [c for c in listed + found if c.first not in self._done]
        complete = [c for c in fresh if self._complete(c)]
        sorted_out = [self._as_movie(c) for c in complete]
        if self._kind is None:
            self._kind = self._choose(sorted_out)
        return [c for c in sorted_out if c.kind == self._kind]

    def _as_movie(self, candidate: Candidate) -> Candidate:
        """An image that is no half, as the movie that its header says it is."""
        if candidate.kind != SINGLE or self._kind in (HALVES, PATCHES):
            return candidate
        if candidate.first not in self._movies:
            try:
                self._movies[candidate.first] = movies.image_info(candidate.first).frames > 1
            except BeamsideError:
                # Reading it as an item says what is wrong with it.
                self._movies[candidate.first] = False
        return replace(candidate, kind=FRAMES) if self._movies[candidate.first] else candidate

    def _files(self) -> list[Path]:
        found = []
        for path in self.inputs:
            if path.is_dir():
                found += list(walk(path, pairing.SUFFIXES, lambda names: set(names) >= _RUN_FILES))
            elif path.suffix not in _LISTS:
                found.append(path)
        return [path for path in found if self.gain is None or path != Path(os.path.abspath(self.gain))]

    def _complete(self, candidate: Candidate) -> bool:
        """Whether its files are there and have settled; a partner that stays away is reported."""
        settled = [self._settling.settled(path) for path in candidate.files]
        if not candidate.missing:
            self._missing.pop(candidate.first, None)
            return all(settled)
        since = self._missing.setdefault(candidate.first, self.clock())
        if not self.watch or self.clock() - since >= self.patience_s:
            what = "It is waited for." if self.watch else "The micrograph is left out."
            self._say("pairs.match", Severity.SUSPECT, f"{candidate.missing} is missing.", what, candidate.first)
        return False

    def _choose(self, candidates: Sequence[Candidate]) -> str | None:
        """The kind of this run, once something of it is there."""
        there = {candidate.kind for candidate in candidates}
        if self.pairs != AUTO:
            wanted = [self.pairs, PATCHES] if self.pairs == HALVES else [self.pairs]
        else:
            wanted = [HALVES, FRAMES, PATCHES] + ([] if self.watch else [SINGLE])
            if self.watch and there == {SINGLE}:
                self._say(
                    "pairs.kind",
                    Severity.NOTE,
                    f"only sums have come so far, the first is {candidates[0].first}.",
                    "Halves or movies are waited for; give --pairs single to train on sums alone.",
                    self.root,
                )
        return next((kind for kind in wanted if kind in there), None)

    # one micrograph

    def _take(self, candidate: Candidate) -> list[Record]:
        try:
            items = self._items(candidate)
            self._accept(items[0])
        except BeamsideError as error:
            if not self.watch:
                raise
            guard = "pairs.match" if error.what.startswith("pairs.match") else "input.readable"
            self._say(guard, Severity.SUSPECT, f"{error} The micrograph is set aside.", "", candidate.first)
            self._done.add(candidate.first)
            return []
        self._done.add(candidate.first)
        name = os.path.relpath(candidate.first, self.root)
        keys = [name if item.count == 0 else f"{item.start + 1}-{item.start + item.count}@{name}" for item in items]
        return [Record(key, json.dumps(asdict(item))) for key, item in zip(keys, items, strict=True)]

    def _items(self, candidate: Candidate) -> list[Item]:
        if candidate.kind == PATCHES:
            return _patch_items(candidate, self.patch_px)
        info = movies.image_info(candidate.first)
        item = Item(
            candidate.kind, str(candidate.first), None, info.height_px, info.width_px, info.pixel_size_A
        )  # fmt: skip
        if candidate.second is None:
            return [item]
        other = movies.image_info(candidate.second)
        if (info.frames, info.height_px, info.width_px) != (other.frames, other.height_px, other.width_px):
            raise InputError(
                f"pairs.match: holds {info.width_px} x {info.height_px} px ({info.frames} images), its partner "
                f"{candidate.second.name} {other.width_px} x {other.height_px} px ({other.frames}).",
                where=str(candidate.first),
                remedy="Halves of one micrograph have the same size; export this pair again or leave it out.",
            )
        return [replace(item, second=str(candidate.second))]

    def _accept(self, item: Item) -> None:
        """InputError where kind or pixel size are not those of the first micrograph."""
        if self._agreed is None:
            fields = {"pairs": item.kind, "pixel_size_A": item.pixel_size_A, "tile_px": item.tile_px}
            self._agreed = Header("micrographs", fields)
        agreed_A = float(self._agreed.fields["pixel_size_A"])
        known = item.pixel_size_A > 0 and agreed_A > 0
        if known and abs(item.pixel_size_A - agreed_A) > _PIXEL_TOLERANCE * agreed_A:
            raise InputError(
                f"has pixels of {item.pixel_size_A:g} A; this run began with {agreed_A:g} A.",
                where=item.first,
                remedy="Train on micrographs of one magnification.",
            )
        if item.tile_px != self._agreed.fields["tile_px"]:
            raise InputError(
                f"has patches of {item.tile_px} px; this run began with {self._agreed.fields['tile_px']}.",
                where=item.first,
                remedy="Train on patches of one size.",
            )

    def _say(self, guard: str, severity: Severity, saw: str, remedy: str, about: Path) -> None:
        """A finding, once for each text."""
        if saw not in self._said:
            self._said.add(saw)
            self._findings.append(Finding(guard, severity, saw, remedy, {"file": str(about)}))


def _load_bytes(item: Item, gain: Path | None) -> int:
    """Both images in float32, what reading takes beside them, and the gain reference."""
    beside = 4 if item.kind == PATCHES else movies.load_bytes_a_pixel(Path(item.first))
    return (8 + beside + (4 if gain is not None else 0)) * item.height_px * item.width_px


def _patch_items(candidate: Candidate, patch_px: int) -> list[Item]:
    """Runs of patches of about a megapixel each."""
    files = _patch_files(candidate.first, candidate.second, patch_px)
    size, run = files.size_px, max(1, _PATCH_PIXELS // files.size_px**2)
    second = None if files.target is None else str(files.target)
    counts = [(start, min(run, files.n - start)) for start in range(0, files.n, run)]
    return [
        Item(PATCHES, str(files.first), second, count * size, size, 0.0, size, start, count) for start, count in counts
    ]


def _patch_files(first: Path, second: Path | None, patch_px: int) -> PatchFiles:
    return open_interleaved(first) if second is None else open_split(first, second, patch_px)


class _Pixels:
    """Reads micrographs on demand; holds no open file and no pixels but those of the gain reference."""

    def __init__(self, items: Sequence[Item], gain: Path | None) -> None:
        self._items, self._gain_path = list(items), gain
        self._gain: NDArray[np.float32] | None = None

    def __call__(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """(k, 2, H, W) float32 of items of one size; one row at a time costs one micrograph of memory."""
        items = [self._items[int(row)] for row in np.asarray(rows).reshape(-1)]
        out = np.empty((len(items), 2, items[0].height_px, items[0].width_px), dtype=np.float32)
        for target, item in zip(out, items, strict=True):
            self._read(item, target)
        return out

    def _read(self, item: Item, out: NDArray[np.float32]) -> None:
        first, second = Path(item.first), None if item.second is None else Path(item.second)
        if item.kind == PATCHES:
            read_patches(_patch_files(first, second, item.tile_px), item.start, item.count, out)
        elif item.kind == FRAMES:
            movies.half_sums(first, out, self._gain_of(item))
        else:
            movies.read_image(first, out[0])
            if second is None:
                out[1] = out[0]
            else:
                movies.read_image(second, out[1])

    def _gain_of(self, item: Item) -> NDArray[np.float32] | None:
        if self._gain_path is None:
            return None
        if self._gain is None:
            self._gain = movies.read_gain(self._gain_path)
        if self._gain.shape != (item.height_px, item.width_px):
            raise InputError(
                f"is {self._gain.shape[1]} x {self._gain.shape[0]} px, the movie {item.width_px} x {item.height_px}.",
                where=str(self._gain_path),
                remedy="Give the gain reference of this detector and mode, turned as the movies are.",
            )
        return self._gain
