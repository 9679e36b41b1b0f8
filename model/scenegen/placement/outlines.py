"""What the masks of one object say in all views that show it: where it may not be, and what it must cover.

Knows nothing about assets, placements or what was measured on the object itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from scenegen.scene import Floats, View

OUTLINE_PIXELS = 320
INSIDE = 80
BLIND = 0.25
APART = 1e6  # tangents that one tree holds of several views lie this far from one another
_CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)


@dataclass(frozen=True)
class PosedView:
    """A view that can be used together with the others: its camera is known in the common world."""

    view: View
    intrinsics: Floats
    T_world_camera: Floats
    depth_m: NDArray[np.float32]

    @staticmethod
    def of(view: View, T_world_camera: Floats) -> PosedView:
        """Clean a view's depth; without depth it is all zero. Needs intrinsics."""
        assert view.intrinsics is not None
        depth = np.zeros(view.masks.shape, np.float32) if view.depth_m is None else np.asarray(view.depth_m, np.float32)
        depth = np.where(np.isfinite(depth) & (depth > 0.02), depth, np.float32(0))
        return PosedView(view, view.intrinsics, T_world_camera, depth)


@dataclass(frozen=True)
class Outlines:
    """One object's masks in v views, at reduced resolution, and the depth measured around them.

    table: float32 [sum of h * w, 6] per pixel, view by view: how far it lies outside the mask, as a tangent (metres at
    one metre); the direction (x, y) in which that grows; the depth measured there (0: none); 1 safely inside the mask;
    1 where another object is seen without a reading. first: int [v], each view's first row. shape: int [v, 2], (h, w).
    focal, middle: float64 [v, 2], of the reduced pixels. inside: tangents [m, 2] of some pixels within the masks, with
    or without a reading, of view seen_in [m]; every view's weights [m] sum to 1 / v. blind: bool [v], most of the
    object's extent is not told by that view's readings.
    """

    table: NDArray[np.float32]
    first: NDArray[np.int64]
    shape: NDArray[np.int64]
    focal: Floats
    middle: Floats
    T_camera_world: Floats
    inside: Floats
    seen_in: NDArray[np.intp]
    weight: Floats
    blind: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.first)

    def amount(self, at: Floats) -> Floats:
        """How far points at [..., v, n, 3] (world, metres) contradict each its view: metres >= 0 [..., v, n].

        A point contradicts a view outside its mask where nothing nearer was measured, or in front of what was measured.
        """
        found, _, z, inside = self._looked_up(at)
        outside, in_front = _contradictions(found, z, inside)
        return np.asarray(outside + in_front)

    def violation(self, at: Floats) -> tuple[Floats, Floats]:
        """As amount, and the unit directions in the world in which it grows: [..., v, n], [..., v, n, 3]."""
        found, tangent, z, inside = self._looked_up(at)
        outside, in_front = _contradictions(found, z, inside)
        direction = np.empty(at.shape)
        direction[..., :2] = found[..., 1:3]
        direction[..., 2] = -(found[..., 1] * tangent[..., 0] + found[..., 2] * tangent[..., 1])
        direction[in_front > 0] = (0.0, 0.0, -1.0)
        return outside + in_front, direction @ self.T_camera_world[:, :3, :3]

    def _looked_up(self, at: Floats) -> tuple[NDArray[np.float32], Floats, Floats, NDArray[np.bool_]]:
        """Rows of the table for points [..., v, n, 3], their tangents and depths, and whether the views show them."""
        camera = at @ np.swapaxes(self.T_camera_world[:, :3, :3], -1, -2) + self.T_camera_world[:, None, :3, 3]
        z = np.maximum(camera[..., 2], 1e-3)
        tangent = camera[..., :2] / z[..., None]
        pixel = (self.focal[:, None] * tangent + (self.middle[:, None] + 0.5)).astype(np.int64)
        height, width = self.shape[:, :1], self.shape[:, 1:]
        column, row = pixel[..., 0], pixel[..., 1]
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height) & (camera[..., 2] > 0.01)
        index = np.where(inside, self.first[:, None] + row * width + column, 0)
        return self.table.take(index, axis=0), tangent, z, inside

    def uncovered(
        self, at: Floats, spacing: float, views: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.intp], Floats, Floats, Floats]:
        """Which of points at [n, 3] (world, metres) are nearest to the pixels inside, and how far beside them they are.

        views: bool [v], those asked, all without. Returns the points' indices [m], metres beyond their spacing [m], the
        unit directions in the world in which that grows [m, 3], and the pixels' weights [m].
        """
        asked = np.arange(len(self)) if views is None else np.nonzero(views)[0]
        mine = slice(None) if views is None else views[self.seen_in]
        wanted, seen_in = self.inside[mine], self.seen_in[mine]
        T = self.T_camera_world[asked]
        camera = at @ np.swapaxes(T[:, :3, :3], -1, -2) + T[:, None, :3, 3]
        z = np.maximum(camera[..., 2], 1e-3)
        tangent = camera[..., :2] / z[..., None]
        tangent[..., 0] += APART * asked[:, None]
        wanted = wanted + np.stack([APART * seen_in, np.zeros(len(seen_in))], axis=-1)
        tangent, z = tangent.reshape(-1, 2), z.ravel()
        distance, index = cKDTree(tangent, balanced_tree=False, compact_nodes=False).query(wanted)
        away = (tangent[index] - wanted) / np.maximum(distance, 1e-9)[:, None]
        direction = (away[:, None] @ self.T_camera_world[seen_in, :2, :3])[:, 0]
        return index % len(at), np.maximum(distance * z[index] - spacing, 0), direction, self.weight[mine]


