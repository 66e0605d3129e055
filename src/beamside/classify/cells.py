"""Classes as cells of the sphere of viewing directions."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from beamside.classify import sphere

_ROUNDS = 40


def centres(views: sphere.Array, count: int, generator: np.random.Generator) -> sphere.Array:
    """(count, 3) unit vectors: spherical k-means of directions (n, 3), begun by k-means++ (D. Arthur and
    S. Vassilvitskii, SODA 2007, 1027-1035)."""
    chosen = views[generator.choice(len(views), 1)]
    away = 1 - views @ chosen[0]
    while len(chosen) < count:
        weight = np.maximum(away, 0.0)
        share = weight / weight.sum() if weight.sum() > 0 else None
        chosen = np.concatenate([chosen, views[generator.choice(len(views), 1, p=share)]])
        away = np.minimum(away, 1 - views @ chosen[-1])
    for _ in range(_ROUNDS):
        label = (views @ chosen.T).argmax(1)
        total = np.zeros_like(chosen)
        np.add.at(total, label, views)
        norm = np.linalg.norm(total, axis=1, keepdims=True)
        moved = np.where(norm > 1e-9, total / np.maximum(norm, 1e-9), chosen)
        if np.abs(moved - chosen).max() < 1e-9:
            break
        chosen = moved
    return chosen


def placed(poses: sphere.Array, cells: sphere.Array) -> tuple[Tensor, Tensor]:
    """Particles (n, 3, 3) in cells (K, 3, 3): label (n,) int64 and alpha (n,) float32.

    alpha is the rotation that takes the cell's average to the particle, radians.
    """
    label = (poses[:, 2] @ cells[:, 2].T).argmax(1)
    alpha = sphere.twist(poses, cells[label])
    return torch.as_tensor(label), torch.as_tensor(alpha).float()
