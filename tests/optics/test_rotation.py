from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from beamside.optics.rotation import align_images, euler_matrix, in_plane_matrix, rotate_images

ANGLE = st.floats(-180, 180)


@given(rot=ANGLE, tilt=st.floats(0, 180), psi=ANGLE)
def test_psi_multiplies_from_the_left(rot: float, tilt: float, psi: float) -> None:
    whole = euler_matrix(rot, tilt, psi)
    np.testing.assert_allclose(in_plane_matrix(psi) @ euler_matrix(rot, tilt, 0), whole, atol=1e-12)
    np.testing.assert_allclose(whole @ whole.T, np.eye(3), atol=1e-12)
    view = [np.cos(np.deg2rad(rot)) * np.sin(np.deg2rad(tilt)), np.sin(np.deg2rad(rot)) * np.sin(np.deg2rad(tilt))]
    np.testing.assert_allclose(whole[2], [*view, np.cos(np.deg2rad(tilt))], atol=1e-12)


def test_the_benchmarks_matrices(cls_common: ModuleType) -> None:
    angles = np.random.default_rng(0).uniform(-180, 180, (3, 50))
    np.testing.assert_allclose(euler_matrix(*angles), cls_common.euler_to_matrix(*angles), atol=1e-12)


def blob(y: float, x: float, box_px: int = 32) -> torch.Tensor:
    axis = torch.arange(box_px, dtype=torch.float64) - box_px // 2
    return torch.exp(-((axis[:, None] - y) ** 2 + (axis[None, :] - x) ** 2) / 8)


@pytest.mark.parametrize("box_px", [32, 33])
def test_a_particle_turned_by_psi_is_laid_on_its_average(box_px: int) -> None:
    """The average has a blob at q; a particle of that class with angle psi has it at Rz(psi) q."""
    q = np.array([7.0, -3.0])  # x, y
    for psi in (0.0, 30.0, 90.0, -135.0):
        x, y = in_plane_matrix(psi)[:2, :2] @ q
        laid = rotate_images(blob(y, x, box_px)[None], torch.tensor([psi]))[0]
        torch.testing.assert_close(laid, blob(q[1], q[0], box_px), atol=2e-2, rtol=0)


def test_the_origin_is_applied_before_the_turn() -> None:
    q, psi, origin_x, origin_y = np.array([7.0, -3.0]), 40.0, 2.5, -1.5
    x, y = in_plane_matrix(psi)[:2, :2] @ q - np.array([origin_x, origin_y])
    laid = align_images(blob(y, x)[None], *(torch.tensor([v]) for v in (psi, origin_y, origin_x)))[0]
    torch.testing.assert_close(laid, blob(q[1], q[0]), atol=2e-2, rtol=0)
