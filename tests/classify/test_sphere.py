"""Harmonics, slices and the volume behind them, against independent code and closed forms."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import special

from beamside.classify import atlas, cells, sphere, volume
from beamside.classify.groups import Held, Near
from beamside.classify.slices import Latitudes, Slices
from beamside.optics.rotation import euler_matrix
from beamside.simulate.structures import random_rotation

DEGREE, ORDERS = 6, 9


def frames(count: int, seed: int = 0) -> sphere.Array:
    generator = np.random.default_rng(seed)
    return np.stack([random_rotation(generator) for _ in range(count)])


def unit(count: int) -> sphere.Array:
    """Random directions."""
    points = np.random.default_rng(2).normal(size=(count, 3))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def even(count: int, seed: int = 0) -> Latitudes:
    return Latitudes.even(count, np.random.default_rng(seed))


def test_harmonics_are_those_of_scipy() -> None:
    """Real ones from scipy's complex ones, up to the sign convention of each order."""
    points = unit(50)
    ours = sphere.real_harmonics(DEGREE, points)
    polar, azimuth = np.arccos(points[:, 2]), np.arctan2(points[:, 1], points[:, 0])
    legendre = special.sph_harm_y if hasattr(special, "sph_harm_y") else None
    for degree in range(DEGREE + 1):
        for m in range(degree + 1):
            if legendre is not None:
                theirs = legendre(degree, m, polar, azimuth)
            else:
                theirs = special.sph_harm(m, degree, azimuth, polar)
            factor = 1.0 if m == 0 else math.sqrt(2)
            assert np.allclose(ours[:, degree**2 + degree + m], factor * theirs.real, atol=1e-10)
            if m:
                assert np.allclose(ours[:, degree**2 + degree - m], factor * theirs.imag, atol=1e-10)


def test_slices_are_the_transform_on_great_circles() -> None:
    """A density of points has a transform in closed form; its harmonics are found by quadrature on the sphere."""
    generator = np.random.default_rng(1)
    places, weights = generator.normal(size=(5, 3)) * 0.4, generator.random(5)
    radius = 0.6

    def transform(at: sphere.Array) -> np.ndarray:
        return (np.exp(-2j * np.pi * radius * at @ places.T) * weights).sum(-1)

    degree = 18
    nodes, node_weights = np.polynomial.legendre.leggauss(32)
    azimuth = np.arange(64) * 2 * np.pi / 64
    sine = np.sqrt(1 - nodes**2)
    grid = np.stack(
        [sine[:, None] * np.cos(azimuth), sine[:, None] * np.sin(azimuth), np.broadcast_to(nodes[:, None], (32, 64))],
        -1,
    )
    area = node_weights[:, None] * np.full(64, 2 * np.pi / 64)
    y = sphere.real_harmonics(degree, grid.reshape(-1, 3))
    found = (y * (transform(grid.reshape(-1, 3)) * area.flatten())[:, None]).sum(0)
    of = np.repeat(np.arange(degree + 1), 2 * np.arange(degree + 1) + 1)
    plain = np.where(of % 2 == 0, found.real, found.imag)
    assert np.allclose(np.where(of % 2 == 0, found.imag, found.real), 0, atol=1e-10), "the density is real"
    views = even(30)
    slices = Slices.along(views, ORDERS, degree)
    harmonics = torch.as_tensor(np.concatenate([plain[of % 2 == 0], plain[of % 2 == 1]])).float()[:, None]
    got = slices.project(harmonics)[..., 0].numpy()
    theta = np.arange(128) * 2 * np.pi / 128
    ring = np.cos(theta)[:, None] * views.frames[:, None, 0] + np.sin(theta)[:, None] * views.frames[:, None, 1]
    expected = np.fft.fft(transform(ring), axis=1, norm="forward")[:, :ORDERS]
    expected[:, 1:] *= math.sqrt(2)
    assert np.abs(got - expected).max() < 1e-5


