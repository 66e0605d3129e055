"""SIMPLE projects as SIMPLE writes them, made byte by byte from the format's description and not by our code."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

ORDER = [
    "angast", "class", "corr", "dfx", "dfy", "dist", "dist_inpl", "e1", "e2", "e3", "eo", "frac", "indstk", "inpl",
    "lp", "mi_class", "mi_proj", "mi_state", "phshift", "proj", "shincarg", "res", "state", "stkind", "updatecnt",
    "weight", "x", "xincr", "xpos", "y", "yincr", "ypos", "gid", "ogid", "pind", "nevals", "ngevals", "better",
    "npeaks", "lp_est", "pind_prev", "cc_nonpeak", "frac_greedy", "better_l", "sampled", "cluster", "class_match",
    "cont_inpl_attempted", "cont_inpl_improved", "spare",
]  # fmt: skip
NUMERIC = {3, 6}
STACK = {"smpd": "2.0", "kv": "300", "cs": "2.7", "fraca": "0.1", "ctf": "yes", "box": "8", "state": "1"}
PARTICLE = {"dfx": 1.5, "dfy": 1.4, "angast": 30.0, "state": 1.0}


def project_bytes(segments: Mapping[int, Sequence[Mapping[str, object]]], width: int = 0) -> bytes:
    """The file of those segments; text records are padded to one width."""
    header, body = bytearray(800), bytearray()
    for number, records in segments.items():
        if number in NUMERIC:
            made = [struct.pack("<50f", *(float(r.get(key, 0.0)) for key in ORDER)) for r in records]  # type: ignore[arg-type]
        else:
            texts = [" ".join(f"{key}={value}" for key, value in r.items()).encode() for r in records]
            longest = max([width, *map(len, texts)])
            made = [text.ljust(longest) for text in texts]
        entry = (1, len(made), len(made[0]) if made else 0, len(made), 800 + len(body) + 1)
        struct.pack_into("<5q", header, (number - 1) * 40, *entry)
        body += b"".join(made)
    return bytes(header + body)


def stacks(*counts: int, **more: object) -> list[dict[str, object]]:
    """Stack records s1.mrcs, s2.mrcs, ... of so many particles each."""
    found, first = [], 1
    for number, count in enumerate(counts, 1):
        place = {"stk": f"s{number}.mrcs", "fromp": first, "top": first + count - 1, "nptcls": count}
        found.append({**STACK, **place, **more})
        first += count
    return found


def particles(*counts: int, **more: object) -> list[dict[str, object]]:
    """Particle records of those stacks."""
    return [
        {**PARTICLE, "stkind": number, "indstk": index + 1, "pind": index + 1, **more}
        for number, count in enumerate(counts, 1)
        for index in range(count)
    ]


def write_project(path: Path, segments: Mapping[int, Sequence[Mapping[str, object]]]) -> Path:
    path.write_bytes(project_bytes(segments))
    return path
