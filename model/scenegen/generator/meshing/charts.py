"""Cuts a surface into charts that lie flat without overlapping: each is seen whole from one direction.

A face goes to one of the six directions of the box, as its normal says and its neighbours wish; connected faces of one
direction are a chart, projected along its mean normal. What a chart hides of itself is cut off into another chart.
Knows nothing about textures and where charts lie in one.
"""

from __future__ import annotations

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

from scenegen.generator.meshing.edges import Floats, Ints, neighbours, unique_edges

Floats32 = NDArray[np.float32]

_DIRECTIONS: Floats = np.concatenate([np.eye(3), -np.eye(3)])
_ROUNDS = 12
"""Of asking the neighbours."""
_AGREEMENT = 0.35
"""What a neighbour's wish counts against a face's own slant."""
_FEW_FACES = 24
"""Charts of fewer faces join the neighbour they share most of their border with, if they face its way."""
_LEAST_FACING = 0.15
"""Cosine between a face's normal and its chart's direction, at least, to join it."""
_JOINS, _CUTS = 2, 4
"""Rounds of joining small charts, and of cutting off what a chart hides of itself."""
_SAMPLES: Floats32 = np.array([[1, 1, 1], [8, 1, 1], [1, 8, 1], [1, 1, 8]], np.float32)
_SAMPLES /= _SAMPLES.sum(1, keepdims=True)
"""[4, 3] Where a face is asked whether something covers it, barycentric."""
_ABOVE, _LAYER = 4.0, 1e-4
"""How far above a chart the rays start, and the least height, in asset units, of what covers a face."""


def cut_charts(vertices: Floats, faces: Ints) -> tuple[Ints, Floats32]:
    """The chart of each face, [F], numbered from 0, and its corners in its chart's plane, float32 [F, 3, 2].

    vertices: [V, 3]. faces: [F, 3]. Lengths stay as on the surface, or shorter where a face slants.
    """
    corners = vertices[faces].astype(np.float64)
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.linalg.norm(cross, axis=1)
    normals = cross / np.maximum(area, 1e-20)[:, None]
    edges, ends = unique_edges(faces)
    pairs, edge = neighbours(edges, len(ends))
    length = np.linalg.norm(vertices[ends[edge, 0]] - vertices[ends[edge, 1]], axis=1)
    chart = _connected(_directions(normals, pairs, length), pairs)
    for _ in range(_JOINS):
        chart = _join_small(chart, normals, cross, pairs, length)
    for _ in range(_CUTS):
        flat, height = _project(corners, cross, chart)
        hidden = _hidden(flat, height, chart)
        if not hidden.any():
            break
        chart = _connected(2 * chart + hidden, pairs)
    else:
        flat, _ = _project(corners, cross, chart)
    return chart, flat.astype(np.float32)


def _connected(label: Ints, pairs: Ints) -> Ints:
    """Numbers the connected sets of faces of one label: [F]."""
    alike = pairs[label[pairs[:, 0]] == label[pairs[:, 1]]]
    graph = coo_array((np.ones(len(alike), np.int8), alike.T), shape=(len(label),) * 2)
    return connected_components(graph, directed=False)[1].astype(np.int64)


def _directions(normals: Floats, pairs: Ints, length: Floats) -> Ints:
    """The direction, 0..5, that each face goes to: [F]."""
    facing = normals @ _DIRECTIONS.T
    both = np.concatenate([pairs, pairs[:, ::-1]]).T
    border = coo_array((np.concatenate([length, length]), tuple(both)), shape=(len(normals),) * 2).tocsr()
    wish = csr_array(border.multiply(1 / np.maximum(border.sum(axis=1), 1e-20)[:, None]))
    label = np.argmax(facing, axis=1)
    for _ in range(_ROUNDS):
        label = np.argmax(facing + _AGREEMENT * (wish @ np.eye(6)[label]), axis=1)
    return label


def _chart_normals(cross: Floats, chart: Ints) -> Floats:
    """Unit mean normal of each chart, [N, 3]."""
    total = np.stack([np.bincount(chart, cross[:, axis]) for axis in range(3)], axis=1)
    return total / np.maximum(np.linalg.norm(total, axis=1), 1e-20)[:, None]


def _join_small(chart: Ints, normals: Floats, cross: Floats, pairs: Ints, length: Floats) -> Ints:
    """Small charts become part of the larger neighbour they share the longest border with, if they face its way."""
    size = np.bincount(chart)
    sides = np.concatenate([chart[pairs], chart[pairs[:, ::-1]]])
    border = np.concatenate([length, length])
    leaves = (size[sides[:, 0]] < _FEW_FACES) & (size[sides[:, 1]] > size[sides[:, 0]])
    keys, which = np.unique(sides[leaves, 0] * len(size) + sides[leaves, 1], return_inverse=True)
    small, large = np.divmod(keys, len(size))
    best = np.lexsort((np.bincount(which, border[leaves], minlength=len(keys)), small))
    into = np.arange(len(size))
    into[small[best]] = large[best]  # the longest comes last
    facing = (normals * _chart_normals(cross, chart)[into[chart]]).sum(1)
    least = np.full(len(size), np.inf)
    np.minimum.at(least, chart, facing)
    into = np.where(least > _LEAST_FACING, into, np.arange(len(size)))
    while (into[into] != into).any():
        into = into[into]
    return np.unique(into[chart], return_inverse=True)[1]


def _project(corners: Floats, cross: Floats, chart: Ints) -> tuple[Floats, Floats]:
    """Corners in their chart's plane, [F, 3, 2], counterclockwise seen from its direction; height above it, [F, 3]."""
    up = _chart_normals(cross, chart)
    across = np.cross(np.eye(3)[np.argmin(np.abs(up), axis=1)], up)
    across /= np.maximum(np.linalg.norm(across, axis=1), 1e-20)[:, None]
    axes = np.stack([across, np.cross(up, across), up], axis=-1)
    placed = np.einsum("fca,fab->fcb", corners, axes[chart])
    return placed[..., :2], placed[..., 2]


def spread(flat: Floats, chart: Ints) -> Floats:
    """Moves charts [F, 3, 2] apart, onto a square lattice: [F, 3, 2]."""
    columns = int(np.ceil(np.sqrt(chart.max(initial=0) + 1)))
    cell = float(np.ptp(flat, axis=(0, 1)).max()) + 0.1
    lattice = np.stack(np.divmod(chart, columns), axis=-1)
    return flat - flat.min(axis=(0, 1)) + cell * lattice[:, None]


def _hidden(flat: Floats, height: Floats, chart: Ints) -> NDArray[np.bool_]:
    """Faces of which a part lies under another face of their chart, or which turn away: [F]."""
    solid = np.concatenate([spread(flat, chart), height[..., None]], axis=-1).astype(np.float32)
    a, b = flat[:, 1] - flat[:, 0], flat[:, 2] - flat[:, 0]
    hidden: NDArray[np.bool_] = a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0] < 0
    scene = EmbreeScene(robust=True)
    TriangleMesh(scene, solid)
    points = np.einsum("sc,fcx->fsx", _SAMPLES, solid).reshape(-1, 3)
    origins = points + np.array([0, 0, _ABOVE], np.float32)
    down = np.ascontiguousarray(np.broadcast_to(np.array([0, 0, -1], np.float32), origins.shape))
    under = scene.run(origins, down, output=True)["tfar"] < _ABOVE - _LAYER
    return hidden | under.reshape(len(flat), -1).any(axis=1)
