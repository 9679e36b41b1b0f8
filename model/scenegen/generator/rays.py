"""The rays through an object's mask, where a view knows its camera and which way is up.

What a robot knows of its camera tells a small model more about sizes and distances than it can see: how steeply it
looks down on an object, and, since objects stand on something level, how far off that is. numpy only, so that training
data and inference share it. Knows nothing about networks.

Angles are in the heading frame: origin at the camera, z up, y along the camera's horizontal heading, x to the right.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scenegen.scene import View

Rays = NDArray[np.float32]

ANGLES = 6
"""Azimuth (from y to x) and elevation of the ray through the middle of a mask's box, azimuths through the middles of
its left and right sides relative to that, elevations through the middles of its top and bottom; radians."""
HIGHEST_ROLL_DEG = 10.0
"""Small models have only seen level cameras; what a rolled one sees stands aslant in its picture."""
HIGHEST_ELEVATION_DEG = -3.0
"""Of the ray through the bottom of a mask: objects seen from less far above are not what small models learn from."""
STEEPEST_DEG = 80.0
"""Azimuths mean little for a camera that looks straight down."""


def pixel_box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a mask [H, W] that is not empty, in pixels; right and bottom lie just outside."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def mask_rays(view: View, masks: Sequence[NDArray[np.bool_]]) -> Rays:
    """Whether the rays of each object are known (1 or 0), and their ANGLES: float32 [N, 1 + ANGLES], unknown all zero.

    masks: of the objects, bool [H, W], none empty. Unknown are the rays of a view without intrinsics or pose, of a
    camera that is rolled or looks straight down (as cameras in a world without z up mostly seem to), and of an object
    that is hardly below the camera.
    """
    rays = np.zeros((len(masks), 1 + ANGLES), dtype=np.float32)
    if view.intrinsics is None or view.T_world_camera is None:
        return rays
    R_world_camera = view.T_world_camera[:3, :3]
    right, forward = R_world_camera[:, 0], R_world_camera[:, 2]
    if abs(right[2]) > np.sin(np.radians(HIGHEST_ROLL_DEG)) or abs(forward[2]) > np.sin(np.radians(STEEPEST_DEG)):
        return rays
    heading = np.array([forward[0], forward[1], 0.0]) / np.hypot(forward[0], forward[1])
    R_heading_world = np.stack([np.array([heading[1], -heading[0], 0.0]), heading, np.array([0.0, 0.0, 1.0])])
    R_heading_image = R_heading_world @ R_world_camera @ np.linalg.inv(view.intrinsics)
    for row, mask in zip(rays, masks, strict=True):
        u0, v0, u1, v1 = pixel_box(mask)
        u, v = (u0 + u1) / 2, (v0 + v1) / 2
        # pixel (u, v) has its centre at (u, v), so its sides are half a pixel off
        pixels = np.array([[u, v], [u0, v], [u1, v], [u, v0], [u, v1]]) - 0.5
        x, y, z = R_heading_image @ np.column_stack([pixels, np.ones(5)]).T
        azimuth, elevation = np.arctan2(x, y), np.arctan2(z, np.hypot(x, y))
        if elevation[4] < np.radians(HIGHEST_ELEVATION_DEG):
            aside = np.remainder(azimuth[1:3] - azimuth[0] + np.pi, 2 * np.pi) - np.pi
            row[:] = [1.0, azimuth[0], elevation[0], *aside, *elevation[3:]]
    return rays


def mirrored_rays(rays: NDArray[Any]) -> Rays:
    """The same objects' rays [N, 1 + ANGLES] in the picture's mirror image."""
    mirrored: Rays = rays[:, [0, 1, 2, 4, 3, 5, 6]] * np.array([1, -1, 1, -1, -1, 1, 1], dtype=np.float32)
    return mirrored
