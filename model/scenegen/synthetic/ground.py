"""What objects stand on: an endless floor, or a table-top above one, with a simple pattern.

Knows planes and colours; nothing about objects or cameras.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scenegen.synthetic.parts import Floats

Floats32 = NDArray[np.float32]

PATTERNS = ("plain", "tiles", "planks", "stripes", "checks")

_FARTHEST_M = 30.0
_TABLE_THICKNESS_M = 0.04


@dataclass(frozen=True)
class Pattern:
    """Two colours (0..1 RGB) laid out in the plane: kind is one of PATTERNS, period in metres, yaw in radians."""

    kind: str
    colours: tuple[tuple[float, float, float], tuple[float, float, float]]
    period_m: float
    yaw: float

    def at(self, xy: Floats32) -> Floats32:
        """Colours float32 [n, 3] at points float32 [n, 2]."""
        first, second = np.array(self.colours, dtype=np.float32)
        if self.kind == "plain":
            return np.tile(first, (len(xy), 1))
        turn = np.array([[np.cos(self.yaw), -np.sin(self.yaw)], [np.sin(self.yaw), np.cos(self.yaw)]], dtype=np.float32)
        uv = xy @ turn / np.float32(self.period_m)
        cell = np.floor(uv)
        inside = uv - cell
        across, along = inside.T
        if self.kind == "tiles":
            other = (across < 0.05) | (along < 0.05)
        elif self.kind == "planks":
            other = (across < 0.04) | (np.abs(along * 0.25 - 0.3 * (cell[:, 0] % 3)) < 0.006)
        elif self.kind == "stripes":
            other = across < 0.5
        else:
            other = (cell[:, 0] + cell[:, 1]) % 2 == 0
        return np.stack([first, second])[other.astype(np.intp)]


@dataclass(frozen=True)
class Table:
    """A table-top with its upper side at z = 0: half its width and depth, its yaw in radians, its look."""

    half_m: tuple[float, float]
    yaw: float
    pattern: Pattern

    def along_axes(self, vectors: Floats32) -> Floats32:
        """The x and y of world vectors float32 [n, 2+] along the table's own edges, float32 [n, 2]."""
        cos, sin = np.cos(self.yaw), np.sin(self.yaw)
        return vectors[:, :2] @ np.array([[cos, -sin], [sin, cos]], dtype=np.float32)


@dataclass(frozen=True)
class Met:
    """Where rays meet the ground: depth_m float32 [n] (0 for nothing), points and normals float32 [n, 3]."""

    depth_m: Floats32
    points: Floats32
    normals: Floats32
    on_table: NDArray[np.bool_]


@dataclass(frozen=True)
class Ground:
    """A floor at height floor_m, and the table that stands on it or None when the floor itself is the plane z = 0.

    wall: colour (0..1 RGB) of what is beyond the floor.
    """

    floor: Pattern
    floor_m: float
    table: Table | None
    wall: tuple[float, float, float]

    def meet(self, eye: Floats32, rays: Floats32) -> Met:
        """Where rays float32 [n, 3] (depth 1 long) from eye [3] above the ground first meet it, within 30 m."""
        normals = np.zeros_like(rays)
        normals[:, 2] = 1.0
        with np.errstate(divide="ignore"):
            depth_m = np.float32(self.floor_m - eye[2]) / rays[:, 2]
        depth_m[(depth_m < 0) | (depth_m > _FARTHEST_M)] = 0.0
        on_table = np.zeros(len(rays), dtype=bool)
        if self.table is not None:
            thick = _TABLE_THICKNESS_M / 2
            start = np.append(self.table.along_axes(eye[None])[0], eye[2] + thick).astype(np.float32)
            along = np.concatenate([self.table.along_axes(rays), rays[:, 2:]], axis=1).T
            with np.errstate(divide="ignore"):
                middle = [-s / a for s, a in zip(start, along, strict=True)]
                reach = [np.float32(h) / np.abs(a) for h, a in zip((*self.table.half_m, thick), along, strict=True)]
            entry = [m - r for m, r in zip(middle, reach, strict=True)]
            first = np.maximum(np.maximum(entry[0], entry[1]), entry[2])
            last = np.minimum(np.minimum(middle[0] + reach[0], middle[1] + reach[1]), middle[2] + reach[2])
            on_table = (first > 0) & (first < last)
            depth_m[on_table] = first[on_table]
            for axis in (0, 1):
                edge = on_table & (entry[axis] == first)
                outward = self.table.along_axes(np.eye(2, dtype=np.float32))[:, axis]
                normals[edge, :2] = -np.sign(along[axis][edge])[:, None] * outward
                normals[edge, 2] = 0.0
        return Met(depth_m, rays * depth_m[:, None] + eye, normals, on_table)

    def colours(self, met: Met) -> Floats32:
        """Unshaded colours float32 [n, 3]."""
        colours = self.floor.at(met.points[:, :2])
        if self.table is not None:
            colours[met.on_table] = self.table.pattern.at(met.points[met.on_table, :2])
        return colours

    def shadow(self, met: Met, towards: Floats) -> NDArray[np.bool_]:
        """Whether the table itself keeps the light from towards [3] off, bool [n]."""
        if self.table is None:
            return np.zeros(len(met.points), dtype=bool)
        shift = (towards[:2] / towards[2]).astype(np.float32)
        above = met.points[:, :2] - met.points[:, 2:] * shift
        x, y = np.abs(self.table.along_axes(above)).T
        return (x < self.table.half_m[0]) & (y < self.table.half_m[1]) & ~met.on_table


def make_ground(rng: np.random.Generator, reach_m: float) -> Ground:
    """A random floor, or table-top that holds everything within reach_m of the origin."""
    floor, table = _pattern(rng), _pattern(rng)
    wall = tuple(rng.uniform(0.45, 0.95) * (1 + rng.uniform(-0.12, 0.12, 3)))
    half = (reach_m + rng.uniform(0.03, 0.4), reach_m + rng.uniform(0.03, 0.4))
    yaw = rng.uniform(-np.pi, np.pi)
    if rng.uniform() < 0.5:
        return Ground(floor, 0.0, None, wall)
    return Ground(floor, float(-rng.uniform(0.45, 0.8)), Table(half, yaw, table), wall)


def _pattern(rng: np.random.Generator) -> Pattern:
    value, tint = rng.uniform(0.25, 0.85), rng.uniform(-0.15, 0.15, 3)
    first = np.clip(value * (1 + tint), 0.05, 1.0)
    second = np.clip(first * (1 + rng.choice([-1, 1]) * rng.uniform(0.08, 0.45)), 0.05, 1.0)
    return Pattern(
        str(rng.choice(PATTERNS)), (tuple(first), tuple(second)), rng.uniform(0.06, 0.3), rng.uniform(0, np.pi)
    )
