"""The one renderer: ray casting of triangles with embree, no screen needed.

Knows meshes with vertex colours or textures, where they stand and a pinhole camera; knows nothing about synthetic
objects, views or files. Cameras look along +z (x right, y down) and pixel (u, v) has its centre at (u, v). Lengths in
metres.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import trimesh
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
from numpy.typing import NDArray
from trimesh.visual import TextureVisuals

from scenegen.scene import InvalidInput

Floats = NDArray[np.float64]
Floats32 = NDArray[np.float32]

_SHADOW_OFFSET_M = 5e-4
_BOX_CORNERS = np.array([[x, y, z] for x in (0, 3) for y in (1, 4) for z in (2, 5)])
"""[8, 3] picks the corners of a box out of (low x, y, z, high x, y, z)."""


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera. intrinsics: float64 [3, 3], pixels."""

    width: int
    height: int
    intrinsics: Floats

    @staticmethod
    def pinhole(width: int = 640, height: int = 480, focal: float = 600.0) -> Camera:
        """A camera with square pixels and its principal point in the middle of the image; focal in pixels."""
        middle = ((width - 1) / 2, (height - 1) / 2)
        return Camera(width, height, np.array([[focal, 0.0, middle[0]], [0.0, focal, middle[1]], [0.0, 0.0, 1.0]]))

    @cached_property
    def directions(self) -> Floats32:
        """float32 [H, W, 3], the ray of every pixel, K^-1 (u, v, 1): z is 1, so a ray's parameter is its depth."""
        u, v = np.meshgrid(np.arange(self.width), np.arange(self.height))
        pixels = np.stack([u, v, np.ones_like(u)], axis=-1).astype(np.float32)
        return pixels @ np.linalg.inv(self.intrinsics).T.astype(np.float32)

    def finer(self, factor: int) -> Camera:
        """The same view in factor x factor pixels for each pixel."""
        scale = np.array([[factor, 0, (factor - 1) / 2], [0, factor, (factor - 1) / 2], [0, 0, 1.0]])
        return Camera(self.width * factor, self.height * factor, scale @ self.intrinsics)


@dataclass(frozen=True, eq=False)
class Texture:
    """A picture on a surface. image: uint8 [H, W, 3], row 0 on top.

    uv: float32 [F, 3, 2] at the triangles' corners, 0..1 across the picture, v upwards.
    """

    image: NDArray[np.uint8]
    uv: Floats32

    def sample(self, uv: Floats32) -> Floats32:
        """Colours 0..1, float32 [n, 3], at picture coordinates [n, 2]: bilinear, the edge goes on outside."""
        height, width = self.image.shape[:2]
        x = np.clip(uv[:, 0] * width - 0.5, 0, width - 1)
        y = np.clip((1 - uv[:, 1]) * height - 0.5, 0, height - 1)
        left, top = x.astype(np.intp), y.astype(np.intp)
        right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
        across, down = (x - left)[:, None], (y - top)[:, None]
        upper = self.image[top, left] * (1 - across) + self.image[top, right] * across
        lower = self.image[bottom, left] * (1 - across) + self.image[bottom, right] * across
        return ((upper * (1 - down) + lower * down) / 255.0).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Surface:
    """A triangle soup with looks.

    corners, normals, colours: float32 [F, 3, 3]; normals are unit and may vary across a triangle, colours are 0..1.
    texture: instead of the colours where there is one.
    """

    corners: Floats32
    normals: Floats32
    colours: Floats32
    texture: Texture | None = None

    @staticmethod
    def from_mesh(mesh: trimesh.Trimesh) -> Surface:
        """A mesh with its texture, or its vertex (or face) colours, and flat normals."""
        corners = np.asarray(mesh.triangles, dtype=np.float32)
        normals = np.repeat(np.asarray(mesh.face_normals, dtype=np.float32)[:, None], 3, axis=1)
        looks = mesh.visual
        if isinstance(looks, TextureVisuals):
            image = getattr(looks.material, "baseColorTexture", None)
            if image is not None and looks.uv is not None:
                texture = Texture(np.asarray(image.convert("RGB")), np.asarray(looks.uv, np.float32)[mesh.faces])
                return Surface(corners, normals, np.ones_like(corners), texture)
            looks = looks.to_color()
        if looks is None:
            raise InvalidInput("a mesh without colours cannot be drawn: give it vertex colours or a texture")
        colours = np.asarray(looks.vertex_colors, dtype=np.float32)[mesh.faces][..., :3] / 255.0
        return Surface(corners, normals, colours)


