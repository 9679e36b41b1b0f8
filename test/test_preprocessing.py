"""The images of the condition: crops, masks, letterbox."""

from __future__ import annotations

import numpy as np
import pytest

from scenegen.generator.preprocessing import asset_crop, condition_images, geometry_image, mask_image, scene_image
from scenegen.scene import InvalidInput, View


def view(height: int = 90, width: int = 120) -> View:
    image = np.full((height, width, 3), (200, 100, 50), dtype=np.uint8)
    masks = np.zeros((height, width), dtype=np.int32)
    masks[20:50, 30:60] = 1
    masks[60:, 90:] = 2
    image[masks == 1] = (10, 220, 30)
    return View(image, masks)


def test_asset_fills_five_sixths_of_a_black_square() -> None:
    seen = view()
    crop = asset_crop(seen.image, seen.masks == 1, 112)
    assert crop.shape == (112, 112, 3) and crop.dtype == np.uint8
    assert (crop[56, 56] == (10, 220, 30)).all()
    assert crop[0].max() < 60 and crop[:, -1].max() < 60  # the resampling rings
    covered = (crop[:, 56] > 100).any(axis=1).mean()
    # 30 pixels of a box of 2 * (int(29 * 1.2) // 2) = 34
    assert covered == pytest.approx(30 / 34, abs=0.03)


def test_asset_at_the_border_is_padded_with_black() -> None:
    seen = view()
    crop = asset_crop(seen.image, seen.masks == 2, 112)
    assert crop[50, 50].any() and crop[-1, -1].max() < 5


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 1)])
def test_the_smallest_masks_still_give_a_crop(shape: tuple[int, int]) -> None:
    seen = view()
    mask = np.zeros_like(seen.masks, dtype=bool)
    mask[: shape[0], : shape[1]] = True
    assert asset_crop(seen.image, mask, 28).any()


def test_an_empty_mask_is_refused() -> None:
    seen = view()
    with pytest.raises(InvalidInput, match="empty"):
        asset_crop(seen.image, seen.masks == 9, 28)


def test_mask_and_scene_are_squeezed_to_a_square() -> None:
    seen = view()
    mask = mask_image(seen.masks == 1, 60)
    assert mask.shape == (60, 60, 3) and mask[23, 22].min() == 255 and mask[5, 5].max() == 0
    assert scene_image(seen.image, 60).shape == (60, 60, 3)


@pytest.mark.parametrize(("height", "width", "shorter"), [(90, 120, 84), (120, 90, 84), (50, 50, 112), (2, 300, 14)])
def test_letterbox_keeps_the_aspect_ratio_in_whole_patches(height: int, width: int, shorter: int) -> None:
    image = np.zeros((height, width, 3), dtype=np.uint8)
    boxed = geometry_image(image, 112)
    black = boxed[..., 0] == 0
    assert boxed.shape == (112, 112, 3)
    assert sorted([black.any(axis=0).sum(), black.any(axis=1).sum()]) == sorted([112, shorter])
    rows = np.flatnonzero(black.any(axis=1))
    assert rows[0] == (112 - len(rows)) // 2
    assert (boxed[~black] == 255).all()


def test_the_odd_pixel_of_the_letterbox_is_below() -> None:
    boxed = geometry_image(np.zeros((10, 30, 3), dtype=np.uint8), 35, patch_size=4)
    rows = np.flatnonzero((boxed == 0).all(axis=2).any(axis=1))
    assert len(rows) == 12 and rows[0] == 11 and 35 - 1 - rows[-1] == 12


def test_condition_images_follow_the_order_of_the_ids() -> None:
    seen = view()
    images = condition_images(seen, [2, 1], image_size=56, geometry_size=70)
    assert images.assets.shape == images.masks.shape == (2, 56, 56, 3)
    assert images.scene.shape == (56, 56, 3) and images.geometry.shape == (70, 70, 3)
    assert (images.masks[1] == mask_image(seen.masks == 1, 56)).all()
    with pytest.raises(InvalidInput, match="object 7"):
        condition_images(seen, [1, 7], 56, 70)
