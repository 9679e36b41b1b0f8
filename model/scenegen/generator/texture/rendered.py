"""Colours from pictures of the Gaussians: the published way, for comparison (spec/latents.md section 11, steps 4, 5).

Pictures from all around are brought back to the surface, each texel taking the mean of those that see it. The
published code finds the texture by 2500 steps of Adam; the mean needs one look at every picture.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from scenegen.generator.latents.fields import Gaussians
from scenegen.generator.texture.cameras import hammersley_cameras, normalised_intrinsics
from scenegen.generator.texture.compositor import render_gaussians
from scenegen.render import Camera, Renderer, Surface

Floats32 = NDArray[np.float32]
Integers = NDArray[np.int64]

_TOLERANCE = 0.006
"""How far behind what a picture shows of the mesh a point may lie and still be seen."""
_LEAST_COVERAGE = 0.9
"""Of a pixel by Gaussians for its colour to be used: less of it is the background."""


class RenderedColours:
    """The colour function of one asset's Gaussians as pictures show them on its mesh."""

    def __init__(self, gaussians: Gaussians, vertices: Floats32, faces: Integers, views: int, size: int) -> None:
        """vertices: [V, 3], faces: [F, 3] of the mesh to be textured. views: pictures of size x size taken."""
        self._gaussians, self._views, self._size = gaussians, views, size
        corners = vertices.astype(np.float32)[faces]
        sides = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        sides /= np.maximum(np.linalg.norm(sides, axis=1, keepdims=True), 1e-20)
        self._face_normals = sides.astype(np.float32)
        normals = np.ascontiguousarray(np.broadcast_to(self._face_normals[:, None], corners.shape))
        self._mesh = Renderer([Surface(corners, normals, np.ones_like(corners))], [np.eye(4)])

    def __call__(self, points: Floats32) -> Floats32:
        """RGB [P, 3] at points [P, 3] of the surface; grey where no picture shows them."""
        intrinsics = normalised_intrinsics().numpy().astype(np.float64) * [[self._size], [self._size], [1]]
        intrinsics[:2, 2] -= 0.5  # the renderer's pixels have their centres at integers
        camera = Camera(self._size, self._size, intrinsics)
        total, weight = np.zeros_like(points), np.zeros(len(points), dtype=np.float32)
        for T in hammersley_cameras(self._views):
            picture, coverage = render_gaussians(self._gaussians, T, self._size)
            T_camera_asset = T.numpy().astype(np.float64)
            hits = self._mesh.cast(camera, np.linalg.inv(T_camera_asset))
            met = hits.triangle >= 0
            facing = np.zeros(met.shape, dtype=np.float32)
            rays = hits.rays[met]
            facing[met] = -(self._face_normals[hits.triangle[met]] * rays).sum(1) / np.linalg.norm(rays, axis=1)

            seen = points @ T_camera_asset[:3, :3].T.astype(np.float32) + T_camera_asset[:3, 3].astype(np.float32)
            pixels = (seen[:, :2] / seen[:, 2:] @ np.diag(np.diag(intrinsics)[:2]) + intrinsics[:2, 2]).astype(
                np.float32
            )
            column, row = np.clip(np.rint(pixels).astype(np.int64), 0, self._size - 1).T
            visible = met[row, column] & (np.abs(seen[:, 2] - hits.depth_m[row, column]) < _TOLERANCE)
            visible &= coverage[row, column] > _LEAST_COVERAGE
            chosen = np.flatnonzero(visible)
            x, y = (np.ascontiguousarray(pixels[chosen, axis]) for axis in (0, 1))
            layers = np.dstack([picture, coverage])
            sampled = _bilinear(layers, x, y)
            strength = np.maximum(facing[row[chosen], column[chosen]], 0) ** 2
            total[chosen] += sampled[:, :3] / np.maximum(sampled[:, 3:], 0.1) * strength[:, None]
            weight[chosen] += strength
        grey = np.float32(0.5)
        return np.where(weight[:, None] > 1e-6, total / np.maximum(weight, 1e-6)[:, None], grey).astype(np.float32)


def _bilinear(layers: Floats32, x: Floats32, y: Floats32) -> Floats32:
    """Values [n, C] of an image [H, W, C] at pixel coordinates [n]; OpenCV takes columns of at most 32767 places."""
    rows = 1 << 14
    parts = [
        cv2.remap(layers, x[start : start + rows, None], y[start : start + rows, None], cv2.INTER_LINEAR)[:, 0]
        for start in range(0, len(x), rows)
    ]
    return np.concatenate([*parts, np.zeros((0, layers.shape[2]), np.float32)])
