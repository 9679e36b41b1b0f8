"""Where the surface of a solid structure runs: the voxels that structured latents stand on, and a first distance.

Published structures are shells, and every occupied voxel has latents. The small model's are solid: there the voxels
that the surface passes through have latents, those within are known to be inside, and what the mesh decoder says of
distances is a correction to what the structure says itself. numpy only.
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from scenegen.generator.meshing.tables import CORNERS

Bools = NDArray[np.bool_]

BORDER = 0.1
"""Least signed distance, in voxels, at the border of the box."""
_TIE = np.float32(1e-6)
"""A corner between as much inside as outside is outside: a face of the structure counts once."""


def surface_voxels(chance: NDArray[np.float32]) -> tuple[Bools, Bools]:
    """Voxels bool [R, R, R] that the surface passes through, and those wholly inside.

    chance: of each voxel's centre to lie inside, 0..1 [R, R, R]. A corner's is the mean of the eight around it. Beyond
    the box lies its border, mirrored and negated, so that the surface closes within the box.
    """
    padded = _closed(chance)
    corners = sum(padded[window] for window in _windows(len(chance) + 1)) / 8
    return voxels_of_corners(np.asarray(corners > 0.5 + _TIE), chance > 0.5)


def corner_distances(chance: NDArray[np.float32], fine: NDArray[np.int64], factor: int) -> NDArray[np.float32]:
    """What the structure says of signed distance, in voxels and at most half of one, at the corners of fine voxels.

    chance: as above, [R, R, R], between centres interpolated: across a flat face it falls from 1 to 0 within a voxel.
    The border of the box is always outside, so that the surface closes there.
    fine: [F, 3], factor to a voxel along each edge. -> float32 [F, 8], x fastest.
    """
    field = 0.5 - _closed(chance)
    axis = np.arange(factor * len(chance) + 1) / factor + 0.5  # of fine corners, where centre i of the padded is at i
    low = np.minimum(axis.astype(np.int64), len(chance))
    share = (axis - low).astype(np.float32)
    for dimension in range(3):
        shape = [-1 if d == dimension else 1 for d in range(3)]
        lower, upper = (np.take(field, low + step, axis=dimension) for step in (0, 1))
        field = lower + share.reshape(shape) * (upper - lower)
    for dimension in range(3):
        for side in (0, -1):
            border = field[(slice(None),) * dimension + (side,)]
            np.maximum(border, BORDER, out=border)
    corners = fine[:, None] + CORNERS
    distances: NDArray[np.float32] = field[tuple(corners.reshape(-1, 3).T)].reshape(-1, 8)
    return distances


def _closed(chance: NDArray[np.float32]) -> NDArray[np.float32]:
    """With one voxel more all around, the border's mirror image, never inside."""
    inner = np.pad(chance, 1, mode="edge")
    within = np.pad(np.ones_like(chance, dtype=bool), 1)
    return np.where(within, inner, 1 - np.maximum(inner, 0.5 + _TIE)).astype(np.float32)


def voxels_of_corners(corners: Bools, centres: Bools) -> tuple[Bools, Bools]:
    """The same, of what lies inside: corners bool [R + 1, R + 1, R + 1] and centres [R, R, R]."""
    some, every = centres.copy(), centres.copy()
    for window in _windows(len(centres)):
        some |= corners[window]
        every &= corners[window]
    return some & ~every, every


def _windows(size: int) -> list[tuple[slice, ...]]:
    """The eight windows of ``size``^3 in a grid one larger."""
    return [tuple(slice(i, i + size) for i in start) for start in itertools.product((0, 1), repeat=3)]
