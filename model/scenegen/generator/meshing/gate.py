"""Whether a mesh may be shown as an asset's: networks can fail silently, and then the coarse mesh is the better one.

Knows nothing about how meshes come about.
"""

from __future__ import annotations

import numpy as np

from scenegen.generator.meshing.edges import Floats, Ints, face_components, unique_edges

_MOST_PARTS = 1000
_FARTHEST = 0.1
"""How far a side of a mesh's box may lie from its occupancy's, in asset units: more than six voxels of 64."""


class UnusableMesh(Exception):
    """A mesh that must not be published; the message says why."""


def check_values(vertices: Floats, faces: Ints) -> None:
    """UnusableMesh when there is nothing to process: no faces, or vertices [V, 3] that are not numbers."""
    if not len(faces):
        raise UnusableMesh("the mesh has no faces: the decoder found no surface")
    if not np.isfinite(vertices).all():
        bad = int((~np.isfinite(vertices)).any(axis=1).sum())
        raise UnusableMesh(f"{bad} of the mesh's {len(vertices)} vertices are not numbers")


def check_shape(vertices: Floats, faces: Ints, box: Floats) -> None:
    """UnusableMesh when a mesh is in pieces or elsewhere. box: [2, 3], lowest and highest corner of the occupancy."""
    check_values(vertices, faces)
    edges, ends = unique_edges(faces)
    parts = int(face_components(edges, len(ends)).max()) + 1
    if parts > _MOST_PARTS:
        raise UnusableMesh(f"the mesh is in {parts} pieces, more than {_MOST_PARTS}")
    corners = vertices[faces].reshape(-1, 3)
    off = np.abs(np.stack([corners.min(axis=0), corners.max(axis=0)]) - box)
    if off.max() > _FARTHEST:
        side = "xyz"[int(off.max(axis=0).argmax())]
        raise UnusableMesh(
            f"the mesh's box is {off.max():.2f} off its occupancy's along {side} (at most {_FARTHEST} of a unit box)"
        )
