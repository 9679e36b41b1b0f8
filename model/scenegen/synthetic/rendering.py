"""Pictures of synthetic scenes: exact colour, masks and depth as one View.

Knows scenes, grounds and the renderer; nothing about files. The ground is met analytically, objects by rays.
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
    renderer = scene_renderer(scene)
    views = []
    for T in T_world_camera:
        hits = renderer.cast(camera, T)
        colours, depth_m = _draw(scene, renderer, hits)
        if supersample > 1:
            colours, _ = _draw(scene, renderer, renderer.cast(camera.finer(supersample), T))
            shape = (camera.height, supersample, camera.width, supersample, 3)
            colours = colours.reshape(shape).mean((1, 3))
        if depth_noise is not None:
            depth_m = add_depth_noise(depth_m, depth_noise)
        views.append(View(to_bytes(colours), hits.instance, depth_m, camera.intrinsics.copy(), T.copy()))
    return tuple(views)


def scene_renderer(scene: SyntheticScene) -> Renderer:
    """The scene's objects ready for rays, without the ground; instances are ids."""
    poses = scene.T_world_object.copy()
    poses[:, :3, :3] *= scene.size_m[:, None, None]
    return Renderer([Surface(*made.triangles) for made in scene.objects], list(poses))


def _draw(scene: SyntheticScene, renderer: Renderer, hits: Hits) -> tuple[Floats32, Floats32]:
    """Shaded colours float32 [H, W, 3] and depth_m float32 [H, W], ground included.

    Objects stand on the ground and the camera is above it, so the ground is seen exactly where no object is.
    """
    shape = hits.instance.shape
    objects, empty = np.flatnonzero(hits.instance), hits.instance.reshape(-1) == 0
    met = scene.ground.meet(hits.eye, hits.rays.reshape(-1, 3))
    lit = ~scene.ground.shadow(met, scene.light.towards)
    candidates = np.flatnonzero(empty & lit & _may_be_shadowed(renderer, met.points, scene.light.towards))
    blocked = renderer.occluded(met.points[candidates], met.normals[candidates], scene.light.towards)
    lit[candidates[blocked]] = False
    colours = scene.light.shade(scene.ground.colours(met), met.normals, lit)
    colours[met.depth_m == 0] = scene.ground.wall
    colours[objects] = renderer.looks(hits, objects, scene.light)
    depth_m = np.where(hits.instance > 0, hits.depth_m, met.depth_m.reshape(shape))
    return colours.reshape(*shape, 3), depth_m


def _may_be_shadowed(renderer: Renderer, points: Floats32, towards: Floats) -> NDArray[np.bool_]:
    """Whether points [n, 3] lie under the box of some surface as the light falls, bool [n]: the others need no ray."""
    slope = (towards[:2] / towards[2]).astype(np.float32)
    x, y = (points[:, :2] - points[:, 2:] * slope).T  # followed along the light to z = 0, where every box stands
    possible = np.zeros(len(points), dtype=bool)
    for low, high in renderer.boxes:
        shift = -high[2] * slope
        left, bottom = low[:2] + np.minimum(shift, 0) - 1e-3
        right, top = high[:2] + np.maximum(shift, 0) + 1e-3
        possible |= (x > left) & (x < right) & (y > bottom) & (y < top)
    return possible
