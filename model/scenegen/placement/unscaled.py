"""Where a scene stands when nothing measured depth: turned and moved until its outlines agree with the masks.

The length unit is the query asset's size until a known size, or cameras that moved (motion.py), give metres. Simple on
purpose; its confidence says so. Knows nothing about depth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from scenegen.placement.motion import place_by_motion
from scenegen.placement.objects import placed
from scenegen.placement.search import seen, upright_rotations
from scenegen.placement.sights import Sight, agreement, box_error, outside, project, sights_of
from scenegen.placement.solver import Check, scale_of
from scenegen.placement.surface import Surface
from scenegen.scene import Floats, PlacedObject, Scene, View

PITCHES = np.deg2rad([0, 15, 30, 45, 60])
REFINED = 4


def place_by_outlines(
    scene: Scene,
    surfaces: Sequence[Surface],
    views: Sequence[View],
    up: Floats | None,
    sizes: Mapping[str, float],
    check: Check,
) -> tuple[PlacedObject, ...]:
    """Place a scene from the masks of the first view that shows any asset; see place_scene for frames and units."""
    ids = [asset.id for asset in scene.assets]
    showing = [view for view in views if np.isin(view.masks, ids).any()]
    posed = [view for view in showing if view.T_world_camera is not None and view.intrinsics is not None]
    view = posed[0] if len(posed) > 1 else showing[0]
    sights = sights_of(scene, surfaces, view)
    T_camera_query = _best_pose(sights, _rotations(view, up), check)
    scale = _metres(scene, sizes)
    if scale is None and len(posed) > 1:
        in_metres = place_by_motion(scene, surfaces, posed, T_camera_query, check)
        if in_metres is not None:
            return in_metres
    T_out_camera = np.eye(4)
    if scale is not None:
        T_out_camera = np.diag([scale, scale, scale, 1.0])
        if view.T_world_camera is not None:
            T_out_camera = view.T_world_camera @ T_out_camera
    objects = []
    by_index = {sight.index: sight for sight in sights}
    for i, asset in enumerate(scene.assets):
        T = T_camera_query @ scene.T_query_asset(i)
        agreed = 0.0
        if i in by_index:
            T = _onto_mask(T, by_index[i])
            agreed = agreement(T, by_index[i])
        T = T_out_camera @ T
        covariance = np.diag([(0.3 * scale_of(T)) ** 2] * 3 + [0.3**2] * 3)
        objects.append(placed(asset, T, covariance, 0.02 + 0.3 * agreed, metric=scale is not None))
    return tuple(objects)


def _rotations(view: View, up: Floats | None) -> Floats:
    """Rotations [r, 3, 3] of an upright query in the camera frame; without up, cameras look down without roll."""
    if up is not None:
        in_camera = up if view.T_world_camera is None else view.T_world_camera[:3, :3].T @ up
        return upright_rotations(in_camera)
    return np.concatenate([upright_rotations(np.array([0.0, -np.cos(p), -np.sin(p)])) for p in PITCHES])


def _best_pose(sights: Sequence[Sight], rotations: Floats, check: Check) -> Floats:
    """The query's similarity (scale 1) in the camera frame whose outlines agree best: [4, 4]."""
    T = _closed_form(sights, rotations)
    misfit = np.array([np.mean([np.abs(box_error(t, s)).mean() + outside(t, s) for s in sights]) for t in T])
    refined = [_refined(T[k], sights, check) for k in np.argsort(misfit)[:REFINED]]
    final = [np.mean([np.abs(box_error(t, s)).mean() + outside(t, s) for s in sights]) for t in refined]
    return refined[int(np.argmin(final))]


def _closed_form(sights: Sequence[Sight], rotations: Floats) -> Floats:
    """Poses for rotations [r, 3, 3]: every asset on the ray of its mask, at the depth its apparent size asks for."""
    normal, target = np.zeros((3, 3)), np.zeros((len(rotations), 3))
    for sight in sights:
        ray = np.append(sight.centre, 1)
        size = scale_of(sight.T_query_asset)
        towards = -ray / np.linalg.norm(ray)
        turned = rotations @ (sight.T_query_asset[:3, :3] / size)
        mean, variance = seen(sight.surface, towards[None], np.ones(1), turned)
        offset = np.einsum("rij,rj->ri", rotations, mean @ sight.T_query_asset[:3, :3].T + sight.T_query_asset[:3, 3])
        depth = size * np.sqrt(variance * (2 / 3) / sight.variance)
        on_ray = np.array([[1, 0, -ray[0]], [0, 1, -ray[1]]])
        at_depth = np.array([[0, 0, 0.3]])
        rows = np.concatenate([on_ray, at_depth])
        wanted = np.concatenate([-offset @ on_ray.T, 0.3 * (depth - offset[:, 2])[:, None]], axis=1)
        normal += rows.T @ rows
        target += wanted @ rows
    T = np.tile(np.eye(4), (len(rotations), 1, 1))
    T[:, :3, :3] = rotations
    T[:, :3, 3] = np.linalg.solve(normal, target.T).T
    T[:, 2, 3] = np.maximum(T[:, 2, 3], 1.0)
    return T


def _refined(T: Floats, sights: Sequence[Sight], check: Check) -> Floats:
    depth = T[2, 3]

    def after(change: Floats) -> Floats:
        out = T.copy()
        out[:3, :3] = Rotation.from_rotvec(change[:3]).as_matrix() @ T[:3, :3]
        out[:3, 3] = T[:3, 3] + depth * change[3:]
        return out

    def misfit(change: Floats) -> Floats:
        check()
        return np.concatenate([*(box_error(after(change), sight) for sight in sights), 0.3 * change[:3]])

    return after(least_squares(misfit, np.zeros(6), loss="soft_l1", f_scale=0.1, diff_step=1e-4, max_nfev=20).x)


def _onto_mask(T: Floats, sight: Sight) -> Floats:
    """The asset moved sideways until the middle of its outline is the middle of its mask."""
    tangents = project(T, sight)
    middle = (tangents.min(axis=0) + tangents.max(axis=0)) / 2
    out = T.copy()
    out[:2, 3] += T[2, 3] * ((sight.box[:2] + sight.box[2:]) / 2 - middle)
    return out


def _metres(scene: Scene, sizes: Mapping[str, float]) -> float | None:
    """Metres per unit of the query asset, from the assets whose largest extent is known."""
    known = [
        sizes[asset.label] / (float(asset.mesh.extents.max()) * placement.scale)
        for asset, placement in zip(scene.assets, scene.placements, strict=True)
        if asset.label in sizes
    ]
    return float(np.median(known)) if known else None
