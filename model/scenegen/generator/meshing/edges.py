"""Edges of triangle meshes: who shares them, and the loops that some of them make.

Knows nothing about why anyone asks.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Floats = NDArray[np.floating]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


def unique_edges(faces: Ints) -> tuple[Ints, Ints]:
    """The undirected edge after each corner of each face, [F, 3], and the edges' ends, [E, 2], smaller vertex first."""
    ends = np.sort(np.stack([faces, np.roll(faces, -1, axis=1)], axis=-1).reshape(-1, 2), axis=1).astype(np.int64)
    size = int(ends.max(initial=-1)) + 1
    keys, edges = np.unique(ends[:, 0] * size + ends[:, 1], return_inverse=True)
    return edges.reshape(-1, 3), np.stack(np.divmod(keys, max(size, 1)), axis=1)


def neighbours(edges: Ints, count: int) -> tuple[Ints, Ints]:
    """Pairs of faces [n, 2] that share an edge of just two faces, and that edge [n]. edges: [F, 3]; count: of edges."""
    flat = edges.reshape(-1)
    two = np.bincount(flat, minlength=count) == 2
    corner = np.flatnonzero(two[flat])
    corners = corner[np.argsort(flat[corner], kind="stable")].reshape(-1, 2)
    return corners // 3, flat[corners[:, 0]]


def face_components(edges: Ints, count: int) -> Ints:
    """The connected part of each face, [F]: faces sharing an edge are in one. edges: [F, 3]; count: of edges."""
    faces = len(edges)
    links = np.repeat(np.arange(faces), 3), faces + edges.reshape(-1)
    graph = coo_array((np.ones(3 * faces, np.int8), links), shape=(faces + count,) * 2)
    return np.unique(connected_components(graph, directed=False)[1][:faces], return_inverse=True)[1]


def members(part_of: Ints) -> list[Ints]:
    """The indices with each value 0, 1, ... of part_of [n], ascending."""
    order = np.argsort(part_of, kind="stable")
    return np.split(order, np.cumsum(np.bincount(part_of))[:-1]) if len(part_of) else []


def connected_ends(ends: Ints) -> list[Ints]:
    """Rows of ends [n, 2] grouped by shared vertices."""
    if not len(ends):
        return []
    _, local = np.unique(ends, return_inverse=True)
    local = local.reshape(-1, 2)
    size = int(local.max()) + 1
    graph = coo_array((np.ones(len(local), np.int8), (local[:, 0], local[:, 1])), shape=(size, size))
    return members(connected_components(graph, directed=False)[1][local[:, 0]])


def keep_faces(vertices: Floats, faces: Ints, kept: Bools) -> tuple[Floats, Ints]:
    """The mesh of the faces kept [F]: vertices that none of them uses are dropped, the others stay in order."""
    used = np.zeros(len(vertices), dtype=bool)
    used[faces[kept]] = True
    return vertices[used], (np.cumsum(used) - 1)[faces[kept]]
