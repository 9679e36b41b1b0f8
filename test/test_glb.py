"""GLB bytes: meshes and textures come back exactly, in the form viewers take, and a texture is packed once."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
import trimesh
from PIL import Image
from serving import textured_box

from scenegen import glb
from scenegen.glb import mesh_from_glb, mesh_to_glb, meshes_to_glb


def chunks(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The JSON and the binary part of a GLB."""
    size = int.from_bytes(data[12:16], "little")
    return json.loads(data[20 : 20 + size]), data[28 + size :]


def texture(mesh: trimesh.Trimesh) -> Image.Image:
    return mesh.visual.material.baseColorTexture


def test_a_textured_mesh_comes_back_exactly() -> None:
    mesh = textured_box(3).mesh
    got = mesh_from_glb(mesh_to_glb(mesh))
    np.testing.assert_allclose(got.vertices, mesh.vertices, atol=1e-7)
    np.testing.assert_array_equal(got.faces, mesh.faces)
    np.testing.assert_allclose(got.visual.uv, mesh.visual.uv, atol=1e-6)
    np.testing.assert_array_equal(np.asarray(texture(got)), np.asarray(texture(mesh)))
    assert (got.visual.material.roughnessFactor, got.visual.material.metallicFactor) == (1.0, 0.0)


def test_a_viewer_finds_one_embedded_png_and_nothing_else() -> None:
    """RViz takes PNG only, and looks wrong with any further map (spec/ros.md section 5)."""
    gltf, binary = chunks(mesh_to_glb(textured_box(3).mesh))
    (material,) = gltf["materials"]
    assert set(material) <= {"name", "pbrMetallicRoughness", "doubleSided"}
    pbr = material["pbrMetallicRoughness"]
    assert pbr == {"baseColorTexture": {"index": 0}, "roughnessFactor": 1.0, "metallicFactor": 0.0}
    (image,) = gltf["images"]
    assert image["mimeType"] == "image/png" and "uri" not in image
    view = gltf["bufferViews"][image["bufferView"]]
    png = binary[view["byteOffset"] : view["byteOffset"] + view["byteLength"]]
    assert Image.open(io.BytesIO(png)).size == (16, 16)
    assert set(gltf["meshes"][0]["primitives"][0]["attributes"]) == {"POSITION", "TEXCOORD_0"}


def test_a_texture_is_packed_once_and_again_when_it_was_painted(monkeypatch: pytest.MonkeyPatch) -> None:
    packed: list[tuple[int, ...]] = []
    pack = glb.cv2.imencode

    def counted(kind: str, pixels: np.ndarray, options: list[int]) -> Any:
        packed.append(pixels.shape)
        return pack(kind, pixels, options)

    monkeypatch.setattr(glb.cv2, "imencode", counted)
    mesh = textured_box(3).mesh
    first = mesh_to_glb(mesh)
    assert mesh_to_glb(mesh) == first and len(packed) == 1
    again = mesh_from_glb(first)
    meshes_to_glb({"a": (again, np.eye(4)), "b": (mesh, np.eye(4))})
    assert len(packed) == 1, "what was read needs no packing either"
    assert isinstance(texture(mesh), Image.Image), "the mesh itself is left as it was"
    texture(again).putpixel((0, 0), (1, 2, 3))
    assert texture(mesh_from_glb(mesh_to_glb(again))).getpixel((0, 0)) == (1, 2, 3) and len(packed) == 2


def test_other_kinds_of_textures_are_kept_too() -> None:
    mesh = textured_box(3).mesh
    mesh.visual.material.baseColorTexture = texture(mesh).convert("RGBA")
    got = texture(mesh_from_glb(mesh_to_glb(mesh)))
    np.testing.assert_array_equal(np.asarray(got), np.asarray(texture(mesh)))


def test_vertex_colours_come_back_and_no_viewer_takes_them_for_metal() -> None:
    """glTF's default material is metal, which viewers draw black where nothing is mirrored in it."""
    mesh = trimesh.creation.box()
    mesh.visual.vertex_colors = np.arange(32, dtype=np.uint8).reshape(8, 4) | np.array([0, 0, 0, 255], np.uint8)
    painted, plain = mesh_to_glb(mesh), mesh_to_glb(trimesh.Trimesh(mesh.vertices, mesh.faces))
    np.testing.assert_array_equal(mesh_from_glb(painted).visual.vertex_colors, mesh.visual.vertex_colors)
    assert mesh_from_glb(plain).visual.kind is None
    for data in (painted, plain):
        gltf, _ = chunks(data)
        (part,) = gltf["meshes"][0]["primitives"]
        pbr = gltf["materials"][part["material"]]["pbrMetallicRoughness"]
        assert pbr == {"metallicFactor": 0.0, "roughnessFactor": 1.0}
