"""Malformed files, several hundred, each made from a sound one by one change that has happened or could."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from beamside.errors import RunDirectoryError
from beamside.formats.cryosparc import read_cs
from beamside.formats.layer_files import read_layers
from beamside.formats.mrc import read_map, write_stack
from beamside.formats.npy import read_npy
from beamside.run.encode import exact_json
from beamside.run.engine import State
from beamside.run.replay import read_dump
from beamside.run.store import Store, manifest
from beamside.sources.particles import ParticleFile
from beamside.sources.scans import ScanFile
from tests.corpus.make_models import models, read_weights, write_bomb, write_promise
from tests.formats.scan_files import write_cxi
from tests.formats.simple_files import particles, project_bytes, stacks

Read = Callable[[Path], object]


@dataclass(frozen=True)
class Case:
    """`put` writes the file (and what belongs to it) under a folder and returns the path that `read` must refuse."""

    name: str
    put: Callable[[Path], Path]
    read: Read


def whole_corpus() -> list[Case]:
    """All cases; names are unique."""
    tables = [*mrc(), *star(), *stack_of_star(), *outside(), *npy(), *cs(), *simple()]
    return [*tables, *checkpoints(), *dumps(), *layers(), *hdf5(), *safetensors()]


def file(name: str, raw: bytes, read: Read, label: str) -> Case:
    """A case of one file."""

    def put(folder: Path) -> Path:
        (folder / name).write_bytes(raw)
        return folder / name

    return Case(label, put, read)


def particles_of(path: Path) -> object:
    """All particles, as a run would take them, with the pixels of the first."""
    source = ParticleFile(path)
    records = source.poll()
    return source.batch(records).load(np.arange(len(records)))


def sound_stack(count: int = 2, box_px: int = 4) -> bytes:
    """An MRC stack."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.mrcs"
        write_stack(path, np.arange(count * box_px**2, dtype=np.float32).reshape(count, box_px, box_px), 2.0)
        return path.read_bytes()


FOREIGN: dict[str, bytes] = {
    "empty": b"",
    "one byte": b"\0",
    "text": b"not a table at all\n" * 90,
    "zeros": bytes(5000),
    "ones": b"\xff" * 5000,
    "gzip": gzip.compress(b"x" * 5000) + bytes(1200),
    "a pickle": pickle.dumps({"a": [1, 2, 3]}) + bytes(2000),
    "an ELF program": b"\x7fELF\x02\x01\x01" + bytes(3000),
    "a TIFF": b"II*\0\x08\0\0\0" + bytes(3000),
    "an HDF5 file": b"\x89HDF\r\n\x1a\n" + bytes(3000),
    "a web page": b"<!DOCTYPE html><html><body>404 Not Found</body></html>\n" * 40,
    "JSON": b'{"data_": [1, 2, 3]}\n' * 90,
}


def foreign(name: str, read: Read) -> Iterator[Case]:
    """Files of something else under this ending, and things that are no files."""
    for label, raw in FOREIGN.items():
        yield file(name, raw, read, f"{name}: {label}")

    def folder(where: Path) -> Path:
        (where / name).mkdir()
        return where / name

    def pipe(where: Path) -> Path:
        os.mkfifo(where / name)
        return where / name

    def device(where: Path) -> Path:
        (where / name).symlink_to("/dev/zero")
        return where / name

    def circle(where: Path) -> Path:
        (where / name).symlink_to(where / name)
        return where / name

    def nothing(where: Path) -> Path:
        return where / name

    for put in (folder, pipe, device, circle, nothing):
        yield Case(f"{name}: {put.__name__}", put, read)


# ---- MRC


