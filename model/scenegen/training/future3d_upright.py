"""3D-FUTURE's scenes as small models are taught them: up is the objects' own up axis that is most like the others'.

Knows nothing about files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from scenegen.scene import View
from scenegen.synthetic.objects import FAMILIES
from scenegen.synthetic.scenes import SyntheticScene
from scenegen.training.future3d import OPTICAL_OPENGL, FutureModel, FutureScene, T_opengl_asset
from scenegen.training.upright import Grid, UprightObject, is_upright, scene_on_floor


def upright_scene(
    scene: FutureScene, models: Sequence[FutureModel], voxels: Mapping[str, Grid], categories: Sequence[str]
) -> tuple[SyntheticScene, View]:
    """The scene as `scene_sample` takes it, see scene_on_floor.

    models: of its objects, in their order. voxels: by model id. categories: all of the dataset's. Objects on other
    objects or on walls keep their places above the floor, tilted ones are left out. Furniture is taken to have no
    symmetry: nothing says which has one. A family is the category's number in FAMILIES' stead.
    """
    ups: NDArray[np.float64] = np.stack([item.rotation[:, 1] for item in scene.objects])
    up = ups[np.argmax((ups @ ups.T).sum(1))]  # the axis most like all others
    forward = np.array([0.0, 0.0, -1.0])
    forward -= up * (forward @ up)
    forward /= np.linalg.norm(forward)
    T_world_opengl = np.eye(4)
    T_world_opengl[:3, :3] = np.stack([np.cross(forward, up), forward, up])
    T_world_camera = T_world_opengl.copy()
    T_world_camera[:3, :3] = T_world_opengl[:3, :3] @ OPTICAL_OPENGL
    objects = [
        UprightObject(
            item.instance,
            model.asset(),
            T_world_opengl @ T_opengl_asset(item, model),
            voxels[item.model_id],
            FAMILIES[categories.index(item.category) % len(FAMILIES)],
        )
        for item, model in zip(scene.objects, models, strict=True)
    ]
    upright = [item for item in objects if is_upright(item.T_world_asset)]
    return scene_on_floor(scene.scene_id, upright, scene.view(T_world_camera))
