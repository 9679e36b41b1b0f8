"""The surface of one asset out of the mesh decoder's fields: FlexiCubes, evaluated where the surface is.

Gives the vertices, faces and order of the published dense evaluation (spec/latents.md sections 8 and 9) without any
array of the whole grid. Knows nothing about networks, and nothing of what becomes of the mesh.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csc_array, csr_array

from scenegen.generator.latents.fields import GridFields
from scenegen.generator.meshing.blocks import Blocks, Ints
from scenegen.generator.meshing.extracted import ExtractedMesh, Floats32
from scenegen.generator.meshing.tables import AMBIGUITY, CORNERS, DUAL_COUNT, DUAL_OF_EDGE, EDGES
from scenegen.scene import InvalidInput

_WITHOUT_COLOUR, _WITH_COLOUR = 53, 101
_DISPLACEMENT, _WEIGHTS, _COLOUR = 8, 32, 53
"""First channel of each (section 8); signed distance is at 0."""
_ALPHA, _GAMMA = slice(12, 20), 20
"""Of the weights; beta, of the edges, comes first."""
_CORNERS_BY_VOXEL = sorted(range(8), key=lambda c: tuple(-CORNERS[c]))
"""The corners in the order in which ascending voxels hit one vertex: sums round as the published ones do."""
_VOXELS_AT_ONCE = 1 << 17
"""Few enough to keep copies small."""
_DUALS_AT_ONCE = 1 << 14
"""So that what is computed for each edge stays in the processor's cache."""


@dataclass(frozen=True, eq=False)
class _Grid:
    """Where the voxels' corners stand, int32 [8, V], and what they say together.

    distance: mean signed distance at the grid's vertices, float32 [cells], +1 where unset. hits: of how many corners.
    """

    blocks: Blocks
    resolution: int
    features: Floats32
    cells_of_corner: Ints
    distance: Floats32
    hits: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class _Cubes:
    """The surface cubes in x-major order: cells of their corners int32 [8, S], case uint8 [S], first dual vertex [S].

    case_of_cell, first_of_cell: the last two again, over cells.
    """

    cells_of_corner: Ints
    case: NDArray[np.uint8]
    first_dual: NDArray[np.int64]
    case_of_cell: NDArray[np.uint8]
    first_of_cell: Ints


