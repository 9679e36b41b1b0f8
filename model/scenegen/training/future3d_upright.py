"""3D-FUTURE's scenes as small models are taught them: upright, on a floor, as the synthetic ones are.

Up is the objects' own up axis that is most like the others', the floor the lowest point of any; the camera's height
above it is the unit of lengths, as in samples.py. Knows nothing about files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import cv2
import numpy as np
import trimesh
from numpy.typing import NDArray

from scenegen.render import Camera, Renderer, Surface
from scenegen.scene import Floats, InvalidInput, View
from scenegen.synthetic.objects import FAMILIES
from scenegen.synthetic.scenes import SyntheticScene
from scenegen.training.future3d import OPTICAL_OPENGL, FutureModel, FutureScene, T_opengl_asset

Grid = NDArray[np.bool_]

UPRIGHT_DEG = 3.0
"""An object tilted by more has a pose that small models have no words for, and is left out."""
DEPTH_SIDE = 300
"""Longer side of the depth image that samples read their patches' depth from."""


@dataclass(frozen=True, eq=False)
class FutureAsset:
    """What `scene_sample` asks of an object. Furniture is taken to have no symmetry: nothing says which has one.

    family: its category's number in FAMILIES' stead; it only labels a head that training drops.
    """

    family: str
    extents: Floats
    grid: Grid
    symmetry: int = 1

    def occupancy(self, resolution: int) -> Grid:
        """The stored voxels, which must be of this resolution."""
        if len(self.grid) != resolution:
            raise InvalidInput(f"voxels have resolution {len(self.grid)}, the config {resolution}: make them anew")
        return self.grid


def upright_scene(
    scene: FutureScene, models: Sequence[FutureModel], voxels: Mapping[str, Grid], categories: Sequence[str]
) -> tuple[SyntheticScene, View]:
    """The scene as `scene_sample` takes it: z up, on a floor at z = 0 below the camera.

    models: of its objects, in their order. voxels: by model id. categories: all of the dataset's. Objects on other
    objects or on walls keep their places above the floor. Depth is that of the objects' meshes. InvalidInput when
    nothing is below the camera.
    """
    ups = np.stack([item.rotation[:, 1] for item in scene.objects])
    up = ups[np.argmax((ups @ ups.T).sum(1))]  # the axis most like all others
    pairs = [
        (item, model)
        for item, model, own in zip(scene.objects, models, ups, strict=True)
        if own @ up > np.cos(np.radians(UPRIGHT_DEG))
    ]
    forward = np.array([0.0, 0.0, -1.0])
    forward -= up * (forward @ up)
    forward /= np.linalg.norm(forward)
    T_world_opengl = np.eye(4)
    T_world_opengl[:3, :3] = np.stack([np.cross(forward, up), forward, up])
    T_world_asset = T_world_opengl @ np.stack([T_opengl_asset(item, model) for item, model in pairs])
    assets = [model.asset() for _, model in pairs]
    floor = min(float((a.vertices @ T[2, :3] + T[2, 3]).min()) for a, T in zip(assets, T_world_asset, strict=True))
    if floor >= 0:
        raise InvalidInput(f"scene {scene.scene_id}: everything is above the camera, no floor to measure from")
    T_world_opengl[2, 3] = -floor
    T_world_asset[:, 2, 3] -= floor
    T_world_camera = T_world_opengl.copy()
    T_world_camera[:3, :3] = T_world_opengl[:3, :3] @ OPTICAL_OPENGL

    photograph = scene.view(T_world_camera)
    numbers = np.zeros(1 + max(item.instance for item in scene.objects), dtype=np.int32)
    for index, (item, _) in enumerate(pairs):
        numbers[item.instance] = index + 1
    depth = _depth(assets, list(T_world_asset), photograph, T_world_camera)
    view = View(photograph.image, numbers[photograph.masks], depth, photograph.intrinsics, T_world_camera)
    size_m = np.array([model.scale for _, model in pairs])
    rigid = T_world_asset.copy()
    rigid[:, :3, :3] /= size_m[:, None, None]
    objects = [
        FutureAsset(
            FAMILIES[categories.index(item.category) % len(FAMILIES)],
            np.asarray(asset.extents, dtype=np.float64),
            voxels[item.model_id],
        )
        for (item, _), asset in zip(pairs, assets, strict=True)
    ]
    # scene_sample asks these objects only for what FutureAsset has, and nothing of ground and light
    synthetic = SyntheticScene(cast(Any, tuple(objects)), rigid, size_m, cast(Any, None), cast(Any, None), seed=0)
    return synthetic, view


def _depth(
    assets: Sequence[trimesh.Trimesh], T_world_asset: Sequence[Floats], view: View, T_world_camera: Floats
) -> NDArray[np.float32]:
    """Depth of the assets [H, W] in metres, 0 elsewhere; cast at DEPTH_SIDE and widened."""
    assert view.intrinsics is not None
    height, width = view.masks.shape
    ratio = min(1.0, DEPTH_SIDE / max(height, width))
    small = Camera(round(width * ratio), round(height * ratio), np.diag([ratio, ratio, 1.0]) @ view.intrinsics)
    renderer = Renderer([Surface.from_mesh(asset) for asset in assets], T_world_asset)
    depth = renderer.cast(small, T_world_camera).depth_m
    return cv2.resize(depth, (width, height), interpolation=cv2.INTER_NEAREST).astype(np.float32)
