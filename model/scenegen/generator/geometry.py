"""Depth and cameras for views that measured none, estimated from their images by VGGT (spec/vggt.md, heads).

The estimate is right up to one factor for all views. What was measured gives the factor where there is anything: depth
in some views, or the poses of two. Without it the unit is chosen and the result is not metric. Knows nothing about
assets or placements.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scenegen.generator.checkpoints import find_encoder, load_pipeline, open_vggt
from scenegen.generator.conditioning import image_tensor
from scenegen.generator.devices import require_device
from scenegen.generator.encoders.vggt_cameras import VGGT, Geometry
from scenegen.generator.preprocessing import geometry_frame, geometry_image
from scenegen.scene import Floats, InvalidInput, View
from scenegen.weights import find_weights

Plane = NDArray[np.float32]

DOUBTED = 0.1
"""The share of each view's pixels whose depth is left out: those the network is least sure of."""

ENOUGH = 100
"""Readings of depth that give a factor."""


@dataclass(frozen=True)
class EstimatedViews:
    """Views that all have depth, intrinsics and a camera pose.

    metric: True when lengths are metres; the world is then as of the given views, if the first had a pose. Otherwise,
    and without a pose, the world is the first view's camera. Lengths that are not metric have the objects at about 1.
    """

    views: tuple[View, ...]
    metric: bool


def load_estimator(weights: str | Path, device: str = "cpu") -> VGGT:
    """VGGT with its heads from a checkpoint (as `find_weights` takes).

    Raises InvalidInput when it has no heads, or the device cannot be used.
    """
    folder = find_weights(weights)
    require_device(device)
    name = load_pipeline(folder).get("vggt_model")
    if not isinstance(name, str):
        raise InvalidInput(f"{folder / 'pipeline.json'} has no vggt_model: give its path relative to the folder")
    return open_vggt(find_encoder(folder, name)).load(device)


@torch.inference_mode()
def estimate_views(
    views: Sequence[View], model: Callable[[Tensor], Geometry], image_size: int, device: str = "cpu"
) -> EstimatedViews:
    """Give views the depth, intrinsics and poses that they lack, seeing all of them together.

    model: VGGT, on a device; image_size: the side of its images. Intrinsics that a view has are kept; its depth and its
    pose when the result is metric. Raises InvalidInput without views, or where the network
    makes nothing of them.
    """
    if not views:
        raise InvalidInput("no views: at least one is needed to estimate geometry from")
    images = np.stack([geometry_image(view.image, image_size) for view in views])
    geometry = model(image_tensor(images)[None].to(device))
    _require_usable(views, geometry)
    extrinsics = geometry.extrinsics[0].double().cpu().numpy()
    cameras = np.tile(np.eye(4), (len(views), 1, 1))
    cameras[:, :3] = extrinsics
    relative = cameras[0] @ np.linalg.inv(cameras)
    depths = [_depth(view, geometry, i, image_size) for i, view in enumerate(views)]
    intrinsics = geometry.intrinsics[0].double().cpu().numpy()

    measured = _factor(views, depths, relative)
    factor = 1 / _typical(views, depths) if measured is None else measured
    relative[:, :3, 3] *= factor
    known = views[0].T_world_camera if measured is not None else None
    world = np.eye(4) if known is None else known
    estimated = []
    for i, view in enumerate(views):
        kept = view.T_world_camera if known is not None else None
        depth = view.depth_m if measured is not None else None
        estimated.append(
            replace(
                view,
                depth_m=(depths[i] * factor).astype(np.float32) if depth is None else depth,
                intrinsics=_intrinsics(view, intrinsics[i], image_size) if view.intrinsics is None else view.intrinsics,
                T_world_camera=world @ relative[i] if kept is None else kept,
            )
        )
    return EstimatedViews(tuple(estimated), measured is not None)


def _require_usable(views: Sequence[View], geometry: Geometry) -> None:
    finite = geometry.extrinsics[0].flatten(1).isfinite().all(dim=1)
    seeing = geometry.intrinsics[0].flatten(1).isfinite().all(dim=1)
    for i, view in enumerate(views):
        if not finite[i] or (view.intrinsics is None and not seeing[i]):
            raise InvalidInput(
                f"VGGT finds no camera that could have taken view {i + 1}: give its intrinsics, or leave the view out"
            )


def _depth(view: View, geometry: Geometry, index: int, image_size: int) -> Plane:
    """The estimated depth of one view at its own size, 0 where the network is least sure."""
    height, width = view.masks.shape
    top, left, tall, wide = geometry_frame(height, width, image_size)
    window = slice(top, top + tall), slice(left, left + wide)
    depth, confidence = (
        plane[0, index][window].float().cpu().numpy() for plane in (geometry.depth, geometry.depth_confidence)
    )
    sure = (confidence >= np.quantile(confidence, DOUBTED)) & np.isfinite(depth) & (depth > 0)
    # nearest: between an object's edge and what is behind it there is nothing
    resized = cv2.resize(np.where(sure, depth, 0), (width, height), interpolation=cv2.INTER_NEAREST)
    return np.asarray(resized, dtype=np.float32)


def _intrinsics(view: View, K: Floats, image_size: int) -> Floats:
    """Intrinsics of the network's image brought to the view's own; pixel centres are whole numbers there."""
    height, width = view.masks.shape
    top, left, tall, wide = geometry_frame(height, width, image_size)
    across, down = width / wide, height / tall
    return np.array(
        [
            [K[0, 0] * across, 0, (K[0, 2] - left) * across - 0.5],
            [0, K[1, 1] * down, (K[1, 2] - top) * down - 0.5],
            [0, 0, 1],
        ]
    )


def _factor(views: Sequence[View], depths: Sequence[Plane], relative: Floats) -> float | None:
    """Metres per unit of the estimate, from measured depth or else from the distances of known cameras."""
    ratios = [_ratios(view, depth) for view, depth in zip(views, depths, strict=True)]
    together = np.concatenate(ratios)
    if len(together) >= ENOUGH:
        return float(np.median(together))
    posed = [i for i, view in enumerate(views) if view.T_world_camera is not None]
    lengths = []
    for i, j in combinations(posed, 2):
        known_i, known_j = views[i].T_world_camera, views[j].T_world_camera
        assert known_i is not None and known_j is not None
        estimated = float(np.linalg.norm(relative[i, :3, 3] - relative[j, :3, 3]))
        lengths.append((float(np.linalg.norm(known_i[:3, 3] - known_j[:3, 3])), estimated))
    known, guessed = np.array(lengths).reshape(-1, 2).sum(axis=0)
    return float(known / guessed) if known > 1e-3 and guessed > 1e-6 else None


def _ratios(view: View, depth: Plane) -> Floats:
    """Measured over estimated depth where there are both, inside the masks if they show any object."""
    if view.depth_m is None:
        return np.zeros(0)
    both = np.isfinite(view.depth_m) & (view.depth_m > 0) & (depth > 0)
    objects = both & (view.masks > 0)
    where = objects if objects.sum() >= ENOUGH else both
    return np.asarray(view.depth_m[where].astype(np.float64) / depth[where])


def _typical(views: Sequence[View], depths: Sequence[Plane]) -> float:
    """The median estimated depth of the objects."""
    of_objects = np.concatenate([d[(view.masks > 0) & (d > 0)] for view, d in zip(views, depths, strict=True)])
    return float(np.median(of_objects)) if len(of_objects) else 1.0
