"""place_scene against synthetic scenes whose truth is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import trimesh
from scipy.spatial.transform import Rotation

from scenegen.placement import place_scene
from scenegen.scene import Asset, Cancelled, Floats, InvalidInput, PlacedObject, Placement, Scene, View
from scenegen.synthetic import Camera, SyntheticScene, camera_path, make_scene, render_views, true_scene

UP = np.array([0.0, 0.0, 1.0])
SEED = 1002  # a plate, a cabinet, a box and a vase


@pytest.fixture(scope="module")
def truth() -> SyntheticScene:
    return make_scene(SEED)


@pytest.fixture(scope="module")
def views(truth: SyntheticScene) -> tuple[View, ...]:
    poses = camera_path(truth, 2, SEED)
    return render_views(truth, Camera.pinhole(), poses, depth_noise=np.random.default_rng(0))


@pytest.fixture(scope="module")
def scene(truth: SyntheticScene, views: tuple[View, ...]) -> Scene:
    return true_scene(truth, views[0])


@pytest.fixture(scope="module")
def placed(scene: Scene, views: tuple[View, ...]) -> tuple[PlacedObject, ...]:
    return place_scene(scene, views[:1])


def position_error(placed: PlacedObject, truth: SyntheticScene) -> float:
    return float(np.linalg.norm(placed.T_world_object[:3, 3] - truth.T_world_object[placed.id - 1, :3, 3]))


def rotation_error_deg(placed: PlacedObject, truth: SyntheticScene) -> float:
    R, R_true = placed.T_world_object[:3, :3], truth.T_world_object[placed.id - 1, :3, :3]
    order = truth.objects[placed.id - 1].symmetry
    if order == 0:
        return float(np.rad2deg(np.arccos(min(1.0, float(R[:, 2] @ R_true[:, 2])))))
    yaws = Rotation.from_rotvec(np.arange(order)[:, None] * 2 * np.pi / order * UP).as_matrix()
    return float(np.rad2deg(Rotation.from_matrix(R.T @ R_true @ yaws).magnitude().min()))


def overlap(placed: PlacedObject, view: View, T_camera_object: Floats, K: Floats) -> float:
    """Overlap of the boxes of the object's outline and its mask, over their union."""
    v, u = np.nonzero(view.masks == placed.id)
    corners = placed.asset.mesh.vertices * placed.scale_m @ T_camera_object[:3, :3].T + T_camera_object[:3, 3]
    pixels = (corners @ K.T)[:, :2] / corners[:, 2:]
    low, high = pixels.min(0), pixels.max(0)
    mask_low, mask_high = np.array([u.min(), v.min()]), np.array([u.max(), v.max()])
    both = np.prod(np.maximum(np.minimum(high, mask_high) - np.maximum(low, mask_low), 0))
    return float(both / (np.prod(high - low) + np.prod(mask_high - mask_low) - both))


def test_exact_scene_from_one_noisy_view(placed: tuple[PlacedObject, ...], scene: Scene, truth: SyntheticScene) -> None:
    assert [o.id for o in placed] == [a.id for a in scene.assets]
    for found in placed:
        assert position_error(found, truth) < 0.005
        assert rotation_error_deg(found, truth) < 3
        assert found.scale_m == pytest.approx(truth.size_m[found.id - 1], rel=0.05)
        assert found.size_m == pytest.approx(found.asset.mesh.extents * found.scale_m)
        assert found.metric and found.residual_m < 0.004


def test_result_is_a_rigid_pose_with_a_covariance(placed: tuple[PlacedObject, ...]) -> None:
    for found in placed:
        R = found.T_world_object[:3, :3]
        assert R @ R.T == pytest.approx(np.eye(3), abs=1e-6) and np.linalg.det(R) == pytest.approx(1)
        assert found.covariance.shape == (6, 6) and (np.linalg.eigvalsh(found.covariance) > 0).all()
        assert 1e-5 < np.sqrt(found.covariance[0, 0]) < 0.02
        assert 0.3 < found.confidence <= 1


def test_camera_frame_without_a_pose(scene: Scene, views: tuple[View, ...], truth: SyntheticScene) -> None:
    T_world_camera = views[0].T_world_camera
    assert T_world_camera is not None
    for found in place_scene(scene, [replace(views[0], T_world_camera=None)]):
        in_world = replace(found, T_world_object=T_world_camera @ found.T_world_object)
        assert position_error(in_world, truth) < 0.005 and found.metric


def test_wrong_placements_are_overruled_by_the_depth(
    scene: Scene, views: tuple[View, ...], truth: SyntheticScene
) -> None:
    """What a small generator does: everything shifted by a third of the query, one object turned by 90 degrees."""
    random = np.random.default_rng(3)
    rough = []
    for i, placement in enumerate(scene.placements):
        if i == scene.query:
            rough.append(placement)
            continue
        direction = random.normal(size=3)
        turned = Rotation.from_quat(placement.rotation_wxyz, scalar_first=True)
        turned *= Rotation.from_euler("y", 90 * (i == 1), degrees=True)
        shift = 0.3 * direction / np.linalg.norm(direction)
        rough.append(
            Placement(placement.translation + shift, turned.as_quat(scalar_first=True), placement.scale * 1.15)
        )
    wrong = Scene(scene.assets, tuple(rough), scene.query)
    for found in place_scene(wrong, views, gravity=-9.81 * UP):  # down: the table tells
        assert position_error(found, truth) < 0.015
        assert rotation_error_deg(found, truth) < 6


