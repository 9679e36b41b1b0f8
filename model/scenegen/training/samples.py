"""What the small model is taught about one view of a synthetic scene: condition images and targets, as arrays.

numpy only. Knows nothing about networks. The heading frame used for the targets has its origin at the camera, z up,
y along the camera's horizontal heading, x to the right.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scenegen.generator.preprocessing import condition_images
from scenegen.generator.rays import mirrored_rays, pixel_box
from scenegen.scene import View
from scenegen.synthetic.objects import FAMILIES
from scenegen.synthetic.scenes import SyntheticScene

Arrays = dict[str, NDArray[np.generic]]

PATCH = 14
MIRRORED_ACROSS_Y = ("mug",)
MINIMUM_PIXELS = 80
"""Objects that show fewer pixels teach nothing about their shape and are left out of a sample."""


def scene_sample(
    scene: SyntheticScene, view: View, *, image_size: int, geometry_size: int, resolution: int
) -> tuple[Arrays, Arrays] | None:
    """Arrays of the scene and arrays of its N visible objects, the query (largest mask) first; None if none is visible.

    Scene: scene uint8 [S, S, 3], geometry uint8 [G, G, 3], depth float32 [G/14, G/14] (log of depth over camera height
    per patch, NaN without), camera float32 [3] (sine of pitch, log focal length over width, log camera height).
    Objects: crop, mask uint8 [N, S, S, 3 | 1], occupancy uint8 (packed bits) [N, R^3 / 8], family, symmetry [N],
    yaw, position, log_size (see ConditionEstimate), extents [N, 3] of the mesh in the unit box, box [N, 4] of the mask
    as shares of the frame, rays [N, 7] as mask_rays gives them.
    """
    areas = np.bincount(view.masks.ravel(), minlength=len(scene.objects) + 1)[1:]
    indices = [int(i) for i in np.argsort(-areas, kind="stable") if areas[i] >= MINIMUM_PIXELS]
    if not indices:
        return None
    assert view.T_world_camera is not None and view.intrinsics is not None and view.depth_m is not None
    images = condition_images(view, [i + 1 for i in indices], image_size, geometry_size)
    height_m = float(view.T_world_camera[2, 3])  # objects stand on z = 0
    shared: Arrays = {
        "scene": images.scene,
        "geometry": images.geometry,
        "depth": patch_depth(view.depth_m / height_m, geometry_size),
        "camera": np.array(
            [
                view.T_world_camera[2, 2],
                math.log(view.intrinsics[0, 0] / view.image.shape[1]),
                math.log(height_m),
            ],
            dtype=np.float32,
        ),
    }
    objects: Arrays = {
        "crop": images.assets,
        "mask": images.masks[..., :1],
        "box": np.stack([mask_box(view.masks == i + 1) for i in indices]),
        "rays": images.rays,
        **object_targets(scene, view.T_world_camera, indices, height_m, resolution),
    }
    return shared, objects


def object_targets(
    scene: SyntheticScene, T_world_camera: NDArray[np.float64], indices: Sequence[int], height_m: float, resolution: int
) -> Arrays:
    """Targets of the given objects seen from a camera ``height_m`` above their support.

    A yaw that symmetry leaves open is the equivalent one that faces the camera most; it is relative to the viewing ray.
    """
    forward = T_world_camera[:3, 2].copy()
    forward[2] = 0
    forward /= np.linalg.norm(forward)
    rotation = np.stack([np.array([forward[1], -forward[0], 0.0]), forward, np.array([0.0, 0.0, 1.0])])
    rows: dict[str, list[object]] = {k: [] for k in ("position", "yaw", "log_size", "family", "symmetry", "extents")}
    grids = []
    for i in indices:
        item = scene.objects[i]
        position = rotation @ (scene.T_world_object[i][:3, 3] - T_world_camera[:3, 3])
        axis = rotation @ scene.T_world_object[i][:3, 0]
        apparent = math.atan2(axis[1], axis[0]) - math.atan2(position[1], position[0])
        rows["position"].append(position / height_m)
        rows["yaw"].append(facing_yaw(apparent, item.symmetry))
        rows["log_size"].append(math.log(scene.size_m[i] / height_m))
        rows["family"].append(FAMILIES.index(item.family))
        rows["symmetry"].append(item.symmetry)
        rows["extents"].append(item.extents)
        grids.append(np.packbits(item.occupancy(resolution)))
    kinds = {"family": np.int64, "symmetry": np.int64}
    targets: Arrays = {k: np.asarray(v, dtype=kinds.get(k, np.float32)) for k, v in rows.items()}
    return targets | {"occupancy": np.stack(grids)}


def facing_yaw(apparent: float, symmetry: int) -> float:
    """The equivalent of an apparent yaw (radians) nearest to zero, for a symmetry order (0: round)."""
    if symmetry == 0:
        return 0.0
    step = 2 * math.pi / symmetry
    return apparent - step * round(apparent / step)


def mirrored_targets(targets: dict[str, NDArray[Any]]) -> Arrays:
    """The targets of the same objects in the picture's mirror image.

    Every procedural object is its own mirror image, across x for most families and across y for those of
    MIRRORED_ACROSS_Y, so shapes and sizes stay, and an object turns into one of another yaw.
    """
    families = np.asarray([FAMILIES.index(name) for name in MIRRORED_ACROSS_Y])
    turned = np.where(np.isin(targets["family"], families), 0.0, math.pi) - targets["yaw"]
    yaw = [facing_yaw(y, n) for y, n in zip(turned, targets["symmetry"], strict=True)]
    u0, v0, u1, v1 = targets["box"].T
    return targets | {
        "yaw": np.asarray(yaw, dtype=np.float32),
        "position": targets["position"] * np.array([-1, 1, 1], dtype=np.float32),
        "box": np.stack([1 - u1, v0, 1 - u0, v1], axis=1),
        "rays": mirrored_rays(targets["rays"]),
    }


def patch_depth(depth: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Log of the depth [H, W] at each patch centre of the letterboxed square: [size/14, size/14], NaN in borders."""
    height, width = depth.shape
    scale = max(height, width) / size
    centres = (np.arange(size // PATCH) + 0.5) * PATCH - size / 2
    v = np.floor(centres * scale + height / 2).astype(int)
    u = np.floor(centres * scale + width / 2).astype(int)
    inside = ((v >= 0) & (v < height))[:, None] & ((u >= 0) & (u < width))[None]
    picked = depth[np.clip(v, 0, height - 1)[:, None], np.clip(u, 0, width - 1)[None]]
    known = inside & (picked > 0)
    return np.where(known, np.log(np.where(known, picked, 1)), np.nan).astype(np.float32)


def mask_box(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Box (u0, v0, u1, v1) of a mask [H, W] as shares of the frame's width and height."""
    height, width = mask.shape
    return (np.array(pixel_box(mask)) / [width, height, width, height]).astype(np.float32)
