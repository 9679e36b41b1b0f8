"""Metrics on shapes whose answers are known by hand; voxels of meshes; errors modulo symmetry."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh
from scipy.spatial.transform import Rotation

from scenegen.evaluation.metrics import (
    box_iou,
    chamfer,
    f_score,
    nearest_distances,
    normalise_object,
    normalise_scene,
    sample_surface,
    voxel_iou,
)
from scenegen.evaluation.symmetry import placement_errors, rotation_error_deg, symmetric_voxel_iou
from scenegen.evaluation.voxels import voxelise
from scenegen.scene import Floats, InvalidInput
from scenegen.synthetic import FAMILIES, make_object


def square(z: float, count: int = 4000) -> Floats:
    points = np.random.default_rng(0).uniform(-1, 1, (count, 3))
    points[:, 2] = z
    return points


def yaw(degrees: float) -> Floats:
    T = np.eye(4)
    T[:3, :3] = Rotation.from_euler("z", degrees, degrees=True).as_matrix()
    return T


def at(x: float, y: float, z: float, degrees: float = 0, scale: float = 1) -> Floats:
    T = yaw(degrees)
    T[:3, :3] *= scale
    T[:3, 3] = x, y, z
    return T


def test_samples_lie_on_the_surface_evenly_by_area_and_the_same_again() -> None:
    box = trimesh.creation.box((1.0, 2.0, 4.0))
    points = sample_surface(box, 20_000, seed=3)
    assert np.abs(np.abs(points / [0.5, 1, 2]).max(1) - 1).max() < 1e-9
    on_x = np.isclose(np.abs(points[:, 0]), 0.5).mean()
    assert on_x == pytest.approx(16 / 28, abs=0.02)
    assert np.abs(points.mean(0)).max() < 0.03
    assert (points == sample_surface(box, 20_000, seed=3)).all()
    assert (points != sample_surface(box, 20_000, seed=4)).any()


def test_a_mesh_without_surface_is_a_point() -> None:
    line = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [2, 0, 0]], [[0, 1, 2]], process=False)
    assert (sample_surface(line, 5) == [1, 0, 0]).all()


def test_parallel_squares() -> None:
    near, far = nearest_distances(square(0.0), square(0.05)), nearest_distances(square(0.0), square(0.2))
    assert chamfer(*near) == pytest.approx(2 * 0.05**2, rel=1e-6) and f_score(*near) == 100
    assert chamfer(*far) == pytest.approx(2 * 0.2**2, rel=1e-6) and f_score(*far) == 0


def test_f_score_is_the_harmonic_mean() -> None:
    half = np.concatenate([square(0.0), square(5.0)])  # half of it is right, all of the truth is covered
    assert f_score(*nearest_distances(half, square(0.0))) == pytest.approx(200 * 0.5 / 1.5)


def test_box_iou() -> None:
    cube = np.array([[0.0, 0, 0], [1, 1, 1]])
    assert box_iou(cube, cube + [0.5, 0, 0]) == pytest.approx(1 / 3)
    assert box_iou(cube, cube + 2) == 0
    assert box_iou(cube[:1], cube[:1]) == 0


def test_voxel_iou() -> None:
    a, b = np.zeros((2, 4, 4, 4), dtype=bool)
    assert voxel_iou(a, b) == 1
    a[:2], b[1:3] = True, True
    assert voxel_iou(a, b) == pytest.approx(1 / 3)
    with pytest.raises(InvalidInput, match="one resolution"):
        voxel_iou(a, b[:2])


def test_normalising_forgets_offset_and_scale() -> None:
    rng = np.random.default_rng(0)
    objects = [rng.normal(size=(50, 3)), rng.normal(size=(50, 3)) + 3]
    first, again = normalise_scene(objects), normalise_scene([7 * points + [1, 2, 3] for points in objects])
    assert all(np.allclose(a, b) for a, b in zip(first, again, strict=True))
    merged = np.concatenate(first)
    assert np.ptp(merged, axis=0).max() == pytest.approx(1.96) and np.allclose(merged.min(0), -merged.max(0))
    one = normalise_object(objects[0] * [1, 10, 100])
    assert np.allclose(one, normalise_object(objects[0]))
    assert np.allclose([one.min(0), one.max(0)], [[-0.95] * 3, [0.95] * 3])
    assert np.isfinite(normalise_object(square(0.3))).all()
    with pytest.raises(InvalidInput, match="one single point"):
        normalise_scene([np.ones((4, 3))])


def test_voxels_of_boxes_and_balls() -> None:
    assert voxelise(trimesh.creation.box((1.0, 1.0, 1.0)), 16).all()
    grid = voxelise(trimesh.creation.box((0.5, 0.25, 1.0)).apply_translation((0.25, 0, 0)), 16)
    expected = np.zeros((16,) * 3, dtype=bool)
    expected[8:, 6:10] = True
    assert (grid == expected).all()
    centres = np.stack(np.meshgrid(*[(np.arange(32) + 0.5) / 32 - 0.5] * 3, indexing="ij"), axis=-1)
    ball = voxelise(trimesh.creation.icosphere(4, 0.4), 32)
    assert voxel_iou(ball, np.linalg.norm(centres, axis=-1) < 0.4) > 0.97


@pytest.mark.parametrize("family", FAMILIES)
def test_voxels_of_a_mesh_of_overlapping_parts_are_its_occupancy(family: str) -> None:
    made = make_object(np.random.default_rng(5), family)
    assert voxel_iou(voxelise(made.mesh(), 32), made.occupancy(32)) > 0.8


def test_rotation_errors_modulo_symmetry() -> None:
    def error(degrees: float, symmetry: int) -> float:
        return float(rotation_error_deg(yaw(degrees)[:3, :3], np.eye(3), symmetry))

    assert error(170, 1) == pytest.approx(170)
    assert error(170, 2) == pytest.approx(10)
    assert error(100, 4) == pytest.approx(10)
    assert error(123, 0) == pytest.approx(0)
    tilted = Rotation.from_euler("x", 20, degrees=True).as_matrix()
    assert rotation_error_deg(tilted, np.eye(3), 0) == pytest.approx(20)


@pytest.mark.parametrize(("query_symmetry", "turn"), [(1, 0), (2, 180), (4, 270), (0, 77.7)])
def test_the_query_may_be_any_of_its_equals(query_symmetry: int, turn: float) -> None:
    truth = np.stack([at(0, 0, 0), at(2, 0, 0, 30, 2), at(0, -1, 0.2, 45, 0.5)])
    generated = yaw(turn) @ truth
    generated[0] = np.eye(4)
    errors = placement_errors(generated, truth, 0, [query_symmetry, 1, 1])
    assert errors.translation.max() < 1e-9 and errors.rotation_deg.max() < 1e-6
    assert errors.scale_ratio.max() < 1e-9
    assert np.allclose(errors.T_turn, yaw(turn))


def test_a_query_without_symmetry_is_held_to_its_frame() -> None:
    truth = np.stack([at(0, 0, 0), at(2, 0, 0)])
    errors = placement_errors(yaw(180) @ truth, truth, 0, [1, 1])
    assert errors.translation[1] == pytest.approx(4) and errors.rotation_deg[1] == pytest.approx(180)


def test_placement_errors_are_what_they_say() -> None:
    truth = np.stack([at(0, 0, 0), at(2, 0, 0, 10, 2.0)])
    errors = placement_errors(np.stack([at(0, 0, 0), at(2, 0.3, 0.4, 25, 1.6)]), truth, 0, [1, 1])
    assert errors.translation[1] == pytest.approx(0.5)
    assert errors.rotation_deg[1] == pytest.approx(15)
    assert errors.scale_ratio[1] == pytest.approx(0.25)


def test_voxels_are_compared_in_the_best_equal_yaw() -> None:
    grid = np.zeros((8, 8, 8), dtype=bool)
    grid[:3, 2:4] = True
    turned = np.rot90(grid, 2)
    assert symmetric_voxel_iou(turned, grid, 2) == 1 == symmetric_voxel_iou(np.rot90(grid), grid, 4)
    assert symmetric_voxel_iou(turned, grid, 1) < 0.2
    assert symmetric_voxel_iou(np.rot90(grid), grid, 2) < 0.5
