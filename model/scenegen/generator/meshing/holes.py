"""Closes small holes of a mesh with patches as finely meshed as what surrounds them.

A loop of boundary edges gets the triangulation of least area, which is then refined until its triangles are as small
as their neighbours (P. Liepa, Filling Holes in Meshes, 2003, without its last fairing). Knows nothing about why there
are holes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scenegen.generator.meshing.edges import Floats, Ints, unique_edges

LONGEST_HOLE = 55
"""Edges around the largest hole that is closed: int(250 sqrt(1 - 0.95)), as the reference has it (section 11)."""
_ROUNDS = 10
"""Of refinement: each divides a triangle's area by three."""

_FLIPS = 4
"""Passes over a patch's edges after each."""


def fill_holes(vertices: Floats, faces: Ints, longest: int = LONGEST_HOLE) -> tuple[Floats, Ints]:
    """The mesh with every hole of at most `longest` edges closed: new vertices and faces come last, windings agree."""
    loops = [loop for loop in boundary_loops(faces) if 3 <= len(loop) <= longest]
    if not loops:
        return vertices, faces
    _, ends = unique_edges(faces)
    length = np.linalg.norm(vertices[ends[:, 0]] - vertices[ends[:, 1]], axis=1)
    degree = np.bincount(ends.reshape(-1), minlength=len(vertices))
    sizes = np.bincount(ends.reshape(-1), np.repeat(length, 2), len(vertices)) / np.maximum(degree, 1)
    at_hole = np.zeros(len(vertices), dtype=bool)
    at_hole[np.concatenate(loops)] = True
    taken = {(int(a), int(b)) for a, b in ends[at_hole[ends].all(axis=1)]}
    points, patches, count = [np.asarray(vertices)], [faces], len(vertices)
    for loop in loops:
        inserted, patch = _patch(vertices[loop].astype(np.float64), sizes[loop], loop, taken)
        points.append(inserted.astype(vertices.dtype))
        patches.append(np.concatenate([loop, count + np.arange(len(inserted))])[patch])
        count += len(inserted)
    return np.concatenate(points), np.concatenate(patches)


def boundary_loops(faces: Ints) -> list[Ints]:
    """Closed walks along the edges of one face only, each vertex once, in the direction that a patch's faces need."""
    edges, ends = unique_edges(faces)
    alone = np.flatnonzero(np.bincount(edges.reshape(-1), minlength=len(ends))[edges.reshape(-1)] == 1)
    ahead: dict[int, list[int]] = {}
    for a, b in np.stack([np.roll(faces, -1, axis=1).reshape(-1)[alone], faces.reshape(-1)[alone]], axis=1).tolist():
        ahead.setdefault(a, []).append(b)
    loops = []
    for start in list(ahead):
        walk, place = [start], {start: 0}
        while ahead.get(walk[-1]):
            step = ahead[walk[-1]].pop()
            if step in place:
                loop = walk[place[step] :]
                loops.append(np.array(loop, dtype=np.int64))
                for vertex in loop[1:]:
                    del place[vertex]
                del walk[place[step] + 1 :]
            else:
                place[step] = len(walk)
                walk.append(step)
    return loops


def _patch(rim: Floats, sizes: Floats, loop: Ints, taken: set[tuple[int, int]]) -> tuple[Floats, Ints]:
    """Points to insert and triangles between the rim's points [n, 3] (first) and those; taken: edges of the mesh."""
    n = len(rim)
    blocked = np.array([[(min(a, b), max(a, b)) in taken for b in loop.tolist()] for a in loop.tolist()])
    blocked[np.arange(n), np.arange(n) - 1] = blocked[np.arange(n) - 1, np.arange(n)] = False  # the rim itself
    triangles = _least_area(rim, blocked)
    points = rim
    if triangles is None:  # every triangulation doubles an edge of the mesh: a fan does not
        points, sizes = np.vstack([rim, rim.mean(0)]), np.append(sizes, sizes.mean())
        triangles = np.stack([np.arange(n), (np.arange(n) + 1) % n, np.full(n, n)], axis=1)
    for _ in range(_ROUNDS):
        corners = points[triangles]
        centre, size = corners.mean(axis=1), sizes[triangles].mean(axis=1)
        reach = np.sqrt(2) * np.linalg.norm(corners - centre[:, None], axis=2)
        coarse = (reach > np.maximum(size[:, None], sizes[triangles])).all(axis=1)
        if not coarse.any():
            break
        new = len(points) + np.arange(int(coarse.sum()))
        a, b, c = triangles[coarse].T
        thirds = [np.stack(corner, axis=1) for corner in ((a, b, new), (b, c, new), (c, a, new))]
        triangles = np.concatenate([triangles[~coarse], *thirds])
        points, sizes = np.concatenate([points, centre[coarse]]), np.concatenate([sizes, size[coarse]])
        for _ in range(_FLIPS):
            if not _flip(points, triangles, n):
                break
    return points[n:], triangles


def _least_area(rim: Floats, blocked: NDArray[np.bool_]) -> Ints | None:
    """Triangles [n - 2, 3] of least total area on a closed polygon [n, 3] without blocked diagonals [n, n], if any."""
    n = len(rim)
    side = rim[None] - rim[:, None]
    area = 0.5 * np.linalg.norm(np.cross(side[:, :, None], side[:, None, :]), axis=-1)
    area += np.where(blocked[:, :, None] | blocked[:, None, :] | blocked[None], np.inf, 0)
    least, middle = np.zeros((n, n)), np.zeros((n, n), dtype=np.int64)
    for span in range(2, n):
        first = np.arange(n - span)
        between = first[:, None] + np.arange(1, span)
        last = first + span
        a, c = first[:, None], last[:, None]
        total = least[a, between] + least[between, c] + area[a, between, c]
        best = total.argmin(axis=1)
        least[first, last], middle[first, last] = total[first, best], between[first, best]
    if not np.isfinite(least[0, n - 1]):
        return None
    triangles, open_spans = [], [(0, n - 1)]
    while open_spans:
        start, end = open_spans.pop()
        if end - start >= 2:
            corner = int(middle[start, end])
            triangles.append((start, corner, end))
            open_spans += [(start, corner), (corner, end)]
    return np.array(triangles, dtype=np.int64)


def _flip(points: Floats, triangles: Ints, rim: int) -> bool:
    """Turns edges between triangles (in place) towards the even ones, never onto the rim; whether any was turned."""
    at: dict[tuple[int, int], tuple[int, int]] = {}
    for number, (a, b, c) in enumerate(triangles.tolist()):
        at |= {(a, b): (number, c), (b, c): (number, a), (c, a): (number, b)}
    turned: set[int] = set()
    edges = set(at)
    for (a, b), (one, c) in at.items():
        other, d = at.get((b, a), (-1, -1))
        if a > b or other < 0 or {one, other} & turned or {(c, d), (d, c)} & edges or max(c, d) < rim:
            continue
        if _angle(points, c, a, b) + _angle(points, d, a, b) > np.pi + 1e-6:
            triangles[one], triangles[other] = (c, a, d), (d, b, c)
            turned |= {one, other}
            edges |= {(c, d), (d, c)}
    return bool(turned)


def _angle(points: Floats, at: int, a: int, b: int) -> float:
    u, v = points[a] - points[at], points[b] - points[at]
    return float(np.arctan2(np.linalg.norm(np.cross(u, v)), u @ v))
