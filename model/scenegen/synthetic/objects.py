"""Procedural objects with exact geometry: a union of analytic parts in the canonical unit box.

Knows what an object's surface, inside and colour are; nothing about where objects stand or how they are seen.
Frame: z-up, bounding box centred at the origin, longest extent 1 (DESIGN section 5).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import trimesh
from numpy.typing import NDArray

from scenegen.scene import InvalidInput
from scenegen.synthetic.families import BUILDERS
from scenegen.synthetic.parts import Floats, Part

FAMILIES: tuple[str, ...] = tuple(BUILDERS)
"""Names of all object families."""


@dataclass(frozen=True, eq=False)
class ProceduralObject:
    """An object of a family.

    symmetry: order of its exact yaw symmetry about z, shape and colour: 1 none, n when a turn by 2 pi / n changes
    nothing, 0 round.
    """

    family: str
    parts: tuple[Part, ...]
    symmetry: int

    @property
    def extents(self) -> Floats:
        """float64 [3], side lengths of the bounding box; the longest is 1."""
        bounds = self.bounds
        return bounds[1] - bounds[0]

    @cached_property
    def bounds(self) -> Floats:
        """float64 [2, 3]."""
        boxes = np.stack([part.bounds for part in self.parts])
        return np.stack([boxes[:, 0].min(0), boxes[:, 1].max(0)])

    def sdf(self, points: Floats) -> Floats:
        """Signed distance float64 [...] of points float64 [..., 3] in asset units; exact outside, negative inside."""
        points = np.asarray(points, dtype=np.float64)
        distance = self.parts[0].sdf(points)
        for part in self.parts[1:]:
            distance = np.minimum(distance, part.sdf(points))
        return distance

    def colour(self, points: Floats) -> NDArray[np.uint8]:
        """uint8 [..., 3] RGB of the nearest part to points float64 [..., 3]."""
        points = np.asarray(points, dtype=np.float64)
        nearest = np.argmin(np.stack([part.sdf(points) for part in self.parts]), axis=0)
        return np.array([part.colour for part in self.parts], dtype=np.uint8)[nearest]

    def occupancy(self, resolution: int) -> NDArray[np.bool_]:
        """bool [R, R, R] indexed x, y, z: whether the voxel centre ((i + 0.5) / R - 0.5) lies inside."""
        grid = (np.arange(resolution) + 0.5) / resolution - 0.5
        occupied = np.zeros((resolution,) * 3, dtype=bool)
        for part in self.parts:
            low, high = part.bounds
            first, last = np.searchsorted(grid, low - 1e-9), np.searchsorted(grid, high + 1e-9)
            window = tuple(slice(a, b) for a, b in zip(first, last, strict=True))
            centres = np.stack(np.meshgrid(*(grid[w] for w in window), indexing="ij"), axis=-1)
            if centres.size:
                occupied[window] |= part.sdf(centres) <= 0.0
        return occupied

    @cached_property
    def triangles(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Corners, unit normals and colours (0..1), each float32 [F, 3, 3]: what a renderer wants."""
        pieces = [part.triangles for part in self.parts]
        corners = np.concatenate([piece.corners for piece in pieces]).astype(np.float32)
        normals = np.concatenate([piece.normals for piece in pieces]).astype(np.float32)
        counts = [len(piece.corners) for piece in pieces]
        tints = np.array([part.colour for part in self.parts], dtype=np.float32) / 255.0
        colours = np.broadcast_to(np.repeat(tints, counts, axis=0)[:, None], corners.shape)
        return corners, normals, np.ascontiguousarray(colours)

    def mesh(self) -> trimesh.Trimesh:
        """The parts' closed surfaces side by side, z-up, with vertex colours; the parts may overlap."""
        pieces = []
        for part in self.parts:
            corners = part.triangles.corners.reshape(-1, 3)
            vertices, index = np.unique(np.round(corners, 9), axis=0, return_inverse=True)
            colours = np.tile(np.array([*part.colour, 255], dtype=np.uint8), (len(vertices), 1))
            pieces.append(trimesh.Trimesh(vertices, index.reshape(-1, 3), vertex_colors=colours, process=False))
        whole = trimesh.util.concatenate(pieces)
        assert isinstance(whole, trimesh.Trimesh)
        return whole


def make_object(rng: np.random.Generator, family: str | None = None) -> ProceduralObject:
    """A random object of a family, or of a random one. InvalidInput on an unknown family."""
    name = str(rng.choice(FAMILIES)) if family is None else family
    if name not in BUILDERS:
        raise InvalidInput(f"there is no object family '{name}': choose one of {', '.join(FAMILIES)}")
    parts, symmetry = BUILDERS[name](rng)
    boxes = np.stack([part.bounds for part in parts])
    low, high = boxes[:, 0].min(0), boxes[:, 1].max(0)
    scale = 1.0 / float((high - low).max())
    offset = -scale * (low + high) / 2
    return ProceduralObject(name, tuple(part.moved(scale, offset) for part in parts), symmetry)
