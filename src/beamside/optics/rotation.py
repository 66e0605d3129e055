"""Euler angles and rotations in RELION's convention: A = Rz(psi) Ry(tilt) Rz(rot), angles in degrees.

Rows 0 and 1 of A are the image's x and y axes in the frame of the map, row 2 is the viewing direction; coordinates are
(x, y, z), x along columns. In the plane, Rz(psi) A(rot, tilt, 0) = A(rot, tilt, psi).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from beamside.optics.fourier import shift_images

if TYPE_CHECKING:
    from torch import Tensor


def in_plane_matrix(psi_deg: NDArray[Any] | float) -> NDArray[np.float64]:
    """Rz(psi): (..., 3, 3)."""
    angle = np.deg2rad(np.asarray(psi_deg, dtype=np.float64))
    matrix = np.zeros((*angle.shape, 3, 3))
    matrix[..., 0, 0] = matrix[..., 1, 1] = np.cos(angle)
    matrix[..., 0, 1] = np.sin(angle)
    matrix[..., 1, 0] = -matrix[..., 0, 1]
    matrix[..., 2, 2] = 1
    return matrix


def _tilt_matrix(tilt_deg: NDArray[Any] | float) -> NDArray[np.float64]:
    angle = np.deg2rad(np.asarray(tilt_deg, dtype=np.float64))
    matrix = np.zeros((*angle.shape, 3, 3))
    matrix[..., 0, 0] = matrix[..., 2, 2] = np.cos(angle)
    matrix[..., 2, 0] = np.sin(angle)
    matrix[..., 0, 2] = -matrix[..., 2, 0]
    matrix[..., 1, 1] = 1
    return matrix


def euler_matrix(
    rot_deg: NDArray[Any] | float, tilt_deg: NDArray[Any] | float, psi_deg: NDArray[Any] | float
) -> NDArray[np.float64]:
    """A(rot, tilt, psi): (..., 3, 3)."""
    product: NDArray[np.float64] = in_plane_matrix(psi_deg) @ _tilt_matrix(tilt_deg) @ in_plane_matrix(rot_deg)
    return product


def align_images(images: Tensor, psi_deg: Tensor, origin_y_px: Tensor, origin_x_px: Tensor) -> Tensor:
    """Particles (n, box, box) laid on their class average: moved by their origins, then turned by psi, bicubic.

    All of psi and the origins are (n,). A particle p and its class average c obey p(x) = c(Rz(psi)^T x) once p is
    moved by its origin, so the result is q -> p(Rz(psi) q). Pixels from outside the box are 0.
    """
    moved = shift_images(images, origin_y_px, origin_x_px)
    return rotate_images(moved, psi_deg)


def rotate_images(images: Tensor, psi_deg: Tensor) -> Tensor:
    """Images (n, box, box) sampled at Rz(psi) q for each pixel q of the result, about the pixel n//2, bicubic."""
    import torch

    count, box_px = images.shape[0], images.shape[-1]
    axis = torch.arange(box_px, dtype=images.dtype, device=images.device) - box_px // 2
    y, x = axis[:, None], axis[None, :]
    angle = torch.deg2rad(psi_deg.to(images)).reshape(count, 1, 1)
    cosine, sine = torch.cos(angle), torch.sin(angle)
    at_x, at_y = cosine * x + sine * y, -sine * x + cosine * y
    # grid_sample with align_corners=True maps -1 and 1 to the centres of the first and last pixels.
    grid = (torch.stack([at_x, at_y], dim=-1) + box_px // 2) * (2 / (box_px - 1)) - 1
    sampled = torch.nn.functional.grid_sample(images[:, None], grid, mode="bicubic", align_corners=True)
    return sampled[:, 0]
