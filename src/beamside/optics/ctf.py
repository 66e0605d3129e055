"""The contrast transfer function of an electron microscope.

Closed form after Rohou & Grigorieff, J. Struct. Biol. 192 (2015) 216-221, with RELION's signs for particles that are
white on black: CTF(0) is +amplitude_contrast, underfocus is positive, and the defocus angle turns from x to the axis
of `defocus_u_A`. Nothing depends on which of U and V is the larger.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from beamside.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

PLANCK_J_S = 6.62607015e-34
ELECTRON_C = 1.602176634e-19
ELECTRON_KG = 9.1093837015e-31
LIGHT_M_S = 299792458.0
_A_PER_MM = 1e7


def electron_wavelength_A(voltage_kV: float | NDArray[np.float64]) -> NDArray[np.float64]:
    """De Broglie wavelength in Angstrom, relativistic: h / sqrt(2 m e V (1 + e V / 2 m c^2)), CODATA 2018 constants."""
    energy_J = np.asarray(voltage_kV, dtype=np.float64) * 1e3 * ELECTRON_C
    momentum = np.sqrt(2 * ELECTRON_KG * energy_J * (1 + energy_J / (2 * ELECTRON_KG * LIGHT_M_S**2)))
    return np.asarray(PLANCK_J_S / momentum * 1e10, dtype=np.float64)


@dataclass(frozen=True)
class CtfParams:
    """One value a particle: every field is a float64 array (n,).

    Raises InputError, naming the row, for a value that is not finite or that no microscope has.
    """

    defocus_u_A: NDArray[np.float64]
    defocus_v_A: NDArray[np.float64]
    defocus_angle_deg: NDArray[np.float64]
    phase_shift_deg: NDArray[np.float64]
    voltage_kV: NDArray[np.float64]
    cs_mm: NDArray[np.float64]
    amplitude_contrast: NDArray[np.float64]
    bfactor_A2: NDArray[np.float64]
    scale: NDArray[np.float64]

    def __post_init__(self) -> None:
        for field in fields(self):
            value = np.atleast_1d(np.asarray(getattr(self, field.name), dtype=np.float64))
            object.__setattr__(self, field.name, value)
            self._refuse(field.name, ~np.isfinite(value), "a finite number")
        sizes = {field.name: getattr(self, field.name).shape for field in fields(self)}
        if len(set(sizes.values())) != 1 or len(self.scale.shape) != 1:
            raise InputError(f"CTF parameters of different shapes: {sizes}.", remedy="Give one value a particle.")
        self._refuse("voltage_kV", self.voltage_kV <= 0, "above 0")
        self._refuse("amplitude_contrast", np.abs(self.amplitude_contrast) > 1, "between -1 and 1")

    def _refuse(self, name: str, wrong: NDArray[np.bool_], what: str) -> None:
        rows = np.flatnonzero(wrong)
        if rows.size:
            row = int(rows[0])
            raise InputError(
                f"{name} is {getattr(self, name)[row]:g}, not {what}.",
                where=f"CTF parameters, row {row + 1}",
                remedy="Correct the table.",
            )

    @classmethod
    def from_columns(cls, columns: Mapping[str, NDArray[Any]]) -> Self:
        """From the columns of a batch, where `scale` is called `ctf_scale`."""
        return cls(*(columns["ctf_scale" if f.name == "scale" else f.name] for f in fields(cls)))

    @classmethod
    def of(
        cls,
        defocus_u_A: NDArray[np.float64] | float,
        defocus_v_A: NDArray[np.float64] | float,
        defocus_angle_deg: NDArray[np.float64] | float,
        *,
        voltage_kV: NDArray[np.float64] | float = 300.0,
        cs_mm: NDArray[np.float64] | float = 2.7,
        amplitude_contrast: NDArray[np.float64] | float = 0.1,
        phase_shift_deg: NDArray[np.float64] | float = 0.0,
        bfactor_A2: NDArray[np.float64] | float = 0.0,
        scale: NDArray[np.float64] | float = 1.0,
    ) -> Self:
        """With numbers broadcast against arrays."""
        defocus = (defocus_u_A, defocus_v_A, defocus_angle_deg, phase_shift_deg)
        values = (*defocus, voltage_kV, cs_mm, amplitude_contrast, bfactor_A2, scale)
        return cls(*np.broadcast_arrays(*(np.atleast_1d(np.asarray(v, dtype=np.float64)) for v in values)))

    def __len__(self) -> int:
        return int(self.scale.size)

    def take(self, rows: NDArray[Any]) -> Self:
        """Those rows."""
        return type(self)(*(getattr(self, f.name)[rows] for f in fields(self)))


@dataclass(frozen=True)
class _Polynomial:
    """Phase gamma = xx kx^2 + yy ky^2 + xy kx ky + quartic k^4 + constant, and the envelope; float64 (n,) each."""

    xx: NDArray[np.float64]
    yy: NDArray[np.float64]
    xy: NDArray[np.float64]
    quartic: NDArray[np.float64]
    constant: NDArray[np.float64]
    decay: NDArray[np.float64]
    scale: NDArray[np.float64]


def _polynomial(params: CtfParams) -> _Polynomial:
    """In Cartesian frequencies: k^2 cos 2(theta - angle) = (kx^2 - ky^2) cos 2 angle + 2 kx ky sin 2 angle."""
    wavelength = electron_wavelength_A(params.voltage_kV)
    twice = np.deg2rad(2 * params.defocus_angle_deg)
    mean = math.pi * wavelength * 0.5 * (params.defocus_u_A + params.defocus_v_A)
    half = math.pi * wavelength * 0.5 * (params.defocus_u_A - params.defocus_v_A)
    return _Polynomial(
        xx=mean + half * np.cos(twice),
        yy=mean - half * np.cos(twice),
        xy=2 * half * np.sin(twice),
        quartic=-0.5 * math.pi * params.cs_mm * _A_PER_MM * wavelength**3,
        constant=np.arcsin(params.amplitude_contrast) + np.deg2rad(params.phase_shift_deg),
        decay=-0.25 * params.bfactor_A2,
        scale=params.scale,
    )


def ctf(params: CtfParams, ky: Tensor, kx: Tensor) -> Tensor:
    """The CTF of n particles at spatial frequencies ky, kx in 1/Angstrom (any shapes that broadcast together).

    Returns (n, *broadcast shape) of the dtype and on the device of `kx`:
    scale exp(-B k^2 / 4) sin(pi lambda dz k^2 - pi/2 Cs lambda^3 k^4 + asin(Q0) + phase shift),
    dz = (U + V)/2 + (U - V)/2 cos 2(theta - angle).
    """
    import torch

    axes = max(ky.ndim, kx.ndim)
    parts = _polynomial(params)

    def over(values: NDArray[np.float64]) -> Tensor:
        return torch.as_tensor(values, dtype=kx.dtype, device=kx.device).reshape(-1, *(1,) * axes)

    square = kx * kx + ky * ky
    phase = over(parts.xx) * (kx * kx) + over(parts.yy) * (ky * ky) + over(parts.xy) * (kx * ky)
    phase += over(parts.quartic) * (square * square) + over(parts.constant)
    value = torch.sin(phase)
    if np.any(parts.decay != 0):
        value *= torch.exp(over(parts.decay) * square)
    return value * over(parts.scale) if np.any(parts.scale != 1) else value
