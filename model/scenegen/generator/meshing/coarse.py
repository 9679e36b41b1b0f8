"""The coarse mesh of an asset: the surface of its sparse structure, in one colour.

The fast preview and collision shape. Knows nothing about networks, placements or textures.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import trimesh
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import marching_cubes

from scenegen.scene import View

_NEAREST_ZERO = 1e-3
"""Logits closer to 0 than this are moved away from it: a surface through a voxel's centre has faces without area."""

_SMOOTHING_STEPS = 10
"""Of what the small weights generate, as many leave voxel IoU and distances to the truth what they were."""

_SPECK = 0.05
"""Share of the largest component's voxels below which another one is a speck. Of what the small weights generate, loose
parts of the object (seat and legs of a stool, foot and shade of a lamp) have 0.3 and more, specks 0.02 and less."""


def coarse_mesh(logits: NDArray[np.float32], colour: NDArray[np.uint8]) -> trimesh.Trimesh | None:
    """The closed surface where occupancy logits [R, R, R] cross 0, in asset units, z-up, inside [-0.5, 0.5]^3.

    Voxel i has its centre at (i + 0.5) / R - 0.5. Enclosed cavities are filled: a published structure is a shell of
    surface voxels. Specks are left out. colour: uint8 [3] RGB of every vertex. None when no voxel is occupied. Normals
    point outwards. Logits are steep, which leaves stairs: they are smoothed in a way that keeps the volume (Taubin).
    """
    field = solid_logits(logits)
    if field is None:
        return None
    # beyond the box lies the mirror image of its border, negated: the surface closes exactly on the box
    inside = np.pad(field, 1, mode="edge")
    closed = np.where(np.pad(np.ones_like(field, dtype=bool), 1), inside, -np.abs(inside))
    vertices, faces, _, _ = marching_cubes(closed, 0.0, gradient_direction="ascent")
    vertices = (vertices - 0.5) / len(logits) - 0.5
    colours = np.tile(np.append(colour, 255).astype(np.uint8), (len(vertices), 1))
    mesh = trimesh.Trimesh(vertices, faces, vertex_colors=colours, process=False)
    trimesh.smoothing.filter_taubin(mesh, iterations=_SMOOTHING_STEPS)
    mesh.vertices = mesh.vertices.clip(-0.5, 0.5)
    return mesh


def solid_logits(logits: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """Logits [R, R, R] of the solid without specks: positive inside it, negative outside. None when all is empty."""
    occupied = logits > 0
    if not occupied.any():
        return None
    solid = without_specks(ndimage.binary_fill_holes(occupied))
    inner = np.where(occupied, logits.clip(_NEAREST_ZERO), 1.0)
    return np.where(solid, inner, -np.abs(logits).clip(_NEAREST_ZERO)).astype(np.float32)


def without_specks(solid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Occupancy [R, R, R] without the small components, voxels that touch at a corner being joined.

    A speck far from the object makes its box, and with it size and pose, wrong.
    """
    label, _ = ndimage.label(solid, structure=np.ones((3, 3, 3)))
    voxels = np.bincount(label.ravel())
    voxels[0] = 0
    return np.asarray(voxels >= _SPECK * voxels.max())[label]


def mean_colour(views: Sequence[View], instance_id: int) -> NDArray[np.uint8]:
    """Mean colour of an instance's pixels over all views: uint8 [3] RGB."""
    pixels = np.concatenate([view.image[view.masks == instance_id] for view in views])
    return pixels.mean(axis=0).round().astype(np.uint8)