@dataclass(frozen=True, eq=False)
class Light:
    """A distant lamp in an evenly lit room.

    towards: float64 [3], unit, from the scene to the lamp. ambient, direct: how much either adds to a surface's colour.
    """

    towards: Floats = field(default_factory=lambda: np.array([0.4, -0.35, 0.85]) / np.linalg.norm([0.4, -0.35, 0.85]))
    ambient: float = 0.5
    direct: float = 0.6

    def shade(self, colours: Floats32, normals: Floats32, lit: NDArray[np.bool_]) -> Floats32:
        """Colours float32 [n, 3] as seen, given unit normals [n, 3] and lit [n]: whether the lamp reaches the point."""
        facing = np.maximum(normals @ self.towards.astype(np.float32), 0.0) * lit
        sky = 0.8 + 0.2 * normals[:, 2]  # more light from above keeps faces in shadow apart
        strength = (self.ambient * sky + self.direct * facing).astype(np.float32)
        return colours * strength[:, None]


@dataclass(frozen=True, eq=False)
class Hits:
    """What the rays of a camera met, arrays [H, W].

    instance: int32, index of the surface + 1, 0 where nothing was met. triangle: int32, over all surfaces in order,
    -1 for nothing. barycentric: float32 [H, W, 2], weights of the triangle's second and third corner.
    depth_m: float32 along the optical axis, 0 for nothing. rays: float32 [H, W, 3] in the world, depth 1 along the
    optical axis. eye: float32 [3].
    """

    instance: NDArray[np.int32]
    triangle: NDArray[np.int32]
    barycentric: Floats32
    depth_m: Floats32
    rays: Floats32
    eye: Floats32

    def points(self, pixels: NDArray[np.intp], depth_m: Floats32) -> Floats32:
        """Points float32 [n, 3] at depths [n] on the rays of pixels [n] (flat, row-major indices)."""
        return self.rays.reshape(-1, 3)[pixels] * depth_m[:, None] + self.eye