def test_gravity_tells_up_where_nothing_shows_what_carries_the_objects(
    scene: Scene, views: tuple[View, ...], truth: SyntheticScene
) -> None:
    alone = [replace(view, depth_m=np.where(view.masks > 0, view.depth_m, 0)) for view in views]
    for found in place_scene(scene, alone, gravity=UP):
        assert found.T_world_object[:3, 2] == pytest.approx(UP, abs=0.03)
        assert position_error(found, truth) < 0.005


def test_what_carries_the_objects_overrules_a_tilted_gravity(scene: Scene, views: tuple[View, ...]) -> None:
    tilted = Rotation.from_euler("x", 35, degrees=True).as_matrix() @ UP
    without, with_it = place_scene(scene, views[:1]), place_scene(scene, views[:1], gravity=tilted)
    for a, b in zip(without, with_it, strict=True):
        assert a.T_world_object == pytest.approx(b.T_world_object)


@pytest.mark.parametrize("with_depth", [True, False])
def test_it_can_be_cancelled_all_along(scene: Scene, views: tuple[View, ...], with_depth: bool) -> None:
    view = views[0] if with_depth else replace(views[0], depth_m=None)
    polls = 0

    def count() -> bool:
        nonlocal polls
        polls += 1
        return False

    place_scene(scene, [view], cancelled=count)
    assert polls > 50
    for last in (0, polls // 2, polls - 1):
        left = iter(range(last))
        with pytest.raises(Cancelled):
            place_scene(scene, [view], cancelled=lambda left=left: next(left, None) is None)


def test_an_asset_no_view_shows_stands_where_its_placement_says(
    scene: Scene, views: tuple[View, ...], truth: SyntheticScene
) -> None:
    hidden = scene.assets[0].id if scene.query != 0 else scene.assets[1].id
    view = replace(views[0], masks=np.where(views[0].masks == hidden, 0, views[0].masks))
    for found in place_scene(scene, [view]):
        assert position_error(found, truth) < 0.01
        assert (found.confidence < 0.05) == (found.id == hidden)


def test_holes_in_the_depth_are_ignored(scene: Scene, views: tuple[View, ...], truth: SyntheticScene) -> None:
    depth = views[0].depth_m
    assert depth is not None
    holes = np.random.default_rng(1).uniform(size=depth.shape)
    depth = np.where(holes < 0.3, np.nan, np.where(holes < 0.4, np.inf, depth)).astype(np.float32)
    for found in place_scene(scene, [replace(views[0], depth_m=depth)]):
        assert position_error(found, truth) < 0.008


@pytest.mark.parametrize("nothing", [None, 0.0, np.nan])
def test_without_depth_outlines_agree_and_nothing_claims_metres(
    scene: Scene, views: tuple[View, ...], nothing: float | None
) -> None:
    depth = None if nothing is None else np.full(views[0].masks.shape, nothing, np.float32)
    view = replace(views[0], depth_m=depth)
    assert view.intrinsics is not None and view.T_world_camera is not None
    found = place_scene(scene, [view], gravity=UP)
    assert found[scene.query].scale_m == pytest.approx(1.0)
    for one in found:
        assert not one.metric and np.isnan(one.residual_m) and one.confidence < 0.6
        assert overlap(one, view, one.T_world_object, view.intrinsics) > 0.4


def test_a_known_size_gives_metres(scene: Scene, views: tuple[View, ...], truth: SyntheticScene) -> None:
    view = replace(views[0], depth_m=None)
    asset = scene.assets[1]
    size = float(truth.size_m[asset.id - 1])
    found = place_scene(scene, [view], gravity=UP, known_sizes={asset.label: size})
    assert found[1].metric and found[1].size_m.max() == pytest.approx(size)
    reach = np.linalg.norm(view.T_world_camera[:3, 3])  # type: ignore[index]
    assert position_error(found[1], truth) < 0.25 * reach


def test_without_camera_info_a_field_of_view_is_assumed(scene: Scene, views: tuple[View, ...]) -> None:
    found = place_scene(scene, [View(views[0].image, views[0].masks)])
    height, width = views[0].masks.shape
    focal = width / 2 / np.tan(np.deg2rad(25))
    K = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
    for one in found:
        assert not one.metric and overlap(one, views[0], one.T_world_object, K) > 0.35


def test_useless_input_is_named(scene: Scene, views: tuple[View, ...]) -> None:
    empty = replace(views[0], masks=np.zeros_like(views[0].masks))
    flat = trimesh.Trimesh(np.zeros((3, 3)), [[0, 1, 2]], process=False)
    broken = replace(scene, assets=(Asset(scene.assets[0].id, "", flat), *scene.assets[1:]))
    for call, word in (
        (lambda: place_scene(scene, []), "no views"),
        (lambda: place_scene(scene, [empty]), "no view has a mask"),
        (lambda: place_scene(scene, views, gravity=np.zeros(3)), "gravity"),
        (lambda: place_scene(scene, views, known_sizes={"mug": -1.0}), "known_sizes"),
        (lambda: place_scene(broken, views), "no surface"),
    ):
        with pytest.raises(InvalidInput, match=word):
            call()
