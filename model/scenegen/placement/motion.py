"""Metres from a camera that moved: views without depth whose poses are known see the scene from different places.

The scene is turned, moved and made larger or smaller until its outlines agree with the masks of all views, and then
every object on its own. Knows nothing about depth or known sizes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from scenegen.placement.objects import placed
from scenegen.placement.sights import Sight, agreement, box_error, sights_of
from scenegen.placement.solver import Check, scale_of
from scenegen.placement.surface import Surface
from scenegen.scene import Floats, PlacedObject, Scene, View

DISTANCES_M = np.geomspace(0.1, 20, 100)  # of the query asset from the first camera
LEAST_PARALLAX = 0.05  # distance of the cameras over that of the scene: less says nothing of metres
WORST = 3.0  # error of a box, in sizes of its mask, beyond which one is as wrong as another
GROUP_SPREAD = np.array([0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5])
OBJECT_SPREAD = np.array([0.1, 0.1, 0.1, 0.15, 0.15, 0.15, 0.1])
"""What rotation vector (radians), shift (sizes) and log-scale are expected to need, of the scene and of an object."""
SURE = 0.1  # size of an error of a box that is nothing unusual
Seeing = tuple[Floats, Sight]
"""T_camera_world [4, 4], and what that camera sees of one asset."""


def place_by_motion(
    scene: Scene, surfaces: Sequence[Surface], views: Sequence[View], T_camera_query: Floats, check: Check
) -> tuple[PlacedObject, ...] | None:
    """Place a scene by views with intrinsics and poses; None where their cameras stand too close together.

    T_camera_query: float64 [4, 4], the query asset in the first view's camera, in units of the query.
    """
    if len(views) < 2:
        return None
    cameras = [np.asarray(view.T_world_camera) for view in views]
    everything: list[Seeing] = [
        (np.linalg.inv(T), sight)
        for T, view in zip(cameras, views, strict=True)
        for sight in sights_of(scene, surfaces, view)
    ]
    starts = np.stack([_scaled(cameras[0], T_camera_query, metres) for metres in DISTANCES_M / T_camera_query[2, 3]])
    wrong = []
    for T in starts:
        check()
        wrong.append(np.mean([np.minimum(np.abs(_error(T, seeing)), WORST).mean() for seeing in everything]))
    T = min((_fitted(starts[k], everything, GROUP_SPREAD, check) for k in np.argsort(wrong)[:2]), key=lambda f: f[1])[0]
    distance = np.linalg.norm(T[:3, 3] - cameras[0][:3, 3])
    if max(np.linalg.norm(camera[:3, 3] - cameras[0][:3, 3]) for camera in cameras) < LEAST_PARALLAX * distance:
        return None
    objects = []
    for i, asset in enumerate(scene.assets):
        T_asset = T @ scene.T_query_asset(i)
        mine = [(T_camera, s) for T_camera, s in everything if s.index == i]
        agreed = 0.0
        if mine:
            own = [(T_camera, _alone(s)) for T_camera, s in mine]
            T_asset = _fitted(T_asset, own, OBJECT_SPREAD, check)[0]
            agreed = float(np.mean([agreement(T_camera @ T_asset, s) for T_camera, s in own]))
        deviation = (1.1 - agreed) * float(scale_of(T_asset))
        covariance = np.diag([(0.3 * deviation) ** 2] * 3 + [0.3**2] * 3)
        objects.append(placed(asset, T_asset, covariance, 0.02 + 0.4 * agreed))
    return tuple(objects)


def _scaled(T_world_camera: Floats, T_camera_query: Floats, metres: float) -> Floats:
    return np.asarray(T_world_camera @ np.diag([metres, metres, metres, 1.0]) @ T_camera_query)


def _alone(sight: Sight) -> Sight:
    return Sight(**{**sight.__dict__, "T_query_asset": np.eye(4)})


def _error(T_world_group: Floats, seeing: Seeing) -> Floats:
    """Differences [4] of the boxes of outline and mask, in sizes of the mask."""
    T_camera_world, sight = seeing
    return box_error(T_camera_world @ T_world_group, sight)


def _fitted(T: Floats, everything: Sequence[Seeing], spread: Floats, check: Check) -> tuple[Floats, float]:
    """The group [4, 4] near T whose outlines agree best, and how badly they do."""
    size = float(scale_of(T))

    def after(step: Floats) -> Floats:
        out = T.copy()
        out[:3, :3] = np.exp(step[6]) * Rotation.from_rotvec(step[:3]).as_matrix() @ T[:3, :3]
        out[:3, 3] += size * step[3:6]
        return out

    def misfit(step: Floats) -> Floats:
        check()
        moved = after(step)
        errors = np.concatenate([_error(moved, seeing) for seeing in everything])
        return np.concatenate([errors / SURE, step / spread])

    found = least_squares(misfit, np.zeros(7), loss="soft_l1", diff_step=1e-4, max_nfev=25)
    return after(found.x), float(found.cost)
