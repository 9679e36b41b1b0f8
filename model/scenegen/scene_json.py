"""scene.json: what a stored scene says of its objects, poses and cameras, as JSON's types, and back.

World z-up, metres where the scene is metric, quaternions wxyz. Knows nothing about files; scenegen.files writes them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from scenegen.scene import Asset, Floats, PlacedObject, Placement, Scene, View

FORMAT = 1
Entry = Mapping[str, Any]
"""A JSON object."""


def mesh_name(instance: int, preliminary: bool = False) -> str:
    """Where a scene's folder holds the mesh of an object."""
    return f"objects/{instance}.coarse.glb" if preliminary else f"objects/{instance}.glb"


def scene_entries(scene: Scene, placed: Sequence[PlacedObject] | None, preliminary: bool) -> dict[str, Any]:
    """What refining a scene may change in its scene.json. placed: in the order of scene.assets."""
    objects = []
    for i, (asset, placement) in enumerate(zip(scene.assets, scene.placements, strict=True)):
        entry: dict[str, Any] = {
            "id": asset.id,
            "label": asset.label,
            "detail": asset.detail,
            "mesh": mesh_name(asset.id, preliminary),
            "placement": {
                "translation": _numbers(placement.translation),
                "rotation_wxyz": _numbers(placement.rotation_wxyz),
                "scale": float(placement.scale),
            },
        }
        if placed is not None:
            entry |= _placed_entry(placed[i])
        objects.append(entry)
    return {
        "preliminary": preliminary,
        "query": scene.query,
        "placed": placed is not None,
        "metric": placed is not None and all(o.metric for o in placed),
        "seconds": {stage: float(s) for stage, s in scene.seconds.items()},
        "objects": objects,
    }


def placement_of(entry: Entry) -> Placement:
    """An object's placement relative to the query asset. KeyError, TypeError or ValueError when it is damaged."""
    return Placement(np.array(entry["translation"]), np.array(entry["rotation_wxyz"]), entry["scale"])


def pose_entry(T: Floats) -> dict[str, Any]:
    """A rigid pose, float64 [4, 4]."""
    rotation = Rotation.from_matrix(T[:3, :3])
    return {"position_m": _numbers(T[:3, 3]), "rotation_wxyz": _numbers(rotation.as_quat(scalar_first=True))}


def pose_of(entry: Entry) -> Floats:
    """float64 [4, 4] of what pose_entry gave. KeyError, TypeError or ValueError when it is damaged."""
    T = np.eye(4)
    T[:3, :3] = Rotation.from_quat(entry["rotation_wxyz"], scalar_first=True).as_matrix()
    T[:3, 3] = entry["position_m"]
    return T


def _placed_entry(placed: PlacedObject) -> dict[str, Any]:
    return pose_entry(placed.T_world_object) | {
        "scale_m": float(placed.scale_m),
        "size_m": _numbers(placed.size_m),
        "covariance": _numbers(placed.covariance),
        "confidence": float(placed.confidence),
        "residual_m": _number(placed.residual_m),
        "metric": bool(placed.metric),
    }


def placed_object_of(entry: Entry, asset: Asset) -> PlacedObject:
    """An object of a scene that was placed. KeyError, TypeError or ValueError when its entry is damaged."""
    residual = entry["residual_m"]
    return PlacedObject(
        id=asset.id,
        label=asset.label,
        asset=asset,
        T_world_object=pose_of(entry),
        scale_m=entry["scale_m"],
        size_m=np.array(entry["size_m"], float),
        covariance=np.array(entry["covariance"], float),  # None, for "unknown", becomes NaN
        confidence=entry["confidence"],
        residual_m=math.nan if residual is None else residual,
        metric=entry["metric"],
    )


def camera_entry(view: View) -> dict[str, Any]:
    """The camera of a view: intrinsics in pixels, T_world_camera [4, 4], None where it has none."""
    return {
        "width": view.image.shape[1],
        "height": view.image.shape[0],
        "intrinsics": None if view.intrinsics is None else _numbers(view.intrinsics),
        "T_world_camera": None if view.T_world_camera is None else _numbers(view.T_world_camera),
        "stamp_ns": int(view.stamp_ns),
    }


def _number(value: float) -> float | None:
    """JSON has no NaN or infinity; None stands for 'unknown'."""
    return float(value) if math.isfinite(value) else None


def _numbers(array: Floats) -> Any:
    values = array.astype(object)
    values[~np.isfinite(array)] = None
    return values.tolist()
