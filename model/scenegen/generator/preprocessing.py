"""From a view to what the condition is made of: four images (spec/structure.md sections 6.1 to 6.3) and rays.

numpy and Pillow only, so that training data and inference share it. Every image is uint8 RGB. Knows nothing about
networks or tokens; sizes are arguments (518 at the published size).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from scenegen.generator.rays import Rays, mask_rays
from scenegen.scene import InvalidInput, View

Bytes = NDArray[np.uint8]

OPAQUE = 204
"""Alpha above this (0.8 of 255) counts as the asset when its box is taken."""


@dataclass(frozen=True)
class ConditionImages:
    """What one view says about N assets, as images, and where its camera is known, as rays.

    assets, masks: uint8 [N, S, S, 3]. scene: uint8 [S, S, 3]. geometry: uint8 [G, G, 3]. rays: see mask_rays.
    """

    assets: Bytes
    masks: Bytes
    scene: Bytes
    geometry: Bytes
    rays: Rays


def condition_images(view: View, ids: Sequence[int], image_size: int, geometry_size: int) -> ConditionImages:
    """The images of the condition for the given instance ids, in their order.

    image_size: side S for the image encoder. geometry_size: side G for the geometry encoder.
    Raises InvalidInput when an id is not in the view's masks.
    """
    masks = [view.masks == i for i in ids]
    for i, mask in zip(ids, masks, strict=True):
        if not mask.any():
            raise InvalidInput(
                f"object {i} has no pixel in the masks (seen are {list(view.instance_ids)}): ask for ids that are seen"
            )
    return ConditionImages(
        assets=np.stack([asset_crop(view.image, mask, image_size) for mask in masks]),
        masks=np.stack([mask_image(mask, image_size) for mask in masks]),
        scene=scene_image(view.image, image_size),
        geometry=geometry_image(view.image, geometry_size),
        rays=mask_rays(view, masks),
    )


def asset_crop(image: Bytes, mask: NDArray[np.bool_], size: int) -> Bytes:
    """The asset cut out of image [H, W, 3] by mask [H, W], filling a black square: uint8 [size, size, 3]."""
    return crop_cutout(np.dstack([image, mask.astype(np.uint8) * np.uint8(255)]), size)


def crop_cutout(cutout: Bytes, size: int) -> Bytes:
    """A square 1.2 times as large as the opaque part of a cut-out RGBA [H, W, 4], on black: uint8 [size, size, 3]."""
    opaque = cutout[..., 3] > OPAQUE
    rows, columns = np.flatnonzero(opaque.any(axis=1)), np.flatnonzero(opaque.any(axis=0))
    if len(rows) == 0:
        raise InvalidInput("the mask of an asset is empty: give every asset at least one pixel")
    x0, x1, y0, y1 = int(columns[0]), int(columns[-1]), int(rows[0]), int(rows[-1])
    # a mask one or two pixels wide would otherwise leave a box without area
    half = max(int(max(x1 - x0, y1 - y0) * 1.2) // 2, 1)
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    square = Image.fromarray(cutout).crop((x - half, y - half, x + half, y + half))
    resized = np.asarray(square.resize((size, size), Image.Resampling.LANCZOS), dtype=np.float32) / 255
    return (resized[..., :3] * resized[..., 3:] * 255).astype(np.uint8)


def mask_image(mask: NDArray[np.bool_], size: int) -> Bytes:
    """The whole frame's mask [H, W], white on black, squeezed to a square: uint8 [size, size, 3]."""
    white = Image.fromarray(mask.astype(np.uint8) * np.uint8(255))
    resized = np.asarray(white.resize((size, size), Image.Resampling.LANCZOS))
    return np.repeat(resized[..., None], 3, axis=2)


def scene_image(image: Bytes, size: int) -> Bytes:
    """The whole image [H, W, 3] squeezed to a square, aspect ratio not kept: uint8 [size, size, 3]."""
    return np.array(Image.fromarray(image).resize((size, size), Image.Resampling.LANCZOS))


def geometry_image(image: Bytes, size: int, patch_size: int = 14) -> Bytes:
    """The whole image [H, W, 3] with its aspect ratio kept, centred on white: uint8 [size, size, 3].

    The longer side becomes `size`, the shorter a multiple of the patch.
    """
    top, left, tall, wide = geometry_frame(image.shape[0], image.shape[1], size, patch_size)
    padded = np.full((size, size, 3), 255, dtype=np.uint8)
    resized = Image.fromarray(image).resize((wide, tall), Image.Resampling.BICUBIC)
    padded[top : top + tall, left : left + wide] = np.asarray(resized)
    return padded


def geometry_frame(height: int, width: int, size: int, patch_size: int = 14) -> tuple[int, int, int, int]:
    """Where an image of the given size lies in its `geometry_image`: top, left, height, width in pixels of that."""
    longer = max(height, width)
    tall, wide = (
        size if side == longer else max(round(side * size / longer / patch_size), 1) * patch_size
        for side in (height, width)
    )
    return (size - tall) // 2, (size - wide) // 2, tall, wide
