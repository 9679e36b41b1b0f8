"""What is added to a scene's folder: the views come back as they were, and the contact sheet shows what it must."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from scenegen.contact_sheet import confidence_colour, draw_contact_sheet, draw_from_another_side, draw_mask_outlines
from scenegen.documents import document_scene, scene_views
from scenegen.files import SceneNotStored, write_scene
from scenegen.placement import place_scene
from scenegen.preview import colour_of, draw_objects, draw_overlay
from scenegen.scene import InvalidInput, PlacedObject, Scene, View
from scenegen.synthetic import Camera, camera_path, make_scene, render, true_scene

Made = tuple[list[View], Scene, tuple[PlacedObject, ...]]


@pytest.fixture(scope="module")
def made() -> Made:
    """A synthetic scene seen three times, placed where it stands."""
    world, camera = make_scene(11), Camera.pinhole(160, 120, 150.0)
    views = [render(world, camera, T) for T in camera_path(world, 3, 11, camera)]
    views = [replace(view, stamp_ns=10 + i) for i, view in enumerate(views)]
    scene = true_scene(world, views[0])
    return views, scene, place_scene(scene, views)


def stored(root: Path, made: Made) -> Path:
    views, scene, placed = made
    return write_scene(root, scene, placed, scene_id="one", views=views, frame_id="map", stamp_ns=12)


def test_the_views_come_back_and_the_sheet_can_be_drawn_anew(made: Made, tmp_path: Path) -> None:
    views, _, placed = made
    folder = stored(tmp_path, made)
    assert scene_views(folder) == [], "they are added later"
    document_scene(folder, views, placed)
    before = (folder / "contact_sheet.png").read_bytes()
    for kept, view in zip(scene_views(folder), views, strict=True):
        np.testing.assert_array_equal(kept.image, view.image)
        np.testing.assert_array_equal(kept.masks, view.masks)
        np.testing.assert_allclose(kept.T_world_camera, view.T_world_camera)
        assert kept.stamp_ns == view.stamp_ns
    document_scene(folder, views, placed[:1])
    assert (folder / "contact_sheet.png").read_bytes() != before
    assert not list(folder.glob(".unfinished*"))


def test_a_folder_that_cannot_be_written_or_read(made: Made, tmp_path: Path) -> None:
    views, _, placed = made
    with pytest.raises(SceneNotStored, match="contact sheet"):
        document_scene(tmp_path / "none", views, placed)
    folder = stored(tmp_path, made)
    document_scene(folder, views, placed)
    (folder / "views" / "image_001.png").unlink()
    with pytest.raises(InvalidInput, match="holds 2 views, scene.json 3"):
        scene_views(folder)


def test_outlines_follow_the_masks(made: Made) -> None:
    view = made[0][0]
    colours = {i: colour_of(i) for i in view.instance_ids}
    drawn = draw_mask_outlines(view, colours)
    changed = (drawn != view.image).any(2)
    for i in view.instance_ids:
        inside = (view.masks == i).astype(np.uint8)
        edge = inside - cv2.erode(inside, np.ones((3, 3), np.uint8))
        assert changed[edge > 0].mean() > 0.95
    far = cv2.dilate((view.masks > 0).astype(np.uint8), np.ones((15, 15), np.uint8)) == 0
    assert not changed[far].any()


def test_the_sheet_grows_with_views_and_objects(made: Made) -> None:
    views, _, placed = made
    height = draw_contact_sheet(views, placed).shape[0]
    assert draw_contact_sheet(views, placed[:1]).shape[0] < height
    twelve = draw_contact_sheet(views * 4, placed)
    assert height < twelve.shape[0] <= height + 280, "eight of twelve views, in two rows"
    nothing = draw_contact_sheet(views, ())
    assert nothing.shape[0] < height and (nothing == 255).all(2).any()


def test_the_other_side_shows_every_object_whole(made: Made) -> None:
    views, _, placed = made
    for objects in (placed, [replace(o, metric=False) for o in placed]):
        picture = draw_from_another_side(views[0], objects)
        drawn = (picture != 255).any(2)
        assert 0.02 < drawn.mean() < 0.8
        assert not drawn[[0, -1]].any() and not drawn[:, [0, -1]].any(), "nothing is cut off"


def test_confidence_goes_from_red_to_green() -> None:
    red, green = confidence_colour(0.0), confidence_colour(1.0)
    assert red[0] > 2 * red[1] and green[1] > 2 * green[0]
    assert confidence_colour(7.0) == green


def test_the_overlay_mixes_the_objects_into_the_image_and_leaves_the_rest(made: Made) -> None:
    view, placed = made[0][0], made[2]
    overlay, objects = draw_overlay(view, placed), draw_objects(view, placed)
    away = cv2.dilate((objects != 255).any(2).astype(np.uint8), np.ones((9, 9), np.uint8)) == 0
    np.testing.assert_array_equal(overlay[away], view.image[away])
    inside = cv2.erode((view.masks > 0).astype(np.uint8), np.ones((15, 15), np.uint8)) > 0
    halves = (view.image[inside].astype(int) + objects[inside]) // 2
    assert np.mean(np.abs(overlay[inside] - halves) <= 1) > 0.9