class Renderer:
    """Surfaces standing in a world, ready for rays."""

    def __init__(self, surfaces: Sequence[Surface], T_world_surface: Sequence[Floats]) -> None:
        """T_world_surface: one float64 [4, 4] similarity for each surface (rotation, scale, translation)."""
        if not surfaces or len(surfaces) != len(T_world_surface):
            raise InvalidInput(
                f"{len(surfaces)} surfaces with {len(T_world_surface)} transforms cannot be drawn: "
                "give at least one surface and one transform for each"
            )
        corners, normals = [], []
        for surface, T in zip(surfaces, T_world_surface, strict=True):
            linear = T[:3, :3].astype(np.float32)
            corners.append(surface.corners @ linear.T + T[:3, 3].astype(np.float32))
            normals.append(surface.normals @ (linear.T / np.float32(np.cbrt(np.linalg.det(T[:3, :3])))))
        self.corners: Floats32 = np.concatenate(corners)
        self.normals: Floats32 = np.concatenate(normals)
        self.colours: Floats32 = np.concatenate([surface.colours for surface in surfaces])
        self.textures = [surface.texture for surface in surfaces]
        counts = [len(surface.corners) for surface in surfaces]
        self.first_triangle = np.cumsum([0, *counts])
        self.instance_of_triangle = np.repeat(np.arange(1, len(surfaces) + 1, dtype=np.int32), counts)
        self.boxes = np.stack([np.stack([c.min((0, 1)), c.max((0, 1))]) for c in corners])
        self._embree = EmbreeScene(robust=True)
        TriangleMesh(self._embree, self.corners)

    def cast(self, camera: Camera, T_world_camera: Floats) -> Hits:
        """The first surface along the ray of every pixel."""
        shape = (camera.height, camera.width)
        instance, depth = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
        triangle, barycentric = np.full(shape, -1, np.int32), np.zeros((*shape, 2), np.float32)
        eye = T_world_camera[:3, 3].astype(np.float32)
        rays = (camera.directions.reshape(-1, 3) @ T_world_camera[:3, :3].T.astype(np.float32)).reshape(*shape, 3)
        pixels = self._candidates(camera, T_world_camera)
        if len(pixels):
            directions = rays.reshape(-1, 3)[pixels]
            origins = np.empty_like(directions)
            origins[:] = eye
            result = self._embree.run(origins, directions, output=True)
            met = np.flatnonzero(result["primID"] >= 0)
            at, number = pixels[met], result["primID"][met]
            triangle.reshape(-1)[at] = number
            instance.reshape(-1)[at] = self.instance_of_triangle[number]
            depth.reshape(-1)[at] = result["tfar"][met]
            barycentric.reshape(-1, 2)[at] = np.stack([result["u"][met], result["v"][met]], axis=-1)
        return Hits(instance, triangle, barycentric, depth, rays, eye)

    def _candidates(self, camera: Camera, T_world_camera: Floats) -> NDArray[np.intp]:
        """Flat indices of the pixels in some surface's box as the camera sees it: rays elsewhere meet nothing."""
        corners = self.boxes.reshape(-1, 6)[:, _BOX_CORNERS]
        seen = (corners - T_world_camera[:3, 3]) @ T_world_camera[:3, :3]
        near = np.ones((camera.height, camera.width), dtype=bool)
        if (seen[..., 2] > 1e-3).all():
            pixels = (seen / seen[..., 2:]) @ camera.intrinsics[:2].T
            low = np.maximum(np.floor(pixels.min(1)) - 1, 0).astype(int)
            high = np.maximum(np.ceil(pixels.max(1)) + 2, 0).astype(int)
            near[:] = False
            for (left, top), (right, bottom) in zip(low, high, strict=True):
                near[top:bottom, left:right] = True
        return np.flatnonzero(near)

    def occluded(self, points: Floats32, normals: Floats32, towards: Floats) -> NDArray[np.bool_]:
        """Whether a surface stands between points [n, 3] (with unit normals) and a distant lamp in direction [3]."""
        if not len(points):
            return np.zeros(0, dtype=bool)
        origins = np.ascontiguousarray(points + _SHADOW_OFFSET_M * normals, dtype=np.float32)
        directions = np.ascontiguousarray(np.broadcast_to(towards.astype(np.float32), origins.shape))
        blocked: NDArray[np.bool_] = self._embree.run(origins, directions, query="OCCLUDED") >= 0
        return blocked

    def base_colours(self, hits: Hits, pixels: NDArray[np.intp]) -> Floats32:
        """Colours float32 [n, 3] of the surfaces themselves at pixels [n] (flat indices) where one was met."""
        triangle, weights = hits.triangle.reshape(-1)[pixels], _weights(hits, pixels)
        colours = _blend(self.colours[triangle], *weights)
        for texture, start, end in zip(self.textures, self.first_triangle, self.first_triangle[1:], strict=False):
            if texture is not None:
                on = np.flatnonzero((triangle >= start) & (triangle < end))
                colours[on] = texture.sample(_blend(texture.uv[triangle[on] - start], *(w[on] for w in weights)))
        return colours

    def looks(self, hits: Hits, pixels: NDArray[np.intp], light: Light) -> Floats32:
        """Shaded colours float32 [n, 3] of pixels [n] (flat, row-major indices) where a surface was met."""
        normals = _blend(self.normals[hits.triangle.reshape(-1)[pixels]], *_weights(hits, pixels))
        normals /= np.sqrt((normals * normals).sum(1, keepdims=True))
        facing = np.flatnonzero(normals @ light.towards.astype(np.float32) > 0)
        points = hits.points(pixels[facing], hits.depth_m.reshape(-1)[pixels[facing]])
        lit = np.zeros(len(pixels), dtype=bool)
        lit[facing] = ~self.occluded(points, normals[facing], light.towards)
        return light.shade(self.base_colours(hits, pixels), normals, lit)

    def render(
        self,
        camera: Camera,
        T_world_camera: Floats,
        light: Light | None = None,
        background: tuple[int, int, int] = (255, 255, 255),
    ) -> tuple[NDArray[np.uint8], Floats32, NDArray[np.int32]]:
        """Picture uint8 [H, W, 3], depth_m float32 [H, W] (0 for nothing) and instances int32 [H, W] (index + 1)."""
        hits = self.cast(camera, T_world_camera)
        image = np.empty((camera.height, camera.width, 3), np.float32)
        image[:] = np.array(background, dtype=np.float32) / 255.0
        met = np.flatnonzero(hits.instance)
        image.reshape(-1, 3)[met] = self.looks(hits, met, light or Light())
        return to_bytes(image), hits.depth_m, hits.instance


def _weights(hits: Hits, pixels: NDArray[np.intp]) -> tuple[Floats32, Floats32, Floats32]:
    """Of the three corners of the triangles met, each [n, 1]."""
    second, third = hits.barycentric.reshape(-1, 2)[pixels].T[..., None]
    return 1 - second - third, second, third


def _blend(corners: Floats32, first: Floats32, second: Floats32, third: Floats32) -> Floats32:
    """Values float32 [n, 3, k] at three corners, mixed with weights [n, 1]."""
    mixed: Floats32 = corners[:, 0] * first + corners[:, 1] * second + corners[:, 2] * third
    return mixed


def to_bytes(colours: Floats32) -> NDArray[np.uint8]:
    """Colours 0..1 as 8-bit, clipped."""
    return np.rint(np.clip(colours, 0.0, 1.0) * 255.0).astype(np.uint8)


def look_at(eye: Floats, target: Floats) -> Floats:
    """T_world_camera float64 [4, 4] of a camera at eye looking at target [3], its x axis level (z is up)."""
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    if np.linalg.norm(right) < 1e-9:
        raise InvalidInput("a camera that looks straight up or down has no level direction: move its eye aside")
    right /= np.linalg.norm(right)
    T = np.eye(4)
    T[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    T[:3, 3] = eye
    return T
