"""Colours of the mesh decoder anywhere on the surface: those of the extracted vertices, interpolated.

Knows points with colours, nothing about networks, Gaussians or textures.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from scenegen.scene import InvalidInput

Floats32 = NDArray[np.float32]

_REACH = 1.5
"""In grid cells: how far a vertex has influence."""
_AT_ONCE = 1 << 15


class DecodedColours:
    """The colour function of a dense mesh in the unit box [-0.5, 0.5]^3, as it was extracted.

    Its vertices are sorted into the cells of the grid they were extracted from, about one in each near the surface,
    so that the eight cells around a point hold those next to it.
    """

    def __init__(self, vertices: Floats32, colours: Floats32, resolution: int = 256) -> None:
        """vertices: [V, 3]. colours: [V, 3], RGB 0..1. resolution: of the grid. InvalidInput without vertices."""
        if not len(vertices):
            raise InvalidInput("a mesh without vertices has no colours to interpolate: nothing was decoded")
        self._side = resolution + 2  # a border of empty cells
        self._resolution = resolution
        keys, cell = np.unique(self._keys(vertices, 1.0), return_inverse=True)
        number = np.bincount(cell)
        means = [np.bincount(cell, column) / number for column in (*vertices.T, *colours.T)]
        self._vertices: Floats32 = np.zeros((len(keys) + 1, 6), dtype=np.float32)
        self._vertices[0, :3] = np.inf
        self._vertices[1:] = np.stack(means, axis=1)
        self._at: NDArray[np.int32] = np.zeros(self._side**3, dtype=np.int32)
        self._at[keys] = np.arange(1, len(keys) + 1)
        steps = np.stack(np.meshgrid([0, 1], [0, 1], [0, 1], indexing="ij"), axis=-1).reshape(8, 3)
        self._around = steps @ [self._side**2, self._side, 1]

    def _keys(self, points: Floats32, shift: float) -> NDArray[np.int64]:
        cells = np.clip(((points + 0.5) * self._resolution + shift), 0, self._side - 2).astype(np.int64)
        keys: NDArray[np.int64] = cells @ np.array([self._side**2, self._side, 1])
        return keys

    def __call__(self, points: Floats32) -> Floats32:
        """RGB [P, 3] at points [P, 3]; the nearest vertex's where none is within reach."""
        result, total = np.empty_like(points), np.empty(len(points), dtype=np.float32)
        for start in range(0, len(points), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            near = self._vertices[self._at[self._keys(points[part], 0.5)[:, None] + self._around]]
            offsets = near[..., :3] - points[part, None]
            squared = np.einsum("nki,nki->nk", offsets, offsets) * np.float32((self._resolution / _REACH) ** 2)
            weights = np.maximum(1 - squared, 0) ** 4
            total[part] = weights.sum(1)
            weights /= np.maximum(total[part], 1e-12)[:, None]
            result[part] = np.einsum("nk,nkc->nc", weights, near[..., 3:])
        lost = np.flatnonzero(total <= 1e-12)
        if len(lost):
            tree = cKDTree(self._vertices[1:, :3], balanced_tree=False, compact_nodes=False)
            result[lost] = self._vertices[1 + tree.query(points[lost])[1], 3:]
        return result
