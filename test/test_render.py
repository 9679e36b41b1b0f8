"""The ray-casting renderer: pixels, depths and instances against geometry done by hand."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from scenegen.render import Camera, Light, Renderer, Surface, look_at
from scenegen.scene import InvalidInput

CAMERA = Camera.pinhole(160, 120, 150.0)


def coloured_box(extents: tuple[float, float, float], colour: tuple[int, int, int]) -> Surface:
    mesh = trimesh.creation.box(extents)
    mesh.visual.vertex_colors = np.tile(np.array([*colour, 255], np.uint8), (len(mesh.vertices), 1))
    return Surface.from_mesh(mesh)


def at(x: float, y: float, z: float, scale: float = 1.0) -> np.ndarray:
    T = np.diag([scale, scale, scale, 1.0])
    T[:3, 3] = x, y, z
    return T


def test_a_box_covers_exactly_the_pixels_whose_rays_meet_it() -> None:
    renderer = Renderer([coloured_box((1, 1, 1), (255, 0, 0))], [at(0.1, -0.2, 3.0, scale=2.0)])
    image, depth_m, instance = renderer.render(CAMERA, np.eye(4))
    u, v = np.meshgrid(np.arange(160), np.arange(120))
    x, y = (u - 79.5) / 150 * 2.0, (v - 59.5) / 150 * 2.0  # where the ray of (u, v) meets the front face, z = 2
    front = (np.abs(x - 0.1) <= 1.0) & (np.abs(y + 0.2) <= 1.0)
    assert (instance[front] == 1).all() and front.sum() > 1000
    np.testing.assert_allclose(depth_m[front], 2.0, atol=1e-5)
    sides = (instance == 1) & ~front  # the far side is hidden behind the near one from here
    assert not sides.any()
    assert (image[instance == 0] == 255).all() and (depth_m[instance == 0] == 0).all()
    assert (image[front][:, 0] > 0).all() and (image[front][:, 1:] == 0).all()


def test_the_nearer_of_two_surfaces_is_seen_and_barycentrics_give_the_point() -> None:
    surfaces = [coloured_box((4, 4, 0.1), (0, 255, 0)), coloured_box((1, 1, 0.1), (0, 0, 255))]
    renderer = Renderer(surfaces, [at(0, 0, 5), at(0, 0, 3)])
    T = look_at(np.array([1.0, 0.5, -1.0]), np.array([0.0, 0.1, 4.0]))
    hits = renderer.cast(CAMERA, T)
    assert set(np.unique(hits.instance)) == {0, 1, 2}
    met = np.flatnonzero(hits.instance)
    triangle, weights = hits.triangle.reshape(-1)[met], hits.barycentric.reshape(-1, 2)[met]
    weights = np.concatenate([1 - weights.sum(1, keepdims=True), weights], axis=1)
    points = np.einsum("nc,ncx->nx", weights, renderer.corners[triangle])
    np.testing.assert_allclose(points, hits.points(met, hits.depth_m.reshape(-1)[met]), atol=1e-5)
    seen = trimesh.transform_points(points, np.linalg.inv(T))
    v, u = np.divmod(met, 160)
    np.testing.assert_allclose((seen / seen[:, 2:]) @ CAMERA.intrinsics[:2].T, np.stack([u, v], axis=1), atol=1e-3)


def test_what_is_behind_the_camera_or_beside_the_frame_is_not_seen() -> None:
    box = coloured_box((1, 1, 1), (9, 9, 9))
    for pose in (at(0, 0, -3), at(50, 0, 3), at(0, -50, 3)):
        assert not Renderer([box], [pose]).render(CAMERA, np.eye(4))[2].any()
    around = Renderer([coloured_box((6, 6, 6), (9, 9, 9))], [np.eye(4)]).render(CAMERA, np.eye(4))
    assert (around[2] == 1).all()


def test_shadow_rays_are_blocked_by_what_stands_between() -> None:
    renderer = Renderer([coloured_box((1, 1, 1), (9, 9, 9))], [np.eye(4)])
    points = np.array([[0, 0, -2], [3, 0, -2], [0, 0, 0.5]], np.float32)
    up = np.tile(np.array([0, 0, 1], np.float32), (3, 1))
    np.testing.assert_array_equal(renderer.occluded(points, up, np.array([0, 0, 1.0])), [True, False, False])


def test_light_adds_up() -> None:
    light = Light(np.array([0.0, 0.0, 1.0]), ambient=0.5, direct=0.4)
    normals = np.array([[0, 0, 1], [0, 0, 1], [1, 0, 0]], np.float32)
    shaded = light.shade(np.ones((3, 3), np.float32), normals, np.array([True, False, True]))
    np.testing.assert_allclose(shaded[:, 0], [0.9, 0.5, 0.4], atol=1e-6)


def test_finer_pixels_tile_the_coarse_ones() -> None:
    fine = CAMERA.finer(3)
    assert (fine.width, fine.height) == (480, 360)
    middles = fine.directions.reshape(120, 3, 160, 3, 3).mean((1, 3))
    np.testing.assert_allclose(middles, CAMERA.directions, atol=1e-6)


def test_unusable_input_is_named() -> None:
    with pytest.raises(InvalidInput, match="1 surfaces with 2 transforms"):
        Renderer([coloured_box((1, 1, 1), (0, 0, 0))], [np.eye(4), np.eye(4)])
    with pytest.raises(InvalidInput, match="straight up or down"):
        look_at(np.array([0.0, 0, 2]), np.zeros(3))