def mrc() -> Iterator[Case]:
    """Headers of MRC files, in both byte orders, and cut files."""
    yield from foreign("a.mrc", read_map)
    good = sound_stack()
    fields = {"nx": 0, "ny": 4, "nz": 8, "mode": 12, "nsymbt": 92}
    values = {
        "nx": (0, -1, 5, 65536, 2**31 - 1), "ny": (0, -4, 5, 10**6, 2**31 - 1), "nz": (0, -2, 3, 10**9, 2**31 - 1),
        "mode": (-1, 3, 4, 5, 7, 9, 11, 13, 100, 101, 2**31 - 1, -(2**31)), "nsymbt": (-1, 8, 1024, 10**9, 2**31 - 1),
    }  # fmt: skip
    turned = big_endian(good)
    for order, raw in (("<", good), (">", turned)):
        for name, offset in fields.items():
            for value in values[name]:
                made = bytearray(raw)
                struct.pack_into(order + "i", made, offset, value)
                yield file("a.mrc", bytes(made), read_map, f"a.mrc: {order} {name} = {value}")
    for length in [*range(0, 1024, 64), 1023, 1024, 1025, 1087, len(good) - 1]:
        yield file("a.mrc", good[:length], read_map, f"a.mrc: cut at {length}")
    huge = bytearray(good)
    struct.pack_into("<3i", huge, 0, 200_000, 200_000, 100)
    yield file("a.mrc", bytes(huge), read_map, "a.mrc: promises 16 TB")
    wrong = bytearray(good)
    wrong[212:216] = b"\x11\x11\0\0"
    yield file("a.mrc", bytes(wrong), read_map, "a.mrc: stamp of the other byte order")
    for mz in (0, -3, 3):
        made = bytearray(good)
        struct.pack_into("<i", made, 88, 401)
        struct.pack_into("<i", made, 36, mz)
        yield file("a.mrc", bytes(made), read_map, f"a.mrc: stack of volumes, mz = {mz}")
    bare = bytearray(good + b"x")
    bare[208:216] = bytes(8)
    yield file("a.mrc", bytes(bare), read_map, "a.mrc: no MAP, and a byte too many")


def big_endian(raw: bytes) -> bytes:
    """A float32 MRC file with every word turned."""
    head = bytearray(np.frombuffer(raw[:1024], dtype="<u4").astype(">u4").tobytes())
    head[104:108], head[208:212], head[224:1024] = raw[104:108], raw[208:212], raw[224:1024]
    head[212:216] = b"\x11\x11\0\0"
    return bytes(head) + np.frombuffer(raw[1024:], dtype="<f4").astype(">f4").tobytes()


# ---- STAR

HEAD = (
    "data_optics\n\nloop_\n_rlnOpticsGroup\n_rlnVoltage\n_rlnSphericalAberration\n_rlnAmplitudeContrast\n"
    "_rlnImagePixelSize\n1 300 2.7 0.1 2.0\n\ndata_particles\n\nloop_\n_rlnImageName\n_rlnDefocusU\n_rlnDefocusV\n"
    "_rlnDefocusAngle\n_rlnOpticsGroup\n"
)
ROWS = ("000001@a.mrcs 1000 900 12.5 1\n", "000002@a.mrcs 1100 900 12.5 1\n")
TABLE = HEAD + "".join(ROWS)


