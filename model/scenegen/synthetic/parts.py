"""The analytic parts objects are built of: box, solid of revolution, circular arc tube.

Each part has an exact signed distance (outside; a lower bound of its size inside a union), exact bounds and a
triangle mesh. Knows nothing about families, scenes or cameras. Coordinates are z-up, in whatever unit the caller uses.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Colour = tuple[int, int, int]

_CREASE_COSINE = np.cos(np.deg2rad(40.0))


@dataclass(frozen=True)
class Triangles:
    """A triangle soup, wound counter-clockwise seen from outside.

    corners: float64 [F, 3, 3], triangle, corner, xyz. normals: float64 [F, 3, 3], unit, smooth across round surfaces.
    """

    corners: Floats
    normals: Floats


class Part(Protocol):
    """What an object needs of a part."""

    @property
    def colour(self) -> Colour:
        """8-bit RGB."""
        ...

    @property
    def bounds(self) -> Floats:
        """float64 [2, 3], lowest and highest corner."""
        ...

    @property
    def triangles(self) -> Triangles:
        """The surface, closed."""
        ...

    def sdf(self, points: Floats) -> Floats:
        """Signed distance float64 [...] of points float64 [..., 3], negative inside."""
        ...

    def moved(self, scale: float, offset: Floats) -> Part:
        """The part after p -> scale * p + offset."""
        ...


@dataclass(frozen=True, eq=False)
class Box:
    """An axis-aligned box. centre, half: float64 [3]."""

    centre: Floats
    half: Floats
    colour: Colour

    @staticmethod
    def between(low: tuple[float, float, float], high: tuple[float, float, float], colour: Colour) -> Box:
        """The box with these two corners."""
        a, b = np.array(low, dtype=float), np.array(high, dtype=float)
        return Box((a + b) / 2, (b - a) / 2, colour)

    @property
    def bounds(self) -> Floats:
        """float64 [2, 3]."""
        return np.stack([self.centre - self.half, self.centre + self.half])

    def sdf(self, points: Floats) -> Floats:
        """Signed distance of points [..., 3]; exact everywhere."""
        q = np.abs(points - self.centre) - self.half
        outside = np.sqrt((np.maximum(q, 0.0) ** 2).sum(-1))
        return outside + np.minimum(q.max(-1), 0.0)

    def moved(self, scale: float, offset: Floats) -> Box:
        """After p -> scale * p + offset."""
        return Box(self.centre * scale + offset, self.half * scale, self.colour)

    @cached_property
    def triangles(self) -> Triangles:
        """12 triangles with flat normals."""
        return Triangles(self.centre + self.half * _BOX.corners, _BOX.normals)


def _unit_box() -> Triangles:
    corners, normals = [], []
    for axis in range(3):
        for side in (-1.0, 1.0):
            u, v = np.roll(np.eye(3), axis, axis=0)[1:]  # axis x u x v is right-handed for every axis
            n = np.roll(np.eye(3), axis, axis=0)[0] * side
            u = u * side
            quad = np.array([n - u - v, n + u - v, n + u + v, n - u + v])
            corners += [quad[[0, 1, 2]], quad[[0, 2, 3]]]
            normals += [np.tile(n, (3, 1))] * 2
    return Triangles(np.array(corners), np.array(normals))


_BOX = _unit_box()


@dataclass(frozen=True, eq=False)
class Revolved:
    """A polygon turned about a vertical axis: cylinders, cones, balls, and everything hollow.

    profile: float64 [K, 2] (radius >= 0, z), counter-clockwise, closed implicitly. centre: float64 [2], the axis in xy.
    """

    profile: Floats
    colour: Colour
    centre: Floats

    @property
    def bounds(self) -> Floats:
        """float64 [2, 3]."""
        r = self.profile[:, 0].max()
        low, high = self.profile[:, 1].min(), self.profile[:, 1].max()
        x, y = self.centre
        return np.array([[x - r, y - r, low], [x + r, y + r, high]])

    def sdf(self, points: Floats) -> Floats:
        """Signed distance of points [..., 3]; exact everywhere for the smooth solid."""
        rho = np.hypot(points[..., 0] - self.centre[0], points[..., 1] - self.centre[1])
        z = points[..., 2]
        nearest = np.full(rho.shape, np.inf)
        inside = np.zeros(rho.shape, dtype=bool)
        for (r0, z0), (r1, z1) in zip(self.profile, np.roll(self.profile, -1, axis=0), strict=True):
            if r0 == 0.0 and r1 == 0.0:
                continue  # an edge on the axis is no surface, and rho >= 0 never crosses it
            dr, dz = r1 - r0, z1 - z0
            along = np.clip(((rho - r0) * dr + (z - z0) * dz) / (dr * dr + dz * dz), 0.0, 1.0)
            nearest = np.minimum(nearest, (rho - r0 - along * dr) ** 2 + (z - z0 - along * dz) ** 2)
            if dz != 0.0:
                inside ^= ((z0 > z) != (z1 > z)) & (rho < r0 + (z - z0) * (dr / dz))
        return np.where(inside, -1.0, 1.0) * np.sqrt(nearest)

    def moved(self, scale: float, offset: Floats) -> Revolved:
        """After p -> scale * p + offset."""
        profile = self.profile * scale + np.array([0.0, offset[2]])
        return replace(self, profile=profile, centre=self.centre * scale + offset[:2])

    @cached_property
    def triangles(self) -> Triangles:
        """A lathe of 24 or 32 segments (a multiple of four, so that bounds are exact)."""
        segments = 32 if self.profile[:, 0].max() > 0.15 else 16
        start, end = self.profile, np.roll(self.profile, -1, axis=0)
        edge = end - start
        keep = ~((start[:, 0] == 0) & (end[:, 0] == 0))
        flat = np.stack([edge[:, 1], -edge[:, 0]], axis=1) / np.linalg.norm(edge, axis=1, keepdims=True)
        before, after = np.roll(flat, 1, axis=0), np.roll(flat, -1, axis=0)
        start_normal, end_normal = _smoothed(flat, before), _smoothed(flat, after)
        angle = np.arange(segments + 1) * (2 * np.pi / segments)
        cos, sin = np.cos(angle), np.sin(angle)
        cos[-1], sin[-1] = cos[0], sin[0]

        def ring(plane: Floats) -> Floats:
            """[K, 2] (radius, z) -> [K, segments + 1, 3]."""
            height = np.broadcast_to(plane[:, 1:], (len(plane), segments + 1))
            return np.stack([plane[:, :1] * cos, plane[:, :1] * sin, height], axis=-1)

        positions = _strip(ring(start), ring(end))
        normals = _strip(ring(start_normal), ring(end_normal))
        real = np.stack([keep & (start[:, 0] > 0), keep & (end[:, 0] > 0)], axis=1)
        real = np.broadcast_to(real[:, None], (len(edge), segments, 2))
        return Triangles(positions[real] + np.append(self.centre, 0.0), normals[real])


def _smoothed(flat: Floats, neighbour: Floats) -> Floats:
    """Edge normals [K, 2] averaged with a neighbour's where the two meet without a crease."""
    smooth = (flat * neighbour).sum(1, keepdims=True) > _CREASE_COSINE
    mean = flat + np.where(smooth, neighbour, 0.0)
    unit: Floats = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    return unit


