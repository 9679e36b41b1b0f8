"""Meshes to GLB bytes and back: z-up in memory, y-up in the file as glTF says (DESIGN section 5).

Vertex colours and base colour textures are kept. Knows nothing of scenes on disk, sockets or what an asset is.
"""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
import trimesh

from scenegen.scene import ROTATION_YUP_ZUP, Floats, InvalidInput

T_YUP_ZUP: Floats = np.eye(4)
"""[4, 4] Takes z-up coordinates to y-up ones."""
T_YUP_ZUP[:3, :3] = ROTATION_YUP_ZUP


def mesh_to_glb(mesh: trimesh.Trimesh) -> bytes:
    """One z-up mesh as a y-up GLB."""
    return meshes_to_glb({"mesh": (mesh, np.eye(4))})


def meshes_to_glb(nodes: Mapping[str, tuple[trimesh.Trimesh, Floats]]) -> bytes:
    """One GLB with a node per entry: name -> (z-up mesh, T_world_mesh [4, 4] in a z-up world, scale allowed)."""
    scene = trimesh.Scene()
    for name, (mesh, T_world_mesh) in nodes.items():
        turned = mesh.copy()
        turned.apply_transform(T_YUP_ZUP)
        T = T_YUP_ZUP @ T_world_mesh @ T_YUP_ZUP.T
        scene.add_geometry(turned, node_name=name, geom_name=name, transform=T)
    data = scene.export(file_type="glb")
    return bytes(data)


def mesh_from_glb(data: bytes, name: str = "GLB") -> trimesh.Trimesh:
    """The z-up mesh of a y-up GLB that holds one mesh. InvalidInput, naming `name`, when it cannot be read."""
    try:
        scene = trimesh.load_scene(io.BytesIO(data), file_type="glb", process=False)
        mesh = scene.to_mesh()
    except Exception as error:  # trimesh raises whatever its parser met
        message = f"{name} is not a readable GLB ({error!r}): it was cut short or damaged, make it again"
        raise InvalidInput(message) from error
    if len(mesh.faces) == 0 or not np.isfinite(mesh.vertices).all():
        raise InvalidInput(f"{name} holds no usable triangles: make it again")
    mesh.apply_transform(T_YUP_ZUP.T)
    return mesh
