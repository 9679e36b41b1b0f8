"""GLB: the whole scene, and each object about its own origin. y-up in the file, as glTF says; metres.

The floor is left out: a GLB has no physics that would need it.
"""

from __future__ import annotations

from pathlib import Path

from scenegen.export.bodies import Bodies
from scenegen.glb import mesh_to_glb, meshes_to_glb


def write(scene: Bodies, out: Path) -> Path:
    """scene.glb with a node per object, and objects/<name>.glb."""
    (out / "objects").mkdir()
    for body in scene.bodies:
        (out / "objects" / f"{body.name}.glb").write_bytes(mesh_to_glb(body.mesh))
    main = out / "scene.glb"
    main.write_bytes(meshes_to_glb({body.name: (body.mesh, body.T_world_object) for body in scene.bodies}))
    return main
