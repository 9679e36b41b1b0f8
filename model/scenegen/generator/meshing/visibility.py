"""How much of a mesh is seen from all around: rays instead of a rasteriser (spec/latents.md section 11.1).

The reference draws 1000 views of 1024 x 1024 and counts, per face, those where it owns a pixel. Here a ray goes from a
view's eye to the middle of each face; that the face is the first thing it meets stands for the pixel. What differs:
32 views of the same kind instead of 1000, which makes the share an estimate. Only "never" makes a face inner, so a face
not seen so far is looked for from 64 more views, at points nearer its corners; parts of a mesh of which no face was
seen are left at that. Faces of a closed mesh are not looked for from behind, where its front would be met first; so
inner walls that simplification pushed through outer ones still count as hidden, which the reference would keep.
Knows nothing about what becomes of the faces.
"""

from __future__ import annotations

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
from numpy.typing import NDArray

from scenegen.generator.hammersley import hammersley_sphere
from scenegen.generator.meshing.edges import Floats, Ints, face_components, unique_edges

Floats32 = NDArray[np.float32]

_VIEWS, _MORE_VIEWS = 32, 64
_DISTANCE = 2.0
_PART = 64
"""Faces of a part that is believed to be hidden when none of them was seen."""
_TOWARDS_CORNER: Floats32 = np.array([[4, 1, 1], [1, 4, 1], [1, 1, 4]], np.float32) / np.float32(6)


def eyes(count: int) -> Floats:
    """Where `count` views all around look from, [count, 3]: the spherical Hammersley set of section 10."""
    yaw, pitch = hammersley_sphere(count).T
    return _DISTANCE * np.stack([np.sin(yaw) * np.cos(pitch), np.cos(yaw) * np.cos(pitch), np.sin(pitch)], axis=1)


def visibility(vertices: Floats, faces: Ints) -> Floats32:
    """The share of the views that see each face, float32 [F]. vertices: [V, 3] in [-0.5, 0.5]^3. faces: [F, 3]."""
    corners = np.ascontiguousarray(vertices[faces], dtype=np.float32)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    scene = EmbreeScene(robust=True)
    TriangleMesh(scene, corners)
    edges, ends = unique_edges(faces)
    closed = bool((np.bincount(edges.reshape(-1), minlength=len(ends)) % 2 == 0).all())

    def seen(eye: Floats, wanted: Ints, points: Floats32) -> Ints:
        """Those of the wanted faces [n] that a ray from eye [3] to their points [n, 3] meets first."""
        rays = points - eye.astype(np.float32)
        if closed:
            front = np.flatnonzero(np.einsum("fx,fx->f", normals[wanted], rays) < 0)
            wanted, rays = wanted[front], rays[front]
        origins = np.tile(eye.astype(np.float32), (len(rays), 1))
        return wanted[scene.run(origins, rays) == wanted]

    count = np.zeros(len(faces), dtype=np.int64)
    every, middles = np.arange(len(faces)), corners.mean(axis=1)
    for eye in eyes(_VIEWS):
        count[seen(eye, every, middles)] += 1
    part = face_components(edges, len(ends))
    hidden = (np.bincount(part, count) == 0) & (np.bincount(part) >= _PART)
    doubtful = np.flatnonzero((count == 0) & ~hidden[part])
    points = np.einsum("sc,fcx->sfx", _TOWARDS_CORNER, corners[doubtful])
    for view, eye in enumerate(eyes(_MORE_VIEWS)):
        count[seen(eye, doubtful, points[view % len(points)])] += 1
    views = np.full(len(faces), _VIEWS)
    views[doubtful] += _MORE_VIEWS
    return (count / views).astype(np.float32)
