"""How an object looks, in the two ways file formats know: a texture, or a colour per vertex.

Knows nothing about files but OBJ, which MuJoCo, URDF and SDFormat share.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import trimesh
from numpy.typing import NDArray
from PIL import Image
from trimesh.visual import TextureVisuals

from scenegen.glb import png_file
from scenegen.scene import Floats

GREY = (180, 180, 180)


@dataclass(frozen=True)
class Looks:
    """texture: RGB image with uv float64 [V, 2] (v up), or colours uint8 [V, 3] of the vertices. One of the two."""

    texture: Image.Image | None
    uv: Floats | None
    colours: NDArray[np.uint8] | None


def looks_of(mesh: trimesh.Trimesh) -> Looks:
    """What a mesh's visual holds; grey when it holds nothing."""
    visual = mesh.visual
    if isinstance(visual, TextureVisuals):
        material = visual.material
        image = getattr(material, "baseColorTexture", None) or getattr(material, "image", None)
        if image is not None and visual.uv is not None:
            return Looks(image if image.mode == "RGB" else image.convert("RGB"), np.asarray(visual.uv, float), None)
        plain = np.asarray(material.main_color, np.uint8)[:3]
    elif visual is not None and visual.defined:
        return Looks(None, None, np.asarray(visual.vertex_colors, np.uint8)[:, :3])
    else:
        plain = np.array(GREY, np.uint8)
    return Looks(None, None, np.tile(plain, (len(mesh.vertices), 1)))


@dataclass(frozen=True)
class TexturedMesh:
    """vertices float64 [V, 3], faces [F, 3], uv float64 [U, 2] (v up), face_uv [F, 3] into it, and the texture."""

    vertices: Floats
    faces: NDArray[np.int64]
    uv: Floats
    face_uv: NDArray[np.int64]
    texture: Image.Image


def with_texture(mesh: trimesh.Trimesh) -> TexturedMesh:
    """The mesh with its texture; colours of vertices become one texel per colour of a face, for lack of better."""
    looks = looks_of(mesh)
    faces = np.asarray(mesh.faces, np.int64)
    if looks.texture is not None and looks.uv is not None:
        return TexturedMesh(np.asarray(mesh.vertices), faces, looks.uv, faces, looks.texture)
    assert looks.colours is not None
    of_faces = looks.colours[faces].mean(1).round().astype(np.uint8)
    palette, which = np.unique(of_faces, axis=0, return_inverse=True)
    side = max(2, math.ceil(math.sqrt(len(palette))))
    texels = np.zeros((side * side, 3), np.uint8)
    texels[: len(palette)] = palette
    texels[len(palette) :] = palette[-1]
    row, column = np.divmod(np.arange(len(palette)), side)
    uv = np.stack([(column + 0.5) / side, 1 - (row + 0.5) / side], axis=1)
    image = Image.fromarray(texels.reshape(side, side, 3))
    return TexturedMesh(np.asarray(mesh.vertices), faces, uv, np.repeat(which.reshape(-1, 1), 3, axis=1), image)


def write_textured_obj(mesh: trimesh.Trimesh, path: Path) -> None:
    """path (.obj), with a .mtl and a .png of the same stem beside it."""
    textured, name = with_texture(mesh), path.stem
    path.with_suffix(".png").write_bytes(png_file(textured.texture))
    material = f"newmtl {name}\nKa 1 1 1\nKd 1 1 1\nKs 0 0 0\nd 1\nillum 1\nmap_Kd {name}.png\n"
    path.with_suffix(".mtl").write_text(material)
    corners = np.stack([textured.faces + 1, textured.face_uv + 1], axis=2).reshape(-1, 6)
    lines = [f"mtllib {name}.mtl", f"usemtl {name}"]
    lines += [f"v {x:.9g} {y:.9g} {z:.9g}" for x, y, z in textured.vertices.tolist()]
    lines += [f"vt {u:.9g} {v:.9g}" for u, v in textured.uv.tolist()]
    lines += ["f {}/{} {}/{} {}/{}".format(*face) for face in corners.tolist()]
    path.write_text("\n".join(lines) + "\n")


def write_obj(mesh: trimesh.Trimesh, path: Path) -> None:
    """The bare surface."""
    lines = [f"v {x:.9g} {y:.9g} {z:.9g}" for x, y, z in np.asarray(mesh.vertices).tolist()]
    lines += [f"f {a} {b} {c}" for a, b, c in (np.asarray(mesh.faces) + 1).tolist()]
    path.write_text("\n".join(lines) + "\n")
