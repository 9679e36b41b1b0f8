"""What is true about the surface of synthetic objects, on the voxels and grid vertices of structured latents.

numpy only. Knows procedural objects; nothing about networks.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scenegen.generator.meshing.tables import CORNERS
from scenegen.generator.structure.surface import BORDER
from scenegen.render import Camera, Light, Renderer, Surface, look_at, to_bytes
from scenegen.synthetic.objects import ProceduralObject

Floats = NDArray[np.float64]
Floats32 = NDArray[np.float32]
Ints = NDArray[np.int64]

ELEVATIONS_DEG = (20.0, 50.0, 20.0, 50.0)
"""Of the views whose features a voxel's latent is made of; their azimuths are spread evenly."""
_DISTANCE = 3.0
_HALF_WIDTH = 0.9
"""Of what a view shows at the object's centre, in asset units: the unit box fits however it is turned about z."""


def structure_of(made: ProceduralObject, resolution: int, sharpness: float) -> Floats32:
    """A structure as decoders give it: each voxel's chance to lie inside, float32 [R, R, R].

    sharpness: by how much its logit falls from one voxel to the next outwards.
    """
    grid = (np.arange(resolution) + 0.5) / resolution - 0.5
    points = np.stack(np.meshgrid(grid, grid, grid, indexing="ij"), axis=-1)
    logits = np.clip(-made.sdf(points) * resolution * sharpness, -20, 20)
    return (1 / (1 + np.exp(-logits))).astype(np.float32)


def views_of(made: ProceduralObject, size: int, turn: float) -> tuple[NDArray[np.uint8], list[Pixels]]:
    """Pictures of an object alone, uint8 [K, S, S, 3] on black, and where its points are in them.

    turn: azimuth of the first view, radians.
    """
    renderer = Renderer([Surface(*made.triangles)], [np.eye(4)])
    camera = Camera.pinhole(size, size, size / 2 * _DISTANCE / _HALF_WIDTH)
    pictures, pixels = [], []
    for number, elevation in enumerate(np.deg2rad(ELEVATIONS_DEG)):
        azimuth = turn + 2 * np.pi * number / len(ELEVATIONS_DEG)
        back = np.array([np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)])
        T = look_at(_DISTANCE * back, np.zeros(3))
        hits = renderer.cast(camera, T)
        image = np.zeros((size * size, 3), np.float32)
        met = np.flatnonzero(hits.instance)
        image[met] = renderer.looks(hits, met, Light())
        pictures.append(to_bytes(image).reshape(size, size, 3))
        pixels.append(Pixels(camera, T, hits.depth_m))
    return np.stack(pictures), pixels


class Pixels:
    """One view: where points are in its picture, and whether it sees them."""

    def __init__(self, camera: Camera, T_object_camera: Floats, depth: Floats32) -> None:
        self._camera, self._T, self._depth = camera, T_object_camera, depth

    def of(self, points: Floats, tolerance: float) -> tuple[Floats, NDArray[np.bool_]]:
        """Pixel coordinates [P, 2] of points [P, 3], and whether they lie at most so far behind what is seen [P]."""
        seen = (points - self._T[:3, 3]) @ self._T[:3, :3]
        uv: Floats = (seen[:, :2] / seen[:, 2:]) @ self._camera.intrinsics[:2, :2].T + self._camera.intrinsics[:2, 2]
        column, row = np.clip(np.rint(uv), 0, self._camera.width - 1).astype(int).T
        depth = self._depth[row, column]
        return uv, (depth > 0) & (np.abs(seen[:, 2] - depth) < tolerance)


def corner_truth(made: ProceduralObject, fine: Ints, grid: int, unit: int) -> tuple[Floats32, Floats32]:
    """What the mesh decoder should say at the corners of fine voxels [F, 3] of ``grid``^3.

    Signed distance float32 [F, 8] in voxels of ``unit``^3, at most 1 either way, and colours 0..1 [F, 8, 3]. At the
    border of the box it is outside, so that the surface closes.
    """
    corners = (fine[:, None] + CORNERS).reshape(-1, 3)
    keys, index = np.unique(corners @ np.array([(grid + 1) ** 2, grid + 1, 1]), return_inverse=True)
    places = np.stack(np.unravel_index(keys, (grid + 1,) * 3), axis=-1)
    parts = np.stack([part.sdf(places / grid - 0.5) for part in made.parts])
    distance = np.clip(parts.min(0) * unit, -1, 1)
    border = ((places == 0) | (places == grid)).any(1)
    distance[border] = np.maximum(distance[border], BORDER)
    tints = np.array([part.colour for part in made.parts], dtype=np.float32) / 255
    colour = tints[parts.argmin(0)]
    index = index.reshape(-1, 8)
    return distance.astype(np.float32)[index], colour[index]


def feet(made: ProceduralObject, points: Floats, step: float = 1e-3) -> tuple[Floats, Floats, Floats]:
    """The surface's nearest points to points [P, 3], its unit normals there and signed distances [P]."""
    distance = made.sdf(points)
    ahead = np.stack([made.sdf(points + step * axis) for axis in np.eye(3)], axis=1)
    gradient = (ahead - distance[:, None]) / step
    normal: Floats = gradient / np.maximum(np.linalg.norm(gradient, axis=1, keepdims=True), 1e-9)
    return points - distance[:, None] * normal, normal, distance
