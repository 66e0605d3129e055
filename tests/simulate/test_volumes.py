from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from beamside.errors import OptionError
from beamside.formats.mrc import write_map
from beamside.simulate.volumes import BUILT_IN, density, load_volume, resample_volume, walk_atoms


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_built_in_maps_are_the_same_every_time_and_centred(name: str) -> None:
    volume, pixel_size_A = load_volume(name, 48, 6.0)
    assert pixel_size_A == 6.0 and volume.shape == (48,) * 3 and volume.std() == pytest.approx(1.0, rel=1e-4)
    assert np.array_equal(volume, load_volume(name, 48, 6.0)[0])
    axis = np.arange(48) - 24
    for axes in ((1, 2), (0, 2), (0, 1)):
        profile = volume.sum(axis=axes)
        assert abs((profile * axis).sum() / profile.sum()) < 1.0


def test_the_walk_is_a_large_complex_without_symmetry() -> None:
    atoms, _ = walk_atoms()
    extent = np.sort(np.ptp(atoms, axis=0))
    assert extent[0] > 150 and 200 < extent[2] < 300
    volume, _ = load_volume("walk", 48, 6.0)
    for other in (volume[::-1, ::-1], volume[:, ::-1, ::-1], volume[::-1, :, ::-1], volume[::-1, ::-1, ::-1]):
        other = np.roll(other, 1, axis=(0, 1, 2))
        assert np.corrcoef(volume.ravel(), other.ravel())[0, 1] < 0.95


def test_an_atom_lies_where_it_was_put() -> None:
    volume = density(np.array([[10.0, -20.0, 30.0]]), np.array([2.0]), 16, 5.0)
    assert np.unravel_index(volume.argmax(), volume.shape) == (8 + 6, 8 - 4, 8 + 2)
    assert volume.max() == pytest.approx(2.0)


def test_resampling_as_the_benchmark_does(cls_common: ModuleType) -> None:
    volume = density(*walk_atoms(), 65, 5.0)
    for box_px, pixel_size_A in ((48, 6.0), (64, 5.0), (80, 4.1)):
        found, actual = resample_volume(volume, 5.0, box_px, pixel_size_A)
        expected, expected_A = cls_common.resample_volume(volume, 5.0, box_px, pixel_size_A)
        assert actual == pytest.approx(expected_A)
        np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_maps_from_files(tmp_path: Path) -> None:
    write_map(tmp_path / "a.mrc", density(*walk_atoms(), 40, 8.0), 8.0)
    found, actual = load_volume(str(tmp_path / "a.mrc"), 40, 8.0)
    assert actual == pytest.approx(8.0)
    assert np.corrcoef(found.ravel(), load_volume("walk", 40, 8.0)[0].ravel())[0, 1] > 0.999
    write_map(tmp_path / "b.mrc", np.ones((4, 4, 4), dtype=np.float32), 0.0)
    with pytest.raises(OptionError, match="no pixel size"):
        load_volume(str(tmp_path / "b.mrc"), 40, 8.0)
    write_map(tmp_path / "c.mrc", np.ones((4, 4, 6), dtype=np.float32), 1.0)
    with pytest.raises(OptionError, match="not a cube"):
        load_volume(str(tmp_path / "c.mrc"), 40, 8.0)
    write_map(tmp_path / "d.mrc", np.zeros((8, 8, 8), dtype=np.float32), 1.0)
    with pytest.raises(OptionError, match="is empty"):
        load_volume(str(tmp_path / "d.mrc"), 8, 1.0)
    with pytest.raises(OptionError, match="has no pixel size of its own"):
        load_volume("walk", 40, 8.0, 5.0)