def _strip(a: Floats, b: Floats) -> Floats:
    """Triangles [K, S, 2, 3, 3] between rings a, b [K, S + 1, 3]: the first of two has an edge on a, the other on b."""
    a0, a1, b0, b1 = a[:, :-1], a[:, 1:], b[:, :-1], b[:, 1:]
    return np.stack([np.stack([a0, a1, b1], axis=2), np.stack([a0, b1, b0], axis=2)], axis=2)


@dataclass(frozen=True, eq=False)
class Arc:
    """A round tube along a circular arc with round ends: handles.

    The arc lies in the plane of unit vectors u, v (float64 [3]) about centre (float64 [3]), from -half_angle to
    +half_angle (radians, at most pi) around direction v; ring is its radius, tube the radius of the tube.
    """

    centre: Floats
    u: Floats
    v: Floats
    ring: float
    half_angle: float
    tube: float
    colour: Colour

    @property
    def bounds(self) -> Floats:
        """float64 [2, 3], of the mesh's own vertices."""
        corners = self.triangles.corners
        return np.stack([corners.min((0, 1)), corners.max((0, 1))])

    def sdf(self, points: Floats) -> Floats:
        """Signed distance of points [..., 3]; exact everywhere."""
        p = points - self.centre
        x, y, z = np.abs(p @ self.u), p @ self.v, p @ np.cross(self.u, self.v)
        sin, cos = np.sin(self.half_angle), np.cos(self.half_angle)
        reach = np.where(cos * x > sin * y, sin * x + cos * y, np.hypot(x, y))
        squared = x * x + y * y + z * z + self.ring**2 - 2 * self.ring * reach
        return np.sqrt(np.maximum(squared, 0.0)) - self.tube

    def moved(self, scale: float, offset: Floats) -> Arc:
        """After p -> scale * p + offset."""
        return replace(self, centre=self.centre * scale + offset, ring=self.ring * scale, tube=self.tube * scale)

    @cached_property
    def triangles(self) -> Triangles:
        """A swept tube of 12 sides with half-sphere ends."""
        sides, steps, cap = 12, 16, 3
        along = np.linspace(-self.half_angle, self.half_angle, steps + 1)
        lean = np.deg2rad(np.linspace(90.0, 0.0, cap, endpoint=False))  # 90 degrees is the pole of an end
        angle = np.concatenate([np.full(cap, along[0]), along, np.full(cap, along[-1])])
        tilt = np.concatenate([-lean, np.zeros(steps + 1), lean[::-1]])
        radial = np.cos(angle)[:, None] * self.v + np.sin(angle)[:, None] * self.u
        tangent = np.cos(angle)[:, None] * self.u - np.sin(angle)[:, None] * self.v
        turn = np.arange(sides + 1) * (2 * np.pi / sides)
        turn[-1] = 0.0
        across = np.cross(self.u, self.v)
        around = np.cos(turn)[:, None] * radial[:, None] + np.sin(turn)[:, None] * across
        normals = np.cos(tilt)[:, None, None] * around + (np.sin(tilt)[:, None] * tangent)[:, None]
        rings = self.centre + self.ring * radial[:, None] + self.tube * normals
        positions = _strip(rings[:-1], rings[1:])
        shading = _strip(normals[:-1], normals[1:])
        real = np.ones(positions.shape[:3], dtype=bool)
        real[0, :, 0] = real[-1, :, 1] = False  # at the poles one triangle of each pair has no area
        return Triangles(positions[real], shading[real])
