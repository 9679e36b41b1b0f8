"""What a mask alone says of an asset: where its outline's box is, in one camera.

Knows nothing about depth, other cameras or how poses are found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scenegen.placement.outlines import Outlines, PosedView, outlines_of
from scenegen.placement.solver import moved
from scenegen.placement.surface import Surface
from scenegen.scene import Floats, Scene, View

FIELD_OF_VIEW = np.deg2rad(50)  # across, where nobody says
SAMPLES = 300


@dataclass(frozen=True)
class Sight:
    """One asset's mask as the camera sees it.

    index: of its asset. centre [2], variance (both axes) and box [4] (least x, y, most x, y) of its mask: tangents.
    """

    index: int
    surface: Surface
    T_query_asset: Floats
    centre: Floats
    variance: float
    box: Floats
    outline: Outlines


def sights_of(scene: Scene, surfaces: Sequence[Surface], view: View) -> list[Sight]:
    """What a view's masks say of each asset it shows."""
    height, width = view.masks.shape
    focal = width / 2 / np.tan(FIELD_OF_VIEW / 2)
    assumed = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
    K = view.intrinsics if view.intrinsics is not None else assumed
    posed = PosedView(view, K, np.eye(4), np.zeros(view.masks.shape, np.float32))
    sights = []
    for i, asset in enumerate(scene.assets):
        v, u = np.nonzero(view.masks == asset.id)
        if len(u):
            tangents = np.linalg.solve(K, np.stack([u, v, np.ones(len(u))]))[:2]
            box = np.concatenate([tangents.min(axis=1), tangents.max(axis=1)])
            variance = max(float(tangents.var(axis=1).sum()), 1e-8)
            T, outline = scene.T_query_asset(i), outlines_of([posed], asset.id)
            sights.append(Sight(i, surfaces[i], T, tangents.mean(axis=1), variance, box, outline))
    return sights


def project(T: Floats, sight: Sight) -> Floats:
    """Tangents [n, 2] of an asset's samples, the asset at T [4, 4] in the camera's frame."""
    at = moved(T[None], sight.surface.points[:SAMPLES])[0]
    return np.asarray(at[:, :2] / np.maximum(at[:, 2:], 0.05))


def box_error(T_camera_query: Floats, sight: Sight) -> Floats:
    """Difference of the boxes of outline and mask, in sizes of the mask: [4]."""
    tangents = project(T_camera_query @ sight.T_query_asset, sight)
    box = np.concatenate([tangents.min(axis=0), tangents.max(axis=0)])
    return np.asarray((box - sight.box) / np.sqrt(12 * sight.variance))


def outside(T_camera_query: Floats, sight: Sight) -> float:
    """Share of the asset's samples that the mask does not show."""
    at = moved((T_camera_query @ sight.T_query_asset)[None], sight.surface.points[:SAMPLES])
    return float((sight.outline.amount(at) > 0).mean())


def agreement(T: Floats, sight: Sight) -> float:
    """Overlap of the boxes of outline and mask over their union: 0..1."""
    tangents = project(T, sight)
    low = np.maximum(tangents.min(axis=0), sight.box[:2])
    high = np.minimum(tangents.max(axis=0), sight.box[2:])
    both = float(np.prod(np.maximum(high - low, 0)))
    union = float(np.prod(np.ptp(tangents, axis=0)) + np.prod(sight.box[2:] - sight.box[:2])) - both
    return both / max(union, 1e-12)
