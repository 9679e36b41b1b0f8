"""Meshes to GLB bytes and back: z-up in memory, y-up in the file as glTF says (DESIGN section 5).

Vertex colours and base colour textures are kept. A texture is packed as PNG once: an image remembers its file, for a
mesh goes into several GLBs, and packing 1024 x 1024 texels takes longer than all the rest. Knows nothing of scenes on
disk, sockets or what an asset is.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Mapping
from typing import Any, BinaryIO

import cv2
import numpy as np
import trimesh
from PIL import Image
from trimesh.visual import ColorVisuals, TextureVisuals

from scenegen.scene import ROTATION_YUP_ZUP, Floats, InvalidInput

T_YUP_ZUP: Floats = np.eye(4)
"""[4, 4] Takes z-up coordinates to y-up ones."""
T_YUP_ZUP[:3, :3] = ROTATION_YUP_ZUP

_REMEMBERED = "scenegen_png"
"""Key in an image's info: the checksum of its pixels, and its PNG file."""


def mesh_to_glb(mesh: trimesh.Trimesh) -> bytes:
    """One z-up mesh as a y-up GLB."""
    return meshes_to_glb({"mesh": (mesh, np.eye(4))})


def meshes_to_glb(nodes: Mapping[str, tuple[trimesh.Trimesh, Floats]]) -> bytes:
    """One GLB with a node per entry: name -> (z-up mesh, T_world_mesh [4, 4] in a z-up world, scale allowed)."""
    scene = trimesh.Scene()
    for name, (mesh, T_world_mesh) in nodes.items():
        png = None if (texture := _texture(mesh)) is None else png_file(texture)
        turned = mesh.copy()
        turned.apply_transform(T_YUP_ZUP)
        if png is not None:
            _material(turned).baseColorTexture = _EncodedImage(png)
        T = T_YUP_ZUP @ T_world_mesh @ T_YUP_ZUP.T
        scene.add_geometry(turned, node_name=name, geom_name=name, transform=T)
    data = scene.export(file_type="glb", tree_postprocessor=_matte)
    return bytes(data)


def mesh_from_glb(data: bytes, name: str = "GLB") -> trimesh.Trimesh:
    """The z-up mesh of a y-up GLB that holds one mesh. InvalidInput, naming `name`, when it cannot be read."""
    try:
        scene = trimesh.load_scene(io.BytesIO(data), file_type="glb", process=False)
        for geometry in scene.geometry.values():
            _remember_file(_texture(geometry))
            vertex_colours_as_such(geometry)
        mesh = scene.to_mesh()
    except Exception as error:  # trimesh raises whatever its parser met
        message = f"{name} is not a readable GLB ({error!r}): it was cut short or damaged, make it again"
        raise InvalidInput(message) from error
    if len(mesh.faces) == 0 or not np.isfinite(mesh.vertices).all():
        raise InvalidInput(f"{name} holds no usable triangles: make it again")
    mesh.apply_transform(T_YUP_ZUP.T)
    return mesh


def vertex_colours_as_such(mesh: trimesh.Trimesh) -> None:
    """Give a mesh that trimesh read from a GLB its vertex colours back: beside a material they are left in a corner."""
    if isinstance(mesh.visual, TextureVisuals) and mesh.visual.uv is None:
        colours = mesh.visual.vertex_attributes.get("color")
        if colours is not None or _material(mesh).baseColorFactor is None:
            mesh.visual = ColorVisuals(mesh, vertex_colors=colours)


def pack_texture(mesh: trimesh.Trimesh) -> None:
    """Pack the mesh's texture now, if it has one, so that it need not be done when a GLB is wanted."""
    if (texture := _texture(mesh)) is not None:
        png_file(texture)


def png_file(image: Image.Image) -> bytes:
    """The image as a PNG file; what it was encoded to before, where its pixels are still the same."""
    checksum, file = image.info.get(_REMEMBERED, (None, b""))
    if checksum == _checksum(image):
        return bytes(file)
    if image.mode == "RGB":  # OpenCV packs three times as fast as Pillow
        _, packed = cv2.imencode(".png", np.asarray(image)[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])
        file = packed.tobytes()
    else:
        stream = io.BytesIO()
        image.save(stream, "png", compress_level=1)
        file = stream.getvalue()
    image.info[_REMEMBERED] = (_checksum(image), file)
    return bytes(file)


class _EncodedImage:
    """What trimesh's GLB exporter asks of an image, for one that is a PNG file already."""

    format = "PNG"

    def __init__(self, png: bytes) -> None:
        self._png = png

    def save(self, stream: BinaryIO, **options: Any) -> None:
        stream.write(self._png)

    def tobytes(self) -> bytes:
        return self._png


def _material(mesh: trimesh.Trimesh) -> Any:
    return mesh.visual.material if isinstance(mesh.visual, TextureVisuals) else None


def _matte(tree: dict[str, Any]) -> None:
    """Make meshes without a material matte: glTF's default is bare metal, black where nothing is mirrored."""
    bare = [part for mesh in tree["meshes"] for part in mesh["primitives"] if "material" not in part]
    if bare:
        materials = tree.setdefault("materials", [])
        materials.append({"pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 1.0}})
        for part in bare:
            part["material"] = len(materials) - 1


def _texture(mesh: trimesh.Trimesh) -> Image.Image | None:
    image = getattr(_material(mesh), "baseColorTexture", None)
    return image if isinstance(image, Image.Image) else None


def _remember_file(image: Image.Image | None) -> None:
    """Keep the PNG file that an image is about to be unpacked from."""
    file = getattr(image, "fp", None)
    if image is not None and image.format == "PNG" and isinstance(file, io.BytesIO):
        png = file.getvalue()
        image.load()
        image.info[_REMEMBERED] = (_checksum(image), png)


def _checksum(image: Image.Image) -> int:
    return zlib.crc32(image.tobytes())
