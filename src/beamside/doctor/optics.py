"""Optics groups of several files as one table: equal ones are joined, others stay apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from beamside.doctor.parts import ParticleParts
from beamside.errors import InputError
from beamside.formats.mrc import MrcInfo
from beamside.formats.relion import add_optics
from beamside.formats.star import Columns, StarTable, finite_floats
from beamside.sources.particle_batch import Signature, plain_number
from beamside.sources.particle_export import distinct, union_of

OPTICS_OF_ROWS = (
    "rlnVoltage",
    "rlnSphericalAberration",
    "rlnAmplitudeContrast",
    "rlnBeamTiltX",
    "rlnBeamTiltY",
    "rlnMtfFileName",
    "rlnImagePixelSize",
    "rlnDetectorPixelSize",
    "rlnMagnification",
)
"""Columns of STAR 3.0 that describe the optics."""
_PIXEL_LABELS = OPTICS_OF_ROWS[-3:]


class OpticsJoiner:
    """Numbers for groups, counted from 1 in the order in which rows name them."""

    def __init__(self) -> None:
        self._numbers: dict[Signature, int] = {}
        self._rows: list[dict[str, str]] = []
        self._of_file: dict[Path, dict[object, str]] = {}

    def moved(self, one: ParticleParts) -> tuple[str, ...]:
        """Columns of the rows of `one` that the groups say from now on."""
        return () if one.optics is not None else OPTICS_OF_ROWS

    def groups(self, one: ParticleParts, part: StarTable, stacks: Sequence[MrcInfo]) -> list[str]:
        """The group's number for every row of `part`, whose images lie in `stacks`."""
        known = self._of_file.setdefault(one.path, {})
        if one.optics is None:
            return self._from_rows(known, part, stacks)
        texts = part.text("rlnOpticsGroup")
        for row, text in enumerate(texts):
            if text not in known:
                known[text] = self._add(_group(one.optics, text, part.place(row)))
        return [known[text] for text in texts]

    def _from_rows(self, known: dict[object, str], part: StarTable, stacks: Sequence[MrcInfo]) -> list[str]:
        labels = [label for label in OPTICS_OF_ROWS if label in part.columns]
        values = list(zip(*(part.columns[label] for label in labels), strict=True)) if labels else [()] * len(part)
        keys = [(row, info.shape[-1], info.voxel_size_A[0]) for row, info in zip(values, stacks, strict=True)]
        for row, key in enumerate(keys):
            if key not in known:
                texts, box_px, header_A = key
                one_row = {label: [text] for label, text in zip(labels, texts, strict=True)} or {"rlnX": ["0"]}
                optics, _ = add_optics(one_row, box_px=box_px, pixel_size_A=_pixel(one_row, header_A, part, row))
                known[key] = self._add({label: found[0] for label, found in optics.items()})
        return [known[key] for key in keys]

    def _add(self, group: dict[str, str]) -> str:
        signature = tuple(sorted((k, plain_number(v)) for k, v in group.items() if k != "rlnOpticsGroup"))
        number = self._numbers.setdefault(signature, len(self._numbers) + 1)
        if number > len(self._rows):
            self._rows.append(group)
        return str(number)

    def table(self) -> Columns:
        """data_optics of the joined file."""
        optics = union_of(self._rows)
        if "rlnOpticsGroupName" in optics:
            optics["rlnOpticsGroupName"] = distinct(optics["rlnOpticsGroupName"])
        optics["rlnOpticsGroup"] = [str(number) for number in range(1, len(self._rows) + 1)]
        return optics


def _group(optics: StarTable, text: str, place: str) -> dict[str, str]:
    numbers = optics.ints("rlnOpticsGroup").tolist()
    try:
        wanted = numbers.index(int(float(text)))
    except (ValueError, OverflowError):
        raise InputError(
            f"names optics group {text}, which data_optics does not have.",
            where=place,
            remedy="Add the group, or correct the row.",
        ) from None
    return {label: values[wanted] for label, values in optics.columns.items()}


def _pixel(row: Columns, header_A: float, part: StarTable, at: int) -> float:
    """The pixel size of the stack's header, after what the row says of it was found to be positive numbers."""

    def place(_: int) -> str:
        return part.place(at)

    given = "rlnImagePixelSize" in row or {"rlnDetectorPixelSize", "rlnMagnification"} <= row.keys()
    said = [label for label in _PIXEL_LABELS if label in row]
    if (not given and header_A <= 0) or any(finite_floats(row[label], label, place)[0] <= 0 for label in said):
        raise InputError(
            "gives no positive pixel size, neither in its columns nor in the header of its stack.",
            where=part.place(at),
            remedy="Add rlnImagePixelSize.",
        )
    return header_A
