"""Image files to views: both kinds of masks, ids that agree between views, and every bad file named."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scenegen.images import load_views, read_camera, read_depth, read_image, read_masks, read_views, write_views
from scenegen.scene import InvalidInput, View
from scenegen.synthetic import synthesize

RED, GREEN, BLUE = (255, 0, 0), (0, 128, 0), (0, 0, 255)


def save(path: Path, array: np.ndarray, mode: str | None = None) -> Path:
    image = Image.fromarray(array)
    (image if mode is None else image.convert(mode, palette=Image.Palette.ADAPTIVE)).save(path)
    return path


def coloured(*stripes: tuple[int, int, int]) -> np.ndarray:
    """60 x 40 pixels, black with an 8-row stripe per colour."""
    pixels = np.zeros((60, 40, 3), np.uint8)
    for row, colour in enumerate(stripes):
        pixels[8 * row : 8 * row + 8] = colour
    return pixels


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_labels_are_kept(tmp_path: Path, dtype: type) -> None:
    labels = np.zeros((60, 40), dtype)
    labels[0, :3], labels[5:9] = 7, np.iinfo(dtype).max
    (plane,) = read_masks([save(tmp_path / "m.png", labels)])
    assert plane.dtype == np.int32
    np.testing.assert_array_equal(plane, labels)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colours_become_ids_in_the_order_of_their_values(tmp_path: Path, mode: str) -> None:
    (plane,) = read_masks([save(tmp_path / "m.png", coloured(RED, BLUE, GREEN), mode)])
    assert [plane[row, 0] for row in (0, 8, 16, 24)] == [3, 1, 2, 0]


def test_an_object_keeps_its_id_in_a_view_that_lacks_others(tmp_path: Path) -> None:
    paths = [save(tmp_path / "a.png", coloured(RED, BLUE)), save(tmp_path / "b.png", coloured(GREEN, RED))]
    first, second = read_masks(paths)
    assert (first[0, 0], first[8, 0], second[0, 0], second[8, 0]) == (3, 1, 2, 3)


def test_specks_are_left_out_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pixels = coloured(RED, BLUE)
    pixels[7, :30] = 254, 1, 0
    with caplog.at_level(logging.WARNING):
        (plane,) = read_masks([save(tmp_path / "m.png", pixels)])
    assert set(np.unique(plane)) == {0, 1, 2} and not plane[7, :30].any()
    assert "1 colours of fewer than 50 pixels" in caplog.text and "m.png" in caplog.text


def test_transparent_pixels_are_background(tmp_path: Path) -> None:
    pixels = np.dstack([coloured(RED, BLUE), np.full((60, 40), 255, np.uint8)])
    pixels[:8, :, 3] = 0
    (plane,) = read_masks([save(tmp_path / "m.png", pixels)])
    assert not plane[:8].any() and (plane[8:16] == 1).all()


def test_masks_that_make_no_sense(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 8, (200, 200, 3)).astype(np.uint8)
    with pytest.raises(InvalidInput, match="compressed with loss"):
        read_masks([save(tmp_path / "m.png", noise)])
    labels = save(tmp_path / "l.png", np.ones((4, 4), np.uint8))
    with pytest.raises(InvalidInput, match="masks of one kind"):
        read_masks([labels, save(tmp_path / "c.png", coloured(RED))])
    (plane,) = read_masks([save(tmp_path / "black.png", coloured())])
    assert not plane.any()


def test_images_stand_upright(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 270 degrees to show
    Image.fromarray(pixels).save(tmp_path / "i.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "i.png"), np.rot90(pixels, 3))


def test_depth_is_millimetres_of_16_bits(tmp_path: Path) -> None:
    millimetres = np.array([[0, 1, 1500], [65535, 2, 3]], np.uint16)
    depth = read_depth(save(tmp_path / "d.png", millimetres))
    assert depth.dtype == np.float32
    np.testing.assert_allclose(depth, millimetres / 1000)
    with pytest.raises(InvalidInput, match="d8.png is not a 16-bit"):
        read_depth(save(tmp_path / "d8.png", np.zeros((2, 2), np.uint8)))


def test_cameras(tmp_path: Path) -> None:
    path = tmp_path / "camera.json"
    good = {"width": 40, "height": 60, "intrinsics": np.eye(3).tolist(), "T_world_camera": None}
    path.write_text(json.dumps(good))
    intrinsics, T = read_camera(path, 40, 60)
    assert T is None and (intrinsics == np.eye(3)).all()
    for change, message in (
        ({"width": 41}, "is for 41 x 60 pixels"),
        ({"intrinsics": [[1]]}, "is no camera file"),
        ({"T_world_camera": [[float("nan")] * 4] * 4}, "is no camera file"),
    ):
        path.write_text(json.dumps(good | change))
        with pytest.raises(InvalidInput, match=message):
            read_camera(path, 40, 60)
    path.write_text("[]")
    with pytest.raises(InvalidInput, match="is no camera file"):
        read_camera(path, 40, 60)
    with pytest.raises(InvalidInput, match="cannot read .*nowhere.json"):
        read_camera(tmp_path / "nowhere.json", 40, 60)


def test_bad_files_are_named(tmp_path: Path) -> None:
    image = save(tmp_path / "i.png", coloured())
    masks = save(tmp_path / "m.png", coloured(RED))
    (tmp_path / "cut.png").write_bytes(image.read_bytes()[:60])
    small = save(tmp_path / "small.png", np.ones((3, 3), np.uint8))
    for arguments, message in (
        (([tmp_path / "none.png"], [masks]), "none.png does not exist"),
        (([tmp_path / "cut.png"], [masks]), "cut.png is not a readable image"),
        (([image], [small]), "i.png with .*small.png: masks is .3, 3. but its image is .60, 40."),
        (([image, image], [masks]), "2 images but 1 masks"),
        (([image], [masks], [small, small]), "1 images but 2 depth images"),
    ):
        with pytest.raises(InvalidInput, match=message):
            load_views(*arguments)
    with pytest.raises(InvalidInput, match="no image"):
        read_views(tmp_path / "empty")


def test_a_synthetic_scene_is_read_back(tmp_path: Path) -> None:
    (folder,) = synthesize(3, 1, tmp_path)
    (view,) = read_views(folder)
    truth = json.loads((folder / "truth.json").read_text())
    for thing in truth["objects"]:
        assert (view.masks == thing["id"]).sum() == thing["visible_pixels"]
    assert view.depth_m is not None and 0.1 < np.median(view.depth_m[view.masks > 0]) < 5
    assert view.intrinsics is not None and view.T_world_camera is not None


def test_numbered_views(tmp_path: Path) -> None:
    for i, colour in enumerate((RED, BLUE)):
        Image.fromarray(coloured(colour)).save(tmp_path / f"image_{i}.jpg")
        save(tmp_path / f"masks_{i}.png", coloured(colour))
    first, second = read_views(tmp_path)
    assert first.instance_ids == (2,) and second.instance_ids == (1,)
    assert first.depth_m is None and first.intrinsics is None


@pytest.mark.parametrize("highest", [300, 0xF0A010])
def test_views_are_written_and_read_back(tmp_path: Path, highest: int) -> None:
    rng = np.random.default_rng(1)
    masks = np.zeros((30, 40), np.int32)
    masks[4:9, 3:20], masks[12:20, 5:30] = 7, highest
    depth_m = rng.integers(300, 4000, (30, 40)).astype(np.float32) / 1000
    depth_m[0, 0] = np.nan
    K = np.array([[50.0, 0, 19.5], [0, 50, 14.5], [0, 0, 1]])
    T = np.eye(4)
    T[:3, 3] = 1, -2, 0.25
    image = rng.integers(0, 255, (30, 40, 3)).astype(np.uint8)
    write_views(tmp_path, [View(image, masks, depth_m, K, T), View(image[:, ::-1].copy(), masks, None, None, None)])
    first, second = read_views(tmp_path)
    np.testing.assert_array_equal(first.image, image)
    np.testing.assert_array_equal(first.masks, masks)
    assert first.depth_m is not None and first.depth_m[0, 0] == 0
    np.testing.assert_allclose(first.depth_m.ravel()[1:], depth_m.ravel()[1:], atol=6e-4)
    np.testing.assert_array_equal(first.intrinsics, K)
    np.testing.assert_array_equal(first.T_world_camera, T)
    assert second.intrinsics is None and second.T_world_camera is None
    assert second.depth_m is not None and not second.depth_m.any(), "no reading anywhere"