@torch.inference_mode()
def extract(fields: GridFields) -> ExtractedMesh:
    """The mesh of one asset; of no vertices and faces when nothing is inside. InvalidInput on unusable fields."""
    grid = _gather(fields)
    inside = (grid.distance < 0).view(np.uint8)
    signs = grid.blocks.with_next(inside)
    cubes = _surface_cubes(grid, signs)
    if not len(cubes.case):
        points, looks = (np.zeros((0, n), np.float32) for n in (3, (grid.features.shape[1] - _COLOUR) // 8))
        return ExtractedMesh(points, np.zeros((0, 3), np.int64), looks, fields.resolution)
    positions, looks, gamma = _dual_vertices(grid, cubes)
    return ExtractedMesh(positions, _faces(grid, cubes, signs, gamma), looks, fields.resolution)


def _gather(fields: GridFields) -> _Grid:
    """Section 8, steps 1 to 3, for signed distance."""
    features = fields.features.detach().float().cpu().numpy()
    voxels = np.ascontiguousarray(fields.coords.cpu().numpy().T, dtype=np.int32)
    size = fields.resolution
    if features.ndim != 2 or features.shape[1] not in (_WITHOUT_COLOUR, _WITH_COLOUR):
        raise InvalidInput(f"grid fields have shape {features.shape}: give 53 channels, or 101 with colour")
    if voxels.shape != (3, len(features)) or (voxels.size and (voxels.min() < 0 or voxels.max() >= size)):
        raise InvalidInput(f"voxels of grid fields must be [{len(features)}, 3], each coordinate in 0..{size - 1}")
    blocks = Blocks(voxels - 1, voxels + 2, size + 1)  # every corner of every cube that a voxel's corner belongs to
    cells = blocks.corner_cells(voxels)
    distance, hits = np.zeros(len(blocks), np.float32), np.zeros(len(blocks), np.uint8)
    given = features[:, :_DISPLACEMENT].T + np.float32(-1 / size)
    for corner in _CORNERS_BY_VOXEL:  # no vertex is hit twice by the same corner, so += is enough
        distance[cells[corner]] += given[corner]
        hits[cells[corner]] += 1
    distance /= np.maximum(hits, 1)
    distance[hits == 0] = 1
    return _Grid(blocks, size, features, cells, distance, hits)


def _surface_cubes(grid: _Grid, signs: NDArray[np.uint8]) -> _Cubes:
    """Section 9, steps 1, 3 and the order of step 7."""
    blocks, size = grid.blocks, grid.resolution
    cases = np.zeros((len(signs), 8, 8, 8), dtype=np.uint8)
    for corner, (x, y, z) in enumerate(CORNERS):
        cases |= signs[:, x : x + 8, y : y + 8, z : z + 8] << np.uint8(corner)
    case_of_cell = np.zeros(len(blocks), dtype=np.uint8)
    case_of_cell[: cases.size] = cases.reshape(-1)
    cells = np.flatnonzero((case_of_cell > 0) & (case_of_cell < 255))
    xyz = blocks.coordinates(cells)
    in_grid = (xyz < size).all(0)
    xyz, cells = xyz[:, in_grid], cells[in_grid]
    order = np.argsort((xyz[0] * np.int64(size) + xyz[1]) * size + xyz[2])
    xyz, cells = np.ascontiguousarray(xyz[:, order]), cells[order]

    row = AMBIGUITY[case_of_cell[cells]]
    checked = np.flatnonzero(row[:, 0])
    neighbour = xyz[:, checked] + row[checked, 1:4].T.astype(np.int32)
    exists = ((neighbour >= 0) & (neighbour < size)).all(0)
    checked, neighbour = checked[exists], neighbour[:, exists]
    both = checked[AMBIGUITY[case_of_cell[blocks.cells(*neighbour)], 0] == 1]
    case_of_cell[cells[both]] = row[both, 4]

    case = case_of_cell[cells]
    count = DUAL_COUNT[case]
    grouped = np.argsort(count, kind="stable")
    first = np.empty(len(case), dtype=np.int64)
    first[grouped] = np.cumsum(count[grouped]) - count[grouped]
    first_of_cell = np.zeros(len(blocks), dtype=np.int32)
    first_of_cell[cells] = first
    return _Cubes(blocks.corner_cells(xyz), case, first, case_of_cell, first_of_cell)


def _vertex_data(grid: _Grid, cubes: _Cubes) -> tuple[Floats32, Floats32, Ints]:
    """Positions [n, 3] and colours [n, 6] or [n, 0] of the surface cubes' corners, and the row of each cell, int32."""
    wanted = np.zeros(len(grid.blocks), dtype=bool)
    wanted[cubes.cells_of_corner] = True
    vertices = np.flatnonzero(wanted)
    row_of_cell = np.full(len(grid.blocks), len(vertices), dtype=np.int32)  # that row takes what is not wanted
    row_of_cell[vertices] = np.arange(len(vertices), dtype=np.int32)
    colours = (grid.features.shape[1] - _COLOUR) // 8
    positions, looks = (np.zeros((len(vertices) + 1, channels), np.float32) for channels in (3, colours))
    for start in range(0, len(grid.features), _VOXELS_AT_ONCE):
        part = slice(start, start + _VOXELS_AT_ONCE)
        rows = row_of_cell[grid.cells_of_corner[:, part]].T.reshape(-1)
        one_each = np.ones(len(rows), np.float32), rows, np.arange(len(rows) + 1, dtype=np.int32)
        sums = csc_array(one_each, shape=(len(positions), len(rows)))
        positions += sums @ grid.features[part, _DISPLACEMENT:_WEIGHTS].reshape(-1, 3)
        if colours:
            looks += sums @ grid.features[part, _COLOUR:].reshape(-1, colours)
    positions, looks = positions[:-1], looks[:-1]
    hits = np.maximum(grid.hits[vertices], 1)[:, None]
    positions /= hits
    looks /= hits
    torch.from_numpy(looks).sigmoid_()
    torch.from_numpy(positions).tanh_().mul_((1 - 1e-8) / (2 * grid.resolution))
    xyz = grid.blocks.coordinates(vertices).T.astype(np.float32)
    positions += xyz / np.float32(grid.resolution) - np.float32(0.5)
    return positions, looks, row_of_cell


def _dual_vertices(grid: _Grid, cubes: _Cubes) -> tuple[Floats32, Floats32, Floats32]:
    """Section 9, steps 2, 6 and 7: positions [n, 3], colours [n, 6] or [n, 0] and gamma [n] of the dual vertices.

    Each is a mean of its cube's corners: an edge's zero point divides it in the ratio of the values at its ends.
    """
    positions, looks, row_of_cell = _vertex_data(grid, cubes)
    weights = _weights(grid, cubes)
    count = DUAL_COUNT[cubes.case]
    cube, which = np.empty(int(count.sum()), dtype=np.int32), np.zeros(int(count.sum()), dtype=np.int32)
    for dual in range(int(count.max())):
        having = np.flatnonzero(count > dual)
        cube[cubes.first_dual[having] + dual] = having
        which[cubes.first_dual[having] + dual] = dual
    share, rows = np.zeros((len(cube), 8), np.float32), np.empty((len(cube), 8), np.int32)
    for start in range(0, len(cube), _DUALS_AT_ONCE):
        part = slice(start, start + _DUALS_AT_ONCE)
        own = cube[part]
        cells, weight = cubes.cells_of_corner[:, own], np.ascontiguousarray(weights[own].T)
        rows[part] = row_of_cell[cells].T
        value = grid.distance[cells] * weight[_ALPHA]
        belongs = (DUAL_OF_EDGE[cubes.case[own]] == which[part, None]).T
        corners, total = np.zeros((8, len(own)), np.float32), np.zeros(len(own), np.float32)
        for edge, (a, b) in enumerate(EDGES):
            beta = weight[edge] * belongs[edge]
            rise = beta / np.where(belongs[edge], value[b] - value[a], 1)
            corners[a] += rise * value[b]
            corners[b] -= rise * value[a]
            total += beta
        share[part] = (corners / total).T
    start_of_row = np.arange(0, 8 * len(cube) + 1, 8, dtype=np.int32)
    mean = csr_array((share.reshape(-1), rows.reshape(-1), start_of_row), shape=(len(cube), len(positions)))
    return mean @ positions, mean @ looks, weights[cube, _GAMMA]


def _weights(grid: _Grid, cubes: _Cubes) -> Floats32:
    """beta, alpha, gamma of the surface cubes, float32 [S, 21], normalised (section 9, step 2)."""
    voxel_of_cell = np.full(len(grid.blocks), -1, dtype=np.int32)
    voxel_of_cell[grid.cells_of_corner[0]] = np.arange(len(grid.features), dtype=np.int32)
    voxel = voxel_of_cell[cubes.cells_of_corner[0]]
    weights = np.zeros((len(voxel), 21), dtype=np.float32)  # what cubes that are not set have
    weights[voxel >= 0] = grid.features[voxel[voxel >= 0], _WEIGHTS:_COLOUR]
    tensor = torch.from_numpy(weights)
    tensor[:, :_GAMMA].tanh_().mul_(0.99).add_(1)
    tensor[:, _GAMMA].sigmoid_().mul_(0.99).add_(0.005)
    return weights


def _faces(grid: _Grid, cubes: _Cubes, signs: NDArray[np.uint8], gamma: Floats32) -> NDArray[np.int64]:
    """Section 9, steps 5 and 8. Edges at the grid's border have fewer than 4 cubes and make no face."""
    blocks, size = grid.blocks, grid.resolution
    keys, quads, outside = [], [], []
    for axis in range(3):
        ahead = tuple(slice(1, 9) if a == axis else slice(0, 8) for a in range(3))
        cells = np.flatnonzero(signs[:, :8, :8, :8] != signs[(slice(None), *ahead)])
        low = blocks.coordinates(cells)
        others = [a for a in range(3) if a != axis]
        inner = (low[axis] < size) & ((low[others] > 0) & (low[others] < size)).all(0)
        low, cells = low[:, inner], cells[inner]
        first = low.copy()
        first[1] += axis == 1  # y edges run towards smaller y
        keys.append(3 * ((first[0] * np.int64(size + 1) + first[1]) * (size + 1) + first[2]) + (2, 0, 1)[axis])
        outside.append(grid.distance[blocks.cells(*first)] > 0)
        around = [(-offset, e) for e, ends in enumerate(EDGES) if (offset := _edge_start(ends, axis)) is not None]
        quad = np.empty((len(cells), 4), dtype=np.int64)
        for corner, (offset, edge) in enumerate(sorted(around, key=lambda pair: tuple(pair[0]))):
            cube = blocks.cells(*(low + offset[:, None].astype(np.int32)))
            quad[:, corner] = cubes.first_of_cell[cube] + DUAL_OF_EDGE[cubes.case_of_cell[cube], edge]
        quads.append(quad)
    order = np.argsort(np.concatenate(keys))
    flipped = np.concatenate(outside)[order]
    quad = np.concatenate(quads)[order]
    quad = np.concatenate([quad[flipped][:, [0, 1, 3, 2]], quad[~flipped][:, [2, 3, 1, 0]]])
    g = gamma[quad]
    split = np.where(
        (g[:, 0] * g[:, 2] > g[:, 1] * g[:, 3])[:, None], quad[:, [0, 1, 2, 0, 2, 3]], quad[:, [0, 1, 3, 3, 1, 2]]
    )
    return split.reshape(-1, 3)


def _edge_start(ends: tuple[int, int], axis: int) -> NDArray[np.int64] | None:
    """Where in its cube an edge along this axis has its lower end; None for edges along another axis."""
    a, b = CORNERS[list(ends)]
    return None if a[axis] == b[axis] else np.minimum(a, b)
