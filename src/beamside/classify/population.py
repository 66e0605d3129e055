"""All particles of a run: their batches, optics and centres, and their pixels on demand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from beamside.optics.ctf import CtfParams
from beamside.run.engine import Batch


class Population:
    """Particles in ledger order. Those whose pixels are not finite, or all equal, are set aside."""

    def __init__(self, use_ctf: bool) -> None:
        self._use_ctf = use_ctf
        self._batches: list[Batch] = []
        self._starts = [0]
        self._params: CtfParams | None = None
        self.group = torch.zeros(0, dtype=torch.int64)
        self.centres_px = torch.zeros(0, 2)
        self.usable = torch.zeros(0, dtype=torch.bool)

    def __len__(self) -> int:
        return self._starts[-1]

    def append(self, batch: Batch, usable: NDArray[np.bool_]) -> None:
        """More particles; `usable` says which have good pixels."""
        self._batches.append(batch)
        self._starts.append(len(self) + len(batch))
        group = torch.as_tensor(batch.columns["optics_group"], dtype=torch.int64) - 1
        self.group = torch.cat([self.group, group])
        self.centres_px = torch.cat([self.centres_px, torch.zeros(len(batch), 2)])
        self.usable = torch.cat([self.usable, torch.as_tensor(usable)])
        if self._use_ctf:
            more = CtfParams.from_columns(batch.columns)
            self._params = more if self._params is None else _joined(self._params, more)

    @property
    def rows(self) -> Tensor:
        """Numbers of the usable particles."""
        return self.usable.nonzero()[:, 0]

    def keys(self, rows: Sequence[int]) -> list[str]:
        """Identities of some particles."""
        where = np.searchsorted(self._starts, np.asarray(rows), side="right") - 1
        return [self._batches[b].keys[row - self._starts[b]] for b, row in zip(where.tolist(), rows, strict=True)]

    def params(self, rows: Tensor) -> CtfParams | None:
        """CTF of some particles; None in a run without CTF."""
        return None if self._params is None else self._params.take(rows.numpy())

    def images(self, rows: Tensor) -> Tensor:
        """Pixels (k, n, n) of usable particles, read again."""
        numbers = rows.numpy()
        where = np.searchsorted(self._starts, numbers, side="right") - 1
        parts = []
        for b in np.unique(where).tolist():
            own = where == b
            parts.append((own, self._batches[b].load(numbers[own] - self._starts[b])))
        if len(parts) == 1:
            return torch.as_tensor(parts[0][1], dtype=torch.float32)
        images = torch.empty(len(numbers), *parts[0][1].shape[1:])
        for own, found in parts:
            images[torch.as_tensor(own)] = torch.as_tensor(found, dtype=torch.float32)
        return images


def _joined(first: CtfParams, second: CtfParams) -> CtfParams:
    names = list(CtfParams.__dataclass_fields__)
    return CtfParams(*(np.concatenate([getattr(first, n), getattr(second, n)]) for n in names))


def good_pixels(images: NDArray[np.float32]) -> NDArray[np.bool_]:
    """(k,): every pixel finite, and not all of them equal."""
    flat = images.reshape(len(images), -1)
    with np.errstate(invalid="ignore", over="ignore"):
        spread = flat.max(1) - flat.min(1)
    good: NDArray[np.bool_] = np.isfinite(flat).all(1) & np.isfinite(spread) & (spread > 0)
    return good
