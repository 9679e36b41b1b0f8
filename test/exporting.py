"""A small scene whose every number is known, on disk: what the tests of the exports write and read back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import trimesh
from PIL import Image
from scipy.spatial.transform import Rotation

from scenegen.files import write_scene
from scenegen.scene import Asset, Floats, PlacedObject, Placement, Scene

SCALE_M = {2: 0.3, 5: 0.2, 9: 0.25}
"""Metres per asset unit by id."""
POSES: dict[int, Floats] = {}
for _id, _at, _angles in ((2, (0.4, -0.2, 1.0375), (0, 0, 0.7)), (5, (-0.3, 0.1, 1.3), (0.4, 1.1, -2.0))) + (
    (9, (0.1, 0.6, 1.125), (0, 0, -1.2)),
):
    POSES[_id] = np.eye(4)
    POSES[_id][:3, :3] = Rotation.from_euler("xyz", _angles).as_matrix()
    POSES[_id][:3, 3] = _at
MASS_KG = {2: 0.3 * 0.15 * 0.075 * 300, 5: 0.75 * 0.2 * 0.2 * 0.1 * 1200}
"""Of the box (300 kg/m^3) and of the vase (1200), three quarters of its bounding box."""
TEXELS = np.zeros((64, 64, 3), np.uint8)
TEXELS[:32, :, 0], TEXELS[:, 32:, 1], TEXELS[32:, :, 2] = 250, 120, 60


def box() -> trimesh.Trimesh:
    """Closed but for its texture seams, 1 x 0.5 x 0.25, with a texture of four colours."""
    mesh = trimesh.creation.box((1.0, 0.5, 0.25))
    mesh.unmerge_vertices()
    material = trimesh.visual.material.PBRMaterial(
        baseColorTexture=Image.fromarray(TEXELS), roughnessFactor=1.0, metallicFactor=0.0
    )
    uv = np.asarray(mesh.vertices)[:, :2] * [1, 2] + 0.5
    mesh.visual = trimesh.visual.TextureVisuals(uv=uv, material=material)
    return mesh


def corner() -> trimesh.Trimesh:
    """An L, 1 x 1 x 0.5, closed; red where x is small, blue where it is large."""
    outline = np.array([(0, 0), (2, 0), (2, 1), (1, 1), (1, 2), (0, 2)]) / 2 - 0.5
    vertices = np.concatenate([np.column_stack([outline, np.full(6, z)]) for z in (-0.25, 0.25)])
    top = np.array([(0, i, i + 1) for i in range(1, 5)]) + 6
    sides = [((i, j, i + 6), (j, j + 6, i + 6)) for i, j in ((i, (i + 1) % 6) for i in range(6))]
    faces = np.concatenate([top, top[:, ::-1] - 6, np.reshape(sides, (-1, 3))])
    colours = np.where(vertices[:, :1] < 0.25, [[220, 10, 20, 255]], [[10, 20, 220, 255]]).astype(np.uint8)
    return trimesh.Trimesh(vertices, faces, vertex_colors=colours, process=False)


def tray() -> trimesh.Trimesh:
    """A unit cube without its upper side: not closed."""
    mesh = trimesh.creation.box((1.0, 1.0, 1.0))
    return trimesh.Trimesh(mesh.vertices, mesh.faces[mesh.face_normals[:, 2] < 0.5], process=False)


def assets() -> tuple[Asset, ...]:
    return Asset(2, "box", box(), "textured"), Asset(5, "a vase", corner()), Asset(9, "object_9", tray())


def write(root: Path, *, metric: bool = True, placed: bool = True, name: str = "known") -> Path:
    """The scene's folder. Not metric: lengths in sizes of the query asset, the box, whose scale is then 1."""
    unit = 1.0 if metric else 1 / SCALE_M[2]
    objects = []
    for asset in assets():
        T = POSES[asset.id].copy()
        T[:3, 3] *= unit
        scale = SCALE_M[asset.id] * unit
        extents = np.asarray(asset.mesh.extents * scale)
        objects.append(
            PlacedObject(asset.id, asset.label, asset, T, scale, extents, np.zeros((6, 6)), 0.9, 0.001, metric)
        )
    relative = [Placement.identity()] + [Placement(np.array([i, 0.0, 0.0]), np.eye(4)[0], 0.5) for i in (1, 2)]
    scene = Scene(assets(), tuple(relative), 0)
    return write_scene(root, scene, objects if placed else None, scene_id=name, frame_id="map", stamp_ns=7)


def same_pose(T: Floats, known: Floats) -> bool:
    """To a tenth of a millimetre and a hundredth of a degree."""
    turn = Rotation.from_matrix(T[:3, :3] @ known[:3, :3].T).magnitude()
    return bool(np.abs(T[:3, 3] - known[:3, 3]).max() < 1e-4 and np.degrees(turn) < 0.01)


def points_m(instance: int) -> Floats:
    """Vertices of an object in the world, sorted and without duplicates: float64 [n, 3]."""
    mesh = next(asset.mesh for asset in assets() if asset.id == instance)
    return in_order(trimesh.transform_points(mesh.vertices * SCALE_M[instance], POSES[instance]))


def in_order(points: Floats) -> Floats:
    """Points by their coordinates to a tenth of a millimetre, each once."""
    return np.unique(np.asarray(points).round(4), axis=0)
