"""Classes as cells of the sphere of viewing directions."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from beamside.classify import sphere

_ROUNDS, _STARTS = 40, 8


def centres(views: sphere.Array, count: int, generator: np.random.Generator) -> sphere.Array:
    """(count, 3) unit vectors: spherical k-means of directions (n, 3), begun by k-means++ (D. Arthur and
    S. Vassilvitskii, SODA 2007, 1027-1035), the closest to its directions of several starts."""
    best, closest = np.empty(0), -np.inf
    for _ in range(_STARTS):
        chosen = _settled(views, _begun(views, count, generator))
        close = float((views @ chosen.T).max(1).mean())
        if close > closest:
            best, closest = chosen, close
    return best


def moved(views: sphere.Array, cells: sphere.Array) -> sphere.Array:
    """(K, 3, 3) cells whose directions follow those of more particles; each stays the cell that it was.

    Their images turn as little as they can: the x axis stays but for what the new direction takes of it.
    """
    toward = _settled(views, cells[:, 2])
    x = cells[:, 0] - (cells[:, 0] * toward).sum(1, keepdims=True) * toward
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return np.stack([x, np.cross(toward, x), toward], 1)


def _begun(views: sphere.Array, count: int, generator: np.random.Generator) -> sphere.Array:
    """k-means++: each centre is a direction far from those before it."""
    chosen = views[generator.choice(len(views), 1)]
    away = 1 - views @ chosen[0]
    while len(chosen) < count:
        total = np.cumsum(np.maximum(away, 0.0))
        at = np.searchsorted(total, generator.random() * total[-1]) if total[-1] > 0 else generator.choice(len(views))
        chosen = np.concatenate([chosen, views[min(int(at), len(views) - 1)][None]])
        away = np.minimum(away, 1 - views @ chosen[-1])
    return chosen


def _settled(views: sphere.Array, chosen: sphere.Array) -> sphere.Array:
    """Lloyd's rounds."""
    for _ in range(_ROUNDS):
        label = (views @ chosen.T).argmax(1)
        total = np.stack([np.bincount(label, views[:, axis], len(chosen)) for axis in range(3)], 1)
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
