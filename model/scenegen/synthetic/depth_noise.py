"""What a real depth camera does to exact depth (figures of spec/placement.md). Knows nothing about scenes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Floats32 = NDArray[np.float32]

_FOCAL_TIMES_BASELINE = 600.0 * 0.055  # pixel metres of a common stereo depth camera
_SUBPIXEL = 1.0 / 16.0
_RANGE_M = (0.15, 6.0)


def add_depth_noise(depth_m: Floats32, rng: np.random.Generator) -> Floats32:
    """depth_m float32 [H, W] with a depth camera's errors; 0 is no reading.

    Gaussian noise of 1 mm + 2.5 mm z^2 (z in metres), disparities rounded to a sixteenth of a pixel, readings lost at
    depth edges and in small patches, and none outside 0.15 to 6 m.
    """
    z = depth_m.astype(np.float32)
    noisy = z + rng.standard_normal(z.shape, dtype=np.float32) * (0.001 + 0.0025 * z * z)
    with np.errstate(divide="ignore", invalid="ignore"):
        disparity = np.rint(_FOCAL_TIMES_BASELINE / noisy / _SUBPIXEL) * _SUBPIXEL
        noisy = np.where(disparity > 0, np.float32(_FOCAL_TIMES_BASELINE) / disparity, 0.0)
    step = ndimage.maximum_filter(z, 3) - ndimage.minimum_filter(z, 3)
    edge = step > 0.02 + 0.05 * z
    patches = ndimage.zoom(
        rng.standard_normal((z.shape[0] // 8 + 2, z.shape[1] // 8 + 2), dtype=np.float32), 8, order=1
    )
    lost = edge & (rng.uniform(size=z.shape) < 0.6)
    lost |= patches[: z.shape[0], : z.shape[1]] > 1.6
    lost |= rng.uniform(size=z.shape) < 0.005
    lost |= (z < _RANGE_M[0]) | (z > _RANGE_M[1])
    return np.where(lost, 0.0, noisy).astype(np.float32)