def star() -> Iterator[Case]:
    """Tables: cut, wrong, and pointing elsewhere; the stack beside them is sound."""
    yield from foreign("a.star", particles_of)
    texts = {
        "no block": TABLE.replace("data_", "xata_"),
        "two blocks of a name": TABLE + "\n" + TABLE,
        "no particles": TABLE.replace("data_particles", "data_micrographs"),
        "no image names": TABLE.replace("rlnImageName", "rlnMicrographName"),
        "no rows": HEAD,
        "no labels": HEAD.partition("_rlnImageName")[0] + "".join(ROWS),
        "a label twice": TABLE.replace("_rlnDefocusV", "_rlnDefocusU"),
        "a value too few": TABLE.replace("12.5 1\n", "12.5\n", 1),
        "a value too many": TABLE.replace("12.5 1\n", "12.5 1 7\n", 1),
        "a word for a defocus": TABLE.replace("1100", "eleven"),
        "NaN for a defocus": TABLE.replace("1100", "nan"),
        "infinity for an angle": TABLE.replace("12.5", "-inf"),
        "a hexadecimal defocus": TABLE.replace("1100", "0x44C"),
        "overflowing defocus": TABLE.replace("1100", "1e999"),
        "an unknown optics group": TABLE.replace("12.5 1\n", "12.5 2\n"),
        "half an optics group": TABLE.replace("12.5 1\n", "12.5 1.5\n"),
        "no optics group": TABLE.replace("_rlnOpticsGroup\n000", "_rlnOther\n000"),
        "an optics group twice": TABLE.replace("1 300 2.7 0.1 2.0\n", "1 300 2.7 0.1 2.0\n" * 2),
        "pixel size 0": TABLE.replace("0.1 2.0", "0.1 0"),
        "pixel size below 0": TABLE.replace("0.1 2.0", "0.1 -2"),
        "pixel size NaN": TABLE.replace("0.1 2.0", "0.1 nan"),
        "voltage a word": TABLE.replace("1 300", "1 high"),
        "image 0": TABLE.replace("000002@", "000000@"),
        "image beyond": TABLE.replace("000002@", "000003@"),
        "image far beyond": TABLE.replace("000002@", "99999999999999999@"),
        "image number too long": TABLE.replace("000002@", "9" * 400 + "@"),
        "negative image": TABLE.replace("000002@", "-2@"),
        "a word for an image": TABLE.replace("000002@", "two@"),
        "image in other digits": TABLE.replace("000002@", "٢@"),
        "no stack in the name": TABLE.replace("000002@a.mrcs", "000002@"),
        "an absent stack": TABLE.replace("000002@a.mrcs", "000002@b.mrcs"),
        "a stack above": TABLE.replace("000002@a.mrcs", "000002@../../../../../../../../etc/passwd"),
        "an absolute path": TABLE.replace("000002@a.mrcs", "000002@/etc/passwd"),
        "a device": TABLE.replace("000002@a.mrcs", "000002@/dev/zero"),
        "memory of the process": TABLE.replace("000002@a.mrcs", "000002@/proc/self/mem"),
        "a name too long": TABLE.replace("a.mrcs", "a" * 5000 + ".mrcs"),
        "the table as its own stack": TABLE.replace("000002@a.mrcs", "000002@a.star"),
        "a folder as a stack": TABLE.replace("000002@a.mrcs", "000002@."),
        "an open quote": TABLE.replace("000002@a.mrcs", "'000002@a.mrcs"),
        "a value of several lines": TABLE.replace("000002@a.mrcs", "\n;000002@a.mrcs\n;"),
        "zero bytes": TABLE.replace("1100", "11\0\0"),
        "a hole of zeros": TABLE + "\0" * 4096 + "\n",
        "a pair after the loop": TABLE + "_rlnOther 3\n",
        "a second loop": TABLE + "\nloop_\n_rlnOther\n3\n",
        "a pair without a value": TABLE.replace("data_particles", "data_x\n_rlnLonely\n\ndata_particles"),
        "text before the first block": "hello world\n" + TABLE,
        "UTF-16": TABLE.encode("utf-16").decode("latin-1"),
        "a line without end": TABLE + "x" * 3_000_000,
        "no line ends at all": TABLE.replace("\n", " "),
    }
    for label, text in texts.items():
        yield with_stack(f"a.star: {label}", text.encode("utf-8"))
    raw = TABLE.encode()
    for length in range(1, len(raw), 4):
        if raw[:length].strip()[-4:] and not raw[:length].endswith(b"\n"):
            yield with_stack(f"a.star: cut at {length}", raw[:length])


def with_stack(label: str, raw: bytes) -> Case:
    """A table beside a sound stack."""

    def put(folder: Path) -> Path:
        (folder / "a.mrcs").write_bytes(sound_stack())
        (folder / "a.star").write_bytes(raw)
        return folder / "a.star"

    return Case(label, put, particles_of)


def stack_of_star() -> Iterator[Case]:
    """A sound table whose stack is not."""
    good = sound_stack()
    other = bytearray(good)
    struct.pack_into("<i", other, 0, 2)
    spoiled = {
        "absent": None, "empty": b"", "half a header": good[:500], "cut by a byte": good[:-1], "no pixels": good[:1024],
        "one image": sound_stack(1), "not square": bytes(other), "text": FOREIGN["text"], "zeros": FOREIGN["zeros"],
    }  # fmt: skip
    for label, raw in spoiled.items():

        def put(folder: Path, raw: bytes | None = raw) -> Path:
            (folder / "a.star").write_text(TABLE)
            if raw is not None:
                (folder / "a.mrcs").write_bytes(raw)
            return folder / "a.star"

        yield Case(f"a.mrcs of a table: {label}", put, particles_of)


def outside() -> Iterator[Case]:
    """Tables that name a sound stack, out of their folder; nothing else is wrong with them."""
    ways = ("by ..", "by an absolute path", "by a link", "through a linked folder", "back in by its own name")
    for ending, way in ((ending, way) for ending in ("star", "simple") for way in ways):

        def put(folder: Path, ending: str = ending, way: str = way) -> Path:
            inner, away = folder / "in", folder / "away"
            for each in (inner, away):
                each.mkdir()
            (away / "s.mrcs").write_bytes(sound_stack())
            (inner / "link.mrcs").symlink_to(away / "s.mrcs")
            (inner / "linked").symlink_to(away)
            name = {
                "by ..": "../away/s.mrcs", "by an absolute path": f"{away}/s.mrcs", "by a link": "link.mrcs",
                "through a linked folder": "linked/s.mrcs", "back in by its own name": "../in/../away/s.mrcs",
            }[way]  # fmt: skip
            text = TABLE.replace("a.mrcs", name).encode()
            raw = text if ending == "star" else project_bytes({2: stacks(2, stk=name), 3: particles(2)})
            (inner / f"a.{ending}").write_bytes(raw)
            return inner / f"a.{ending}"

        yield Case(f"a.{ending}: a stack that is reached {way}", put, particles_of)


