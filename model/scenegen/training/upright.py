"""Scenes known by meshes and poses, as small models are taught them: upright, on a floor, as the synthetic ones are.

The floor is the lowest point of any object; the camera's height above it is the unit of lengths, as in samples.py.
Knows nothing about files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import cv2
import numpy as np
import trimesh
from numpy.typing import NDArray

from scenegen.render import Camera, Hits, Renderer, Surface
from scenegen.scene import Floats, InvalidInput, View
from scenegen.synthetic.scenes import SyntheticScene

Grid = NDArray[np.bool_]

UPRIGHT_DEG = 3.0
"""An object tilted by more has a pose that small models have no words for."""
DEPTH_SIDE = 300
"""Longer side of the depth image that samples read their patches' depth from."""
LEAST_AGREEMENT = 0.5
"""Share of the masks' pixels in which the meshes must be seen where the masks say: much less, and a frame is wrong."""


@dataclass(frozen=True, eq=False)
class UprightObject:
    """An object known by its mesh, with all that `scene_sample` asks of one.

    instance: its id in the view's masks. asset: in the unit box, z-up. T_world_asset: float64 [4, 4], metres, scale
    included, upright in a z-up world. grid: bool [R, R, R], its voxels. family: one of FAMILIES; it only labels a head
    that training drops. symmetry: order of its yaw symmetry, as of a ProceduralObject.
    """

    instance: int
    asset: trimesh.Trimesh
    T_world_asset: Floats
    grid: Grid
    family: str
    symmetry: int = 1

    @property
    def extents(self) -> Floats:
        """float64 [3], side lengths of the asset's box; the longest is 1."""
        return np.asarray(self.asset.extents, dtype=np.float64)

    @property
    def size_m(self) -> float:
        """Metres per asset unit."""
        return float(np.cbrt(np.linalg.det(self.T_world_asset[:3, :3])))

    def occupancy(self, resolution: int) -> Grid:
        """The voxels, which must be of this resolution."""
        if len(self.grid) != resolution:
            raise InvalidInput(f"voxels have resolution {len(self.grid)}, the config {resolution}: make them anew")
        return self.grid


def is_upright(T_world_asset: Floats) -> bool:
    """Whether the z axis of an asset's pose, float64 [4, 4] with any scale, is the world's up to UPRIGHT_DEG."""
    up = T_world_asset[:3, 2]
    return bool(up[2] > np.cos(np.radians(UPRIGHT_DEG)) * np.linalg.norm(up))


def scene_on_floor(name: str, objects: Sequence[UprightObject], view: View) -> tuple[SyntheticScene, View]:
    """A scene as `scene_sample` takes it: on a floor at z = 0 below the camera, masks numbered by the objects' order.

    name: of the scene, for messages. view: with its camera; masks of anything but the objects become background, and
    depth that is not there becomes that of the meshes. InvalidInput when there is no object, when the camera isn't
    above the floor or looks straight down, or when the meshes are not where the masks show them.
    """
    if not objects:
        raise InvalidInput(f"scene {name} has no upright object: nothing can be learnt from it")
    assert view.T_world_camera is not None
    T_world_asset = np.stack([item.T_world_asset for item in objects])
    floor = min(
        float((item.asset.vertices @ T[2, :3] + T[2, 3]).min()) for item, T in zip(objects, T_world_asset, strict=True)
    )
    if view.T_world_camera[2, 3] <= floor:
        raise InvalidInput(f"scene {name}: everything is above the camera, no floor to measure from: correct its pose")
    if np.hypot(*view.T_world_camera[:2, 2]) < 1e-3:
        raise InvalidInput(f"scene {name}: the camera looks straight down and has no heading: take it from aside")
    T_world_asset[:, 2, 3] -= floor
    T_world_camera = view.T_world_camera.copy()
    T_world_camera[2, 3] -= floor
    masks = np.zeros_like(view.masks)
    for number, item in enumerate(objects, 1):
        masks[view.masks == item.instance] = number

    hits = _seen(objects, T_world_asset, view, T_world_camera)
    agreed = _widened(hits.instance, view)[masks > 0] == masks[masks > 0]
    if len(agreed) and agreed.mean() < LEAST_AGREEMENT:
        raise InvalidInput(
            f"scene {name}: the objects are where the masks show them in {agreed.mean():.0%} of their pixels only: "
            "correct the camera's pose (world from optical frame: x right, y down, z forward), its intrinsics, or the "
            "objects' ids or places"
        )
    depth_m = _widened(hits.depth_m, view) if view.depth_m is None else view.depth_m
    size_m = np.array([item.size_m for item in objects])
    rigid = T_world_asset.copy()
    rigid[:, :3, :3] /= size_m[:, None, None]
    # scene_sample asks these objects only for what they have, and nothing of ground and light
    scene = SyntheticScene(cast(Any, tuple(objects)), rigid, size_m, cast(Any, None), cast(Any, None), seed=0)
    return scene, View(view.image, masks, depth_m, view.intrinsics, T_world_camera)


def _seen(
    objects: Sequence[UprightObject], T_world_asset: Sequence[Floats] | Floats, view: View, T_world_camera: Floats
) -> Hits:
    """What the view's camera sees of the objects alone, in an image of DEPTH_SIDE."""
    assert view.intrinsics is not None
    height, width = view.masks.shape
    ratio = min(1.0, DEPTH_SIDE / max(height, width))
    small = Camera(round(width * ratio), round(height * ratio), np.diag([ratio, ratio, 1.0]) @ view.intrinsics)
    renderer = Renderer([Surface.from_mesh(item.asset) for item in objects], list(T_world_asset))
    return renderer.cast(small, T_world_camera)


def _widened(plane: NDArray[Any], view: View) -> NDArray[Any]:
    height, width = view.masks.shape
    return np.asarray(cv2.resize(plane, (width, height), interpolation=cv2.INTER_NEAREST))
