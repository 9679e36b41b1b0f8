"""The coarse mesh of a sparse structure."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from scenegen.generator.meshing.coarse import coarse_mesh, mean_colour
from scenegen.scene import View
from scenegen.synthetic import make_object

GREEN = np.array([20, 200, 40], dtype=np.uint8)


def distance(resolution: int, centre: tuple[float, float, float] = (0, 0, 0)) -> np.ndarray:
    axis = (np.arange(resolution) + 0.5) / resolution - 0.5
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1) - np.array(centre)
    return np.linalg.norm(grid, axis=-1).astype(np.float32)


def test_a_ball_keeps_its_place_size_and_colour() -> None:
    mesh = coarse_mesh(0.2 - distance(32, (0.1, -0.2, 0.05)), GREEN)
    assert mesh is not None and mesh.is_watertight
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * 0.2**3, rel=0.03)
    assert mesh.center_mass == pytest.approx([0.1, -0.2, 0.05], abs=0.005)
    assert (np.asarray(mesh.visual.vertex_colors) == [20, 200, 40, 255]).all()


def test_a_shell_becomes_solid() -> None:
    shell = np.float32(0.04) - np.abs(distance(32) - np.float32(0.35))
    mesh = coarse_mesh(shell, GREEN)
    assert mesh is not None and mesh.body_count == 1
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * 0.39**3, rel=0.05)


def test_specks_of_noise_are_left_out() -> None:
    ball = np.float32(0.2) - distance(32)
    noisy = ball.copy()
    far = np.argwhere(distance(32) > 0.4)
    for speck in np.random.default_rng(0).choice(far, 30, replace=False):
        noisy[tuple(speck)] = 2.0
    mesh, clean = coarse_mesh(noisy, GREEN), coarse_mesh(ball, GREEN)
    assert mesh is not None and clean is not None and mesh.body_count == 1
    assert mesh.bounds == pytest.approx(clean.bounds)
    assert mesh.volume == pytest.approx(clean.volume)


def test_an_object_of_two_parts_stays_whole() -> None:
    seat, foot = np.float32(0.2) - distance(32, (0, 0, 0.2)), np.float32(0.12) - distance(32, (0, 0, -0.3))
    mesh = coarse_mesh(np.maximum(seat, foot), GREEN)
    assert mesh is not None and mesh.body_count == 2
    assert mesh.bounds[:, 2] == pytest.approx([-0.42, 0.4], abs=0.01)


def test_a_noisy_true_grid_comes_out_as_the_clean_one() -> None:
    rng = np.random.default_rng(3)
    for family in ("mug", "chair", "lamp", "table"):
        truth = make_object(rng, family).occupancy(32)
        touched = ndimage.binary_dilation(truth, np.ones((3, 3, 3)))
        specks = (rng.random(truth.shape) < 0.002) & ~touched
        noisy, clean = (coarse_mesh(np.where(o, 2.0, -2.0).astype(np.float32), GREEN) for o in (truth | specks, truth))
        assert noisy is not None and clean is not None and specks.any()
        assert noisy.volume == pytest.approx(clean.volume, rel=1e-3), family
        assert noisy.bounds == pytest.approx(clean.bounds, abs=1e-6), family


def test_the_surface_closes_on_the_box() -> None:
    mesh = coarse_mesh(np.full((8, 8, 8), 3, dtype=np.float32), GREEN)
    assert mesh is not None and mesh.is_watertight and mesh.volume == pytest.approx(1, rel=0.1)
    assert mesh.bounds == pytest.approx(np.array([[-0.5] * 3, [0.5] * 3]))


def test_logits_of_exactly_zero_leave_no_broken_faces() -> None:
    logits = np.where(distance(16) < 0.3, np.float32(1), np.float32(0))
    mesh = coarse_mesh(logits, GREEN)
    assert mesh is not None and mesh.is_watertight and (mesh.area_faces > 0).all()
    assert np.isfinite(mesh.vertices).all()


def test_nothing_occupied_is_no_mesh() -> None:
    assert coarse_mesh(np.full((8, 8, 8), -1, dtype=np.float32), GREEN) is None


def test_mean_colour_is_over_all_views() -> None:
    masks = np.array([[1, 2], [0, 1]], dtype=np.int32)
    dark, light = (View(np.full((2, 2, 3), value, dtype=np.uint8), masks) for value in (10, 30))
    assert mean_colour([dark, light], 1).tolist() == [20, 20, 20]