# ---- NumPy, CryoSPARC


class Trap:
    """Unpickling this makes the file `executed` in the present folder."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("executed",)


def npy_bytes(array: np.ndarray[Any, Any]) -> bytes:
    """As numpy writes it."""
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, allow_pickle=True)
    return stream.getvalue()


def with_header(text: str, values: bytes = bytes(64), version: int = 1, length: int | None = None) -> bytes:
    """A .npy file of that header."""
    raw = text.encode("latin-1")
    size = (len(raw) if length is None else length).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + size + raw + values


def npy_headers() -> Iterator[tuple[str, bytes]]:
    """Headers that lie or make no sense."""
    of = "{{'descr': {}, 'fortran_order': {}, 'shape': {}}}".format
    texts = {
        "16 TB": of("'<f8'", False, (2 * 10**12,)), "overflowing": of("'<f8'", False, (2**40, 2**40)),
        "2^63": of("'<f8'", False, (2**63,)), "negative": of("'<f8'", False, (-8,)), "half": of("'<f8'", False, (8.5,)),
        "boolean": of("'<f8'", False, (True,)), "list": of("'<f8'", False, [8]), "word": of("'<f8'", False, "'x'"),
        "objects": of("'|O'", False, (8,)), "objects inside": of([("a", "|O")], False, (8,)),
        "no bytes": of("'|S0'", False, (8,)), "unknown": of("'<q8'", False, (8,)), "void": of("'|V0'", False, (8,)),
        "huge text": of("'<U2000000000'", False, (8,)), "dates": of("'<M8[zs]'", False, (8,)),
        "order": of("'<f8'", 3, (8,)), "40 axes": of("'<f8'", False, (1,) * 40), "number": of(5, False, (8,)),
        "code": of("__import__('os').mkdir('executed')", False, (8,)), "call": "mkdir('executed')", "none": "",
        "no shape": "{'descr': '<f8', 'fortran_order': False}", "more": of("'<f8'", False, "(8,), 'more': 1"),
        "list at all": "[1, 2, 3]", "deep": "(" * 9000, "deeper": "[" * 200 + "]" * 200, "bytes": "b'\\xff'",
        "unclosed": "{'descr': '<f8'", "set": "{1, 2}", "escape": "'\\d'",
        "nested type": of([("a", [("b", 5)])], False, (8,)),
    }  # fmt: skip
    for label, text in texts.items():
        yield label, with_header(text)
    sound = of("'<f8'", False, (8,))
    yield "version 9", with_header(sound, version=9)
    yield "version 0", with_header(sound, version=0)
    yield "header of 4 GB", with_header(sound, version=2, length=2**32 - 1)
    yield "header longer than the file", with_header(sound, length=60_000)
    yield "header of no length", with_header(sound, length=0)
    yield "a value too few", with_header(sound, values=bytes(63))
    yield "a value too many", with_header(sound, values=bytes(65))
    yield "a trap", npy_bytes(np.array([Trap()], dtype=object))
    yield "a bare trap", pickle.dumps(Trap())
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as held:
        held.writestr("a.npy", npy_bytes(np.zeros(3)))
    yield "an archive", archive.getvalue()


def npy() -> Iterator[Case]:
    """Arrays."""
    yield from foreign("a.npy", read_npy)
    for label, raw in npy_headers():
        yield file("a.npy", raw, read_npy, f"a.npy: {label}")
    good = npy_bytes(np.arange(6, dtype=np.float32))
    for length in range(0, len(good), 8):
        yield file("a.npy", good[:length], read_npy, f"a.npy: cut at {length}")


def cs() -> Iterator[Case]:
    """CryoSPARC tables."""
    yield from foreign("a.cs", read_cs)
    for label, raw in npy_headers():
        yield file("a.cs", raw, read_cs, f"a.cs: {label}")
    good = npy_bytes(np.zeros(3, dtype=[("blob/path", "S9"), ("blob/idx", "<u4")]))
    for length in range(0, len(good), 16):
        yield file("a.cs", good[:length], read_cs, f"a.cs: cut at {length}")
    yield file("a.cs", npy_bytes(np.zeros((2, 2))), read_cs, "a.cs: numbers without names")


# ---- SIMPLE


def simple() -> Iterator[Case]:
    """Projects: every number of the header wrong in several ways, and records that lie."""
    yield from foreign("a.simple", particles_of)
    good = project_bytes({2: stacks(2), 3: particles(2)})
    for segment in (2, 3):
        for field, name in enumerate(("first", "last", "width", "count", "byte")):
            for value in (-1, 0, 7, 2**31, 2**40, 2**62, -(2**63)):
                raw = bytearray(good)
                at = (segment - 1) * 40 + field * 8
                if struct.unpack_from("<q", raw, at)[0] == value:
                    continue
                struct.pack_into("<q", raw, at, value)
                yield file("a.simple", bytes(raw), particles_of, f"a.simple: segment {segment}, {name} = {value}")
    for length in range(0, len(good), 24):
        yield file("a.simple", good[:length], particles_of, f"a.simple: cut at {length}")
    turned = np.frombuffer(good[:800], dtype="<i8").astype(">i8").tobytes() + good[800:]
    yield file("a.simple", turned, particles_of, "a.simple: big-endian")
    for name in ("stkind", "indstk", "dfx", "dfy", "angast", "state"):
        for value in (float("nan"), float("inf"), -1.0, 1e30):
            if name in ("dfx", "dfy", "angast") and np.isfinite(value):
                continue
            if name == "state" and value > 0:
                continue
            raw = project_bytes({2: stacks(2), 3: particles(2, **{name: value})})
            yield simple_with_stack(f"a.simple: {name} = {value}", raw)
    for key in ("stk", "smpd", "fromp", "state", "kv"):
        for text in ("", "x", "nan"):
            raw = project_bytes({2: stacks(2, **{key: text}), 3: particles(2)})
            yield simple_with_stack(f"a.simple: {key}={text}", raw)


def simple_with_stack(label: str, raw: bytes) -> Case:
    """A project beside a sound stack."""

    def put(folder: Path) -> Path:
        (folder / "s1.mrcs").write_bytes(sound_stack())
        (folder / "a.simple").write_bytes(raw)
        return folder / "a.simple"

    return Case(label, put, particles_of)


# ---- what a run wrote


def newest_checkpoint(folder: Path) -> object:
    """As `resume` takes it: a damaged one is a sentence, and no state."""
    checkpoint, damaged = Store(folder).newest_valid_checkpoint()
    if checkpoint is None and damaged:
        raise RunDirectoryError(damaged[0].partition(": ")[2], where=damaged[0].partition(": ")[0], remedy="An older.")
    return checkpoint


def checkpoints() -> Iterator[Case]:
    """Checkpoints with a flipped bit, cut, with files that are missing, or that say nonsense under a right seal."""

    def written(folder: Path) -> Path:
        store = Store.create(folder, manifest("toy", {}, seed=0, inputs=[]))
        return store.write_checkpoint(3, State({"a": np.arange(40.0)}, {"n": 1}), {"idle": True})

    for name in ("state.safetensors", "values.json", "manifest.json"):
        for share in range(10):
            for how in ("flip", "cut"):

                def put(folder: Path, name: str = name, share: int = share, how: str = how) -> Path:
                    path = written(folder) / name
                    raw = bytearray(path.read_bytes())
                    at = share * len(raw) // 10
                    if how == "flip":
                        raw[at] ^= 0x10
                    path.write_bytes(bytes(raw[:at]) if how == "cut" else bytes(raw))
                    return folder

                yield Case(f"checkpoint: {how} {name} at {share}0 %", put, newest_checkpoint)
    sealed: dict[str, Any] = {
        "no files": {"step": 3, "sha256": {}},
        "a list": {"step": 3, "sha256": ["values.json"]},
        "a number": {"step": 3, "sha256": 5},
        "another step": {"step": 4, "sha256": {}},
        "a file elsewhere": {"step": 3, "sha256": {"../../run.json": "00"}},
    }
    import hashlib

    for label, values in sealed.items():

        def put_sealed(folder: Path, values: Any = values) -> Path:
            seal = hashlib.sha256(exact_json(values)).hexdigest()
            (written(folder) / "manifest.json").write_bytes(exact_json({**values, "seal": seal}))
            return folder

        yield Case(f"checkpoint: sealed nonsense, {label}", put_sealed, newest_checkpoint)


def dumps() -> Iterator[Case]:
    """Dumps: absent and nonsensical files, a state that promises more than there is."""
    header = {"kind": "numbers", "fields": {}}
    about = {
        "verb": "toy", "options": {}, "header": header, "step": 1, "guard": None, "finding": None,
        "batch_items_dumped": [],
    }  # fmt: skip
    promise = b'{"a":{"dtype":"F64","shape":[2000000000000],"data_offsets":[0,16000000000000]}}'
    good: dict[str, bytes] = {
        "dump.json": exact_json(about), "batches.json": b"[]", "payloads.json": b"[]", "values.json": b"{}",
        "state.safetensors": (2).to_bytes(8, "little") + b"{}",
    }  # fmt: skip
    wrong = {
        "dump.json": [
            b"",
            b"[]",
            b"{}",
            b"null",
            exact_json({**about, "header": None}),
            exact_json({**about, "step": "x"}),
        ],
        "batches.json": [b"", b"5", b'[["a"]]'],
        "payloads.json": [b"", b"5", b'[["a"]]'],
        "values.json": [b"", b"{"],
        "state.safetensors": [b"", b"\xff" * 8, len(promise).to_bytes(8, "little") + promise, pickle.dumps(Trap())],
    }
    for name, variants in wrong.items():
        for number, raw in enumerate(variants):

            def put(folder: Path, name: str = name, raw: bytes = raw) -> Path:
                for other, data in {**good, name: raw}.items():
                    (folder / other).write_bytes(data)
                return folder

            yield Case(f"dump: {name} {number}", put, read_dump)


def scan_of(path: Path) -> object:
    """All frames of a ptychographic scan; HDF5 is read in a child process that may die."""
    source = ScanFile(path)
    try:
        records = source.poll()
        return source.batch(records).load(np.arange(len(records)))
    finally:
        source.close()


def hdf5() -> Iterator[Case]:
    """Scans: what is no HDF5 at all, and a sound CXI file that was cut or has a hole in its structure."""
    for label in ("empty", "text", "zeros", "an HDF5 file", "a pickle"):
        yield file("a.cxi", FOREIGN[label], scan_of, f"a.cxi: {label}")
    for share in (1, 3, 6, 9):
        for how in ("cut", "hole"):

            def put(folder: Path, share: int = share, how: str = how) -> Path:
                path = write_cxi(folder / "a.cxi")
                raw = bytearray(path.read_bytes())
                at = len(raw) * share // 10
                path.write_bytes(bytes(raw[:at]) if how == "cut" else bytes(400) + bytes(raw[400:]))
                return path

            if how == "cut" or share == 1:
                yield Case(f"a.cxi: {how} at {share}0 %", put, scan_of)
    yield Case("a.cxi: 13 GB in 70 kB", lambda folder: write_bomb(folder / "a.cxi"), scan_of)
    yield Case("a.cxi: 13 GB that were never written", lambda folder: write_promise(folder / "a.cxi"), scan_of)


def safetensors() -> Iterator[Case]:
    """Models of the denoiser."""
    yield from foreign("a.safetensors", read_weights)
    for label, raw in models():
        yield file("a.safetensors", raw, read_weights, f"a.safetensors: {label}")


def layers() -> Iterator[Case]:
    """Raw weights of the Fortran denoiser: 1 -> 2 -> 1 channels."""
    good = {
        "conv01_weights.bin": bytes(4 * 18), "conv01_bias.bin": bytes(8), "conv02_weights.bin": bytes(4 * 18),
        "conv02_bias.bin": bytes(4),
    }  # fmt: skip
    for name, raw in good.items():
        for label, change in {
            "absent": None, "empty": b"", "a byte short": raw[:-1], "a number short": raw[:-4],
            "NaN": b"\0\0\xc0\x7f" * (len(raw) // 4),
        }.items():  # fmt: skip
            if name == "conv02_bias.bin" and label == "absent":
                continue  # a network of one layer that nobody can tell from a whole one

            def put(folder: Path, name: str = name, change: bytes | None = change) -> Path:
                for other, data in {**good, name: change}.items():
                    if data is not None:
                        (folder / other).write_bytes(data)
                return folder

            yield Case(f"layers: {name} {label}", put, read_layers)
