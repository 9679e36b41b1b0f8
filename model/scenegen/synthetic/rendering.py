"""Pictures of synthetic scenes: exact colour, masks and depth as one View.

Knows scenes, grounds and the renderer; nothing about files. The floor is met analytically, everything else by rays.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scenegen.render import Camera, Hits, Renderer, Surface, to_bytes
from scenegen.scene import View
from scenegen.synthetic.depth_noise import add_depth_noise
from scenegen.synthetic.parts import Floats
from scenegen.synthetic.scenes import SyntheticScene

Floats32 = NDArray[np.float32]

_FARTHEST_M = 30.0


def render(
    scene: SyntheticScene,
    camera: Camera,
    T_world_camera: Floats,
    depth_noise: np.random.Generator | None = None,
    supersample: int = 1,
) -> View:
    """A scene as a camera sees it: masks hold instance ids (index + 1), depth_m every surface within 30 m.

    T_world_camera: float64 [4, 4], optical frame. depth_noise: a generator adds a depth camera's errors (exact depth
    without). supersample: rays per pixel along either axis, for colour alone.
    """
    return render_views(scene, camera, T_world_camera[None], depth_noise, supersample)[0]


def render_views(
    scene: SyntheticScene,
    camera: Camera,
    T_world_camera: Floats,
    depth_noise: np.random.Generator | None = None,
    supersample: int = 1,
) -> tuple[View, ...]:
    """The same for several poses float64 [k, 4, 4], setting the scene up once."""
    renderer = _renderer(scene)
    views = []
    for T in T_world_camera:
        hits = renderer.cast(camera, T)
        depth_m = hits.depth_m.copy()
        floor, floor_m = _floor(scene, hits)
        depth_m.reshape(-1)[floor] = floor_m
        if supersample == 1:
            colours = _colours(scene, renderer, hits)
        else:
            colours = _colours(scene, renderer, renderer.cast(camera.finer(supersample), T))
            shape = (camera.height, supersample, camera.width, supersample, 3)
            colours = colours.reshape(shape).mean((1, 3))
        masks = np.where(hits.instance <= len(scene.objects), hits.instance, 0).astype(np.int32)
        if depth_noise is not None:
            depth_m = add_depth_noise(depth_m, depth_noise)
        views.append(View(to_bytes(colours), masks, depth_m, camera.intrinsics.copy(), T.copy()))
    return tuple(views)


def _renderer(scene: SyntheticScene) -> Renderer:
    surfaces = [Surface(*made.triangles) for made in scene.objects]
    poses = []
    for T, size in zip(scene.T_world_object, scene.size_m, strict=True):
        T_scaled = T.copy()
        T_scaled[:3, :3] *= size
        poses.append(T_scaled)
    if scene.ground.table is not None:
        surface, T = scene.ground.table_surface()
        surfaces.append(surface)
        poses.append(T)
    return Renderer(surfaces, poses)


def _floor(scene: SyntheticScene, hits: Hits) -> tuple[NDArray[np.intp], Floats32]:
    """Pixels (flat indices [n]) where the floor is seen because no ray met a surface, and its depth there, m."""
    empty = np.flatnonzero(hits.instance == 0)
    fall = hits.rays.reshape(-1, 3)[empty, 2]
    with np.errstate(divide="ignore"):
        depth_m = np.float32(scene.ground.floor_m - hits.eye[2]) / fall
    near = (depth_m > 0) & (depth_m < _FARTHEST_M)
    return empty[near], depth_m[near]


def _colours(scene: SyntheticScene, renderer: Renderer, hits: Hits) -> Floats32:
    """Shaded colours float32 [H, W, 3]."""
    ground, light = scene.ground, scene.light
    image = np.empty((*hits.instance.shape, 3), np.float32)
    image[:] = ground.wall
    flat = image.reshape(-1, 3)
    met = np.flatnonzero(hits.instance)
    flat[met] = renderer.looks(hits, met, light)

    floor, depth_m = _floor(scene, hits)
    points = hits.points(floor, depth_m)
    up = np.broadcast_to(np.array([0, 0, 1], np.float32), points.shape)
    lit = np.ones(len(points), dtype=bool)
    reached = _shadow_reach(renderer, ground.floor_m, points, light.towards)
    lit[reached] = ~renderer.occluded(points[reached], up[reached], light.towards)
    flat[floor] = light.shade(ground.floor.at(points[:, :2]), up, lit)

    if ground.table is not None:
        table = np.flatnonzero(hits.instance > len(scene.objects))
        points = hits.points(table, hits.depth_m.reshape(-1)[table])
        on_top = points[:, 2] > -1e-4
        plain = np.array(ground.table.colours[0], dtype=np.float32)
        flat[table[on_top]] *= ground.table.at(points[on_top, :2]) / plain
    return image


def _shadow_reach(renderer: Renderer, height_m: float, points: Floats32, towards: Floats) -> NDArray[np.intp]:
    """Which points [n, 3] at this height lie in the rectangle around all shadows: the others need no ray."""
    low, high = renderer.boxes[:, 0], renderer.boxes[:, 1]
    shift = -(high[:, 2:] - height_m) * (towards[:2] / towards[2])
    lowest = np.minimum(low[:, :2], low[:, :2] + shift).min(0) - 1e-3
    highest = np.maximum(high[:, :2], high[:, :2] + shift).max(0) + 1e-3
    x, y = points[:, 0], points[:, 1]
    return np.flatnonzero((x > lowest[0]) & (x < highest[0]) & (y > lowest[1]) & (y < highest[1]))
