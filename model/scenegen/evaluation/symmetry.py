"""Placement errors that do not blame a generator for the yaw of an object that looks the same after a turn.

Two freedoms: an object of yaw symmetry n may be turned by any multiple of 2 pi / n about its own z axis, and the frame
of everything is the query asset's, which is known up to the query's own symmetry. Both are chosen in the generator's
favour, the second once for the whole scene. Knows nothing about shapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scenegen.evaluation.metrics import Grid, voxel_iou
from scenegen.scene import Floats

_ROUND_STEPS = 720
_HALF_SIZE = 0.5


@dataclass(frozen=True)
class PlacementErrors:
    """Errors of n assets relative to the query asset; the query's own are zero.

    translation: float64 [n], in units of the query's size. rotation_deg: float64 [n], modulo each object's symmetry.
    scale_ratio: float64 [n], max(s / s_true, s_true / s) - 1.
    T_turn: float64 [4, 4], the turn of the query's frame (a symmetry of the query) that the truth was given.
    """

    translation: Floats
    rotation_deg: Floats
    scale_ratio: Floats
    T_turn: Floats


def placement_errors(
    T_query_generated: Floats, T_query_truth: Floats, query: int, symmetry: Sequence[int]
) -> PlacementErrors:
    """Compare placements float64 [n, 4, 4] (T_query_asset, z-up, scale included) of one scene.

    symmetry: yaw symmetry order of each object: 1 none, n, 0 round.
    """
    yaws = _query_yaws(T_query_generated, T_query_truth, symmetry[query])
    T_truth = _turns(yaws)[:, None] @ T_query_truth
    scale_generated, scale_truth = (np.cbrt(np.linalg.det(T[:, :3, :3])) for T in (T_query_generated, T_query_truth))
    R_generated = T_query_generated[:, :3, :3] / scale_generated[:, None, None]
    R_truth = T_truth[:, :, :3, :3] / scale_truth[:, None, None]

    translation = np.linalg.norm(T_query_generated[:, :3, 3] - T_truth[:, :, :3, 3], axis=-1)
    rotation = np.stack(
        [rotation_error_deg(R_generated[i], R_truth[:, i], order) for i, order in enumerate(symmetry)], axis=-1
    )
    # how far a point half a size away from its object's centre is off
    displacement = translation + _HALF_SIZE * scale_truth * np.radians(rotation)
    best = int(np.argmin(displacement.sum(-1)))
    ratio = scale_generated / scale_truth
    return PlacementErrors(
        translation[best], rotation[best], np.maximum(ratio, 1 / ratio) - 1, _turns(yaws[best : best + 1])[0]
    )


def rotation_error_deg(R_generated: Floats, R_truth: Floats, symmetry: int) -> Floats:
    """Angle [...] between rotations [..., 3, 3] of an object of this symmetry; of a round one, between its axes."""
    relative = np.swapaxes(R_truth, -1, -2) @ R_generated
    if symmetry == 0:
        return np.degrees(np.arctan2(np.linalg.norm(relative[..., :2, 2], axis=-1), relative[..., 2, 2]))
    turned = relative[..., None, :, :] @ _turns(_equal_yaws(symmetry))[:, :3, :3]
    skew = turned - np.swapaxes(turned, -1, -2)
    sine = np.linalg.norm(np.stack([skew[..., 0, 1], skew[..., 0, 2], skew[..., 1, 2]]), axis=0) / 2
    cosine = (np.trace(turned, axis1=-2, axis2=-1) - 1) / 2
    return np.degrees(np.arctan2(sine, cosine).min(-1))


def symmetric_voxel_iou(generated: Grid, truth: Grid, symmetry: int) -> float:
    """Best voxel IoU [R, R, R] over those quarter turns about z that the object's symmetry allows."""
    turns = {0: (0,), 1: (0,), 2: (0, 2), 4: (0, 1, 2, 3)}.get(symmetry, (0,))
    return max(voxel_iou(np.rot90(generated, turn, axes=(0, 1)), truth) for turn in turns)


def _query_yaws(T_generated: Floats, T_truth: Floats, symmetry: int) -> Floats:
    """Yaws of the query's frame to try."""
    if symmetry > 0:
        return _equal_yaws(symmetry)
    g, t = T_generated[:, :2, 3], T_truth[:, :2, 3]
    best_for_translations = np.arctan2((t[:, 0] * g[:, 1] - t[:, 1] * g[:, 0]).sum(), (t * g).sum())
    return np.append(best_for_translations, _equal_yaws(_ROUND_STEPS))


def _equal_yaws(symmetry: int) -> Floats:
    return np.linspace(0, 2 * np.pi, symmetry, endpoint=False)


def _turns(yaws: Floats) -> Floats:
    """Rotations about z by yaws [K]: float64 [K, 4, 4]."""
    T = np.tile(np.eye(4), (len(yaws), 1, 1))
    T[:, 0, 0] = T[:, 1, 1] = np.cos(yaws)
    T[:, 1, 0] = np.sin(yaws)
    T[:, 0, 1] = -np.sin(yaws)
    return T
