"""Which faces of a mesh nobody outside needs: the reference's rule (spec/latents.md section 11.1).

Inner faces are never seen, outer ones often; a minimum cut through the faces between them, along short edges, tells
where the inside ends. Knows nothing about how visibility was found, nor about filling holes.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, connected_components, maximum_flow

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
    """The faces on the inner side of the minimum cut, ascending."""
    pairs, edge = neighbours(edges, len(ends))
    length = np.linalg.norm(vertices[ends[edge, 0]] - vertices[ends[edge, 1]], axis=1)
    capacity = np.rint(_CAPACITY * length).astype(np.int32)
    pairs, capacity = pairs[capacity > 0], capacity[capacity > 0]
    graph = coo_array((np.ones(len(pairs), np.int8), pairs.T), shape=(len(edges),) * 2)
    parts, part = connected_components(graph, directed=False)
    has_inner, has_outer = np.zeros(parts, dtype=bool), np.zeros(parts, dtype=bool)
    has_inner[part[inner]] = has_outer[part[outer]] = True
    candidates = (has_inner & ~has_outer)[part]  # nothing to cut there
    mixed = (has_inner & has_outer)[part]
    if mixed.any():
        number = np.cumsum(mixed) - 1
        within = mixed[pairs[:, 0]]
        cut = _source_side(number[pairs[within]], capacity[within], inner[mixed], outer[mixed])
        candidates[mixed] = cut
    return np.flatnonzero(candidates)


def _source_side(pairs: Ints, capacity: Ints, inner: Bools, outer: Bools) -> Bools:
    """What can still be reached from the inner faces [n] when the most flows from them to the outer ones."""
    count = len(inner)
    source, sink = count, count + 1
    inner_faces, outer_faces = np.flatnonzero(inner), np.flatnonzero(outer)
    rows = np.concatenate([pairs[:, 0], pairs[:, 1], np.full(len(inner_faces), source), outer_faces])
    columns = np.concatenate([pairs[:, 1], pairs[:, 0], inner_faces, np.full(len(outer_faces), sink)])
    links = np.full(len(inner_faces) + len(outer_faces), int(_CAPACITY), dtype=np.int32)
    limits = np.concatenate([capacity, capacity, links]).astype(np.int32)
    network = coo_array((limits, (rows, columns)), shape=(count + 2,) * 2).tocsr()
    left = network - maximum_flow(network, source, sink).flow
    left.data = np.maximum(left.data, 0)
    left.eliminate_zeros()
    reached = np.zeros(count + 2, dtype=bool)
    reached[breadth_first_order(left, source, return_predecessors=False)] = True
    return reached[:count]


def _area(vertices: Floats, loop: Ints) -> float:
    """Of the cone from a loop's edges [n, 2] to the mean of their middles."""
    start, end = vertices[loop[:, 0]], vertices[loop[:, 1]]
    centre = ((start + end) / 2).mean(axis=0)
    return float(0.5 * np.linalg.norm(np.cross(start - centre, end - centre), axis=1).sum())