def _contradictions(found: NDArray[np.float32], z: Floats, inside: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Metres outside masks, and in front of what was measured, of points at depths z."""
    measured = found[..., 3]
    nearest_allowed = z - (0.005 + 0.0075 * z * z)  # three deviations of depth_noise and 2 mm
    occluded = ((measured > 0) & (measured < nearest_allowed)) | (found[..., 5] > 0)
    outside = found[..., 0] * z * (inside & ~occluded)
    in_front = np.maximum(measured + (nearest_allowed - 2 * z), 0) * (found[..., 4] * inside)
    return np.asarray(outside), np.asarray(in_front)


def outlines_of(views: Sequence[PosedView], instance: int) -> Outlines:
    """Where one instance's masks lie, and what was measured around it. views: only those that show it."""
    tables, shapes, focals, middles, insides, blind = [], [], [], [], [], []
    for posed in views:
        step = max(1, -(-max(posed.view.masks.shape) // OUTLINE_PIXELS))
        masks, depth = posed.view.masks[::step, ::step], posed.depth_m[::step, ::step]
        mask = masks == instance
        K = posed.intrinsics
        tables.append(_table(masks, mask, depth, step / K[0, 0]))
        shapes.append(mask.shape)
        focals.append([K[0, 0] / step, K[1, 1] / step])
        middles.append([K[0, 2] / step, K[1, 2] / step])
        inner = eroded(mask, 1) if eroded(mask, 2).any() else mask
        v, u = np.nonzero(inner)
        chosen = np.random.default_rng(instance).permutation(len(v))[:INSIDE]
        pixels = np.stack([u[chosen], v[chosen]], axis=-1)
        insides.append((pixels * step - K[:2, 2]) / K[[0, 1], [0, 1]])
        blind.append(bool((depth[v, u] == 0).sum() > BLIND * len(v)))
    counts = np.array([len(inside) for inside in insides])
    return Outlines(
        table=np.concatenate(tables),
        first=np.cumsum([0, *(len(table) for table in tables[:-1])]),
        shape=np.array(shapes, dtype=np.int64),
        focal=np.array(focals, dtype=np.float64),
        middle=np.array(middles, dtype=np.float64),
        T_camera_world=np.linalg.inv(np.stack([posed.T_world_camera for posed in views])),
        inside=np.concatenate(insides),
        seen_in=np.repeat(np.arange(len(views)), counts),
        weight=np.repeat(1 / (len(views) * np.maximum(counts, 1)), counts),
        blind=np.array(blind),
    )


def _table(
    masks: NDArray[np.int32], mask: NDArray[np.bool_], depth: NDArray[np.float32], tangent: float
) -> NDArray[np.float32]:
    """One view's rows of Outlines.table. tangent: of a pixel."""
    beyond = outside_of(mask) if mask.any() else np.zeros(mask.shape, np.float32)
    beyond = np.maximum(beyond - 1, 0)  # a mask bleeds by about a pixel
    down, right = np.gradient(beyond)
    steep = np.maximum(np.sqrt(right * right + down * down), np.float32(1e-6))
    table = np.empty((*mask.shape, 6), np.float32)
    table[..., 0] = beyond * tangent
    table[..., 1] = right / steep
    table[..., 2] = down / steep
    table[..., 3] = depth
    table[..., 4] = eroded(mask, 2)
    table[..., 5] = (masks > 0) & ~mask & (depth == 0)
    return table.reshape(-1, 6)


def outside_of(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Distance of every pixel [h, w] from the mask, pixels."""
    return np.asarray(cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE), np.float32)


def eroded(mask: NDArray[np.bool_], rounds: int) -> NDArray[np.bool_]:
    """The mask [h, w] without its outermost pixels; beyond the picture there is nothing."""
    out = cv2.erode(mask.astype(np.uint8), _CROSS, iterations=rounds, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return np.asarray(out > 0)
