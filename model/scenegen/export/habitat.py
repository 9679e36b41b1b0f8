"""Habitat: a scene dataset laid out as the public HSSD files are, by habitat-sim's schema ("Using JSON files to
configure attributes").

Habitat is y-up. Positions are of the objects' own origins (translation_origin asset_local), not of centres of mass.
Handles are found by part of their name there, so names have five digits: object_1 would also be found for object_12.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from scipy.spatial.transform import Rotation

from scenegen.export.bodies import Bodies, Body, Floor
from scenegen.export.physics import bare
from scenegen.glb import mesh_to_glb, meshes_to_glb
from scenegen.scene import ROTATION_YUP_ZUP

_AXES = {"up": [0, 1, 0], "front": [0, 0, -1]}


def write(scene: Bodies, out: Path) -> Path:
    """<scene>.scene_dataset_config.json, objects/, scenes/ and, with a floor, stages/."""
    for folder in ("objects", "scenes", "stages"):
        (out / folder).mkdir()
    for body in scene.bodies:
        _write_object(body, out / "objects")
    instance: dict[str, Any] = {
        "translation_origin": "asset_local",
        "default_lighting": "",
        "object_instances": [_instance(body) for body in scene.bodies],
    }
    if scene.supports:
        _write_stage(scene.supports, out / "stages")
        instance = {"stage_instance": {"template_name": "floor"}} | instance
    _json(out / "scenes" / f"{scene.name}.scene_instance.json", instance)
    dataset = {
        "stages": {"paths": {".json": ["stages"]}},
        "objects": {"paths": {".json": ["objects"]}},
        "scene_instances": {"default_attributes": {"default_lighting": ""}, "paths": {".json": ["scenes"]}},
    }
    return _json(out / f"{scene.name}.scene_dataset_config.json", dataset)


def _name(body: Body) -> str:
    return f"object_{body.id:05d}"


def _write_object(body: Body, folder: Path) -> None:
    name = _name(body)
    (folder / f"{name}.glb").write_bytes(mesh_to_glb(body.mesh))
    pieces = {f"piece_{i:02d}": (bare(piece), np.eye(4)) for i, piece in enumerate(body.pieces)}
    (folder / f"{name}.collider.glb").write_bytes(meshes_to_glb(pieces))
    inertia = ROTATION_YUP_ZUP @ body.physics.inertia @ ROTATION_YUP_ZUP.T
    config = {
        "render_asset": f"{name}.glb",
        "collision_asset": f"{name}.collider.glb",
        **_AXES,
        "semantic_id": body.id,
        "join_collision_meshes": False,  # joined, the pieces would become one convex hull
        "mass": body.physics.mass_kg,
        "COM": (ROTATION_YUP_ZUP @ body.physics.centre_m).tolist(),
        "inertia": np.diag(inertia).tolist(),
    }
    _json(folder / f"{name}.object_config.json", config)


def _instance(body: Body) -> dict[str, Any]:
    rotation = Rotation.from_matrix(ROTATION_YUP_ZUP @ body.T_world_object[:3, :3] @ ROTATION_YUP_ZUP.T)
    return {
        "template_name": _name(body),
        "translation": (ROTATION_YUP_ZUP @ body.position_m).tolist(),
        "rotation": rotation.as_quat(scalar_first=True).tolist(),
        "motion_type": "dynamic",
    }


def _write_stage(supports: Mapping[str, Floor], folder: Path) -> None:
    """A stage's triangles collide as they are."""
    poses = [trimesh.transformations.translation_matrix(slab.centre_m) for slab in supports.values()]
    slabs = {name: (slab.mesh(), T) for (name, slab), T in zip(supports.items(), poses, strict=True)}
    (folder / "floor.glb").write_bytes(meshes_to_glb(slabs))
    config = {"render_asset": "floor.glb", "collision_asset": "floor.glb", **_AXES, "origin": [0, 0, 0]}
    _json(folder / "floor.stage_config.json", config)


def _json(path: Path, value: dict[str, Any]) -> Path:
    path.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n")
    return path
