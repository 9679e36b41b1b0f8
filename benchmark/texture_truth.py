"""Synthetic objects as perfect decoders would hand them over: grid fields, Gaussians, and the colours they stand for.

Knows procedural objects and what the decoders' outputs mean; nothing about textures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from scenegen.generator.latents.fields import Gaussians, GridFields
from scenegen.synthetic.objects import ProceduralObject, make_object

Floats = NDArray[np.float64]
ColourFunction = Callable[[Floats], Floats]

STRUCTURE, GRID = 64, 256
PER_VOXEL = 32
_CORNERS = np.array([[c & 1, c >> 1 & 1, c >> 2] for c in range(8)])


@dataclass(frozen=True)
class PaintedObject:
    """An object and the colours on it. colour: points [P, 3] -> RGB 0..1 [P, 3]."""

    name: str
    shape: ProceduralObject
    colour: ColourFunction


def painted_objects(families: tuple[str, ...]) -> list[PaintedObject]:
    """Each family twice: in the colours of its parts, and with stripes over them a few hundredths wide."""
    made = []
    for number, family in enumerate(families):
        shape = make_object(np.random.default_rng(number), family)

        def plain(points: Floats, shape: ProceduralObject = shape) -> Floats:
            return shape.colour(points) / 255.0

        def striped(points: Floats, plain: ColourFunction = plain) -> Floats:
            wave = np.sin(2 * np.pi * points / 0.08).sum(-1, keepdims=True) / 3
            tint = np.sin(2 * np.pi * (points @ np.array([1.0, 0.7, 0.4])) / 0.11)[..., None] * [0.2, -0.1, -0.2]
            return np.clip(plain(points) * (0.75 + 0.35 * wave) + tint, 0, 1)

        made += [PaintedObject(family, shape, plain), PaintedObject(f"{family}, striped", shape, striped)]
    return made


def true_fields(painted: PaintedObject) -> GridFields:
    """What a perfect mesh decoder gives, but only the fine voxels at the surface (the others say nothing of it)."""
    sdf = painted.shape.sdf
    coarse = _surface_voxels(painted)
    fine = (coarse[:, None] * (GRID // STRUCTURE) + _grid(GRID // STRUCTURE)).reshape(-1, 3)
    fine = fine[np.abs(sdf((fine + 0.5) / GRID - 0.5)) < 2.0 / GRID]
    vertices, index = _corner_vertices(fine)
    distance = sdf(vertices) + 1.0 / GRID  # the extraction takes one grid step off
    colour = np.clip(painted.colour(vertices), 1e-4, 1 - 1e-4)
    features = np.zeros((len(fine), 101), dtype=np.float32)
    features[:, :8] = distance[index]
    logits = np.zeros((len(vertices), 6), dtype=np.float32)
    logits[:, :3] = np.log(colour / (1 - colour))
    features[:, 53:] = logits[index].reshape(len(fine), 48)
    return GridFields(torch.from_numpy(fine), torch.from_numpy(features), GRID)


def true_gaussians(painted: PaintedObject, random: np.random.Generator) -> Gaussians:
    """What a perfect Gaussian decoder gives: in every voxel of the structure up to 32 flat Gaussians on the surface.

    A tenth of them lie a voxel under the surface, in wrong colours: trained by pictures alone, a decoder is free to
    leave such ones where nothing sees them.
    """
    sdf = painted.shape.sdf
    voxels = _surface_voxels(painted)
    points = (voxels[:, None] + random.uniform(-0.25, 1.25, (len(voxels), PER_VOXEL, 3))).reshape(-1, 3)
    points = points / STRUCTURE - 0.5
    for _ in range(3):
        points = points - sdf(points)[:, None] * _gradient(painted, points)
    normals = _gradient(painted, points)
    points = points[kept := np.abs(sdf(points)) < 1e-3]
    normals = normals[kept]
    colours = painted.colour(points)
    hidden = random.uniform(size=len(points)) < 0.1
    points = np.where(hidden[:, None], points - normals / STRUCTURE, points)
    colours = np.where(hidden[:, None], random.uniform(size=colours.shape), colours)
    width = 1.0 * np.sqrt(_surface_per_gaussian(len(points), painted))
    scales = np.tile([width, width, 9e-4], (len(points), 1)) * random.uniform(0.8, 1.25, (len(points), 3))
    half = np.stack([1 + normals[:, 2], -normals[:, 1], normals[:, 0], np.zeros(len(normals))], axis=1)
    half[half[:, 0] < 1e-6] = [0, 1, 0, 0]  # straight down: half a turn about x takes z there
    values = points, colours, scales, half / np.linalg.norm(half, axis=1, keepdims=True)
    opacities = random.uniform(0.6, 0.99, len(points))
    return Gaussians(*(torch.from_numpy(v.astype(np.float32)) for v in (*values, opacities)))


def _surface_voxels(painted: PaintedObject) -> NDArray[np.int64]:
    """The voxels of the structure [N, 3] that the surface may pass through."""
    centres = (_grid(STRUCTURE) + 0.5) / STRUCTURE - 0.5
    near = np.abs(painted.shape.sdf(centres)) < 0.87 / STRUCTURE  # half a voxel's diagonal
    return _grid(STRUCTURE)[near]


def _grid(size: int) -> NDArray[np.int64]:
    """[size^3, 3], 0..size - 1 each."""
    return np.stack(np.meshgrid(*[np.arange(size)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)


def _corner_vertices(voxels: NDArray[np.int64]) -> tuple[Floats, NDArray[np.int64]]:
    """Places [M, 3] of the grid's vertices at voxels [N, 3], and which of them every corner is: [N, 8]."""
    corners = (voxels[:, None] + _CORNERS).reshape(-1, 3)
    keys, index = np.unique(corners @ [(GRID + 1) ** 2, GRID + 1, 1], return_inverse=True)
    places = np.stack(np.unravel_index(keys, (GRID + 1,) * 3), axis=-1) / GRID - 0.5
    return places, index.reshape(-1, 8)


def _gradient(painted: PaintedObject, points: Floats, step: float = 1e-4) -> Floats:
    """Unit direction [P, 3] in which the distance to the surface grows."""
    sides = [painted.shape.sdf(points + step * axis) - painted.shape.sdf(points - step * axis) for axis in np.eye(3)]
    gradient = np.stack(sides, axis=1)
    unit: Floats = gradient / np.maximum(np.linalg.norm(gradient, axis=1, keepdims=True), 1e-12)
    return unit


def _surface_per_gaussian(count: int, painted: PaintedObject) -> float:
    mesh = painted.shape.mesh()
    return float(mesh.area) / count
