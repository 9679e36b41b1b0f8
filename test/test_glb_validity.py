"""The GLBs we write, as the Khronos validator sees them."""

from __future__ import annotations

import numpy as np
import trimesh
from gltf import problems, validated
from PIL import Image
from trimesh.visual import TextureVisuals
from trimesh.visual.material import PBRMaterial

from scenegen.generator.meshing.coarse import coarse_mesh
from scenegen.generator.meshing.unwrap import unwrap
from scenegen.glb import meshes_to_glb


def ball() -> trimesh.Trimesh:
    axis = (np.arange(16) + 0.5) / 16 - 0.5
    distance = np.linalg.norm(np.stack(np.meshgrid(axis, axis, axis, indexing="ij")), axis=0)
    mesh = coarse_mesh((0.4 - distance).astype(np.float32), np.array([200, 40, 10], np.uint8))
    assert mesh is not None
    return mesh


def textured() -> trimesh.Trimesh:
    raw = ball()
    mesh = unwrap(raw.vertices, np.asarray(raw.faces))
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    material = PBRMaterial(baseColorTexture=picture, roughnessFactor=1.0, metallicFactor=0.0)
    looks = TextureVisuals(uv=mesh.uv, material=material)
    return trimesh.Trimesh(mesh.vertices, mesh.faces, visual=looks, process=False)


def test_coarse_and_textured_objects_are_valid_gltf() -> None:
    T = np.eye(4)
    T[:3, 3] = [1, 2, 3]
    (report,) = validated([meshes_to_glb({"coarse": (ball(), np.eye(4)), "textured": (textured(), T)})])
    assert not problems(report)
    assert report["info"]["totalTriangleCount"] > 100 and report["info"]["resources"]


def test_the_validator_finds_what_is_wrong() -> None:
    data = bytearray(meshes_to_glb({"coarse": (ball(), np.eye(4))}))
    data[8:12] = (len(data) + 4).to_bytes(4, "little")
    (report,) = validated([bytes(data)])
    assert problems(report)
