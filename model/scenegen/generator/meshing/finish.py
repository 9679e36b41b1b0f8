"""From an extracted mesh to one ready for texture: simplified, without hidden faces and small holes, unwrapped.

The steps and their order are those of spec/latents.md section 11. Knows nothing about colours.
"""

from __future__ import annotations

from scenegen.generator.meshing.edges import Floats, keep_faces
from scenegen.generator.meshing.extracted import ExtractedMesh
from scenegen.generator.meshing.gate import check_shape, check_values
from scenegen.generator.meshing.hidden_faces import hidden_faces
from scenegen.generator.meshing.holes import fill_holes
from scenegen.generator.meshing.simplify import simplify
from scenegen.generator.meshing.unwrap import UnwrappedMesh, unwrap
from scenegen.generator.meshing.visibility import visibility

FACES_KEPT = 0.05
"""Share of an extracted mesh's faces that is kept."""
FEWEST_FACES = 10_000
"""Small meshes keep more: below this, faces cost nothing worth saving."""


def finish_mesh(mesh: ExtractedMesh, box: Floats) -> UnwrappedMesh:
    """The mesh of an asset. box: [2, 3], the occupancy's. UnusableMesh, saying why, when it must not be shown."""
    check_values(mesh.vertices, mesh.faces)
    count = max(FEWEST_FACES, round(FACES_KEPT * len(mesh.faces)))
    vertices, faces = simplify(mesh.vertices, mesh.faces, count)
    removed = hidden_faces(vertices, faces, visibility(vertices, faces))
    if removed is not None:
        vertices, faces = fill_holes(*keep_faces(vertices, faces, ~removed))
    check_shape(vertices, faces, box)
    return unwrap(vertices, faces)
