"""Values on the cells of a sparse grid, stored in dense blocks of 8^3 cells where something is.

A cell is found by arithmetic and one look into a small table of blocks: no sorting, no hashing, and no array of the
whole grid. Knows nothing about what the values mean.
"""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray

SIDE = 8
"""Cells along a block's edge."""
VOLUME = SIDE**3
_WITHIN = SIDE - 1
"""What & keeps of a coordinate: its place in its block (several times as fast as %)."""

Ints = NDArray[np.int32]


class Blocks:
    """The blocks of a grid of `size`^3 cells that hold at least one of the marked ranges of cells.

    Arrays over cells have `len(blocks)` entries, indexed (block, x, y, z) within the block. The last block stands for
    every cell outside: it must hold the value that unset cells have.
    """

    def __init__(self, low: Ints, high: Ints, size: int) -> None:
        """low, high: int32 [3, n], first and last cell of each range, at most SIDE apart, clipped to the grid."""
        self.size = size
        self._per_axis = -(-size // SIDE) + 1  # one more: the cell after the last is outside, not an error
        marked = np.zeros(self._per_axis**3, dtype=bool)
        ends = low.clip(0, size - 1) // SIDE, high.clip(0, size - 1) // SIDE
        for x, y, z in product((0, 1), repeat=3):
            marked[self._block(ends[x][0], ends[y][1], ends[z][2])] = True
        used = np.flatnonzero(marked).astype(np.int32)
        self._count = len(used)
        self._slot = np.full(len(marked), self._count, dtype=np.int32)
        self._slot[used] = np.arange(self._count, dtype=np.int32)
        self._corner = np.stack(np.unravel_index(used, (self._per_axis,) * 3)).astype(np.int32) * SIDE

    def __len__(self) -> int:
        return (self._count + 1) * VOLUME

    def _block(self, x: Ints, y: Ints, z: Ints) -> Ints:
        """Number of the blocks at block coordinates [n], of all that could be."""
        return (x * np.int32(self._per_axis) + y) * np.int32(self._per_axis) + z

    def cells(self, x: Ints, y: Ints, z: Ints) -> Ints:
        """Where cells stand in an array over cells, int32 [n]; those of no block in the last. Coordinates 0..size."""
        inner = ((x & _WITHIN) * SIDE + (y & _WITHIN)) * SIDE + (z & _WITHIN)
        return self._slot[self._block(x // SIDE, y // SIDE, z // SIDE)] * np.int32(VOLUME) + inner

    def corner_cells(self, xyz: Ints) -> Ints:
        """int32 [8, n], x fastest: the cells of xyz int32 [3, n] and of the next along every axis."""
        axes = [(np.int32(self._per_axis ** (2 - axis)), np.int32(SIDE ** (2 - axis))) for axis in range(3)]
        block = [[(c + step) // SIDE * n for step in (0, 1)] for c, (n, _) in zip(xyz, axes, strict=True)]
        inner = [[((c + step) & _WITHIN) * n for step in (0, 1)] for c, (_, n) in zip(xyz, axes, strict=True)]
        cells = np.empty((8, xyz.shape[1]), dtype=np.int32)
        for corner, (z, y, x) in enumerate(product((0, 1), repeat=3)):
            slot = self._slot[block[0][x] + block[1][y] + block[2][z]]
            cells[corner] = slot * np.int32(VOLUME) + (inner[0][x] + inner[1][y] + inner[2][z])
        return cells

    def coordinates(self, cells: NDArray[np.intp]) -> Ints:
        """int32 [3, n] of cells [n] that are in a block."""
        flat = cells.astype(np.int32)
        inner = np.stack([flat // (SIDE * SIDE) & _WITHIN, flat // SIDE & _WITHIN, flat & _WITHIN])
        return self._corner[:, flat // VOLUME] + inner

    def with_next(self, values: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """[blocks, 9, 9, 9]: each block's values over cells, continued by one cell of its neighbours upwards."""
        blocks = values.reshape(-1, SIDE, SIDE, SIDE)
        padded = np.empty((self._count, SIDE + 1, SIDE + 1, SIDE + 1), dtype=values.dtype)
        block = self._corner // SIDE
        ends = ((slice(0, SIDE), slice(0, SIDE)), (slice(SIDE, None), slice(0, 1)))
        for step in product((0, 1), repeat=3):
            neighbour = self._slot[self._block(*(block + np.array(step, dtype=np.int32)[:, None]))]
            into, out = zip(*(ends[s] for s in step), strict=True)
            padded[(slice(None), *into)] = blocks[(neighbour, *out)]
        return padded
