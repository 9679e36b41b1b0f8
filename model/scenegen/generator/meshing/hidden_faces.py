"""Which faces of a mesh nobody outside needs: the reference's rule (spec/latents.md section 11.1).

Inner faces are never seen, outer ones often; a minimum cut through the faces between them, along short edges, tells
where the inside ends. Knows nothing about how visibility was found, nor about filling holes.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

from scenegen.generator.meshing.edges import (
    Bools,
    Floats,
    Ints,
    connected_ends,
    face_components,
    members,
    neighbours,
    unique_edges,
)

LARGEST_OPENING = 0.04
"""Area, in asset units squared, of the largest hole that removing faces may leave."""
_OFTEN, _OFTEN_ENOUGH, _QUANTILE = 0.25, 0.5, 0.75
_CAPACITY = 1e6
"""Of an edge of length 1, and of a link to either side: maximum_flow wants integers."""


def hidden_faces(
    vertices: Floats, faces: Ints, visibility: Floats, largest_opening: float = LARGEST_OPENING
) -> Bools | None:
    """The faces to remove, [F]; None when every face is seen, where the reference does not fill holes either.

    vertices: [V, 3]. faces: [F, 3]. visibility: [F], the share of the views from all around that see a face.
    """
    inner = visibility == 0
    if not inner.any():
        return None
    edges, ends = unique_edges(faces)
    candidates = _inner_side(vertices, edges, ends, inner, _outer(edges, len(ends), visibility))
    removed = np.zeros(len(faces), dtype=bool)
    degree = np.bincount(edges.reshape(-1), minlength=len(ends))
    for part in members(face_components(edges[candidates], len(ends))):
        part = candidates[part]
        own, count = np.unique(edges[part], return_counts=True)
        opened = ends[own[(count == 1) & (degree[own] > 1)]]
        large = any(_area(vertices, opened[loop]) > largest_opening for loop in connected_ends(opened))
        removed[part] = not large and np.median(visibility[part]) <= _OFTEN
    return removed


def _outer(edges: Ints, count: int, visibility: Floats) -> Bools:
    outer = np.zeros(len(edges), dtype=bool)
    for part in members(face_components(edges, count)):
        limit = np.clip(np.quantile(visibility[part], _QUANTILE), _OFTEN, _OFTEN_ENOUGH)
        outer[part] = visibility[part] > limit
    return outer


def _inner_side(vertices: Floats, edges: Ints, ends: Ints, inner: Bools, outer: Bools) -> Ints:
    """The faces on the inner side of the minimum cut, ascending.

    A face whose edges are together shorter than a link's weight is never cut from its side: almost every inner and
    outer face is one with the source or the sink, and only the faces between them are left to decide about.
    """
    pairs, edge = neighbours(edges, len(ends))
    length = np.linalg.norm(vertices[ends[edge, 0]] - vertices[ends[edge, 1]], axis=1)
    around = np.bincount(pairs.reshape(-1), np.repeat(length, 2), len(edges))
    linked = inner | outer
    settled = linked & (around < 1)
    node = np.cumsum(~settled) - 1
    count = int((~settled).sum())
    source, sink = count, count + 1
    node[settled] = np.where(inner[settled], source, sink)
    loose = np.flatnonzero(linked & ~settled)
    links = np.stack([node[loose], np.where(inner[loose], source, sink)], axis=1)
    ways, weights = np.concatenate([node[pairs], links]), np.concatenate([length, np.ones(len(loose))])
    within = (ways < count).any(axis=1) & (ways[:, 0] != ways[:, 1])
    reached = _source_side(ways[within], np.rint(_CAPACITY * weights[within]), source, sink)
    return np.flatnonzero(reached[node])


def _source_side(ways: Ints, capacity: Floats, source: int, sink: int) -> Bools:
    """The nodes, sink + 1 of them, that are still reached from the source when the most flows; ways: [n, 2]."""
    rows, columns = np.concatenate([ways, ways[:, ::-1]]).T
    both = np.tile(capacity, 2)
    network = coo_array((both, (rows, columns)), shape=(sink + 1,) * 2).tocsr().astype(np.int32)
    left = network - maximum_flow(network, source, sink).flow
    left.eliminate_zeros()
    reached = np.zeros(sink + 1, dtype=bool)
    reached[breadth_first_order(left, source, return_predecessors=False)] = True
    return reached


def _area(vertices: Floats, loop: Ints) -> float:
    """Of the cone from a loop's edges [n, 2] to the mean of their middles."""
    start, end = vertices[loop[:, 0]], vertices[loop[:, 1]]
    centre = ((start + end) / 2).mean(axis=0)
    return float(0.5 * np.linalg.norm(np.cross(start - centre, end - centre), axis=1).sum())