def test_adjoint_is_the_adjoint() -> None:
    slices = Slices.along(even(12), ORDERS, DEGREE)
    x = torch.randn(len(slices.degrees), 3)
    y = torch.randn(len(slices), ORDERS, 3, dtype=torch.complex64)
    left = (slices.project(x).conj() * y).sum().real
    right = (x * slices.adjoint(y)).sum()
    assert abs(float(left - right)) < 1e-4 * float(x.norm() * y.abs().norm())
    weight = torch.rand(len(slices), 3)
    diagonal = slices.power(weight)
    for p in range(len(x)):
        one = torch.zeros_like(x)
        one[p] = 1.0
        normal = slices.adjoint(slices.project(one) * weight[:, None])[p]
        assert torch.allclose(normal, diagonal[p], rtol=1e-4, atol=1e-5)


def test_a_turned_image_has_the_frame_it_is_given() -> None:
    """psi turns the frame as RELION's Euler angles do, and `twist` undoes `turned_frames`."""
    alpha = np.array([0.3, -1.2, 2.9])
    upright = frames(3)
    turned = sphere.turned_frames(upright, alpha)
    assert np.allclose(sphere.twist(turned, upright), alpha)
    assert np.allclose(np.linalg.det(turned), 1)
    base, spun = euler_matrix(20.0, 40.0, 0.0), euler_matrix(20.0, 40.0, 30.0)
    assert np.allclose(sphere.turned_frames(base[None], np.radians([-30.0]))[0], spun)


def test_directions_cover_the_sphere_evenly() -> None:
    views = even(200)
    points = views.frames[:, 2]
    assert abs(len(views) - 200) < 10 and np.allclose(views.frames @ views.frames.swapaxes(1, 2), np.eye(3))
    assert np.allclose(np.linalg.det(views.frames), 1)
    apart = math.sqrt(4 * math.pi / 200)
    nearest = np.sort(np.arccos(np.clip(points @ points.T, -1, 1)), 1)[:, 1]
    assert np.quantile(nearest, 0.05) > 0.6 * apart and np.allclose(points.mean(0), 0, atol=2e-2)
    assert np.arccos((unit(500) @ points.T).max(1)).max() < apart, "no place is far from all of them"


def test_mean_rotation_of_two_is_half_way() -> None:
    base = np.stack([euler_matrix(0.0, 0.0, 0.0), euler_matrix(0.0, 0.0, 40.0)])
    assert np.allclose(sphere.mean_rotation(base[None], np.ones((1, 2)))[0], euler_matrix(0.0, 0.0, 20.0))


def test_a_volume_is_solved_from_its_slices_and_carried_to_others() -> None:
    slices = Slices.along(even(60), ORDERS, DEGREE)
    degrees = torch.tensor([3, 6])
    truth = torch.randn(len(slices.degrees), 2) * (slices.degrees[:, None] <= degrees)
    weight = torch.full((len(slices), 2), 1e3)
    found = None
    for _ in range(4):
        sums = slices.project(truth) * weight[:, None]
        found = volume.solve(slices, sums, weight, degrees, torch.ones(2), found)
    assert found is not None and (found.harmonics - truth).norm() < 2e-2 * truth.norm()
    finer = Slices.along(even(20, 3), ORDERS + 2, DEGREE + 2)
    there = volume.carried(found, finer, torch.tensor([4.0, 1.0, 1.0]))
    coarse = Slices.along(even(20, 3), ORDERS, DEGREE)
    expected = coarse.project(found.harmonics) * torch.tensor([2.0, 1.0])
    assert torch.allclose(finer.project(there.harmonics)[:, :ORDERS, :2], expected, atol=1e-4)


