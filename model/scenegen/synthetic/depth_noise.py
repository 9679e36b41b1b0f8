"""What a real depth camera and a real segmentation do to exact ones (figures of spec/placement.md).

Knows nothing about scenes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Floats32 = NDArray[np.float32]
Masks = NDArray[np.int32]

_FOCAL_TIMES_BASELINE = 600.0 * 0.055  # pixel metres of a common stereo depth camera
_SUBPIXEL = 1.0 / 16.0
_RANGE_M = (0.15, 6.0)
_HOLES = 0.05  # share of the picture that patches without a reading cover
_MIXED = 0.4  # share of the pixels along a depth edge that read something in between
_LOST_AT_EDGES = 0.6


def add_depth_noise(depth_m: Floats32, rng: np.random.Generator) -> Floats32:
    """depth_m float32 [H, W] with a depth camera's errors; 0 is no reading.

    Gaussian noise of 1 mm + 2.5 mm z^2 (z in metres), disparities rounded to a sixteenth of a pixel, readings lost at
    depth edges and in small patches, and none outside 0.15 to 6 m.
    """
    z = depth_m.astype(np.float32)
    noisy = _quantised(z + rng.standard_normal(z.shape, dtype=np.float32) * (0.001 + 0.0025 * z * z))
    patches = _patches(z.shape, rng)
    lost = _edges(z) & (rng.uniform(size=z.shape) < _LOST_AT_EDGES)
    lost |= patches > 1.6
    lost |= rng.uniform(size=z.shape) < 0.005
    lost |= (z < _RANGE_M[0]) | (z > _RANGE_M[1])
    return np.where(lost, 0.0, noisy).astype(np.float32)


def sensed(masks: Masks, depth_m: Floats32, rng: np.random.Generator) -> tuple[Masks, Floats32]:
    """Exact masks int32 [H, W] and depth float32 [H, W] as a RealSense-like camera and a segmentation give them.

    All of add_depth_noise, and: along depth edges readings between the near and the far side (mixed pixels), holes
    over 5 % of the picture, and every mask grown by 1 or 2 pixels over whatever lies beside it, in any order.
    """
    near, far = ndimage.minimum_filter(depth_m, 3), ndimage.maximum_filter(depth_m, 3)
    mixed = _edges(depth_m) & (rng.uniform(size=depth_m.shape) < _MIXED)
    share = rng.uniform(size=depth_m.shape).astype(np.float32)
    depth = add_depth_noise(np.where(mixed, near + share * (far - near), depth_m), rng)
    patches = _patches(depth.shape, rng)
    depth[patches > np.quantile(patches, 1 - _HOLES)] = 0
    grown = masks.copy()
    for instance in rng.permutation(np.unique(masks[masks > 0])):
        around = ndimage.binary_dilation(masks == instance, np.ones((3, 3)), iterations=int(rng.integers(1, 3)))
        grown[around] = instance
    return grown, depth


def _quantised(z: Floats32) -> Floats32:
    with np.errstate(divide="ignore", invalid="ignore"):
        disparity = np.rint(_FOCAL_TIMES_BASELINE / z / _SUBPIXEL) * _SUBPIXEL
        return np.where(disparity > 0, np.float32(_FOCAL_TIMES_BASELINE) / disparity, 0.0).astype(np.float32)


def _edges(z: Floats32) -> NDArray[np.bool_]:
    step = ndimage.maximum_filter(z, 3) - ndimage.minimum_filter(z, 3)
    return np.asarray(step > 0.02 + 0.05 * z)


def _patches(shape: tuple[int, ...], rng: np.random.Generator) -> Floats32:
    """Smooth noise float32 [H, W] with features of about eight pixels."""
    coarse = rng.standard_normal((shape[0] // 8 + 2, shape[1] // 8 + 2), dtype=np.float32)
    return np.asarray(ndimage.zoom(coarse, 8, order=1)[: shape[0], : shape[1]])
