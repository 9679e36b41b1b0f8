"""Takes the stairs of a voxel grid out of a mesh, and keeps its edges: faces agree on normals, then vertices follow.

Bilateral filtering of normals (Y. Zheng et al., Bilateral Normal Filtering for Mesh Denoising, 2011) and the update of
vertices of X. Sun et al., Fast and Effective Feature-Preserving Mesh Denoising, 2007. Knows nothing about textures.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array
from scipy.spatial import cKDTree

from scenegen.generator.meshing.edges import Floats, Ints

_REACH = 1.5
"""Voxels over which faces agree: stairs are shorter, rims and legs of two voxels are seen from one side only."""
_NEIGHBOURS = 48
_EDGE = 0.4
"""Difference of unit normals beyond which faces hardly heed each other: 23 degrees. Stairs melt away by and by."""
_ROUNDS, _STEPS = 10, 30
_FARTHEST = 0.2
"""Voxels by which a vertex may move along an axis: stairs are that high, and thin parts and edges keep their form."""
_BESIDE = 0.02
"""Voxels that a vertex keeps from the middle of a voxel, if it was not nearer."""


def without_stairs(vertices: Floats, faces: Ints, voxel: float) -> Floats:
    """Vertices [V, 3] of a mesh with faces [F, 3], moved by less than a voxel: smooth where its surface is meant so.

    The mesh lies in the unit box around the origin, on a grid of voxels whose edge is ``voxel``. No vertex passes the
    middle of a voxel along an axis: what the grid says of the middles stays as it is.
    """
    normals = _agreed_normals(vertices[faces].astype(np.float64), _REACH * voxel)
    count = len(vertices)
    of_face = np.ones(3 * len(faces), np.float64), faces.reshape(-1), np.arange(0, 3 * len(faces) + 1, 3)
    gather = csr_array(csr_array(of_face, shape=(len(faces), count)).T)
    degree = np.maximum(np.diff(gather.indptr), 1)[:, None]
    turns = (gather @ (normals[:, :, None] * normals[:, None, :]).reshape(-1, 9)).reshape(count, 3, 3)
    moved = start = vertices.astype(np.float64)
    cell = np.floor((start + 0.5) / voxel - 0.5)  # between the middles of two voxels
    low, high = ((cell + side + 0.5) * voxel - 0.5 for side in (_BESIDE, 1 - _BESIDE))
    low = np.minimum(start, np.maximum(low, start - _FARTHEST * voxel))
    high = np.maximum(start, np.minimum(high, start + _FARTHEST * voxel))
    for _ in range(_STEPS):  # towards the planes of its faces, each through the face's middle
        height = np.einsum("fx,fx->f", normals, moved[faces].mean(axis=1))
        towards = gather @ (normals * height[:, None]) - np.einsum("vij,vj->vi", turns, moved)
        moved = np.clip(moved + towards / degree, low, high)
    return moved.astype(vertices.dtype)


def _agreed_normals(corners: Floats, reach: float) -> Floats:
    """Unit normals [F, 3] of triangles [F, 3, 3], each a mean of those around that look almost the same way."""
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    doubled = np.linalg.norm(normals, axis=1)
    normals /= np.maximum(doubled, 1e-30)[:, None]
    middles, count = corners.mean(axis=1), len(corners)
    near = min(_NEIGHBOURS, count)
    distance, other = cKDTree(middles).query(middles, k=near, distance_upper_bound=reach)
    distance, other = distance.reshape(count, near), other.reshape(count, near)
    found = other < count
    other = np.where(found, other, 0)
    weight = np.where(found, doubled[other] * np.exp(-2 * (np.where(found, distance, 0) / reach) ** 2), 0)
    weight *= np.einsum("fkx,fx->fk", normals[other], normals) > 0  # not the other side of a thin part
    start_of_row = np.arange(0, near * count + 1, near)
    for _ in range(_ROUNDS):
        apart = normals[other] - normals[:, None]
        alike = weight * np.exp(np.einsum("fkx,fkx->fk", apart, apart) / (-2 * _EDGE**2))
        normals = csr_array((alike.reshape(-1), other.reshape(-1), start_of_row), shape=(count, count)) @ normals
        normals /= np.maximum(np.linalg.norm(normals, axis=1), 1e-30)[:, None]
    return normals
