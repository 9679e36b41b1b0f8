"""An asset's surface, ready to be matched against measured points: samples, normals, nearest-sample look-up.

Knows nothing about cameras, views or where the asset stands.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import trimesh
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree

from scenegen.scene import Asset, Floats, InvalidInput

SAMPLES = 4000
SPACING = 0.04  # asset units: samples and cells of the table are seldom farther apart
MOMENT_SAMPLES = 1500
DIRECTIONS = 96
GRID = 40
GRID_HALF = 0.7
SMOOTHING = 8


@dataclass(frozen=True)
class Surface:
    """Points spread evenly over an asset's mesh, in the asset's frame and units.

    points, normals: float64 [n, 3], in random order, so that a leading slice is a fair sample.
    directions: float64 [d, 3], unit, from the asset towards a camera. For each, of the part a camera there would see:
    seen_mean [d, 3] and seen_variance [d] (trace of the covariance), every sample weighing its projected area.
    """

    points: Floats
    normals: Floats
    tree: cKDTree
    lookup: NDArray[np.int32]
    directions: Floats
    seen_mean: Floats
    seen_variance: Floats

    @staticmethod
    def of(asset: Asset) -> Surface:
        """Sample an asset. The same asset gives the same samples. InvalidInput on a mesh without area."""
        mesh = asset.mesh
        if len(mesh.faces) == 0 or not np.isfinite(mesh.vertices).all() or not mesh.area > 0:
            raise InvalidInput(f"asset {asset.id} has no surface: its mesh needs faces with area and finite vertices")
        drawn, face = trimesh.sample.sample_surface(mesh, SAMPLES, seed=0)[:2]
        points = np.asarray(drawn, dtype=np.float64)
        tree = cKDTree(points)
        normals = _smooth(np.asarray(mesh.face_normals, dtype=np.float64)[face], tree)
        directions = fibonacci_sphere(DIRECTIONS)
        mean, variance = _seen_moments(points[:MOMENT_SAMPLES], normals[:MOMENT_SAMPLES], directions)
        return Surface(points, normals, tree, _lookup(points), directions, mean, variance)

    def nearest(self, at: Floats, *, exact: bool) -> NDArray[np.int32]:
        """Index of the nearest sample to each of at [..., 3]; by table (to about a cell) unless exact."""
        if exact:
            return np.asarray(self.tree.query(at)[1], dtype=np.int32)
        cell = np.clip(((at + GRID_HALF) * (GRID / (2 * GRID_HALF))).astype(np.int32), 0, GRID - 1)
        return np.asarray(self.lookup[(cell[..., 0] * GRID + cell[..., 1]) * GRID + cell[..., 2]])


def fibonacci_sphere(n: int) -> Floats:
    """Unit vectors spread evenly over the sphere, n of them: float64 [n, 3]."""
    i = np.arange(n) + 0.5
    z = 1 - 2 * i / n
    angle = np.pi * (1 + 5**0.5) * i
    ring = np.sqrt(1 - z**2)
    return np.stack([ring * np.cos(angle), ring * np.sin(angle), z], axis=-1)


def _smooth(normals: Floats, tree: cKDTree) -> Floats:
    """Normals averaged over neighbours on the same side: steps of a voxelised shape become slopes."""
    neighbours = normals[tree.query(tree.data, k=SMOOTHING)[1]]
    same_side = np.einsum("nkc,nc->nk", neighbours, normals) > -0.2
    mean = (neighbours * same_side[..., None]).sum(axis=1)
    return np.asarray(mean / np.maximum(np.linalg.norm(mean, axis=-1, keepdims=True), 1e-9))


def _lookup(points: Floats) -> NDArray[np.int32]:
    """Nearest sample of every cell of a grid over the unit box and a margin: int32 [GRID^3]."""
    cell = np.clip(((points + GRID_HALF) * (GRID / (2 * GRID_HALF))).astype(np.int32), 0, GRID - 1)
    holder = np.full((GRID, GRID, GRID), -1, dtype=np.int32)
    holder[tuple(cell.T)] = np.arange(len(points))
    indices = distance_transform_edt(holder < 0, return_distances=False, return_indices=True)
    return np.asarray(holder[tuple(indices)].ravel())


def _seen_moments(points: Floats, normals: Floats, directions: Floats) -> tuple[Floats, Floats]:
    """Mean and variance of what is seen from each direction, by a coarse depth buffer per direction.

    Winding is not trusted: a generated mesh may have faces turned inside out.
    """
    cells, reach = 24, 0.9
    helper = np.where(np.abs(directions[:, 2:]) < 0.9, [[0.0, 0.0, 1.0]], [[1.0, 0.0, 0.0]])
    right = np.cross(helper, directions)
    right /= np.linalg.norm(right, axis=-1, keepdims=True)
    down = np.cross(directions, right)
    height = directions @ points.T
    column = ((right @ points.T + reach) * (cells / (2 * reach))).astype(np.int32)
    row = ((down @ points.T + reach) * (cells / (2 * reach))).astype(np.int32)
    cell = (np.arange(len(directions))[:, None] * cells + np.clip(row, 0, cells - 1)) * cells
    cell += np.clip(column, 0, cells - 1)
    front = np.full(len(directions) * cells * cells, -np.inf)
    np.maximum.at(front, cell.ravel(), height.ravel())
    weight = np.abs(directions @ normals.T) * (height > front[cell] - 2.5 * reach / cells)
    weight /= np.maximum(weight.sum(axis=1, keepdims=True), 1e-9)
    mean = weight @ points
    return mean, weight @ (points**2).sum(axis=1) - (mean**2).sum(axis=1)
