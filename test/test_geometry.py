"""Geometry estimated from images: a network that sees the truth in another unit leads to the true scene."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from random_checkpoint import GEOMETRY_ENCODER, drawn_view, write_random_checkpoint
from torch import Tensor

from scenegen import cli
from scenegen.generator.checkpoints import save_model
from scenegen.generator.encoders.vggt_cameras import VGGT, Geometry
from scenegen.generator.geometry import estimate_views, load_estimator
from scenegen.generator.preprocessing import geometry_frame
from scenegen.placement import in_query_units, place_scene
from scenegen.scene import InvalidInput, Scene, View
from scenegen.synthetic import Camera, SyntheticScene, camera_path, make_scene, render_views, true_scene

SEED, SIZE, UNIT = 1002, 518, 0.37
WHOLE_VGGT = GEOMETRY_ENCODER | {
    "aa_depth": 4,
    "camera_head": {"dim_in": 64, "num_heads": 2, "trunk_depth": 1, "iterations": 2},
    "dpt": {"features": 8, "out_channels": [4, 4, 4, 4], "intermediate_layer_idx": [0, 1, 2, 3]},
}


@pytest.fixture(scope="module")
def truth() -> SyntheticScene:
    return make_scene(SEED)


@pytest.fixture(scope="module")
def views(truth: SyntheticScene) -> tuple[View, ...]:
    return tuple(render_views(truth, Camera.pinhole(), camera_path(truth, 2, SEED)))


@pytest.fixture(scope="module")
def scene(truth: SyntheticScene, views: tuple[View, ...]) -> Scene:
    return true_scene(truth, views[0])


def seeing(views: tuple[View, ...]) -> Callable[[Tensor], Geometry]:
    """What a perfect VGGT says of these views: the truth in its own unit, for its own images."""

    def model(images: Tensor) -> Geometry:
        assert images.shape == (1, len(views), 3, SIZE, SIZE) and 0 <= images.min() <= images.max() <= 1
        depth = torch.ones(1, len(views), SIZE, SIZE)
        extrinsics, intrinsics = torch.zeros(1, len(views), 3, 4), torch.zeros(1, len(views), 3, 3)
        first = views[0].T_world_camera
        for i, view in enumerate(views):
            assert first is not None and view.T_world_camera is not None and view.intrinsics is not None
            assert view.depth_m is not None
            top, left, tall, wide = geometry_frame(*view.masks.shape, SIZE)
            resized = cv2.resize(view.depth_m, (wide, tall), interpolation=cv2.INTER_NEAREST)
            depth[0, i, top : top + tall, left : left + wide] = torch.from_numpy(resized) * UNIT
            matrix = np.linalg.inv(view.T_world_camera) @ first
            matrix[:3, 3] *= UNIT
            extrinsics[0, i] = torch.from_numpy(matrix[:3])
            scale = np.diag([wide / view.masks.shape[1], tall / view.masks.shape[0], 1.0])
            K = scale @ (view.intrinsics + np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]))
            intrinsics[0, i] = torch.from_numpy(K + np.array([[0, 0, left], [0, 0, top], [0, 0, 0]]))
        sure = torch.full_like(depth, 5.0)
        points = torch.zeros(*depth.shape, 3)
        return Geometry(torch.zeros(1, len(views), 9), extrinsics, intrinsics, depth, sure, points, sure)

    return model


def blind(view: View) -> View:
    return replace(view, depth_m=None, intrinsics=None, T_world_camera=None)


def test_the_scene_is_right_up_to_its_unit(views: tuple[View, ...], scene: Scene, truth: SyntheticScene) -> None:
    estimated = estimate_views([blind(view) for view in views], seeing(views), SIZE)
    assert not estimated.metric
    for mine, true in zip(estimated.views, views, strict=True):
        assert mine.intrinsics is not None and true.intrinsics is not None
        np.testing.assert_allclose(mine.intrinsics, true.intrinsics, atol=1e-3)
    objects = np.concatenate([v.depth_m[v.masks > 0] for v in estimated.views if v.depth_m is not None])
    assert np.median(objects[objects > 0]) == pytest.approx(1, rel=0.01)

    placed = in_query_units(place_scene(scene, estimated.views), scene.query)
    measured = place_scene(scene, views)
    T_camera_world = np.linalg.inv(views[0].T_world_camera)
    unit = measured[scene.query].scale_m
    for mine, true in zip(placed, measured, strict=True):
        assert not mine.metric and mine.confidence > 0.2
        wanted = (T_camera_world @ true.T_world_object)[:3, 3] / unit
        np.testing.assert_allclose(mine.T_world_object[:3, 3], wanted, atol=0.06)
        assert mine.scale_m == pytest.approx(true.scale_m / unit, rel=0.06)
    assert placed[scene.query].scale_m == 1
    assert np.sqrt(placed[0].covariance[0, 0]) < 1


def test_depth_of_one_view_gives_the_unit(views: tuple[View, ...]) -> None:
    one_measured = [views[0], replace(views[1], depth_m=None, T_world_camera=None)]
    estimated = estimate_views(one_measured, seeing(views), SIZE)
    assert estimated.metric and estimated.views[0].depth_m is views[0].depth_m
    np.testing.assert_allclose(estimated.views[1].T_world_camera, views[1].T_world_camera, atol=2e-3)
    found, true = estimated.views[1].depth_m, views[1].depth_m
    assert found is not None and true is not None
    both = (found > 0) & (true > 0) & (views[1].masks > 0)
    assert np.median(np.abs(found[both] / true[both] - 1)) < 0.01


def test_the_distance_of_two_cameras_gives_the_unit(views: tuple[View, ...]) -> None:
    estimated = estimate_views([replace(view, depth_m=None) for view in views], seeing(views), SIZE)
    assert estimated.metric
    for mine, true in zip(estimated.views, views, strict=True):
        assert mine.T_world_camera is true.T_world_camera
        assert mine.depth_m is not None and true.depth_m is not None
        both = (mine.depth_m > 0) & (true.depth_m > 0) & (true.masks > 0)
        assert np.median(np.abs(mine.depth_m[both] / true.depth_m[both] - 1)) < 0.01


def test_what_the_network_doubts_is_no_reading(views: tuple[View, ...]) -> None:
    def doubting(images: Tensor) -> Geometry:
        geometry = seeing(views[:1])(images)
        geometry.depth_confidence[..., : SIZE // 2, :40] = 1.0
        return geometry

    estimated = estimate_views([blind(views[0])], doubting, SIZE).views[0].depth_m
    assert (
        estimated is not None and (estimated[100:200, :30] == 0).all() and (estimated[100:200, 100:] > 0).mean() > 0.9
    )


def test_a_checkpoint_with_heads_estimates_and_one_without_is_refused(tmp_path: Path) -> None:
    folder = write_random_checkpoint(tmp_path / "weights")
    with pytest.raises(InvalidInput, match="only the aggregator"):
        load_estimator(folder)
    torch.manual_seed(0)
    save_model(folder, "vggt", VGGT(**WHOLE_VGGT), WHOLE_VGGT)
    model = load_estimator(folder)
    side = model.aggregator.image_size
    known = [replace(drawn_view(shift=i), intrinsics=np.diag([80.0, 80.0, 1.0])) for i in (0, 3)]
    estimated = estimate_views(known, model, side)
    for view in estimated.views:
        assert view.depth_m is not None and view.depth_m.shape == (60, 80) and (view.depth_m > 0).mean() > 0.8
    np.testing.assert_allclose(estimated.views[0].T_world_camera, np.eye(4), atol=1e-6)
    with pytest.raises(InvalidInput, match="no camera that could have taken view 1"):
        estimate_views([drawn_view()], model, side)
    with pytest.raises(InvalidInput, match="no views"):
        estimate_views([], model, side)


def test_generate_places_by_what_was_estimated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, view = write_random_checkpoint(tmp_path / "weights"), drawn_view()
    Image.fromarray(view.image).save(tmp_path / "image.png")
    Image.fromarray(view.masks.astype(np.uint16)).save(tmp_path / "masks.png")
    K = [[75, 0, 39.5], [0, 75, 29.5], [0, 0, 1]]
    (tmp_path / "camera.json").write_text(json.dumps({"width": 80, "height": 60, "intrinsics": K}))
    command = ["generate", str(tmp_path / "image.png"), "--masks", str(tmp_path / "masks.png")]
    command += ["--camera", str(tmp_path / "camera.json"), "--weights", str(folder), "--out", str(tmp_path / "out")]
    assert cli.main([*command, "--geometry", "vggt"]) == 2
    assert "only the aggregator" in capsys.readouterr().err
    assert cli.main([*command, "--geometry", "vggt", "--server", "http://127.0.0.1:1"]) == 2

    torch.manual_seed(0)
    save_model(folder, "vggt", VGGT(**WHOLE_VGGT), WHOLE_VGGT)
    assert cli.main([*command, "--geometry", "vggt", "--memory", "low"]) == 0
    objects = json.loads(next((tmp_path / "out").glob("*/scene.json")).read_text())["objects"]
    assert [item["metric"] for item in objects] == [False] * 3
    assert any(item["scale_m"] == pytest.approx(1) for item in objects)
    assert any(item["residual_m"] is not None for item in objects), "placed by depth, though its unit is not known"
