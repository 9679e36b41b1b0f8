"""Synthetic scenes: objects stand free on their ground, cameras see them whole, truth and pictures agree."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from scenegen.render import Camera, Light, look_at
from scenegen.scene import InvalidInput
from scenegen.synthetic import (
    SyntheticScene,
    camera_path,
    make_camera,
    make_object,
    make_scene,
    render,
    synthesize,
    true_scene,
    view_of_all,
)
from scenegen.synthetic.depth_noise import add_depth_noise
from scenegen.synthetic.ground import Ground, Pattern
from scenegen.synthetic.scenes import SIZE_RANGE_M

CAMERA = Camera.pinhole(320, 240, 300.0)


def T_world_asset(scene: SyntheticScene, i: int) -> np.ndarray:
    T = scene.T_world_object[i].copy()
    T[:3, :3] *= scene.size_m[i]
    return T


def in_asset(scene: SyntheticScene, i: int, points: np.ndarray) -> np.ndarray:
    return trimesh.transform_points(points, np.linalg.inv(T_world_asset(scene, i)))


def world_points(view_depth: np.ndarray, K: np.ndarray, T: np.ndarray, where: np.ndarray) -> np.ndarray:
    v, u = np.nonzero(where)
    rays = np.stack([u, v, np.ones_like(u)], axis=1) @ np.linalg.inv(K).T
    return trimesh.transform_points(rays * view_depth[where][:, None], T)


def test_the_same_seed_gives_the_same_scene_and_picture() -> None:
    one, two, other = (make_scene(seed) for seed in (5, 5, 6))
    views = [render(scene, CAMERA, camera_path(scene, 2, 1)[1], np.random.default_rng(0)) for scene in (one, two)]
    np.testing.assert_array_equal(views[0].image, views[1].image)
    np.testing.assert_array_equal(views[0].depth_m, views[1].depth_m)
    assert one.T_world_object.tobytes() != other.T_world_object.tobytes()


@pytest.mark.parametrize("seed", range(8))
def test_objects_stand_on_the_ground_and_apart(seed: int) -> None:
    scene = make_scene(seed)
    assert 2 <= len(scene.objects) <= 5
    assert (scene.size_m >= SIZE_RANGE_M[0]).all() and (scene.size_m <= SIZE_RANGE_M[1]).all()
    for i, made in enumerate(scene.objects):
        mesh = made.mesh().apply_transform(T_world_asset(scene, i))
        assert mesh.bounds[0, 2] == pytest.approx(0.0, abs=1e-9)
        points, _ = trimesh.sample.sample_surface(mesh, 1500, seed=0)
        for j in range(len(scene.objects)):
            if j != i:
                assert scene.objects[j].sdf(in_asset(scene, j, points)).min() * scene.size_m[j] > 0.009
        if scene.ground.table is not None:
            along = np.abs(scene.ground.table.along_axes(points.astype(np.float32)))
            assert (along < scene.ground.table.half_m).all()


@pytest.mark.parametrize("seed", range(8))
def test_every_camera_of_a_path_sees_every_object_whole(seed: int) -> None:
    scene = make_scene(seed)
    camera = make_camera(np.random.default_rng(seed))
    for T in camera_path(scene, 6, seed, camera):
        np.testing.assert_allclose(T[:3, :3] @ T[:3, :3].T, np.eye(3), atol=1e-12)
        assert np.linalg.det(T[:3, :3]) == pytest.approx(1.0) and T[2, 0] == pytest.approx(0.0, abs=1e-12)
        assert 20 <= np.rad2deg(np.arcsin(-T[2, 2])) <= 55
        seen = trimesh.transform_points(scene.corners_m().reshape(-1, 3), np.linalg.inv(T))
        pixels = (seen / seen[:, 2:]) @ camera.intrinsics[:2].T
        assert (seen[:, 2] > 0).all() and (pixels > 0).all() and (pixels < [319, 239]).all()


@pytest.mark.parametrize("seed", range(6))
def test_depth_and_masks_lie_on_the_objects(seed: int) -> None:
    scene = make_scene(seed)
    T = camera_path(scene, 1, seed)[0]
    view = render(scene, CAMERA, T)
    assert view.depth_m is not None and view.T_world_camera is not None
    for i, made in enumerate(scene.objects):
        points = world_points(view.depth_m, CAMERA.intrinsics, T, view.masks == i + 1)
        if len(points):
            assert np.abs(made.sdf(in_asset(scene, i, points))).max() < 0.005
    # and where a ray misses every object, nothing of one stands nearer than the ground: samples project into masks
    for i, made in enumerate(scene.objects):
        points, _ = trimesh.sample.sample_surface(made.mesh(), 2000, seed=0)
        seen = trimesh.transform_points(points, np.linalg.inv(T) @ T_world_asset(scene, i))
        u, v = np.rint((seen / seen[:, 2:]) @ CAMERA.intrinsics[:2].T).astype(int).T
        around = [view.masks[v + dv, u + du] for dv in (-1, 0, 1) for du in (-1, 0, 1)]
        assert (np.max(around, axis=0) > 0).all()


def test_ground_depth_is_the_plane() -> None:
    scene = next(s for s in map(make_scene, range(50)) if s.ground.table is None)
    T = camera_path(scene, 1)[0]
    view = render(scene, CAMERA, T)
    assert view.depth_m is not None
    ground = (view.masks == 0) & (view.depth_m > 0)
    assert ground.mean() > 0.3
    heights = world_points(view.depth_m, CAMERA.intrinsics, T, ground)[:, 2]
    assert np.abs(heights).max() < 1e-5


def test_table_depth_is_its_top_its_edge_or_the_floor() -> None:
    scene = next(s for s in map(make_scene, range(50)) if s.ground.table is not None)
    table = scene.ground.table
    assert table is not None
    T = camera_path(scene, 1)[0]
    T[:3, 3] -= T[:3, 2] * 1.5  # step back until the table's edge is in sight
    view = render(scene, CAMERA, T)
    assert view.depth_m is not None
    points = world_points(view.depth_m, CAMERA.intrinsics, T, (view.masks == 0) & (view.depth_m > 0))
    over = (np.abs(table.along_axes(points.astype(np.float32))) <= np.array(table.half_m) + 1e-4).all(1)
    top, floor = np.abs(points[:, 2]) < 1e-4, np.abs(points[:, 2] - scene.ground.floor_m) < 1e-4
    edge = (points[:, 2] > -0.0401) & (points[:, 2] < 0) & ~top
    assert (top | floor | edge).all() and top.sum() > 500 and floor.sum() > 500 and edge.sum() > 20
    assert over[top | edge].all()


def test_a_shadow_falls_where_the_light_is_blocked() -> None:
    made = make_object(np.random.default_rng(0), "can")
    T = np.eye(4)
    T[2, 3] = made.extents[2] * 0.1
    plain = Pattern("plain", ((0.8, 0.8, 0.8), (0.8, 0.8, 0.8)), 0.1, 0.0)
    towards = np.array([1.0, 0.0, 1.0]) / np.sqrt(2)
    scene = SyntheticScene(
        (made,), T[None], np.array([0.2]), Ground(plain, 0.0, None, (1, 1, 1)), Light(towards, 0.4, 0.6), 0
    )
    pose = look_at(np.array([0.0, -0.8, 0.5]), np.zeros(3))  # from the side: the can hides neither spot
    view = render(scene, CAMERA, pose)
    height, radius = made.extents[2] * 0.2, made.extents[0] * 0.1
    middle = np.array([-radius - height / 2, 0.0, 0.0])  # half way along the shadow of a light at 45 degrees
    for point, expected in ((middle, 0.4), (-middle, 0.4 + 0.6 / np.sqrt(2))):
        seen = trimesh.transform_points(point[None], np.linalg.inv(pose))[0]
        u, v = np.rint(CAMERA.intrinsics[:2] @ (seen / seen[2])).astype(int)
        assert view.masks[v, u] == 0
        np.testing.assert_allclose(view.image[v, u], 0.8 * expected * 255, atol=1)


def test_supersampling_changes_colour_at_edges_and_nothing_else() -> None:
    scene = make_scene(3)
    T = camera_path(scene, 1)[0]
    plain, smooth = render(scene, CAMERA, T), render(scene, CAMERA, T, supersample=3)
    np.testing.assert_array_equal(plain.masks, smooth.masks)
    np.testing.assert_array_equal(plain.depth_m, smooth.depth_m)
    changed = np.abs(plain.image.astype(int) - smooth.image).max(-1)
    assert changed.max() > 20 and np.median(changed) <= 1


def test_truth_puts_every_asset_where_it_stands() -> None:
    scene = make_scene(8, count=(4, 4))
    view = view_of_all(scene)
    truth = true_scene(scene, view)
    areas = {i: np.count_nonzero(view.masks == i) for i in view.instance_ids}
    query = truth.assets[truth.query].id
    assert areas[query] == max(areas.values())
    assert [asset.id for asset in truth.assets] == sorted(areas)
    assert truth.placements[truth.query].scale == 1.0
    np.testing.assert_allclose(truth.T_query_asset(truth.query), np.eye(4), atol=1e-12)
    for k, asset in enumerate(truth.assets):
        expected = T_world_asset(scene, asset.id - 1)
        np.testing.assert_allclose(T_world_asset(scene, query - 1) @ truth.T_query_asset(k), expected, atol=1e-12)
        assert asset.label == scene.objects[asset.id - 1].family
    with pytest.raises(InvalidInput, match="9"):
        true_scene(scene, view, [1, 9])


def test_depth_noise_grows_with_distance_and_drops_edges() -> None:
    rng = np.random.default_rng(0)
    for z in (0.5, 1.0, 2.0):
        flat = np.full((200, 200), z, np.float32)
        noisy = add_depth_noise(flat, rng)
        read = noisy[noisy > 0]
        step = z * z / (600 * 0.055) / 16
        assert read.std() == pytest.approx(np.hypot(0.001 + 0.0025 * z * z, step / np.sqrt(12)), rel=0.1)
        assert 0.01 < (noisy == 0).mean() < 0.2
    stairs = np.full((200, 200), 0.6, np.float32)
    stairs[:, 100:] = 1.2
    lost = add_depth_noise(stairs, rng) == 0
    assert lost[:, 99:101].mean() > 0.4 > lost[:, :90].mean()
    assert (add_depth_noise(np.full((50, 50), 9.0, np.float32), rng) == 0).all()


def test_written_scenes_read_back(tmp_path: Path) -> None:
    folders = synthesize(3, 2, tmp_path / "a")
    again = synthesize(3, 1, tmp_path / "b")
    assert [f.name for f in folders] == ["scene_0000", "scene_0001"]
    for folder, twin in zip(folders, again, strict=False):
        names = {"image.png", "masks.png", "depth.png", "camera.json", "truth.glb", "truth.json"}
        assert {f.name for f in folder.iterdir()} == names
        assert all((folder / name).read_bytes() == (twin / name).read_bytes() for name in names)
        camera, truth = (json.loads((folder / name).read_text()) for name in ("camera.json", "truth.json"))
        masks, depth = (np.asarray(Image.open(folder / name)) for name in ("masks.png", "depth.png"))
        assert masks.dtype == depth.dtype == np.uint16 and masks.shape == (camera["height"], camera["width"])
        glb = trimesh.load_scene(folder / "truth.glb")
        for thing in truth["objects"]:
            assert np.count_nonzero(masks == thing["id"]) == thing["visible_pixels"] > 0
            K, T = np.array(camera["intrinsics"]), np.array(camera["T_world_camera"])
            points = world_points(depth / 1000.0, K, T, masks == thing["id"])
            local = trimesh.transform_points(points, np.linalg.inv(np.array(thing["T_world_object"])))
            assert (np.abs(local) < np.array(thing["size_m"]) / 2 + 0.003).all()
            node = f"object_{thing['id']}"
            T_node, geometry = glb.graph.get(node)
            y_up = trimesh.transform_points(glb.geometry[geometry].vertices, T_node)
            z_up = np.stack([y_up[:, 0], -y_up[:, 2], y_up[:, 1]], axis=1)
            assert z_up[:, 2].min() == pytest.approx(0.0, abs=1e-5)
            np.testing.assert_allclose(z_up.max(0)[2], thing["size_m"][2], atol=1e-5)


@pytest.mark.parametrize("bad", [lambda: make_scene(0, count=(0, 3)), lambda: synthesize(0, 0, "nowhere")])
def test_impossible_numbers_are_refused(bad: object) -> None:
    with pytest.raises(InvalidInput, match="0"):
        bad()  # type: ignore[operator]
