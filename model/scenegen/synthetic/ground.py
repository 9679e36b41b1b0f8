"""What objects stand on: an endless floor, or a table-top above one, with a simple pattern.

Knows planes and colours; nothing about objects or cameras.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scenegen.render import Surface
from scenegen.synthetic.parts import Box, Floats

Floats32 = NDArray[np.float32]

PATTERNS = ("plain", "tiles", "planks", "stripes", "checks")


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
            return np.broadcast_to(first, (len(xy), 3))
        turn = np.array([[np.cos(self.yaw), -np.sin(self.yaw)], [np.sin(self.yaw), np.cos(self.yaw)]], dtype=np.float32)
        uv = xy @ turn / np.float32(self.period_m)
        cell = np.floor(uv)
        inside = uv - cell
        if self.kind == "tiles":
            other = (inside < 0.05).any(1)
        elif self.kind == "planks":
            other = (inside[:, 0] < 0.04) | (np.abs(inside[:, 1] * 0.25 - 0.3 * (cell[:, 0] % 3)) < 0.006)
        elif self.kind == "stripes":
            other = inside[:, 0] < 0.5
        else:
            other = cell.sum(1) % 2 == 0
        return np.where(other[:, None], second, first)


@dataclass(frozen=True)
class Ground:
    """A floor at height floor_m under the objects' plane z = 0, and the table that fills the gap when there is one.

    table_half_m: half width and depth of the table-top, centred at the origin and turned by the table's yaw; None on a floor.
    wall: colour (0..1 RGB) of what is beyond the floor's horizon.
    """

    floor: Pattern
    floor_m: float
    table: Pattern | None
    table_half_m: tuple[float, float] | None
    table_yaw: float
    wall: tuple[float, float, float]

    def table_surface(self) -> tuple[Surface, Floats]:
        """The table-top, 4 cm thick with its top at z = 0, and its T_world_surface float64 [4, 4]. Only with a table."""
        assert self.table is not None and self.table_half_m is not None
        half = np.array([*self.table_half_m, 0.02])
        triangles = Box(np.array([0.0, 0.0, -0.02]), half, (0, 0, 0)).triangles
        colours = np.broadcast_to(np.array(self.table.colours[0], dtype=np.float32), triangles.corners.shape)
        T = np.eye(4)
        T[:2, :2] = [[np.cos(self.table_yaw), -np.sin(self.table_yaw)], [np.sin(self.table_yaw), np.cos(self.table_yaw)]]
        return Surface(triangles.corners.astype(np.float32), triangles.normals.astype(np.float32), colours), T


def make_ground(rng: np.random.Generator, reach_m: float) -> Ground:
    """A random floor, or table-top that holds everything within reach_m of the origin."""
    floor, table = _pattern(rng), _pattern(rng)
    wall = tuple(rng.uniform(0.45, 0.95) * (1 + rng.uniform(-0.12, 0.12, 3)))
    half = (reach_m + rng.uniform(0.03, 0.4), reach_m + rng.uniform(0.03, 0.4))
    yaw = rng.uniform(-np.pi, np.pi)
    if rng.uniform() < 0.5:
        return Ground(floor, 0.0, None, None, 0.0, wall)
    return Ground(floor, float(-rng.uniform(0.45, 0.8)), table, half, yaw, wall)


def _pattern(rng: np.random.Generator) -> Pattern:
    value, tint = rng.uniform(0.25, 0.9), rng.uniform(-0.15, 0.15, 3)
    first = np.clip(value * (1 + tint), 0.05, 1.0)
    second = np.clip(first * (1 + rng.choice([-1, 1]) * rng.uniform(0.08, 0.45)), 0.05, 1.0)
    return Pattern(str(rng.choice(PATTERNS)), (tuple(first), tuple(second)), rng.uniform(0.06, 0.3), rng.uniform(0, np.pi))
