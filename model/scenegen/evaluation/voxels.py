"""Which voxels lie inside a mesh, by counting the surface along the rays of all voxel columns; or on its surface.

The inside is that of any closed mesh, of overlapping parts too (crossings are counted with their sign). Knows nothing
about where a mesh comes from.
"""

from __future__ import annotations

import numpy as np
import trimesh

from scenegen.evaluation.metrics import Grid
from scenegen.scene import Floats

RESOLUTION = 32
_ASIDE = np.array([1.234e-6, 2.345e-6])
"""Rays stand this far beside the voxel centres, so that none runs along an edge of a mesh made on the same grid."""


def voxelise(mesh: trimesh.Trimesh, resolution: int = RESOLUTION) -> Grid:
    """bool [R, R, R] indexed x, y, z: voxel centres ((i + 0.5) / R - 0.5) inside a mesh of the unit box.

    Decided by two of the three axes' rays, which forgives a small hole.
    """
    triangles = np.asarray(mesh.triangles, dtype=np.float64)
    votes = np.zeros((resolution,) * 3, dtype=np.int64)
    for axis in range(3):
        order = [(axis + 1) % 3, (axis + 2) % 3, axis]
        inside = _inside_along_z(triangles[:, :, order], resolution)
        votes += np.transpose(inside, np.argsort(order))
    return votes >= 2


def surface_voxels(mesh: trimesh.Trimesh, resolution: int) -> Grid:
    """bool [R, R, R]: voxels of the unit box that the surface runs through, to a quarter of a voxel."""
    vertices, faces = trimesh.remesh.subdivide_to_size(mesh.vertices, mesh.faces, 0.5 / resolution, max_iter=20)
    points = np.concatenate([vertices, vertices[faces].mean(1)])
    index = np.clip(np.floor((points + 0.5) * resolution), 0, resolution - 1).astype(np.int64)
    grid = np.zeros((resolution,) * 3, dtype=bool)
    grid[tuple(index.T)] = True
    return grid


def _inside_along_z(triangles: Floats, resolution: int) -> Grid:
    """bool [R, R, R] by rays along the last axis of triangles [F, 3, 3]."""
    corners = (triangles[..., :2] + 0.5) * resolution - 0.5 + _ASIDE * resolution
    first = np.maximum(np.ceil(corners.min(1)).astype(np.int64), 0)
    last = np.minimum(np.floor(corners.max(1)).astype(np.int64), resolution - 1)
    spans = np.maximum(last - first + 1, 0)
    counts = spans.prod(1)
    face = np.repeat(np.arange(len(triangles)), counts)
    within = np.arange(len(face)) - np.repeat(np.cumsum(counts) - counts, counts)
    column = first[face] + np.stack([within // spans[face, 1], within % spans[face, 1]], axis=1)

    a, b, c = (corners[face, k] - column for k in range(3))
    weights = np.stack([_cross(b, c), _cross(c, a), _cross(a, b)], axis=1)
    twice_area = weights.sum(1)
    hit = ((weights > 0).all(1) | (weights < 0).all(1)) & (twice_area != 0)
    height = (weights[hit] / twice_area[hit, None] * triangles[face[hit], :, 2]).sum(1)
    above = np.clip(np.ceil((height + 0.5) * resolution - 0.5), 0, resolution).astype(np.int64)

    # a surface that faces down is entered by a ray going up, and so adds one to every voxel above it
    entries = np.zeros((resolution, resolution, resolution + 1), dtype=np.int64)
    np.add.at(entries, (*column[hit].T, above), -np.sign(twice_area[hit]).astype(np.int64))
    return entries.cumsum(2)[..., :-1] != 0


def _cross(first: Floats, second: Floats) -> Floats:
    return first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]
