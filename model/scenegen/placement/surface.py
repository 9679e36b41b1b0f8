"""An asset's surface, ready to be matched against measured points: samples, normals, what a camera sees of it.

Knows nothing about views or where the asset stands. Winding is not trusted: a generated mesh may have faces turned
inside out, so what is outside is found with rays.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import trimesh
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree

from scenegen.scene import Asset, Floats, InvalidInput

SAMPLES = 5000
COARSE = 2000  # samples that are tested from every direction, and that the table holds
SPACING = 0.04  # asset units: coarse samples and cells of the table are seldom farther apart
FINE_SPACING = 0.02  # the same of all samples
DIRECTIONS = 42
EYES = 162  # directions for which what is seen is kept; 14 degrees apart
GRID = 40
GRID_HALF = 0.7
SMOOTHING = 8
RAY_OFFSET = 2e-3  # asset units, so that a ray does not meet the triangle it starts from


@dataclass(frozen=True)
class Seen:
    """The samples that one camera sees: points, normals (towards it) float64 [n, 3], and a tree of the points."""

    points: Floats
    normals: Floats
    tree: cKDTree


@dataclass(frozen=True)
class Surface:
    """Points spread evenly over an asset's mesh, in the asset's frame and units.

    points, normals: float64 [n, 3], in random order, so that a leading slice is a fair sample; normals point outwards
    for the first COARSE, and without those of them that nothing outside can see.
    directions: float64 [d, 3], unit, from the asset towards a camera. For each, of the part a camera there would see:
    seen_mean [d, 3] and seen_variance [d] (trace of the covariance), every sample weighing its projected area.
    """

    points: Floats
    normals: Floats
    lookup: NDArray[np.int32]
    directions: Floats
    seen_mean: Floats
    seen_variance: Floats
    rays: EmbreeScene
    kept: dict[tuple[int, int], Seen] = field(default_factory=dict)

    @staticmethod
    def of(asset: Asset) -> Surface:
        """Sample an asset. The same asset gives the same samples. InvalidInput on a mesh without area."""
        mesh = asset.mesh
        if len(mesh.faces) == 0 or not np.isfinite(mesh.vertices).all() or not mesh.area > 0:
            raise InvalidInput(f"asset {asset.id} has no surface: its mesh needs faces with area and finite vertices")
        drawn, face = trimesh.sample.sample_surface(mesh, SAMPLES, seed=0)[:2]
        points = np.asarray(drawn, dtype=np.float64)
        rays = EmbreeScene(robust=True)
        TriangleMesh(rays, np.asarray(mesh.triangles, dtype=np.float32))
        normals = _smooth(points, np.asarray(mesh.face_normals, dtype=np.float64)[face])
        directions = fibonacci_sphere(DIRECTIONS)
        facing = directions @ normals[:COARSE].T
        free = _free(rays, points[:COARSE], normals[:COARSE], directions[:, None])
        outwards = np.where((free * facing).sum(axis=0) < 0, -1.0, 1.0)
        normals[:COARSE] *= outwards[:, None]
        visible = free.any(axis=0)
        visible |= not visible.any()
        mean, variance = _moments(points[:COARSE], np.where(free, np.abs(facing), 0.0))
        use = np.concatenate([np.nonzero(visible)[0], np.arange(COARSE, SAMPLES)])
        coarse = int(visible.sum())
        return Surface(points[use], normals[use], _lookup(points[use][:coarse]), directions, mean, variance, rays)

    def nearest(self, at: Floats) -> NDArray[np.int32]:
        """Index of the nearest coarse sample to each of at [..., 3], by table: to about a cell."""
        cell = np.clip(((at + GRID_HALF) * (GRID / (2 * GRID_HALF))).astype(np.int32), 0, GRID - 1)
        return np.asarray(self.lookup[(cell[..., 0] * GRID + cell[..., 1]) * GRID + cell[..., 2]])

    def seen(self, eyes: Floats) -> list[Seen]:
        """What cameras at about eyes [v, 3] (asset frame and units) see, kept for the next that are about there."""
        distance = np.maximum(np.sqrt((eyes**2).sum(axis=1)), 0.9)
        rings = np.clip(np.rint(2 * np.log2(distance)), 0, 10).astype(int).tolist()
        keys = list(zip(np.argmax(_EYES @ eyes.T, axis=0).tolist(), rings, strict=True))
        for key in keys:
            if key not in self.kept:
                self.kept[key] = self._seen_from(_EYES[key[0]] * 2 ** (key[1] / 2))
        return [self.kept[key] for key in keys]

    def _seen_from(self, eye: Floats) -> Seen:
        towards = eye - self.points
        towards /= np.linalg.norm(towards, axis=1, keepdims=True)
        free = _free(self.rays, self.points, self.normals, towards[None])[0]
        if free.sum() < 20:  # a broken mesh, or an eye inside of it
            free[:] = True
        normals = self.normals[free]
        normals = normals * np.where((normals * towards[free]).sum(axis=1) < 0, -1.0, 1.0)[:, None]
        points = self.points[free]
        return Seen(points, normals, cKDTree(points, balanced_tree=False, compact_nodes=False))


def fibonacci_sphere(n: int) -> Floats:
    """Unit vectors spread evenly over the sphere, n of them: float64 [n, 3]."""
    i = np.arange(n) + 0.5
    z = 1 - 2 * i / n
    angle = np.pi * (1 + 5**0.5) * i
    ring = np.sqrt(1 - z**2)
    return np.stack([ring * np.cos(angle), ring * np.sin(angle), z], axis=-1)


_EYES = fibonacci_sphere(EYES)


def _free(rays: EmbreeScene, points: Floats, normals: Floats, towards: Floats) -> NDArray[np.bool_]:
    """Whether nothing stands between points [n, 3] and what lies in directions [d, n or 1, 3] from them: [d, n]."""
    towards = np.broadcast_to(towards, (len(towards), len(points), 3))
    side = np.where((towards * normals).sum(axis=-1) < 0, -RAY_OFFSET, RAY_OFFSET)
    origins = (points + side[..., None] * normals).reshape(-1, 3).astype(np.float32)
    directions = np.ascontiguousarray(towards.reshape(-1, 3), dtype=np.float32)
    free: NDArray[np.bool_] = rays.run(origins, directions, query="OCCLUDED") < 0
    return free.reshape(towards.shape[:2])


def _smooth(points: Floats, normals: Floats) -> Floats:
    """Normals averaged over neighbours on the same side: steps of a voxelised shape become slopes."""
    neighbours = normals[cKDTree(points).query(points, k=SMOOTHING)[1]]
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


def _moments(points: Floats, weight: Floats) -> tuple[Floats, Floats]:
    """Mean [d, 3] and variance [d] of points [n, 3] under weights [d, n]."""
    weight = (weight + 1e-9) / (weight + 1e-9).sum(axis=1, keepdims=True)
    mean = weight @ points
    return mean, weight @ (points**2).sum(axis=1) - (mean**2).sum(axis=1)
