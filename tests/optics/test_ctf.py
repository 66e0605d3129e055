from __future__ import annotations

import cmath
import math
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from beamside.errors import InputError
from beamside.optics.ctf import CtfParams, ctf, electron_wavelength_A
from beamside.optics.fourier import frequency_grid


def closed_form(
    u: float, v: float, angle_deg: float, shift_deg: float, kv: float, cs: float, q0: float, b: float, scale: float,
    ky: float, kx: float,
) -> float:  # fmt: skip
    """RELION's formula with its own rounded constants, in polar form and plain Python numbers."""
    volts = kv * 1e3
    wavelength = 12.2643247 / math.sqrt(volts * (1 + volts * 0.978466e-6))
    k, theta = cmath.polar(complex(kx, ky))
    defocus = (u + v) / 2 + (u - v) / 2 * math.cos(2 * (theta - math.radians(angle_deg)))
    gamma = math.pi * wavelength * defocus * k**2 - math.pi / 2 * cs * 1e7 * wavelength**3 * k**4
    gamma += math.atan2(q0, math.sqrt(1 - q0 * q0)) + math.radians(shift_deg)
    return scale * math.exp(-b / 4 * k**2) * math.sin(gamma)


@given(
    u=st.floats(3000, 40000),
    v=st.floats(3000, 40000),
    angle=st.floats(-180, 180),
    shift=st.floats(0, 180),
    kv=st.sampled_from([100.0, 200.0, 300.0]),
    cs=st.floats(0, 2.7),
    q0=st.floats(0, 0.3),
    b=st.floats(0, 100),
    scale=st.floats(0.5, 1.5),
    k=st.tuples(st.floats(-0.2, 0.2), st.floats(0, 0.2)),
)
def test_closed_form_whichever_of_u_and_v_is_larger(
    u: float, v: float, angle: float, shift: float, kv: float, cs: float, q0: float, b: float, scale: float,
    k: tuple[float, float],
) -> None:  # fmt: skip
    params = CtfParams.of(
        u, v, angle, voltage_kV=kv, cs_mm=cs, amplitude_contrast=q0, phase_shift_deg=shift, bfactor_A2=b, scale=scale
    )
    ky, kx = (torch.tensor([value], dtype=torch.float64) for value in k)
    expected = closed_form(u, v, angle, shift, kv, cs, q0, b, scale, *k)
    # RELION rounds the wavelength in the sixth digit; at 300 radians of phase that is 2e-3.
    assert ctf(params, ky, kx).item() == pytest.approx(expected, abs=4e-3)


def test_the_wavelengths_in_textbooks() -> None:
    found = electron_wavelength_A(np.array([100.0, 200.0, 300.0]))
    assert found.tolist() == pytest.approx([0.0370144, 0.0250793, 0.0196875], abs=1e-7)


def test_white_particles_are_positive_at_the_origin_and_underfocus_turns_up() -> None:
    params = CtfParams.of(10000.0, 10000.0, 0.0, cs_mm=0.0)
    k = torch.tensor([0.0, 0.01], dtype=torch.float64)
    value = ctf(params, torch.zeros(2, dtype=torch.float64), k)[0]
    assert value[0].item() == pytest.approx(0.1) and value[1] > value[0]


def test_the_angle_turns_from_x_to_the_axis_of_u() -> None:
    """At 90 degrees the axis of U is y, and along y only U counts."""
    turned, plain = CtfParams.of(20000.0, 10000.0, 90.0), CtfParams.of(20000.0, 20000.0, 0.0)
    ky, kx = torch.tensor([0.05], dtype=torch.float64), torch.tensor([0.0], dtype=torch.float64)
    assert ctf(turned, ky, kx).item() == pytest.approx(ctf(plain, ky, kx).item(), abs=1e-12)
    assert ctf(turned, kx, ky).item() != pytest.approx(ctf(plain, kx, ky).item(), abs=1e-2)


def test_u_and_v_may_change_places() -> None:
    ky, kx = frequency_grid(32, 3.0, dtype=torch.float64)
    one, other = CtfParams.of(9000.0, 12000.0, 30.0), CtfParams.of(12000.0, 9000.0, 120.0)
    torch.testing.assert_close(ctf(one, ky, kx), ctf(other, ky, kx))
    assert bool(torch.isfinite(ctf(one, ky, kx)).all())


def test_the_benchmarks_own_ctf(cls_common: ModuleType) -> None:
    rng = np.random.default_rng(0)
    u, v, angle = rng.uniform(8000, 25000, 20), rng.uniform(8000, 25000, 20), rng.uniform(-180, 180, 20)
    ky, kx = frequency_grid(64, 5.0)
    found = ctf(CtfParams.of(u, v, angle), ky, kx)
    expected = torch.fft.ifftshift(cls_common.ctf(64, 5.0, u, v, angle), dim=-2)
    nyquist = 32  # there +k and -k are the same coefficient, and the two choose differently
    found[:, nyquist], expected[:, nyquist] = 0, 0
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


def test_shape_dtype_rows() -> None:
    params = CtfParams.of(np.array([1e4, 2e4, 3e4]), 1e4, 0.0)
    ky, kx = frequency_grid(8, 2.0, dtype=torch.float64)
    value = ctf(params, ky, kx)
    assert value.shape == (3, 8, 5) and value.dtype == torch.float64 and len(params) == 3
    torch.testing.assert_close(ctf(params.take(np.array([2])), ky, kx)[0], value[2])
    columns = {name: getattr(params, name) for name in params.__dataclass_fields__ if name != "scale"}
    again = CtfParams.from_columns({**columns, "ctf_scale": params.scale})
    torch.testing.assert_close(ctf(again, ky, kx), value)


@pytest.mark.parametrize(
    ("name", "values", "says"),
    [
        ("defocus_u_A", [1e4, float("nan")], "defocus_u_A is nan, not a finite number"),
        ("voltage_kV", [300.0, 0.0], "voltage_kV is 0, not above 0"),
        ("amplitude_contrast", [0.1, 1.5], "between -1 and 1"),
    ],
)
def test_what_no_microscope_has_is_named_by_row(name: str, values: list[float], says: str) -> None:
    given_values = {"defocus_u_A": 1e4, "defocus_v_A": 1e4, "defocus_angle_deg": 0.0, name: np.array(values)}
    with pytest.raises(InputError, match=says) as caught:
        CtfParams.of(**given_values)  # type: ignore[arg-type]
    assert "row 2" in str(caught.value)
    fields = dict.fromkeys(CtfParams.__dataclass_fields__, np.ones(2)) | {"cs_mm": np.ones(3)}
    with pytest.raises(InputError, match="different shapes"):
        CtfParams(**fields)
