"""Colours on a surface into a texture: every texel asks for the colour at its own point of the surface.

Knows UV coordinates and a colour function; nothing about where colours come from. Textures have row 0 on top, UV
coordinates run 0..1 with v upwards, and a texel's centre lies half a texel inside its corner.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from scenegen.generator.texture.ranges import Integers, ranges
from scenegen.scene import InvalidInput

Floats32 = NDArray[np.float32]
ColourFunction = Callable[[Floats32], Floats32]
"""Points [P, 3] of the surface -> RGB 0..1 [P, 3]."""


@dataclass(frozen=True)
class Texels:
    """Texels of a size x size texture whose centres lie on triangles.

    index: int64 [P], row * size + column, each texel once. triangle: int64 [P]. weights: float32 [P, 3] of its corners.
    """

    size: int
    index: Integers
    triangle: Integers
    weights: Floats32

    def mix(self, values: Floats32, faces: Integers) -> Floats32:
        """Values [V, k] of vertices, interpolated at the texels: float32 [P, k]. faces: [F, 3]."""
        corners = faces[self.triangle]
        mixed = values[corners[:, 0]] * self.weights[:, :1]
        mixed += values[corners[:, 1]] * self.weights[:, 1:2]
        mixed += values[corners[:, 2]] * self.weights[:, 2:]
        return mixed

    @cached_property
    def nearest(self) -> Integers:
        """int64 [size * size]: for every texel of the texture which of the P is nearest (0 distance for themselves)."""
        outside = np.ones((self.size, self.size), dtype=np.uint8)
        outside.reshape(-1)[self.index] = 0
        _, labels = cv2.distanceTransformWithLabels(
            outside, cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
        )
        number_of_label = np.zeros(len(self.index) + 1, dtype=np.int64)
        number_of_label[labels.reshape(-1)[self.index]] = np.arange(len(self.index))
        nearest: Integers = number_of_label[labels.reshape(-1)]
        return nearest


def covered_texels(uv: Floats32, faces: Integers, size: int) -> Texels:
    """Rasterises UV triangles: uv [U, 2], faces [F, 3] -> the texels they cover.

    Row by row of each triangle, all triangles at once. Where triangles overlap the first one has the texel.
    Raises InvalidInput when no texel is covered.
    """
    corners = (uv.astype(np.float64) * [size, -size] + [-0.5, size - 0.5])[faces]  # texel units, centres at integers
    first_row = np.maximum(np.ceil(corners[..., 1].min(1)), 0).astype(np.int64)
    last_row = np.minimum(np.floor(corners[..., 1].max(1)), size - 1).astype(np.int64)
    triangle, step = ranges(np.maximum(last_row - first_row + 1, 0))
    row = first_row[triangle] + step

    left, right = np.full(len(row), np.inf), np.full(len(row), -np.inf)
    for a, b in ((0, 1), (1, 2), (2, 0)):
        (xa, ya), (xb, yb) = corners[triangle, a].T, corners[triangle, b].T
        crossing = (np.minimum(ya, yb) <= row) & (row <= np.maximum(ya, yb))
        flat = ya == yb
        share = (row - ya) / np.where(flat, 1.0, yb - ya)
        x = xa + share * (xb - xa)
        left = np.where(crossing, np.minimum(left, np.where(flat, np.minimum(xa, xb), x)), left)
        right = np.where(crossing, np.maximum(right, np.where(flat, np.maximum(xa, xb), x)), right)
    first = np.ceil(np.clip(left, 0, size)).astype(np.int64)
    last = np.floor(np.clip(right, -1, size - 1)).astype(np.int64)
    span, step = ranges(np.maximum(last - first + 1, 0))
    triangle, column, row = triangle[span], first[span] + step, row[span]
    index, kept = np.unique(row * size + column, return_index=True)
    if not len(index):
        raise InvalidInput(
            f"no texel of {size} x {size} lies on the mesh: its UV coordinates are empty or outside 0..1"
        )
    triangle, x, y = triangle[kept], column[kept], row[kept]

    origin, u, v = corners[:, 0], corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    twice_area = u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]
    inverse = np.divide(1.0, twice_area, out=np.zeros_like(twice_area), where=twice_area != 0)
    dx, dy = x - origin[triangle, 0], y - origin[triangle, 1]
    second = (dx * v[triangle, 1] - dy * v[triangle, 0]) * inverse[triangle]
    third = (dy * u[triangle, 0] - dx * u[triangle, 1]) * inverse[triangle]
    weights = np.stack([1 - second - third, second, third], axis=1).astype(np.float32)
    return Texels(size, index, triangle, weights)


def paint(texels: Texels, colours: Floats32) -> NDArray[np.uint8]:
    """The texture uint8 [size, size, 3] with RGB 0..1 [P, 3] at the texels; the rest continues the nearest of them.

    So bilinear and mip-mapped look-ups across a seam meet no foreign colour.
    """
    bytes_ = np.rint(np.clip(colours, 0.0, 1.0) * 255.0).astype(np.uint8)
    texture: NDArray[np.uint8] = bytes_[texels.nearest].reshape(texels.size, texels.size, 3)
    return texture


def texture_mesh(
    vertices: Floats32, faces: Integers, uv: Floats32, colour: ColourFunction, size: int = 1024
) -> NDArray[np.uint8]:
    """Texture uint8 [size, size, 3] of a mesh: vertices [U, 3], faces [F, 3], uv [U, 2], by a colour function."""
    texels = covered_texels(uv, faces, size)
    return paint(texels, colour(texels.mix(vertices.astype(np.float32), faces)))
