"""The preview: objects are drawn where their camera sees them, lit from above in either frame."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from scenegen.preview import draw_masks, draw_objects, draw_preview
from scenegen.scene import PlacedObject, View
from scenegen.synthetic import Camera, camera_path, make_scene, render, true_scene


def seen() -> tuple[View, tuple[PlacedObject, ...]]:
    """A synthetic scene and its objects where they truly stand."""
    scene = make_scene(11)
    camera = Camera.pinhole(320, 240, 300.0)
    view = render(scene, camera, camera_path(scene, 8, camera=camera)[0])
    truth = true_scene(scene, view, range(1, len(scene.objects) + 1))
    placed = tuple(
        PlacedObject(
            id=asset.id,
            label=asset.label,
            asset=asset,
            T_world_object=T,
            scale_m=float(size),
            size_m=asset.mesh.extents * size,
            covariance=np.eye(6),
            confidence=1.0,
            residual_m=0.0,
            metric=True,
        )
        for asset, T, size in zip(truth.assets, scene.T_world_object, scene.size_m, strict=True)
    )
    return view, placed


def silhouettes_agree(picture: np.ndarray, view: View) -> float:
    drawn, masked = (picture < 255).any(axis=-1), view.masks > 0
    return float((drawn & masked).sum() / (drawn | masked).sum())


def test_true_objects_cover_their_masks_in_the_world_and_in_the_cameras_frame() -> None:
    view, placed = seen()
    in_world = draw_objects(view, placed)
    assert silhouettes_agree(in_world, view) > 0.95
    assert view.T_world_camera is not None
    T_camera_world = np.linalg.inv(view.T_world_camera)
    in_camera = [replace(o, T_world_object=T_camera_world @ o.T_world_object, metric=False) for o in placed]
    pictures = [draw_objects(view, in_camera), draw_objects(replace(view, T_world_camera=None), in_camera)]
    for picture in pictures:
        assert silhouettes_agree(picture, view) > 0.95
        assert picture[view.masks > 0].mean() > 0.6 * in_world[view.masks > 0].mean(), "not lit from below"


def test_every_instance_has_a_colour_and_the_panels_fit() -> None:
    view, placed = seen()
    masks = draw_masks(view)
    means = [masks[view.masks == i].mean(axis=0) for i in view.instance_ids]
    assert len({tuple((mean // 16).tolist()) for mean in means}) == len(means) and masks.shape == view.image.shape
    preview = draw_preview(view, placed)
    assert preview.shape == (508, 3 * 640 + 2 * 8, 3)
    assert (draw_objects(view, ()) == 255).all()


@pytest.mark.parametrize("shape", [(1, 1), (2, 900)])
def test_odd_sizes(shape: tuple[int, int]) -> None:
    view = View(np.zeros((*shape, 3), np.uint8), np.ones(shape, np.int32))
    assert draw_preview(view, ()).shape[0] == 508
