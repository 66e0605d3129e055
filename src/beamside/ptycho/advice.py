"""What a user must say for another geometry to be the one in use: absolute options, whatever was given before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from beamside.optics.frames import ORIENTATIONS, composed, inverse
from beamside.ptycho.orientation import HALF_TURN, Candidate

_FLAGS = ("--swap-axes", "--reverse-y", "--reverse-x")


@dataclass(frozen=True)
class Given:
    """The geometry in use, to which candidates are relative.

    orientation, axes: of the frames and of the positions, numbers in `ORIENTATIONS`. dc: "corner", "centre", or the
    (row, column) of the zero frequency in a stored frame.
    """

    orientation: int
    axes: int
    dc: str | tuple[int, int]

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Given:
        """From a source's header; a source that says nothing about it has turned nothing."""
        dc = fields.get("dc", "centre")
        place = dc if isinstance(dc, str) else (int(dc[0]), int(dc[1]))
        return cls(int(fields.get("orientation", 0)), int(fields.get("axes", 0)), place)


def orientation_option(best: Candidate, given: Given) -> int:
    """The number for --orientation: the candidate's turn comes after the one that the frames have had already."""
    return composed(given.orientation, best.orientation)


def axes_option(best: Candidate, given: Given) -> str:
    """The axis options: frames and probe turned are the same as the positions turned back."""
    flags = [flag for flag, wanted in zip(_FLAGS, ORIENTATIONS[_axes(best, given)], strict=True) if wanted]
    return " ".join(flags) if flags else f"none of {', '.join(_FLAGS)}"


def sentence(best: Candidate, given: Given, *, signed: bool) -> str:
    """What to give, in words, and what fits as well.

    signed: the start's sign of defocus was given, by a probe or a number, and did not come from the data.
    """
    parts = [_turn(best, given, signed=signed)] if best.orientation else []
    return "; ".join([*parts, dc(given)] if best.dc_moved else parts)


def dc(given: Given) -> str:
    """Where the zero frequency lies when it is half a frame from where it was taken to be."""
    if isinstance(given.dc, str):
        return f"give --dc {'centre' if given.dc == 'corner' else 'corner'}"
    row, column = given.dc
    return f"the zero frequency lies half a frame from --dc {row},{column}: give its own place"


def _turn(best: Candidate, given: Given, *, signed: bool) -> str:
    if best.with_probe:
        flags = axes_option(best, given)
        return f"give {flags}" + ("" if flags.startswith("none") else " and no other option of the axes")
    said = f"give --orientation {orientation_option(best, given)}"
    if best.defocus_m is not None:
        said += f" or, where it is the scan's axes that are wrong, {axes_option(best, given)}"
    if not signed and best.defocus_m is not None:
        said += (
            f" (the data alone do not tell this from its conjugate twin, --orientation "
            f"{orientation_option(best.twin, given)} with a defocus of {-best.defocus_m * 1e3:+.3f} mm)"
        )
    if signed and best.orientation == HALF_TURN:
        said += " or, if that is where the sign is wrong, a start with the opposite defocus"
    return said


def _axes(best: Candidate, given: Given) -> int:
    return composed(given.axes, inverse(best.orientation))
