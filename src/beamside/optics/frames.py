"""Diffraction frames as every solver sees them: counts with the zero frequency (DC) at pixel [0, 0].

A detector's array becomes `CornerFrames` once, here, and nothing later shifts, flips or crops it again. What a file
or a stream calls its frames (where DC lies, how the detector is mounted, which part is used) is data of a
`DetectorGeometry`; from it one table of source pixels is made, and that table is the whole geometry.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beamside.errors import FormatError, OptionError

ORIENTATIONS: tuple[tuple[bool, bool, bool], ...] = (
    (False, False, False),
    (False, True, False),
    (False, False, True),
    (False, True, True),
    (True, False, False),
    (True, True, False),
    (True, False, True),
    (True, True, True),
)
"""Number -> (transpose, then flip rows, then flip columns): the eight ways a detector can be mounted (D4)."""


def composed(first: int, then: int) -> int:
    """The number in `ORIENTATIONS` that does what `first` and then `then` do.

    A transposition that comes after flips of rows and columns exchanges them: T F(r, c) = F(c, r) T.
    """
    transpose, rows, columns = ORIENTATIONS[first]
    again, more_rows, more_columns = ORIENTATIONS[then]
    if again:
        rows, columns = columns, rows
    return ORIENTATIONS.index((transpose != again, rows != more_rows, columns != more_columns))


def inverse(number: int) -> int:
    """The number in `ORIENTATIONS` that undoes `number`."""
    return next(k for k in range(len(ORIENTATIONS)) if composed(number, k) == 0)


DcPlace = str | tuple[int, int]
"""Where the zero frequency lies in a stored frame: "corner", "centre" (n//2 on both axes), or (row, column)."""
_LARGEST_UINT16 = 65535
_ROOT_ERROR = 0.02
"""Of the square of a float32 root: 2 x 65,535 x 2^-24 = 0.008."""


@dataclass(frozen=True)
class CornerFrames:
    """Counts (k, N, N), uint16 or float32, zero frequency at [0, 0], in the order of numpy's fft2 of the exit wave."""

    counts: NDArray[Any]


@dataclass(frozen=True)
class DetectorGeometry:
    """How stored frames (k, rows, columns) become `CornerFrames`.

    orientation: number in `ORIENTATIONS`, applied to the frequencies, so DC stays where it is.
    dc: place of the zero frequency in the stored frame, before any orientation.
    crop_px: side N of the square around DC that is used; None: all of the smaller axis that lies around DC.
    valid: (rows, columns), True where a pixel measures; None: all do.
    dark, background: (rows, columns) counts to subtract; flat: relative sensitivity to divide by, both in the stored
    frame's own pixels. A flat of 0 or NaN marks the pixel as not measuring.
    saturation: counts at and above this are unknown; they keep that value, whatever is subtracted or divided.
    amplitudes: the stored values are square roots of counts.
    near_field: frames are images, not diffraction: they stay in the order of the object's rows and columns, `dc` plays
    no part, the crop is central, and flips are those of an image.
    """

    shape_px: tuple[int, int]
    orientation: int = 0
    dc: DcPlace = "centre"
    crop_px: int | None = None
    valid: NDArray[np.bool_] | None = field(default=None, repr=False)
    dark: NDArray[Any] | None = field(default=None, repr=False)
    flat: NDArray[Any] | None = field(default=None, repr=False)
    background: NDArray[Any] | None = field(default=None, repr=False)
    saturation: float | None = None
    amplitudes: bool = False
    near_field: bool = False

    def __post_init__(self) -> None:
        if self.orientation not in range(len(ORIENTATIONS)):
            raise OptionError(f"the orientation {self.orientation} is none of 0 to 7.", remedy="Give one of them.")
        row, column = self.dc_px
        if not (0 <= row < self.shape_px[0] and 0 <= column < self.shape_px[1]):
            raise OptionError(
                f"DC at pixel ({row}, {column}) lies outside of frames of {self.shape_px[0]} x {self.shape_px[1]} px.",
                remedy="Give the beam's centre in the pixels of the stored frame.",
            )
        if self.frame_px < 2:
            raise OptionError(f"frames of {self.frame_px} px are too small.", remedy="Check the crop and the centre.")
        for name in ("valid", "dark", "flat", "background"):
            array = getattr(self, name)
            if array is not None and array.shape != self.shape_px:
                raise OptionError(
                    f"the {'mask' if name == 'valid' else name} has {' x '.join(map(str, array.shape))} px, "
                    f"but the frames have {self.shape_px[0]} x {self.shape_px[1]}.",
                    remedy="Give one of the detector's own shape.",
                )

    @property
    def dc_px(self) -> tuple[int, int]:
        """Row and column of the zero frequency in the stored frame."""
        if self.dc == "corner":
            return 0, 0
        if self.dc == "centre":
            return self.shape_px[0] // 2, self.shape_px[1] // 2
        if isinstance(self.dc, str):
            raise OptionError(f"{self.dc!r} is no place of DC.", remedy="Give corner, centre, or ROW,COLUMN.")
        return int(self.dc[0]), int(self.dc[1])

    @property
    def frame_px(self) -> int:
        """Side N of the square frames that come out."""
        if self.crop_px is not None:
            return self.crop_px
        if isinstance(self.dc, str):
            return min(self.shape_px)
        (row, column), (rows, columns) = self.dc_px, self.shape_px
        return 2 * min(row, column, rows - row, columns - column)

    @cached_property
    def source(self) -> NDArray[np.int64]:
        """(N, N): the flat index of the stored pixel that each pixel of a corner frame comes from; -1: none."""
        if self.near_field:
            return image_pixels(self.shape_px, self.frame_px, self.orientation)
        return source_pixels(self.shape_px, self.dc_px, self.frame_px, self.orientation, periodic=self.dc == "corner")

    @cached_property
    def detector_mask(self) -> NDArray[np.bool_]:
        """(N, N), DC at the corner: True where a count was measured."""
        usable = np.ones(self.shape_px, dtype=np.bool_) if self.valid is None else self.valid.astype(np.bool_)
        if self.flat is not None:
            usable = usable & np.isfinite(self.flat) & (np.nan_to_num(self.flat) > 0)
        return np.asarray((self.source >= 0) & usable.reshape(-1)[self.source])

    def frames(self, stored: NDArray[Any]) -> CornerFrames:
        """Stored frames (k, rows, columns) as corner frames; what is not measured is 0, negative counts are 0 too.

        NaN stays NaN outside of the mask, so that the frame can be named and set aside.
        """
        if stored.ndim != 3 or stored.shape[1:] != self.shape_px:
            raise FormatError(
                f"frames of shape {stored.shape[1:]} came, {self.shape_px} were declared.",
                remedy="The data changed shape during the scan.",
            )
        flat = stored.reshape(len(stored), -1)
        out = np.take(flat, self.source.reshape(-1), axis=1, mode="clip")
        whole = stored.dtype.kind in "biu"
        if self.dark is not None or self.flat is not None or self.background is not None or self.amplitudes:
            out, whole = self._corrected(out), False
            if self.amplitudes:
                out = _rounded(out)
        out[:, ~self.detector_mask.reshape(-1)] = 0
        if out.dtype.kind != "u":
            np.maximum(out, 0, out=out)  # keeps NaN
        return CornerFrames(_compact(out, whole).reshape(-1, self.frame_px, self.frame_px))

    def _corrected(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Dark and background subtracted, then divided by the flat: (k, N * N)."""
        pixels = self.source.reshape(-1)
        counts = values.astype(np.float32)
        if self.amplitudes:
            counts *= counts
        full = None if self.saturation is None else counts >= self.saturation
        for name in ("dark", "background"):
            if (given := getattr(self, name)) is not None:
                counts -= given.reshape(-1)[pixels].astype(np.float32)
        if self.flat is not None:
            gain = self.flat.reshape(-1)[pixels].astype(np.float32)
            counts /= np.where(np.isfinite(gain) & (gain > 0), gain, 1)
        if full is not None and self.saturation is not None:
            counts[full] = np.maximum(counts[full], np.float32(self.saturation))
        return counts


def _rounded(counts: NDArray[np.float32]) -> NDArray[np.float32]:
    """Whole numbers where all counts are as near to one as squares of float32 roots of whole numbers are."""
    with np.errstate(invalid="ignore"):
        whole = np.rint(counts)
        near = bool((np.abs(counts - whole) <= _ROOT_ERROR).all())
    return whole if near else counts


def _compact(counts: NDArray[Any], whole: bool) -> NDArray[Any]:
    """uint16 where every count is a whole number below 65,536, else float32."""
    if whole:
        small = counts.dtype.itemsize == 1 or counts.dtype == np.uint16 or counts.size == 0
        if small or int(counts.max()) <= _LARGEST_UINT16:
            return counts.astype(np.uint16, copy=False)
        return counts.astype(np.float32)
    with np.errstate(invalid="ignore"):
        short = counts.astype(np.uint16)
    return short if np.array_equal(short, counts) else counts.astype(np.float32, copy=False)


def source_pixels(
    shape_px: tuple[int, int], dc_px: tuple[int, int], frame_px: int, orientation: int, *, periodic: bool
) -> NDArray[np.int64]:
    """(N, N) flat indices into a stored frame, DC of the result at [0, 0]; -1 where the stored frame has no pixel.

    A frequency k runs from -(N//2) to (N-1)//2. Transposing and flipping exchange and negate frequencies; for even N
    the frequency -N/2 is its own negative, as it is for the discrete transform. periodic: frequencies below 0 lie at
    the far end of the stored frame (DC "corner").
    """
    transpose, flip_rows, flip_columns = ORIENTATIONS[orientation]
    k = np.fft.ifftshift(np.arange(frame_px) - frame_px // 2)
    negated = np.where(k == -(frame_px / 2), k, -k)
    down = (negated if flip_rows else k)[:, None]
    across = (negated if flip_columns else k)[None, :]
    along_rows, along_columns = (across, down) if transpose else (down, across)
    rows, columns = shape_px
    row = _places(along_rows, dc_px[0], rows, periodic)
    column = _places(along_columns, dc_px[1], columns, periodic)
    return np.where((row >= 0) & (column >= 0), row * columns + column, -1).astype(np.int64)


def image_pixels(shape_px: tuple[int, int], frame_px: int, orientation: int) -> NDArray[np.int64]:
    """(N, N) flat indices into a stored image: its central square, turned as `ORIENTATIONS` says; -1: no pixel."""
    rows, columns = shape_px
    row = np.arange(frame_px)[:, None] + (rows - frame_px) // 2
    column = np.arange(frame_px)[None, :] + (columns - frame_px) // 2
    inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
    table = np.where(inside, row * columns + column, -1).astype(np.int64)
    transpose, flip_rows, flip_columns = ORIENTATIONS[orientation]
    table = table.T if transpose else table
    table = table[::-1] if flip_rows else table
    return np.ascontiguousarray(table[:, ::-1] if flip_columns else table)


def _places(frequency: NDArray[np.int64], dc: int, size: int, periodic: bool) -> NDArray[np.int64]:
    """Where frequencies lie along a stored axis of `size` pixels; -1 where they do not."""
    if periodic:
        return np.where((frequency >= -(size // 2)) & (frequency <= (size - 1) // 2), frequency % size, -1)
    place = frequency + dc
    return np.where((place >= 0) & (place < size), place, -1)


@dataclass(frozen=True)
class ScanGeometry:
    """How a scan's own positions become (y, x) in metres such that the object window moves with them.

    y_column, x_column: where y and x stand in a row of positions. y_sign, x_sign: -1 where the stored axis runs
    against the object's rows or columns. unit_m: metres in one stored unit.
    """

    y_column: int = 0
    x_column: int = 1
    y_sign: int = 1
    x_sign: int = 1
    unit_m: float = 1.0

    def __post_init__(self) -> None:
        if abs(self.y_sign) != 1 or abs(self.x_sign) != 1:
            raise OptionError("the sign of a scan axis is +1 or -1.")
        if not (np.isfinite(self.unit_m) and self.unit_m > 0):
            raise OptionError(f"a unit of {self.unit_m} m is impossible.", remedy="Give metres in one stored unit.")

    def positions_m(self, stored: NDArray[Any]) -> NDArray[np.float64]:
        """Stored positions (n, columns) as (n, 2) metres, (y, x)."""
        values = np.asarray(stored, dtype=np.float64)
        scale = np.array([self.y_sign, self.x_sign]) * self.unit_m
        return np.asarray(values[:, [self.y_column, self.x_column]] * scale)


def pack_mask(valid: NDArray[np.bool_]) -> str | None:
    """A mask (N, N) as text for a header; None where every pixel is valid."""
    if valid.all():
        return None
    return base64.b64encode(np.packbits(valid.reshape(-1)).tobytes()).decode("ascii")


def unpack_mask(text: str | None, frame_px: int) -> NDArray[np.bool_]:
    """The mask (N, N) of `pack_mask`, True where a pixel is valid.

    Raises:
        FormatError: the text is no mask of this size.
    """
    if text is None:
        return np.ones((frame_px, frame_px), dtype=np.bool_)
    try:
        packed = np.frombuffer(base64.b64decode(text, validate=True), dtype=np.uint8)
    except (binascii.Error, ValueError) as error:
        raise FormatError(f"the detector mask is no base64 text ({error}).") from error
    if packed.size != (frame_px**2 + 7) // 8:
        raise FormatError(f"the detector mask holds {packed.size} bytes, {frame_px} x {frame_px} px need another size.")
    return np.unpackbits(packed, count=frame_px**2).astype(np.bool_).reshape(frame_px, frame_px)


def object_pixel_m(wavelength_m: float, distance_m: float, frame_px: int, detector_pixel_m: float) -> float:
    """Side of an object's pixel in metres, far field: wavelength x distance / (N x detector pixel)."""
    return wavelength_m * distance_m / (frame_px * detector_pixel_m)


def magnified_pixel_m(detector_pixel_m: float, source_to_sample_m: float | None, distance_m: float) -> float:
    """Side of an object's pixel in metres, near field: the detector's, divided by the beam's magnification.

    A beam diverging from a point `source_to_sample_m` before the sample is magnified by (z1 + z2) / z1 on its way to
    the detector, `distance_m` behind it (Fresnel scaling theorem); None: a parallel beam.
    """
    if source_to_sample_m is None:
        return detector_pixel_m
    return detector_pixel_m * source_to_sample_m / (source_to_sample_m + distance_m)
