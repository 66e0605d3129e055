"""The bank of shifted probes one image at a time, against the one that is made at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from beamside.ptycho import probe as probes
from beamside.ptycho import shifts
from beamside.ptycho.torch_workshop import bank, unshifted
from tests.ptycho.test_kernels import close, planes_of, wave


@pytest.mark.parametrize("size", [12, 15, 64, 128])
def test_the_bank(size: int) -> None:
    modes, phases = wave(np.random.default_rng(1), 2, size, size), probes.shift_phases(size)
    planes = np.empty((16, 2, 2, size, size), np.float32)
    shifts.Bank(phases).fill(modes, planes)
    wanted = bank(torch.from_numpy(modes), torch.from_numpy(phases)).numpy()
    close(planes, planes_of(wanted, -3))
    assert np.array_equal(planes[0, :, 0], modes.real), "what is not shifted is left as it is"


@pytest.mark.parametrize(("size", "lanes"), [(12, 1), (12, 2), (64, 1), (128, 3)])
def test_its_adjoint(size: int, lanes: int) -> None:
    sums, phases = wave(np.random.default_rng(2), lanes, 16, 2, size, size), probes.shift_phases(size)
    found = shifts.Bank(phases).gathered(planes_of(sums, -3))
    close(found, unshifted(torch.from_numpy(sums.sum(0)), torch.from_numpy(phases)).numpy())
