"""Procedural objects: their SDF, mesh, occupancy, colour and symmetry tell the same story."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh
from scipy import ndimage
from scipy.spatial import cKDTree

from scenegen.scene import InvalidInput
from scenegen.synthetic import FAMILIES, ProceduralObject, make_object
from scenegen.synthetic.parts import Arc, Box, Revolved

TESSELLATION = 0.004  # asset units between a round part and its mesh


def some(family: str, count: int = 2) -> list[ProceduralObject]:
    rng = np.random.default_rng(abs(hash_of(family)))
    return [make_object(rng, family) for _ in range(count)]


def hash_of(name: str) -> int:
    return int.from_bytes(name.encode()[:6], "little")


def visible_surface(made: ProceduralObject, count: int) -> np.ndarray:
    """Points on the mesh that no part covers."""
    points, _ = trimesh.sample.sample_surface(made.mesh(), count, seed=0)
    return points[made.sdf(points) > -TESSELLATION]


def test_there_are_enough_families() -> None:
    assert len(FAMILIES) >= 14 and len(set(FAMILIES)) == len(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_fills_its_canonical_box_with_closed_parts(family: str) -> None:
    for made in some(family):
        mesh = made.mesh()
        assert made.extents.max() == pytest.approx(1.0)
        np.testing.assert_allclose(made.bounds.sum(0), 0.0, atol=1e-12)
        np.testing.assert_allclose(mesh.bounds, made.bounds, atol=1e-9)
        assert mesh.is_watertight and mesh.is_winding_consistent
        assert mesh.visual.vertex_colors.dtype == np.uint8 and len(mesh.visual.vertex_colors) == len(mesh.vertices)
        for part in made.parts:
            alone = ProceduralObject(family, (part,), 1).mesh()
            assert alone.volume > 0
            inside = part.sdf(np.random.default_rng(0).uniform(*part.bounds, (20_000, 3))) < 0
            assert inside.mean() * np.prod(np.ptp(part.bounds, axis=0)) == pytest.approx(alone.volume, rel=0.08)


@pytest.mark.parametrize("family", FAMILIES)
def test_sdf_is_the_distance_to_the_mesh(family: str) -> None:
    made = some(family, 1)[0]
    surface = visible_surface(made, 15_000)
    assert np.abs(made.sdf(surface)).max() < 1.5 * TESSELLATION
    points = np.random.default_rng(1).uniform(-0.7, 0.7, (1000, 3))
    outside = points[made.sdf(points) > 0.02]
    distance, _ = cKDTree(surface).query(outside)
    np.testing.assert_allclose(made.sdf(outside), distance, atol=0.035)  # the sampling is about two hundredths apart


@pytest.mark.parametrize("family", FAMILIES)
def test_occupancy_is_the_sdf_at_voxel_centres_and_keeps_every_part(family: str) -> None:
    for made in some(family):
        occupied = made.occupancy(32)
        centre = (np.arange(32) + 0.5) / 32 - 0.5
        grid = np.stack(np.meshgrid(centre, centre, centre, indexing="ij"), axis=-1)
        np.testing.assert_array_equal(occupied, made.sdf(grid) <= 0)
        assert ndimage.label(occupied, np.ones((3, 3, 3)))[1] == 1
        for part in made.parts:
            assert (part.sdf(grid) <= 0).any()


@pytest.mark.parametrize("family", FAMILIES)
def test_yaw_symmetry_holds_and_is_not_more_than_stated(family: str) -> None:
    points = np.random.default_rng(2).uniform(-0.5, 0.5, (1500, 3))
    for made in some(family):

        def turned(order: float) -> np.ndarray:
            angle = 2 * np.pi / order
            R = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
            return points @ R.T

        order = made.symmetry or 7.3
        np.testing.assert_allclose(made.sdf(turned(order)), made.sdf(points), atol=1e-9)
        different = (made.colour(turned(order)) != made.colour(points)).any(1)
        assert different.mean() < 0.01  # ties between parts may fall either way
        if made.symmetry:
            twice = 2 * made.symmetry
            same_shape = np.allclose(made.sdf(turned(twice)), made.sdf(points), atol=1e-3)
            assert not same_shape


@pytest.mark.parametrize("family", FAMILIES)
def test_no_two_colours_share_a_face(family: str) -> None:
    for made in some(family, 6):
        for part in made.parts:
            corners, normals = part.triangles.corners, part.triangles.normals
            weights = np.random.default_rng(3).dirichlet(np.ones(3), (len(corners), 8))
            points = np.einsum("fkc,fcx->fkx", weights, corners).reshape(-1, 3)
            normal = np.repeat(normals.mean(1), 8, axis=0)
            looked_at = (normal[:, 2] > -0.9) & (made.sdf(points) > -1e-6)  # undersides are never seen
            for other in made.parts:
                if other.colour == part.colour:
                    continue
                shared = (np.abs(other.sdf(points)) < 1e-6) & (other.sdf(points + 1e-3 * normal) > 0.9e-3)
                assert not (shared & looked_at).any()


def test_colour_is_that_of_the_nearest_part() -> None:
    low = Box.between((-0.2, -0.2, -0.5), (0.2, 0.2, 0.0), (255, 0, 0))
    high = Box.between((-0.2, -0.2, 0.1), (0.2, 0.2, 0.5), (0, 0, 255))
    made = ProceduralObject("two", (low, high), 4)
    colours = made.colour(np.array([[0.3, 0, -0.1], [0, 0, 0.04], [0, 0, 0.06]]))
    np.testing.assert_array_equal(colours, [[255, 0, 0], [255, 0, 0], [0, 0, 255]])


def test_parts_have_exact_distances() -> None:
    cylinder = Revolved(np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 2.0], [0.0, 2.0]]), (1, 2, 3), np.array([5.0, 0.0]))
    at = np.array([[5.0, 0.0, 1.0], [7.0, 0.0, 1.0], [5.0, 0.0, 5.0], [5.0, 4.0, 6.0], [5.5, 0.0, 1.0]])
    np.testing.assert_allclose(cylinder.sdf(at), [-1.0, 1.0, 3.0, 5.0, -0.5])
    box = Box.between((0, 0, 0), (2, 4, 6), (1, 2, 3))
    np.testing.assert_allclose(box.sdf(np.array([[1, 2, 3], [5, 8, 3], [1, 2, 7]])), [-1.0, 5.0, 1.0])
    half_ring = Arc(np.zeros(3), np.eye(3)[0], np.eye(3)[2], 1.0, np.pi / 2, 0.1, (1, 2, 3))
    at = np.array([[0, 0, 1.0], [0, 0, 3.0], [1.0, 0, -1.0], [0, 0, 0]])
    np.testing.assert_allclose(half_ring.sdf(at), [-0.1, 1.9, 0.9, 0.9])


def test_an_unknown_family_is_named() -> None:
    with pytest.raises(InvalidInput, match="hovercraft"):
        make_object(np.random.default_rng(0), "hovercraft")
