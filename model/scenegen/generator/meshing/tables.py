"""What the 256 sign patterns of a cube mean: its dual vertices, and which patterns are ambiguous (spec/latents.md 9).

Derived here from the rule; test_flexicubes.py holds the result against the checksums of the published tables.
Corners are numbered x fastest: corner c stands at (c & 1, c >> 1 & 1, c >> 2 & 1). Case id = sum of 2^corner over the
corners inside. Knows nothing about grids.
"""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray

EDGES = ((0, 1), (1, 5), (4, 5), (0, 4), (2, 3), (3, 7), (6, 7), (2, 6), (2, 0), (3, 1), (7, 5), (6, 4))
"""Corners of a cube's 12 edges. x and z edges run towards larger coordinates, y edges towards smaller ones."""

CORNERS: NDArray[np.int64] = np.array([[c & 1, c >> 1 & 1, c >> 2 & 1] for c in range(8)])
"""[8, 3] Where the corners stand."""

_FACES = tuple(product(range(3), (0, 1)))
"""A cube's faces: (axis, side)."""
_EDGES_OF_FACE = {
    (axis, side): [e for e, ends in enumerate(EDGES) if all(CORNERS[c, axis] == side for c in ends)]
    for axis, side in _FACES
}
_PUBLISHED_REVERSED = 231
"""The one case whose dual vertices stand in the other order in the published table."""


def _inside(case: int) -> list[int]:
    return [c for c in range(8) if case >> c & 1]


def _crossing(case: int) -> list[int]:
    return [e for e, (a, b) in enumerate(EDGES) if (case >> a & 1) != (case >> b & 1)]


def _dual_vertices(case: int) -> list[list[int]]:
    """The crossing edges of each dual vertex: edges connected through the cube's faces, inside corners kept apart."""
    inside, crossing = _inside(case), _crossing(case)
    group = {edge: {edge} for edge in crossing}

    def join(a: int, b: int) -> None:
        together = group[a] | group[b]
        for edge in together:
            group[edge] = together

    for axis, side in _FACES:
        edges = [e for e in _EDGES_OF_FACE[axis, side] if e in group]
        if len(edges) == 2:
            join(*edges)
        elif len(edges) == 4:
            for corner in inside:
                if CORNERS[corner, axis] == side:
                    join(*(e for e in edges if corner in EDGES[e]))
    groups = {min(edges): sorted(edges) for edges in group.values()}.values()
    ordered = sorted(groups, key=lambda edges: (min(c for e in edges for c in EDGES[e] if c in inside), edges[0]))
    return ordered[::-1] if case == _PUBLISHED_REVERSED else ordered


def _ambiguity(case: int) -> list[int]:
    """(1, direction of the one ambiguous face [3], the case to use instead); zeros when there is nothing to check."""
    crossing = set(_crossing(case))
    ambiguous = [face for face in _FACES if crossing.issuperset(_EDGES_OF_FACE[face])]
    if len(ambiguous) != 1 or len(_inside(case)) < 5:
        return [0] * 5
    axis, side = ambiguous[0]
    return [1, *(2 * side - 1 if axis == a else 0 for a in range(3)), 255 - case]


def _table() -> NDArray[np.int8]:
    table = np.full((256, 4, 7), -1, dtype=np.int8)
    for case in range(256):
        for i, edges in enumerate(_dual_vertices(case)):
            table[case, i, : len(edges)] = edges
    return table


DUAL_VERTICES: NDArray[np.int8] = _table()
"""[256, 4, 7] Crossing edges of each dual vertex of a case, -1 where there are no more."""

AMBIGUITY: NDArray[np.int16] = np.array([_ambiguity(case) for case in range(256)], dtype=np.int16)
"""[256, 5] Rows (1, dx, dy, dz, replacement case) of the 36 checked cases, zeros for the others."""

DUAL_COUNT: NDArray[np.int64] = (DUAL_VERTICES[:, :, 0] >= 0).sum(1)
"""[256] Number of dual vertices."""

DUAL_OF_EDGE: NDArray[np.int8] = np.full((256, 12), -1, dtype=np.int8)
"""[256, 12] Which dual vertex of its case a crossing edge belongs to, -1 for edges that do not cross."""
for _case, _dual, _slot in np.argwhere(DUAL_VERTICES >= 0):
    DUAL_OF_EDGE[_case, DUAL_VERTICES[_case, _dual, _slot]] = _dual