def test_cells_find_separate_views_and_place_particles() -> None:
    middles = np.array([[0, 0, 1.0], [1, 0, 0], [0, -1, 0]])
    generator = np.random.default_rng(2)
    views = np.repeat(middles, 40, 0) + 0.1 * generator.normal(size=(120, 3))
    views /= np.linalg.norm(views, axis=1, keepdims=True)
    centres = cells.centres(views, 3, generator)
    assert np.allclose(np.sort((centres @ middles.T).max(1)), 1, atol=2e-2)
    upright = sphere.frames_along(centres)
    label, alpha = cells.placed(sphere.turned_frames(upright, np.array([0.5, -0.5, 3.0])), upright)
    assert label.tolist() == [0, 1, 2] and np.allclose(alpha.numpy(), [0.5, -0.5, 3.0], atol=1e-6)


def test_cells_follow_more_particles_and_stay_what_they_were() -> None:
    """Each goes to the middle of its particles, and its image turns no more than a shift along the sphere asks."""
    generator = np.random.default_rng(3)
    before = sphere.turned_frames(sphere.frames_along(np.eye(3)), np.array([0.4, -2.0, 1.0]))
    middles = before[:, 2] + 0.15 * before[:, 0]
    views = np.repeat(middles, 200, 0) + 0.02 * generator.normal(size=(600, 3))
    after = cells.moved(views / np.linalg.norm(views, axis=1, keepdims=True), before)
    assert np.allclose(after @ after.swapaxes(1, 2), np.eye(3)) and np.allclose(np.linalg.det(after), 1)
    assert np.allclose(after[:, 2], middles / np.linalg.norm(middles, axis=1, keepdims=True), atol=1e-2)
    turned = np.degrees(np.arccos(np.clip((np.trace(after @ before.swapaxes(1, 2), axis1=1, axis2=2) - 1) / 2, -1, 1)))
    assert np.allclose(turned, np.degrees(np.arctan(0.15)), atol=0.5), "no more than the directions moved"


def test_more_cells_than_views_are_still_directions() -> None:
    """Particles that all look from one side: no cell is lost or not a number."""
    centres = cells.centres(np.tile([[0.0, 0.0, 1.0]], (5, 1)), 3, np.random.default_rng(0))
    assert np.isfinite(centres).all() and len(centres) == 3


def test_every_particle_is_seen_once_before_any_is_seen_again() -> None:
    rows = torch.arange(100, 150)
    sizes = [20, 20, 20, 20, 20]
    seen = torch.cat([atlas.batch_of(rows, sizes, i, 7) for i in range(5)])
    assert torch.bincount(seen - 100).max() == 2 and len(seen.unique()) == 50
    assert torch.equal(atlas.batch_of(rows, sizes, 3, 7), atlas.batch_of(rows, sizes, 3, 7))


def test_held_particles_are_grouped_by_what_they_may_have() -> None:
    """A class of its own for each label, the classes beyond the regular ones for -1, nothing for nobody."""
    groups = Held(torch.tensor([2, -1, 0, 2, -1, 0]), 3).groups(torch.tensor([0, 1, 3, 4]), 5)
    found = {tuple([] if g.classes is None else g.classes.tolist()): g.rows.tolist() for g in groups}
    assert found == {(2,): [0, 3], (3, 4): [1, 4]}


def test_particles_are_searched_around_the_view_they_have() -> None:
    """Every particle is in one group, with all views within the margin of its own and none from the other side."""
    views = even(300, 5).frames[:, 2]
    label = torch.as_tensor(np.random.default_rng(0).integers(0, len(views), 2000))
    rows = torch.arange(100, 2000)
    groups = Near(label, views).groups(rows, len(views))
    assert torch.equal(torch.cat([g.rows for g in groups]).sort().values, rows)
    for group in groups:
        assert group.classes is not None
        cosine = views[label[group.rows].numpy()] @ views.T
        there = np.isin(np.arange(len(views)), group.classes.numpy())
        assert there[(cosine > math.cos(math.radians(30))).any(0)].all()
        assert cosine[:, there].min() > math.cos(math.radians(30 + 4 * 21)) and there.mean() < 0.35
    assert Near(label, views).groups(rows[:50], len(views))[0].classes is None, "few particles are searched everywhere"
